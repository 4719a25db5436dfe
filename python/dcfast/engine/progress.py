"""Progress of a step on standard error: a tqdm bar with rate and time left, or plain lines without a terminal."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING

from dcfast.errors import printable
from dcfast.process.terminal import say

if TYPE_CHECKING:
    from tqdm import tqdm


class Progress:
    """A progress bar over the weights of pieces.

    Args:
        title: ``stage/step``.
        total: sum of the weights (bytes where they are above a million, else things).
        pieces: how many pieces there are.
    """

    def __init__(self, title: str, *, total: int, pieces: int) -> None:
        self.title, self.total, self.pieces = title, total, pieces
        self._bar: tqdm | None = None
        self._done = 0
        self._started = self._spoke = time.monotonic()

    def __enter__(self) -> Progress:
        if sys.stderr.isatty():
            from tqdm import tqdm

            unit = {"unit": "B", "unit_scale": True} if self.total > 1_000_000 else {"unit": " pieces"}
            self._bar = tqdm(total=self.total, desc=printable(self.title), leave=False, dynamic_ncols=True, **unit)
        return self

    def advance(self, weight: int) -> None:
        self._done += weight
        if self._bar is not None:
            self._bar.update(weight)
            return
        now = time.monotonic()
        if now - self._spoke >= 10.0 and 0 < self._done < self.total:  # a log file wants few lines
            self._spoke = now
            left = (now - self._started) * (self.total - self._done) / self._done
            say(f"  {self.title}: {100 * self._done / self.total:.0f}%, about {left:.0f} s left", error=True)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.close()
        if kind is None:
            seconds = max(time.monotonic() - self._started, 1e-9)
            is_bytes = self.total > 1_000_000
            amount = f"{self.total / 1e6:.1f} MB, " if is_bytes else ""
            rate = f"{self.total / seconds / 1e6:.1f} MB/s" if is_bytes else f"{self.pieces / seconds:.1f}/s"
            say(f"  {self.title}: {self.pieces} pieces, {amount}{seconds:.1f} s, {rate}", error=True)


class Silent(Progress):
    """No output: for use as a library and in tests."""

    def __enter__(self) -> Silent:
        return self

    def advance(self, weight: int) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass
