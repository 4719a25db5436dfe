"""Which descriptors are compared: those that the signature files have, and that the pool has or is to get."""

from __future__ import annotations

from collections.abc import Sequence

from dcfast.decontamination.options import DecontaminateOptions
from dcfast.dedup.signature_file import DescriptorInfo, SignedSet, read_headers
from dcfast.errors import PoolError
from dcfast.models.descriptors import ISC_NAME, check_descriptor, parse_descriptor, usual_threshold
from dcfast.storage.records import Count, Record


class DescriptorUse(Record):
    """Descriptors that were compared: ``source`` (``published``, ``computed``), least score of a hit, pictures."""

    name: str
    sha256: str
    source: str
    least: float
    described: Count


class DescriptorChoice:
    """The descriptors of a comparison.

    Attributes:
        sets: of all signature files.   infos: name of a model -> what the files tell of it.
        texts: name -> the model as it was asked for, of those that are to describe the pool's pictures.
        scores: name -> least inner product of a hit, of all that are compared.
    """

    def __init__(self, options: DecontaminateOptions, against: Sequence[str]) -> None:
        """Opens signature files.

        Raises:
            PoolError: see ``read_headers``; a model by which no set was signed.   ValueError: no least score is known.
            Others: ``check_descriptor``.
        """
        headers = read_headers(against)
        self.sets: list[SignedSet] = [one for header in headers for one in header.sets]
        self.infos: dict[str, DescriptorInfo] = {i.name: i for header in headers for i in header.descriptors}
        self.texts: dict[str, str] = {}
        self.scores: dict[str, float] = {}
        if "descriptor" not in options.methods:
            return
        for text in options.descriptors or []:
            name = self._asked(text, options)
            self.texts[name] = text
        for name in self.infos:
            if name in self.texts or (name == ISC_NAME and options.published):
                self.scores[name] = _least_score(name, options)

    def _asked(self, text: str, options: DecontaminateOptions) -> str:
        spec = parse_descriptor(text)
        check_descriptor(spec, run_torchscript=options.run_torchscript)
        if spec.name not in self.infos:
            raise PoolError(
                f"--descriptors {text}: no signature file has descriptors of {spec.name} "
                f"({', '.join(sorted(self.infos)) or 'they have none'}); give dcfast evalsets sign --descriptors {text}"
            )
        return spec.name


def _least_score(name: str, options: DecontaminateOptions) -> float:
    usual = options.min_score.get(name, usual_threshold(name))
    if usual is None:
        raise ValueError(f"from which score on pictures are the same by {name} is not known; give --min-score {name}=X")
    return usual
