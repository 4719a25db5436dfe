"""Weights in a model as open_clip loads them, read by us: it maps safetensors, and a file that is cut meanwhile would
end the interpreter by SIGBUS."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING

from dcfast.errors import CheckpointError, DcfastError
from dcfast.models.checkpoint import read_state, refuse_other_types
from dcfast.models.folder import in_open_clip

if TYPE_CHECKING:
    from open_clip import CLIP


def read_by_us(name: str, **replaced: Callable[..., object]) -> AbstractContextManager[None]:
    """Within, weights that open_clip loads into a model of this name are read by ``read_checkpoint``.

    All else that it does to them it does itself: other layouts converted, towers renamed, positions resized.

    Raises:
        CheckpointError: they are not the model's, or would be cast (within).   Others: ``read_checkpoint``.
    """
    from open_clip import factory

    own: Callable[..., object] = factory.load_checkpoint

    def load(model: CLIP, path: str, *given: object, **options: object) -> object:
        state = read_state(path)
        hook = model.register_load_state_dict_pre_hook(
            lambda _, weights, *others: refuse_other_types(weights, model.state_dict(), path, name)
        )
        try:
            with in_open_clip(load_state_dict=lambda *_, **__: state):
                return own(model, path, *given, **options)
        except (DcfastError, MemoryError):
            raise
        except Exception as error:  # whatever shapes and names make of its conversions
            reason = " ".join(str(error).split())[:400]
            raise CheckpointError(
                f"checkpoint {Path(path)} is of another architecture than {name}: {reason}; "
                "name the architecture that it was trained with"
            ) from error
        finally:
            hook.remove()

    return in_open_clip(load_checkpoint=load, **replaced)
