"""A small HTTP server on this machine that serves bytes, with the habits and the faults of servers as switches."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

# (server, offset) -> status to send instead of the range, or None; may change the server
Fault = Callable[["ShardServer", int], int | None]

Reply = Callable[[bool, int, int, bytes], tuple[int, dict[str, str], bytes] | None]


@dataclass
class ShardServer:
    """What is served, how, and what was asked for.

    Attributes:
        files: path -> bytes; tags: path -> ETag.
        ranges: answer range requests; announce: say so by Accept-Ranges.
        wrong: another range to send than the one asked for; look_ups: statuses of the next requests without a range.
        reply: (is a range, begin, end, whole file) -> status, headers and body to answer instead, or None.
        hang: answer nothing to requests that this says of (is a range); pieces, pause_s: send bodies in so many parts
        with pauses between them.
        asked: (path, offset, bytes sent) of each GET; headers: of the last one.
    """

    files: dict[str, bytes] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    ranges: bool = True
    announce: bool = True
    cut: int = 0
    fault: Fault | None = None
    wrong: Callable[[int, int], tuple[int, int]] | None = None
    look_ups: list[int] = field(default_factory=list)
    reply: Reply | None = None
    hang: Callable[[bool], bool] | None = None
    pieces: int = 1
    pause_s: float = 0.0
    asked: list[tuple[str, int, int]] = field(default_factory=list)
    headers: dict[str, str] = field(default_factory=dict)
    port: int = 0

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.port}{path}"

    @property
    def sent(self) -> int:
        return sum(n for _, _, n in self.asked)


@contextmanager
def serve(**options: Any) -> Iterator[ShardServer]:
    state = ShardServer(**options)
    ended = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: Any) -> None:
            pass

        def _send(self, status: int, body: bytes, headers: dict[str, str]) -> None:
            self.send_response(status)
            for name, value in {"Content-Length": str(len(body)), **headers}.items():
                if value:
                    self.send_header(name, value)
            self.end_headers()

        def _instead(self) -> bool:
            """Whether the request was answered, or hangs, as the test has it."""
            asked = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
            if state.hang is not None and state.hang(asked is not None):
                ended.wait()
                return True
            begin, end = (int(asked[1]), int(asked[2]) + 1) if asked else (0, 0)
            found = state.reply(asked is not None, begin, end, state.files[self.path]) if state.reply else None
            if found is None:
                return False
            status, headers, body = found
            self._send(status, body, headers)
            if self.command == "GET":
                self._write(body)
            self.close_connection = "Content-Length" in headers  # another than the body's
            return True

        def _write(self, body: bytes) -> None:
            step = -(-len(body) // state.pieces) or 1
            try:
                for begin in range(0, len(body), step):
                    self.wfile.write(body[begin : begin + step])
                    if state.pause_s and ended.wait(state.pause_s):
                        break
            except (BrokenPipeError, ConnectionResetError):
                self.close_connection = True  # a client that had enough

        def _common(self) -> dict[str, str]:
            headers = {"Accept-Ranges": "bytes" if state.ranges else "none"} if state.announce else {}
            if self.path in state.tags:
                headers["ETag"] = state.tags[self.path]
            return headers

        def do_HEAD(self) -> None:
            if self._instead():
                return None
            if state.look_ups:
                return self._send(state.look_ups.pop(0), b"", {})
            if self.path not in state.files:
                return self._send(404, b"", {})
            return self._send(200, state.files[self.path], self._common())

        def do_GET(self) -> None:
            if self._instead():
                return None
            if self.path not in state.files:
                return self._send(404, b"", {})
            asked = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
            if state.look_ups and not asked:
                return self._send(state.look_ups.pop(0), b"", {})
            begin, end = (int(asked[1]), int(asked[2]) + 1) if asked and state.ranges else (0, 0)
            status = state.fault(state, begin) if state.fault else None
            if status is not None:
                return self._send(status, b"", {})
            body, headers, code = state.files[self.path], self._common(), 200
            if asked and state.ranges:
                whole = len(body)
                begin, end = state.wrong(begin, end) if state.wrong else (begin, end)
                body, code = body[begin:end], 206
                if not body:
                    return self._send(416, b"", {"Content-Range": f"bytes */{whole}"})
                headers["Content-Range"] = f"bytes {begin}-{begin + len(body) - 1}/{whole}"
            state.headers = dict(self.headers)
            state.asked.append((self.path, begin, len(body)))
            self._send(code, body, headers)
            if state.cut:
                self.wfile.write(body[: state.cut])
                self.close_connection = True
                return None
            self._write(body)
            return None

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, *_: Any) -> None:
            pass

    server = Server(("127.0.0.1", 0), Handler)
    state.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield state
    finally:
        ended.set()
        server.shutdown()
        server.server_close()
        thread.join()
