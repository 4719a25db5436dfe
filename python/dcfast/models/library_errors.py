"""What the libraries behind a model raise and log, as one line that says what is missing and what to do."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

from dcfast.errors import DcfastError, MissingDependencyError, first_line

_CACHE = "HF_HOME, by default ~/.cache/huggingface,"
_FROM_FILE = "or give a file of weights in place of the tag (--features l14=NAME:FILE, --checkpoint FILE)"


@contextmanager
def quiet(level: int = logging.ERROR) -> Iterator[None]:
    """open_clip warns on the root logger about every model without pretrained weights: here that is meant."""
    root = logging.getLogger()
    before = root.level
    root.setLevel(level)
    try:
        yield
    finally:
        root.setLevel(before)


@contextmanager
def _library_errors(what: str, fault: str, how: str) -> Iterator[None]:
    """What open_clip, the model hub or transformers raise within becomes one line: WHAT has a FAULT; do HOW.

    They raise all classes of errors for want of a network or of a package, and log them as well.
    """
    try:
        with quiet(logging.CRITICAL):
            yield
    except (DcfastError, MemoryError):
        raise
    except ImportError as error:
        library = error.name or "a library"
        raise MissingDependencyError(
            f"{what} needs {library}, which cannot be imported ({first_line(error)[:200]}); pip install {library}"
        ) from error
    except Exception as error:
        if type(error).__name__ == "OutOfMemoryError":  # torch's; not a matter of what is missing
            raise
        raise MissingDependencyError(f"{what} {fault} ({first_line(error)[:160]}); {how}") from error


def model_errors(name: str) -> AbstractContextManager[None]:
    return _library_errors(f"model {name}", "cannot be made", "check its name, its folder, or the network")


def weights_errors(name: str, tag: str) -> AbstractContextManager[None]:
    return _library_errors(
        f"the weights {name}:{tag}",
        "are not on this machine, and cannot be fetched",
        f"fetch them once where there is a network ({_CACHE} holds them), {_FROM_FILE}",
    )


def tokenizer_errors(name: str) -> AbstractContextManager[None]:
    return _library_errors(
        f"the tokenizer of {name}",
        "is not on this machine, and cannot be fetched",
        f"fetch it once where there is a network ({_CACHE} holds it), or name local-dir:DIR, a folder with "
        "open_clip_config.json, the weights and the tokenizer",
    )
