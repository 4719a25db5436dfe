"""An object server on this machine: byte ranges of files by sendfile, a delay inside, requests and bytes counted.

It speaks HTTP, and as much of S3 as reading takes (path style, signatures not looked at). Faults are a function.
``python object_server.py DIRECTORY [DELAY_S]`` serves until its input ends, and says its port first; ``/-/count`` tells
what was counted, and ``/-/reset`` begins anew.
"""

from __future__ import annotations

import os
import re
import socket
import socketserver
import struct
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.utils import formatdate
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

Fault = Callable[[str, "tuple[int, int] | None"], str]
"""(path, first and last byte asked for; None of a look-up or listing) -> what goes wrong, or an empty text.

A status ("403", "416", "500"), "reset" (the connection, in the middle), "cut" (a byte less than was said), "etag"
(another version's), "other" (bytes of another range)."""


@dataclass
class ObjectServer:
    """What is served, and what was asked for.

    Attributes:
        root: folder; its files are objects, folders in it are buckets.   delay_s: before each answer.
        tags: path -> ETag, where it is not made of size and time.
        asked: (path, first byte, bytes sent) of each range.   look_ups: paths of all other requests.
        in_flight, most_in_flight: requests being answered now, and at most.
    """

    root: Path
    delay_s: float = 0.0
    fault: Fault = lambda path, span: ""
    tags: dict[str, str] = field(default_factory=dict)
    asked: list[tuple[str, int, int]] = field(default_factory=list)
    look_ups: list[str] = field(default_factory=list)
    in_flight: int = 0
    most_in_flight: int = 0
    port: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.port}{path}"

    @property
    def sent(self) -> int:
        """Bytes of all ranges."""
        return sum(count for _, _, count in self.asked)

    def forget(self) -> None:
        with self.lock:
            self.asked.clear()
            self.look_ups.clear()
            self.most_in_flight = 0

    def tag(self, path: str, status: os.stat_result) -> str:
        return self.tags.get(path, f'"{status.st_size:x}-{status.st_mtime_ns:x}"')


def _head(status: str, headers: dict[str, str]) -> bytes:
    lines = [f"HTTP/1.1 {status}", *(f"{name}: {value}" for name, value in headers.items())]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


class _Connection(socketserver.BaseRequestHandler):
    state: ObjectServer

    def handle(self) -> None:
        connection: socket.socket = self.request
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        waiting = b""
        try:
            while True:
                while b"\r\n\r\n" not in waiting:
                    more = connection.recv(1 << 16)
                    if not more:
                        return
                    waiting += more
                head, waiting = waiting.split(b"\r\n\r\n", 1)
                if not self._answer(connection, head.decode("latin-1")):
                    return
        except (BrokenPipeError, ConnectionResetError):
            return  # a client that had enough

    def _answer(self, connection: socket.socket, head: str) -> bool:
        """Answers one request; whether the connection goes on."""
        state = self.state
        method, target, _ = head.split("\r\n", 1)[0].split(" ")
        parts = urlsplit(target)
        path = unquote(parts.path)
        if path == "/-/count":
            text = f"{len(state.asked)} {len(state.look_ups)} {state.sent} {state.most_in_flight}".encode()
            return self._send(connection, method, "200 OK", text)
        if path == "/-/reset":
            state.forget()
            return self._send(connection, method, "200 OK", b"")
        with state.lock:
            state.in_flight += 1
            state.most_in_flight = max(state.most_in_flight, state.in_flight)
        try:
            if state.delay_s:
                time.sleep(state.delay_s)
            return self._object(connection, method, path, parts.query, head)
        finally:
            with state.lock:
                state.in_flight -= 1

    def _object(self, connection: socket.socket, method: str, path: str, query: str, head: str) -> bool:
        state = self.state
        found = re.search(r"\r\nrange: *bytes=(\d+)-(\d+)", head, re.IGNORECASE)
        span = (int(found[1]), int(found[2])) if found else None
        wrong = state.fault(path, span)
        if span is None:
            state.look_ups.append(path)
        if wrong.isdigit():
            return self._send(connection, method, f"{wrong} No", b"")
        file = state.root / path.strip("/")
        if file.is_dir():
            return self._listing(connection, method, file, parse_qs(query))
        if not file.is_file():
            return self._send(connection, method, "404 Not Found", b"")
        with open(file, "rb") as opened:
            status = os.fstat(opened.fileno())
            tag = '"another"' if wrong == "etag" else state.tag(path, status)
            headers = {"ETag": tag, "Accept-Ranges": "bytes", "Last-Modified": formatdate(status.st_mtime, usegmt=True)}
            if span is None:
                headers["Content-Length"] = str(status.st_size)
                connection.sendall(_head("200 OK", headers))
                if method == "GET":
                    self._copy(connection, opened.fileno(), 0, status.st_size)
                return True
            first, last = span
            if first >= status.st_size:
                return self._send(connection, method, "416 No", b"")
            count = min(last, status.st_size - 1) - first + 1
            state.asked.append((path, first, count))
            shift = 1 if wrong == "other" else 0
            headers["Content-Range"] = f"bytes {first + shift}-{first + count - 1}/{status.st_size}"
            headers["Content-Length"] = str(count)
            connection.sendall(_head("206 Partial Content", headers))
            if wrong == "reset":
                self._copy(connection, opened.fileno(), first, count // 2)
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                connection.close()
                return False
            self._copy(connection, opened.fileno(), first, count - (wrong == "cut"))
            return wrong != "cut"

    def _copy(self, connection: socket.socket, file: int, first: int, count: int) -> None:
        while count > 0:
            sent = os.sendfile(connection.fileno(), file, first, count)
            first, count = first + sent, count - sent

    def _listing(self, connection: socket.socket, method: str, folder: Path, query: dict[str, list[str]]) -> bool:
        """A page of links; of S3's request for a list, its answer."""
        if "list-type" not in query:
            page = "".join(f'<a href="{name}">{name}</a>' for name in sorted(os.listdir(folder))).encode()
            return self._send(connection, method, "200 OK", page, "text/html")
        prefix = query.get("prefix", [""])[0]
        listed = []
        for file in sorted(folder.rglob("*")):
            key = file.relative_to(folder).as_posix()
            if file.is_file() and key.startswith(prefix) and "/" not in key[len(prefix) :]:
                status = file.stat()
                tag = escape(self.state.tag(f"/{folder.name}/{key}", status))
                when = time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime(status.st_mtime))
                listed.append(
                    f"<Contents><Key>{escape(key)}</Key><LastModified>{when}</LastModified><ETag>{tag}</ETag>"
                    f"<Size>{status.st_size}</Size><StorageClass>STANDARD</StorageClass></Contents>"
                )
        page = (
            '<?xml version="1.0"?><ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
            f"<Name>{escape(folder.name)}</Name><Prefix>{escape(prefix)}</Prefix><KeyCount>{len(listed)}</KeyCount>"
            f"<MaxKeys>1000</MaxKeys><IsTruncated>false</IsTruncated>{''.join(listed)}</ListBucketResult>"
        )
        return self._send(connection, method, "200 OK", page.encode(), "application/xml")

    def _send(self, connection: socket.socket, method: str, status: str, body: bytes, kind: str = "text/plain") -> bool:
        headers = {"Content-Length": str(len(body)), "Content-Type": kind}
        connection.sendall(_head(status, headers) + (body if method != "HEAD" else b""))
        return True


class _Server(socketserver.ThreadingTCPServer):
    daemon_threads = True
    allow_reuse_address = True
    request_queue_size = 128


@contextmanager
def serve_objects(root: Path, *, delay_s: float = 0.0) -> Iterator[ObjectServer]:
    state = ObjectServer(root, delay_s)
    server = _Server(("127.0.0.1", 0), type("_Of", (_Connection,), {"state": state}))
    state.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield state
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


if __name__ == "__main__":
    with serve_objects(Path(sys.argv[1]), delay_s=float(sys.argv[2]) if len(sys.argv) > 2 else 0.0) as served:
        print(served.port, flush=True)
        sys.stdin.read()
