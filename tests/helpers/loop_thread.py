"""An event loop in a thread of its own, for servers that a test talks to."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable, Coroutine
from typing import TypeVar

Result = TypeVar("Result")


class LoopThread:
    """A running loop; the thread is a daemon's, so that nothing it waits for can keep the tests from ending."""

    def __init__(self, name: str) -> None:
        self.loop = asyncio.new_event_loop()
        self.closes: list[Callable[[], None]] = []  # called on the loop when it ends
        self._thread = threading.Thread(target=self.loop.run_forever, name=name, daemon=True)
        self._thread.start()

    def call(self, work: Coroutine[object, object, Result], seconds: float = 20.0) -> Result:
        """The result of a coroutine that the loop runs."""
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(seconds)

    def end(self) -> None:
        """Cancels what runs on the loop, whatever it waits for, and ends the thread."""
        self.call(self._finish())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join()
        self.loop.close()

    async def _finish(self) -> None:
        for close in self.closes:
            close()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        await asyncio.sleep(0)  # transports that were aborted close in the loop's next round


def has_ipv6() -> bool:
    """Whether this machine has the address ::1."""
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_STREAM) as one:
            one.bind(("::1", 0))
    except OSError:
        return False
    return True


def sockets_of_one_port(*kinds: tuple[socket.AddressFamily, socket.SocketKind]) -> list[socket.socket]:
    """Sockets of this machine, each of a family and kind, that are bound to the same number of a port."""
    for _ in range(100):
        found: list[socket.socket] = []
        try:
            for family, kind in kinds:
                one = socket.socket(family, kind)
                found.append(one)
                port = found[0].getsockname()[1] if len(found) > 1 else 0
                one.bind(("::1" if family == socket.AF_INET6 else "127.0.0.1", port))
            return found
        except OSError:
            for one in found:
                one.close()
    raise OSError(f"no number of a port is free for all of {kinds}")
