"""Checkpoints written beside the training: their state is copied aside, and a thread brings the copy to disk.

The steps go on meanwhile. One checkpoint is written at a time: the next waits for the one before it, and so does
whoever ends the training. torch lets go of the interpreter while it writes, so the steps do not wait for it either.
"""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

_LOG = logging.getLogger("dcfast.train")


_REST = 20.0
"""How long a write that shares the cores with the steps rests, for each second that it has computed."""
_BEGIN_SECONDS = 0.25
"""After which such a write begins: the step that has waited for the copy is not slowed down by the write as well."""


class Saver:
    """One write at a time, in a thread of its own; its error is raised where somebody waits for it.

    Args:
        rests: the steps are computed by the same cores: the write takes a twentieth of one, until somebody waits.
    """

    def __init__(self, *, rests: bool = False) -> None:
        self._rests = rests
        self._hurry = threading.Event()
        self._computed = 0.0
        self._thread: threading.Thread | None = None
        # a join that Ctrl-C interrupts takes the thread for ended (Python 3.11); torch, still writing, would abort then
        self._ended = threading.Event()
        self._error: BaseException | None = None

    def start(self, write: Callable[[], None]) -> None:
        """Begins a write, after the one before has ended; raises what that one did."""
        self.wait()
        self._hurry.clear()
        self._ended.clear()
        self._thread = threading.Thread(target=self._run, args=(write,), name="dcfast-save", daemon=True)
        self._thread.start()

    def _run(self, write: Callable[[], None]) -> None:
        if self._rests:
            self._hurry.wait(_BEGIN_SECONDS)
        self._computed = time.thread_time()
        try:
            write()
        except BaseException as error:
            self._error = error
        finally:
            self._ended.set()

    def rest(self) -> None:
        """Called by the write between its pieces."""
        if self._rests and not self._hurry.is_set():
            self._hurry.wait(_REST * (time.thread_time() - self._computed))
            self._computed = time.thread_time()

    def failed(self) -> bool:
        """Whether a write has failed, which nobody has been told yet."""
        return self._error is not None

    def is_idle(self) -> bool:
        """Whether the last write has ended well."""
        return self._error is None and (self._thread is None or self._ended.is_set())

    def wait(self) -> None:
        """Until the last write has ended; raises its error, once."""
        self._hurry.set()
        if self._thread is not None:
            self._ended.wait()
            self._thread.join()
            self._thread = None
        error, self._error = self._error, None
        if error is not None:
            raise error

    def close(self) -> None:
        """As ``wait``, where another error ends the training: that of the write is only logged."""
        try:
            self.wait()
        except Exception as error:
            _LOG.warning("  train: the last checkpoint was not written: %s", error)


class Aside:
    """A copy of a state on the CPU, whose memory is kept for the next one.

    Memory: once more what is copied, weights and optimizer; page-locked where they are on a GPU.
    On a GPU parameters are copied while the next step computes its gradients: ``before_update`` has the optimizer wait
    for that, and ``wait`` is for whoever reads the copy. On the CPU the copy is whole when ``copy`` returns.
    """

    def __init__(self) -> None:
        self._buffers: list[torch.Tensor] = []
        self._used = 0
        self._stream: torch.cuda.Stream | None = None
        self._copied: torch.cuda.Event | None = None

    def copy(self, content: object, late: set[int]) -> object:
        """The same content in containers made anew and tensors of this copy's own, valid until the next call.

        Args:
            late: addresses of the tensors that the optimizer's step alone changes.
        Containers are new ones because pickle writes shared objects otherwise than equal ones, and what is shared
        depends on whether the state was loaded from a file before.
        """
        import torch

        self._used = 0
        if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
            self._stream = self._stream or torch.cuda.Stream()  # type: ignore[no-untyped-call]
            self._stream.wait_stream(torch.cuda.current_stream())
        copied = self._copy(content, late)
        if self._stream is not None:
            self._copied = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._copied.record(self._stream)
        return copied

    def _copy(self, value: object, late: set[int]) -> object:
        import torch
        from torch.distributed.tensor import DTensor

        if isinstance(value, DTensor):  # this rank's part, still with word of the whole
            return DTensor(self._tensor(value.to_local().detach(), late), value._spec, requires_grad=False)
        if isinstance(value, torch.Tensor):
            return self._tensor(value.detach(), late)
        if isinstance(value, dict):
            return {self._copy(key, late): self._copy(item, late) for key, item in value.items()}
        if isinstance(value, (list, tuple)):
            return type(value)([self._copy(item, late) for item in value])
        return sys.intern(value) if type(value) is str else value

    def _tensor(self, tensor: torch.Tensor, late: set[int]) -> torch.Tensor:
        import torch

        buffer = self._buffer(tensor)
        if tensor.device.type == "cpu" or self._stream is None:
            return buffer.copy_(tensor)
        if tensor.data_ptr() not in late:  # the next step's forward pass may change it
            own = tensor.clone()
            self._stream.wait_stream(torch.cuda.current_stream())
            own.record_stream(self._stream)
            tensor = own
        with torch.cuda.stream(self._stream):
            return buffer.copy_(tensor, non_blocking=True)

    def _buffer(self, tensor: torch.Tensor) -> torch.Tensor:
        """The next piece of memory: that of the last copy, which a state of the same form takes in the same order."""
        import torch

        number, self._used = self._used, self._used + 1
        if number < len(self._buffers):
            buffer = self._buffers[number]
            if (buffer.shape, buffer.dtype, buffer.stride()) == (tensor.shape, tensor.dtype, tensor.stride()):
                return buffer
        buffer = torch.empty_like(tensor, device="cpu", pin_memory=tensor.device.type == "cuda")
        self._buffers[number : number + 1] = [buffer]
        return buffer

    def before_update(self) -> None:
        """Called before the optimizer changes what is being copied; the device waits, not this thread."""
        if self._copied is not None:
            import torch

            torch.cuda.current_stream().wait_event(self._copied)

    def wait(self) -> None:
        """Until the copy is whole."""
        if self._copied is not None:
            self._copied.synchronize()
