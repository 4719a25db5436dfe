"""Progress of a step on standard error: one line on a terminal, written over; without one a line every ten seconds.

A step moves by the pieces that end, and where its only piece is a training or an evaluation by what that tells
(``dcfast.process.advance``). A thread of its own speaks, so that a step of which nothing ends is not silent either.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from types import TracebackType

from dcfast.process.advance import Advance, advance_heard
from dcfast.process.terminal import columns, is_terminal, say, show_line, width
from dcfast.storage.records import Count, Record

SECONDS_BETWEEN_LINES = 10.0
"""In a log file, which wants few."""
_SECONDS_BETWEEN_LOOKS = 0.5
"""On a terminal."""
_OF_PIECES = ("pieces", "bytes")
"""Units of what pieces add up to; others are of what a single piece tells."""
_WEIGHED_FROM = 1_000_000
"""Weights that add up to more are bytes."""
_WITH_BAR = 100
_BAR = 20
_NO_TERMINAL = 10_000
_STILL_SECONDS = 60.0
"""Without any movement, until it is said."""


class StepProgress(Record, omit_defaults=True):
    """How far a step is.

    Attributes:
        step: ``stage/step``.
        pieces, pieces_done: of the step, without those that were done before.
        unit: what ``done`` and ``total`` count: ``bytes``, ``pieces``, ``samples``, ``embeddings``.
        seconds: since it began.   still: seconds since anything of it moved.
        rate: of ``unit`` a second; None while it is not known.   seconds_left: by this rate.
        detail: what is at work.
    """

    step: str
    pieces: Count
    pieces_done: Count
    unit: str
    done: Count
    total: Count
    seconds: float
    still: float | None = None
    rate: float | None = None
    seconds_left: float | None = None
    detail: str | None = None


class Progress:
    """Progress of a step over the weights of its pieces, from the start of a block to its end.

    Args:
        title: ``stage/step``.
        total: sum of the weights (bytes where they are above a million, else things).
        pieces: how many pieces there are.
        source: what gives the state of another process's step, which is shown instead; None where it has none.
    """

    visible = True
    """Whether it speaks."""

    def __init__(
        self, title: str, *, total: int, pieces: int, source: Callable[[], StepProgress | None] | None = None
    ) -> None:
        self.title: str = title
        self.total: int = total
        self.pieces: int = pieces
        self._source = source
        self._weight = self._done = 0
        self._started = self._moved = time.monotonic()
        self._heard: tuple[Advance, float] | None = None
        self._first: tuple[Advance, float] | None = None  # what was heard first of the same work
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None
        self._entered = ExitStack()

    @classmethod
    def note(cls, text: str) -> None:
        """Says a line between steps."""
        if cls.visible:
            say(f"  {text}", error=True)

    def advance(self, weight: int) -> None:
        """A piece of this weight has ended."""
        self._weight += weight
        self._done += 1
        self._moved = time.monotonic()

    @property
    def has_heard(self) -> bool:
        """Whether its piece has told how far it is."""
        return self._heard is not None

    def _hear(self, advance: Advance) -> None:
        now = (advance, time.monotonic())
        first = self._first
        if first is None or (first[0].total, first[0].unit) != (advance.total, advance.unit):
            self._first = now
        self._heard, self._moved = now, now[1]
        if advance.note:
            self.note(advance.note)

    def state(self) -> StepProgress:
        """How far it is; may be asked by any thread."""
        if self._source is not None and (other := self._source()) is not None:
            return other
        now = time.monotonic()
        bytes_too = self.total > _WEIGHED_FROM
        done, total, unit = self._weight, self.total, "bytes"
        if not bytes_too:
            done, total, unit = self._done, self.pieces, "pieces"
        begun, before, detail = self._started, 0, None
        heard, first = self._heard, self._first
        if self.pieces == 1 and heard is not None and first is not None:
            told = heard[0]
            done, total, unit, detail = told.done, told.total, told.unit, told.detail or None
            before, begun = first[0].done, first[1]
        rate = (done - before) / (now - begun) if done > before and now > begun else None
        left = (total - done) / rate if rate else None
        return StepProgress(
            step=self.title,
            pieces=self.pieces,
            pieces_done=self._done,
            unit=unit,
            done=done,
            total=total,
            seconds=round(now - self._started, 1),
            still=round(now - self._moved, 1),
            rate=None if rate is None else float(f"{rate:.4g}"),
            seconds_left=None if left is None else round(left, 1),
            detail=detail,
        )

    def __enter__(self) -> Progress:
        self._entered.enter_context(advance_heard(self._hear))
        if self.visible:
            self._thread = threading.Thread(target=self._speak, name="dcfast-progress", daemon=True)
            self._thread.start()
        return self

    def _speak(self) -> None:
        shows = is_terminal()
        while not self._ended.wait(_SECONDS_BETWEEN_LOOKS if shows else SECONDS_BETWEEN_LINES):
            state = self.state()
            if shows:
                show_line(step_line(state, columns() - 1, bar=True))
            else:
                say(f"  {step_line(state)}", error=True)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._entered.close()
        self._ended.set()
        if self._thread is not None:
            self._thread.join()
            show_line("")
        if kind is None:
            self.note(ended_line(self.state()))


class Silent(Progress):
    """No output: for use as a library and in tests."""

    visible = False


def duration(seconds: float) -> str:
    """``0.4 s``, ``45 s``, ``12 min``, ``3.4 h``, ``2.1 days``."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    for limit, size, unit in ((100, 1, "s"), (100 * 60, 60, "min"), (72 * 3600, 3600, "h")):
        if seconds < limit:
            return f"{seconds / size:.{1 if unit == 'h' else 0}f} {unit}"
    return f"{seconds / 86400:.1f} days"


def amount(number: int, unit: str) -> str:
    """``3.4 MB``, ``1,250 samples``."""
    return f"{number / 1e6:,.1f} MB" if unit == "bytes" else f"{number:,} {unit}"


def speed(rate: float, unit: str) -> str:
    """``8.1 MB/s``, ``320 images/s``; of slow things ``5.2 s a piece``, ``1.8 s an image``."""
    if unit == "bytes":
        return f"{rate / 1e6:,.1f} MB/s"
    if rate < 1:
        return f"{1 / rate:,.1f} s {'an' if unit[0] in 'aeiou' else 'a'} {unit.removesuffix('s')}"
    return f"{rate:,.{1 if rate < 100 else 0}f} {unit}/s"


def step_line(state: StepProgress, most: int = _NO_TERMINAL, *, bar: bool = False) -> str:
    """A step under way in one line of ``most`` columns, the longest that fits; with a ``bar`` where there is room."""
    share = f"{100 * state.done / state.total:.0f}%" if state.total else "0%"
    where = state.detail or f"{state.pieces_done:,} of {state.pieces:,} piece{'s' if state.pieces != 1 else ''}"
    rate = speed(state.rate, state.unit) if state.rate else ""
    left = f"{duration(state.seconds_left)} left" if state.seconds_left is not None else ""
    left = left or f"{duration(state.seconds)} so far"
    if state.still is not None and state.still >= _STILL_SECONDS and state.rate:
        left += f", nothing moved for {duration(state.still)}"
    title, stage = state.step, state.step.partition("/")[0]
    lines = [
        [f"{title}: {share} ({where})", rate, left],
        [f"{title}: {share} ({where})", left],
        [f"{stage}: {share} ({where})", left],
        [f"{stage}: {share}", rate, left],
        [f"{stage}: {share}", left],
        [share, left],
    ]
    texts = [", ".join(filter(None, line)) for line in lines]
    if bar and most >= _WITH_BAR:
        filled = min(_BAR, _BAR * state.done // state.total) if state.total else 0
        texts[0] = f"[{'#' * filled}{'.' * (_BAR - filled)}] {texts[0]}"
    return next((text for text in texts if width(text) <= most), texts[-1])


def ended_line(state: StepProgress) -> str:
    """A step that has ended, in one line."""
    many = [amount(state.pieces, "pieces" if state.pieces != 1 else "piece")] if state.unit in _OF_PIECES else []
    much = [amount(state.done, state.unit)] if state.unit != _OF_PIECES[0] else []
    parts = [*many, *much, f"{state.seconds:.1f} s"]
    # what another process told may have begun earlier: then its own measure stands
    rate = state.rate or (state.done / state.seconds if state.seconds > 0 else None)
    if state.unit == "pieces" and state.pieces == 1:
        rate = None  # it says the time once more
    return f"{state.step}: {', '.join([*parts, speed(rate, state.unit)] if rate else parts)}"
