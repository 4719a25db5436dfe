"""How far a long piece of work is: a training or an evaluation tells it, whoever waits for it hears it.

Work tells at any moment and knows no listener; without one, telling costs a look at a variable. A listener hears its
own thread alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass


@dataclass(frozen=True)
class Advance:
    """``done`` of ``total`` things, whose name is ``unit`` (in the plural); ``detail``: what is at work, in words.

    ``note``: what is to be said once, in a line of its own.
    """

    done: int
    total: int
    unit: str
    detail: str = ""
    note: str = ""


Listener = Callable[[Advance], None]
_LISTENER: ContextVar[Listener | None] = ContextVar("_LISTENER", default=None)


def tell_advance(done: int, total: int, unit: str, detail: str = "", note: str = "") -> None:
    """Says how far the work of this thread is."""
    listener = _LISTENER.get()
    if listener is not None:
        listener(Advance(done, total, unit, detail, note))


@contextmanager
def advance_heard(listener: Listener) -> Iterator[None]:
    """For the time of a block a listener hears what this thread tells, and then the one around it does."""
    outer = _LISTENER.get()

    def hear(advance: Advance) -> None:
        listener(advance)
        if outer is not None:
            outer(advance)

    token = _LISTENER.set(hear)
    try:
        yield
    finally:
        _LISTENER.reset(token)
