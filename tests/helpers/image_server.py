"""A fast HTTP server of a folder's files, in processes of its own: for benchmarks, and for downloads that are killed.

``with image_server(folder) as images:`` starts it; ``python tests/helpers/image_server.py FOLDER`` does by hand. The
files are served from memory, under their names below the folder, with keep-alive. ``/__log__`` tells what was asked
for, ``/__reset__`` forgets it. It is not thorough: it reads the path of a request and nothing else. It ends with its
standard input.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import mimetypes
import multiprocessing
import os
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from ctypes import c_uint64
from dataclasses import dataclass
from pathlib import Path
from typing import cast
from urllib.parse import quote

MISSING = b"HTTP/1.1 404 Not Found\r\nContent-Type: text/plain\r\nContent-Length: 7\r\n\r\nmissing"
LONGEST_HEAD = 1 << 16


class Counts:
    """Requests by path, and connections, of all processes: each writes numbers of its own, all are summed."""

    def __init__(self, paths: list[str], processes: int) -> None:
        self.paths = paths
        self._width = len(paths) + 2  # then: other paths, connections
        self._all = multiprocessing.RawArray(c_uint64, self._width * processes)
        self._first = 0

    def of_process(self, number: int) -> None:
        self._first = number * self._width

    def add(self, number: int) -> None:
        self._all[self._first + number] += 1

    def reset(self) -> None:
        self._all[:] = [0] * len(self._all)

    def told(self) -> bytes:
        sums = [sum(self._all[i :: self._width]) for i in range(self._width)]
        requests = {path: count for path, count in zip(self.paths, sums, strict=False) if count}
        return json.dumps({"requests": requests, "missing": sums[-2], "connections": sums[-1]}).encode()


def paths_of(folder: Path) -> dict[str, Path]:
    """Path of a URL -> file, of all below a folder, sorted."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {f"/{quote(str(path.relative_to(folder)))}": path for path in files}


def response(body: bytes, kind: str) -> bytes:
    return f"HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body


class Connection(asyncio.Protocol):
    def __init__(self, responses: dict[bytes, tuple[int, bytes]], counts: Counts, delay_s: float) -> None:
        self._responses, self._counts, self._delay_s = responses, counts, delay_s
        self._come = b""
        self._counted = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        *heads, self._come = (self._come + data).split(b"\r\n\r\n")
        for head in heads:
            path = head.split(b" ", 2)[1].partition(b"?")[0]
            if self._delay_s:
                asyncio.get_running_loop().call_later(self._delay_s, self._answer, path)
            else:
                self._answer(path)
        if len(self._come) > LONGEST_HEAD:
            self._transport.abort()

    def _answer(self, path: bytes) -> None:
        if path == b"/__log__":
            return self._transport.write(response(self._counts.told(), "application/json"))
        if path == b"/__reset__":
            self._counts.reset()
            return self._transport.write(response(b"", "text/plain"))
        number, answer = self._responses.get(path, (len(self._counts.paths), MISSING))
        self._counts.add(number)
        if not self._counted:
            self._counts.add(len(self._counts.paths) + 1)
            self._counted = True
        return self._transport.write(answer)


async def _serve(
    port: int, responses: dict[bytes, tuple[int, bytes]], counts: Counts, delay_s: float, tells: bool
) -> None:
    loop = asyncio.get_running_loop()
    # a pipe from whoever started the server: it ends with them, however they end
    loop.add_reader(0, lambda: None if os.read(0, 1) else os._exit(0))
    await loop.create_server(lambda: Connection(responses, counts, delay_s), sock=_bound(port), backlog=1024)
    if tells:
        print(port, flush=True)
    await asyncio.Event().wait()


def _bound(port: int) -> socket.socket:
    one = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)  # the kernel deals connections out to the processes
    one.bind(("127.0.0.1", port))
    return one


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--delay-s", type=float, default=0.0, help="before each answer, as on the way of a network")
    parser.add_argument("--port", type=int, default=0)
    given = parser.parse_args(arguments)
    files = paths_of(given.folder)
    responses = {
        path.encode(): (number, response(file.read_bytes(), mimetypes.guess_type(file)[0] or "image/jpeg"))
        for number, (path, file) in enumerate(files.items())
    }
    counts = Counts(list(files), given.processes)
    with _bound(given.port) as kept:  # never listens: it keeps the number for the others
        port = kept.getsockname()[1]
        number = next((other for other in range(1, given.processes) if os.fork() == 0), 0)
        counts.of_process(number)
        asyncio.run(_serve(port, responses, counts, given.delay_s, tells=number == 0))


@dataclass(frozen=True)
class Log:
    """How often each path was asked for (none that was not), and others; connections that asked for any."""

    requests: dict[str, int]
    missing: int
    connections: int


@dataclass(frozen=True)
class ImageServer:
    """A running server.

    Attributes:
        paths: of all files, as they are in URLs, sorted.
    """

    port: int
    paths: tuple[str, ...]

    def url(self, path: str, host: str = "127.0.0.1") -> str:
        return f"http://{host}:{self.port}{path}"

    @property
    def urls(self) -> list[str]:
        return [self.url(path) for path in self.paths]

    def told(self) -> Log:
        """What was asked for since the start or the last reset."""
        with urllib.request.urlopen(self.url("/__log__")) as answer:
            said = json.load(answer)
        return Log(said["requests"], said["missing"], said["connections"])

    def reset(self) -> None:
        urllib.request.urlopen(self.url("/__reset__")).close()


@contextmanager
def image_server(folder: Path, processes: int = 1, delay_s: float = 0.0) -> Iterator[ImageServer]:
    """The server of a folder, running until the end of the block, or of this process.

    Args:
        delay_s: passes before each answer, which takes no time of a processor.
    """
    options = ["--processes", str(processes), "--delay-s", str(delay_s)]
    command = [sys.executable, __file__, str(folder), *options]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as server:
        assert server.stdin is not None
        assert server.stdout is not None
        try:
            yield ImageServer(int(server.stdout.readline()), tuple(paths_of(folder)))
        finally:
            server.stdin.close()
            server.stdout.read()  # until the last of the processes has ended, and listens no more


if __name__ == "__main__":
    main()
