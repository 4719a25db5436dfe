"""What torch has pickled, as files that hold numbers alone: ``.npy`` of an array, ``.safetensors`` of weights.

    python -m dcfast.models.convert PARENT SOURCE TARGET [KEY]

The pickle is a stranger's. It is followed before it is read (``checkpoint_pickle``), torch reads it with
``weights_only``, and all of that in a process of its own, which may take so much memory and time and no more, writes
one file, and dies with the process that started it.
"""

from __future__ import annotations

import argparse
import resource
import sys
from collections.abc import Sequence
from pathlib import Path

from dcfast.errors import CorruptDataError
from dcfast.models.checkpoint import read_pickled, read_state
from dcfast.process.command import run_command
from dcfast.process.exit_codes import DONE
from dcfast.process.signals import start_worker
from dcfast.storage.atomic import atomic_path
from dcfast.storage.inputs import check_input, read_input
from dcfast.storage.npz import save_array

CPU_SECONDS = 900
MEMORY_TIMES, MEMORY_MORE = 8, 1 << 30
"""Address space beyond what torch takes by itself: so many times the file, and so many bytes."""
_CLASSES = (argparse.Namespace,)
"""What may stand in a file of weights beside them: the options of a training."""


def convert(source: Path, target: Path, key: str = "") -> None:
    """Writes the array of a file of torch to ``target`` (``.npy``), or its weights (``.safetensors``), atomically.

    Args:
        key: of the array, where the file holds a dict.
    Raises:
        CorruptDataError, CheckpointError: it holds something else, is damaged, or would do more than hold numbers.
        OSError.
    Memory: five times the file.
    """
    if target.suffix == ".npy":
        array = read_pickled(source, key, most_pickle=check_input(source).st_size)
        if array.dtype.kind != "f" or array.ndim != 2 or not array.size:
            raise CorruptDataError(
                f"{source} holds {array.dtype} of shape {array.shape}; expected floats of shape (rows, dimensions)",
                path=source,
            )
        save_array(target, array)
        return
    from safetensors.torch import save_file

    # a copy of each: tensors that share their numbers cannot be written, nor any that is not laid out in order
    state = {name: tensor.detach().clone().contiguous() for name, tensor in read_state(source, also=_CLASSES).items()}
    with atomic_path(target) as temporary:
        save_file(state, temporary)


def limit(size: int) -> None:
    """Bounds this process: processor time, memory beyond what it has by now, the files that it writes."""
    pages = int(read_input("/proc/self/statm", 1 << 12).split()[0])
    memory = pages * resource.getpagesize() + MEMORY_TIMES * size + MEMORY_MORE
    for what, most in (
        (resource.RLIMIT_CPU, CPU_SECONDS),
        (resource.RLIMIT_AS, memory),
        (resource.RLIMIT_FSIZE, 4 * size + (1 << 20)),
        (resource.RLIMIT_CORE, 0),
    ):
        hard = resource.getrlimit(what)[1]
        most = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(what, (most, most))


def main(argv: Sequence[str] | None = None) -> int:
    """Entry of the process; returns the exit status."""
    parent, source, target, *key = sys.argv[1:] if argv is None else argv
    start_worker(int(parent))

    def work() -> int:
        import torch

        torch.set_num_threads(1)
        limit(check_input(source).st_size)
        convert(Path(source), Path(target), *key)
        return DONE

    return run_command(work, "stopped")


if __name__ == "__main__":
    sys.exit(main())
