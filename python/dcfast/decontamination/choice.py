"""Which descriptors are compared: those that the signature files have, and that the pool has or is to get."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

from dcfast.decontamination.options import DecontaminateOptions
from dcfast.dedup.evidence import PERCEPTUAL_256
from dcfast.dedup.signature_file import DescriptorInfo, Header, SignedSet, read_headers
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
            PoolError: see ``read_headers``; a model by which no set was signed.
            ValueError: no least score is known; an option that would mean nothing here.
            Others: ``check_descriptor``.
        """
        self.headers: list[Header] = read_headers(against)
        self.sets: list[SignedSet] = [one for header in self.headers for one in header.sets]
        self.infos: dict[str, DescriptorInfo] = {i.name: i for header in self.headers for i in header.descriptors}
        self.texts: dict[str, str] = {}
        self.scores: dict[str, float] = {}
        if options.turned and PERCEPTUAL_256 not in options.methods:
            raise ValueError(f"--turned is of the method {PERCEPTUAL_256}: give it to --methods, or leave out --turned")
        if "descriptor" in options.methods:
            for text in options.descriptors or []:
                name = self._asked(text, options)
                if name in self.texts:
                    raise ValueError(f"--descriptors names {name} twice ({self.texts[name]}, {text}): give one of them")
                self.texts[name] = text
            for name in self.infos:
                if name in self.texts or (name == ISC_NAME and options.published):
                    self.scores[name] = _least_score(name, options)
        elif options.descriptors:
            raise ValueError("--descriptors is of the method descriptor: give it to --methods, or leave it out")
        self._check_scores(options.min_score)

    def _check_scores(self, given: Iterable[str]) -> None:
        for name in given:
            if name not in self.infos:
                known = ", ".join(sorted(self.infos)) or "they have none"
                raise ValueError(
                    f"--min-score {name}: no signature file has descriptors of {name} ({known}): give one of these"
                )
            if name not in self.scores:
                raise ValueError(f"--min-score {name}: {name} is not compared: give its model to --descriptors, too")

    def check_sets(self, options: DecontaminateOptions, *, shards: bool, published: bool) -> None:
        """PoolError where of a set nothing can be compared. ``published``: whether the pool has ISC's descriptors."""
        models = {*(self.texts if shards else []), *([ISC_NAME] if published else [])}
        hashes = shards and any(method != "descriptor" for method in options.methods)
        if names := uncompared(self.headers, models, hashes=hashes):
            raise PoolError(
                f"of evaluation set {names[0]} ({len(names):,} in all) nothing can be compared with this pool by "
                f"--methods {' '.join(options.methods)}: leave its signature file out, give other --methods, or give "
                "--descriptors with the model by which it was signed"
            )

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


def uncompared(headers: Iterable[Header], models: Collection[str], *, hashes: bool) -> list[str]:
    """The sets with rows of which nothing can be compared: no hashes, and descriptors of no model of ``models``."""
    return [
        one.name
        for header in headers
        for one in header.sets
        if one.rows
        and not (hashes and one.pictures > one.unreadable)
        and not any(info.name in models for info in header.descriptors)
    ]


def unused_notes(headers: Iterable[Header], models: Collection[str]) -> list[str]:
    """Of the models of which signature files have descriptors that were not compared."""
    names = sorted({info.name for header in headers for info in header.descriptors} - set(models))
    return [
        f"descriptors of {name} were not compared, as the pool has none: for these give dcfast decontaminate "
        "--descriptors"
        for name in names
    ]
