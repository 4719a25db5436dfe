"""A server on this machine that speaks what clients use of Hugging Face's hub, with refusals and faults as switches.

    with local_hub({"owner/name": {"a.parquet": b"..."}}) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        hub.faults.append(Fault(429, "a.parquet", times=2, retry_after=0))
        hub.commit("owner/name", {"a.parquet": b"another"})
        assert hub.asked("a.parquet") == 1

Datasets by default; ``models={...}`` serves models. Files whose names end as in ``LFS`` are kept as LFS keeps them:
their addresses lead on to a second server (``cdn``), and the listing tells their SHA-256; of others git's blob id.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, quote, unquote, urlsplit

LFS = (".parquet", ".npz", ".npy", ".tar", ".bin", ".pt", ".zip")
ALWAYS = 1 << 30


@dataclass
class Fault:
    """What goes wrong, of requests whose path holds ``path``, so many times.

    Attributes:
        kind: a status; ``"gated"``: 403 of terms that were not accepted; ``"cut"``: the body ends after ``at`` bytes of
            it; ``"wrong"``: a byte of the body is another; ``"long"``: more bytes than there are; ``"hang"``: no
            answer; ``"ignores range"``: the whole file where a range was asked for.
        on: ``api`` (listings), ``hub`` (addresses of files), ``cdn`` (their bytes), or empty: any of them.
    """

    kind: int | str
    path: str = ""
    times: int = ALWAYS
    on: str = ""
    retry_after: int | str | None = None
    at: int = 0


@dataclass(frozen=True)
class Asked:
    """A request: of which ``server`` (``api``, ``hub``, ``cdn``), and how it was answered."""

    server: str
    method: str
    path: str
    range: str
    token: str
    status: int
    sent: int
    headers: dict[str, str] = field(default_factory=dict, repr=False)


@dataclass
class _Repo:
    kind: str
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    head: str = ""
    branches: dict[str, str] = field(default_factory=dict)
    token: str = ""


@dataclass
class LocalHub:
    """What is served, and what was asked for.

    Attributes:
        url: for HF_ENDPOINT.   cdn: where the bytes of LFS files are.
        page: entries on a page of a listing.   blobs: SHA-256 -> bytes, of LFS files.
        listed: path -> what a listing says of the file in place of the truth (``size``, ``oid``, ``lfs``, ``path``).
    """

    url: str = ""
    cdn: str = ""
    faults: list[Fault] = field(default_factory=list)
    log: list[Asked] = field(default_factory=list)
    page: int = 1000
    listed: dict[str, dict[str, Any]] = field(default_factory=dict)
    repos: dict[str, _Repo] = field(default_factory=dict)
    blobs: dict[str, bytes] = field(default_factory=dict)
    ended: threading.Event = field(default_factory=threading.Event)
    _door: threading.Lock = field(default_factory=threading.Lock)

    def commit(self, repo: str, files: Mapping[str, bytes], branch: str = "main") -> str:
        """Makes a commit that holds these files and no others the head of a repository, or of a branch; returns its
        id."""
        what = self.repos[repo]
        names = json.dumps([len(what.commits), *((name, hashlib.sha1(files[name]).hexdigest()) for name in files)])
        made = hashlib.sha1(f"{repo} {names}".encode()).hexdigest()
        what.commits[made] = dict(files)
        self.blobs |= {hashlib.sha256(data).hexdigest(): data for name, data in files.items() if is_lfs(name)}
        if branch == "main":
            what.head = made
        else:
            what.branches[branch] = made
        return made

    def head(self, repo: str) -> str:
        """The id of the last commit."""
        return self.repos[repo].head

    def forget(self, repo: str, commit: str = "") -> None:
        """A commit that vanishes (history was rewritten); without one, the whole repository."""
        if commit:
            del self.repos[repo].commits[commit]
        else:
            del self.repos[repo]

    def asked(self, name: str, *, server: str = "", method: str = "GET") -> int:
        """How many requests there were whose path ends in a name; redirections of files are not counted."""
        of_name = (one for one in self.log if one.path.endswith(name) and server in ("", one.server))
        return sum(one.method == method and one.status not in (302, 307) for one in of_name)

    def sent(self, name: str = "") -> int:
        """Bytes of bodies of files whose path ends in a name."""
        return sum(one.sent for one in self.log if one.server != "api" and one.path.endswith(name))

    def fault(self, server: str, path: str) -> Fault | None:
        """The fault of a request, which is then one fewer."""
        with self._door:
            for fault in self.faults:
                if fault.times > 0 and fault.path in path and fault.on in ("", server):
                    fault.times -= 1
                    return fault
        return None


def blob_id(data: bytes) -> str:
    """What git calls a file of these bytes."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def is_lfs(path: str) -> bool:
    """Whether the hub keeps a file as LFS does."""
    return path.endswith(LFS)


def _entry(hub: LocalHub, path: str, data: bytes, *, expand: bool) -> dict[str, Any]:
    entry: dict[str, Any] = {"type": "file", "oid": blob_id(data), "size": len(data), "path": path}
    if is_lfs(path):
        sha256 = hashlib.sha256(data).hexdigest()
        pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {len(data)}\n".encode()
        entry |= {"oid": blob_id(pointer), "lfs": {"oid": sha256, "size": len(data), "pointerSize": len(pointer)}}
    if expand:
        entry["lastCommit"] = {"id": "0" * 40, "title": "files", "date": "2024-01-01T00:00:00.000Z"}
        entry["securityFileStatus"] = None
    return {**entry, **hub.listed.get(path, {})}


def _tree(hub: LocalHub, files: Mapping[str, bytes], below: str, query: Mapping[str, str]) -> list[dict[str, Any]]:
    """Entries of a folder, or of all below it."""
    start = f"{below}/" if below else ""
    recursive, expand = (query.get(name, "").lower() in ("true", "1") for name in ("recursive", "expand"))
    inside = {path: data for path, data in files.items() if path.startswith(start)}
    folders = {start + "/".join(parts[:n]) for path in inside
               for parts in [path.removeprefix(start).split("/")] for n in range(1, len(parts))}  # fmt: skip
    entries = [{"type": "directory", "oid": hashlib.sha1(folder.encode()).hexdigest(), "size": 0, "path": folder}
               for folder in sorted(folders) if recursive or "/" not in folder.removeprefix(start)]  # fmt: skip
    entries += [_entry(hub, path, data, expand=expand) for path, data in sorted(inside.items())
                if recursive or "/" not in path.removeprefix(start)]  # fmt: skip
    return entries


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: LocalHub
    is_cdn: bool

    def log_message(self, *_: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def _answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self._sent, self._status = 0, 0
        split = urlsplit(self.path)
        path = unquote(split.path)
        query = {name: values[-1] for name, values in parse_qs(split.query).items()}
        self._server = "cdn" if self.is_cdn else "api" if path.startswith("/api/") else "hub"
        self._fault = self.hub.fault(self._server, path)
        try:
            if not self._refused():
                if self.is_cdn:
                    self._blob(path)
                elif path.startswith("/api/"):
                    self._api(path, query, parse_qs(body.decode("utf-8", "replace")))
                else:
                    self._resolve(path)
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True  # a client that had enough
        self.hub.log.append(
            Asked(self._server, self.command, path, self.headers.get("Range", ""), self._token(), self._status,
                  self._sent, dict(self.headers))
        )  # fmt: skip

    def _token(self) -> str:
        return self.headers.get("Authorization", "").removeprefix("Bearer ")

    def _refused(self) -> bool:
        fault = self._fault
        if fault is None or (isinstance(fault.kind, str) and fault.kind not in ("gated", "hang")):
            return False
        if fault.kind == "hang":
            self.hub.ended.wait()
            self.close_connection = True
            return True
        status = 403 if fault.kind == "gated" else int(fault.kind)
        headers = {} if fault.retry_after is None else {"Retry-After": str(fault.retry_after)}
        code = {404: "EntryNotFound"}.get(status, "GatedRepo" if fault.kind == "gated" else "")
        self._error(status, code, "planted", **headers)
        return True

    def _error(self, status: int, code: str, message: str, **headers: str) -> None:
        named = {"X-Error-Code": code, "X-Error-Message": message, **headers}
        self._send(status, json.dumps({"error": message}).encode(), {"Content-Type": "application/json", **named})

    def _send(self, status: int, body: bytes, headers: Mapping[str, str]) -> None:
        self._status = status
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            if value:
                self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            fault = self._fault
            if fault is not None and fault.kind == "cut" and status in (200, 206):
                body, self.close_connection = body[: fault.at], True
            self.wfile.write(body)
            self._sent = len(body)

    def _json(self, value: object, headers: Mapping[str, str] | None = None) -> None:
        self._send(200, json.dumps(value).encode(), {"Content-Type": "application/json", **(headers or {})})

    def _repo(self, kind: str, name: str, revision: str) -> tuple[str, dict[str, bytes]] | None:
        """Commit and files; None where the client was told why not."""
        repo = self.hub.repos.get(name)
        if repo is None or repo.kind != kind:
            self._error(404 if self._token() else 401, "RepoNotFound", "Repository not found")
            return None
        if repo.token and self._token() != repo.token:
            self._error(401, "RepoNotFound", "Invalid username or password.")
            return None
        commit = repo.head if revision == "main" else repo.branches.get(revision, revision)
        if commit not in repo.commits:
            self._error(404, "RevisionNotFound", f"Invalid rev id: {revision}")
            return None
        return commit, repo.commits[commit]

    def _api(self, path: str, query: Mapping[str, str], form: Mapping[str, list[str]]) -> None:
        asked = re.fullmatch(
            r"/api/(dataset|model)s/([^/]+/[^/]+)(?:/(revision|tree|paths-info)/([^/]+)(?:/(.*))?)?", path
        )
        if asked is None:
            self._error(404, "", "no such address")
            return
        kind, name, what, revision, below = asked.groups()
        if what == "revision" and below:
            revision = f"{revision}/{below}"  # a branch such as refs/convert/parquet
        found = self._repo(kind, name, revision or "main")
        if found is None:
            return
        commit, files = found
        if what in (None, "revision"):
            siblings = [{"rfilename": file} for file in files]
            self._json({"id": name, "_id": "0", "sha": commit, "private": False, "gated": False, "siblings": siblings,
                        "downloads": 0, "tags": []})  # fmt: skip
        elif what == "tree":
            entries, begin = _tree(self.hub, files, below or "", query), int(query.get("cursor", "0"))
            end = begin + self.hub.page
            more = "&".join(f"{name}={value}" for name, value in query.items() if name != "cursor")
            link = f'<{self.hub.url}{quote(path)}?{more}&cursor={end}>; rel="next"' if end < len(entries) else ""
            self._json(entries[begin:end], {"Link": link})
        else:
            expand = form.get("expand", [""])[0].lower() in ("true", "1")
            self._json([_entry(self.hub, p, files[p], expand=expand) for p in form.get("paths", []) if p in files])

    def _resolve(self, path: str) -> None:
        asked = re.fullmatch(r"/(datasets/)?([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path)
        if asked is None:
            self._error(404, "", "no such address")
            return
        found = self._repo("dataset" if asked[1] else "model", asked[2], asked[3])
        if found is None:
            return
        (commit, files), name = found, asked[4]
        if name not in files:
            self._error(404, "EntryNotFound", "Entry not found", **{"X-Repo-Commit": commit})
            return
        data = files[name]
        if not is_lfs(name):
            self._bytes(data, {"ETag": f'"{blob_id(data)}"', "X-Repo-Commit": commit})
            return
        sha256 = hashlib.sha256(data).hexdigest()
        linked = {"X-Linked-Etag": f'"{sha256}"', "X-Linked-Size": str(len(data)), "X-Repo-Commit": commit}
        self._send(302, b"", {"Location": f"{self.hub.cdn}/{sha256}/{quote(name)}", **linked})

    def _blob(self, path: str) -> None:
        wanted = path.split("/")[1]
        if wanted in self.hub.blobs:
            self._bytes(self.hub.blobs[wanted], {"ETag": f'"{wanted}"'})
        else:
            self._error(404, "", "no such blob")

    def _bytes(self, data: bytes, headers: dict[str, str]) -> None:
        fault = "" if self._fault is None else self._fault.kind
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", "")) if fault != "ignores range" else None
        headers = {**headers, "Accept-Ranges": "bytes", "Content-Type": "application/octet-stream"}
        whole, status = len(data), 200
        if fault == "wrong" and data:
            data = data[:-1] + bytes([data[-1] ^ 255])
        if fault == "long":
            data, headers["Content-Length"] = data + b"more" * 5, ""
            self.close_connection = True
        if asked:
            begin, end = int(asked[1]), int(asked[2]) + 1 if asked[2] else len(data)
            if begin >= whole:
                self._send(416, b"", {**headers, "Content-Range": f"bytes */{whole}"})
                return
            data, status = data[begin:end], 206
            headers["Content-Range"] = f"bytes {begin}-{begin + len(data) - 1}/{whole}"
        self._send(status, data, headers)


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_: Any) -> None:
        pass


@contextmanager
def local_hub(
    datasets: Mapping[str, Mapping[str, bytes]],
    *,
    models: Mapping[str, Mapping[str, bytes]] | None = None,
    private: Mapping[str, str] | None = None,
) -> Iterator[LocalHub]:
    """Serves repositories: name -> path -> bytes.

    Args:
        private: repository -> the token that alone may see it.
    """
    hub = LocalHub()
    for kind, repos in (("dataset", datasets), ("model", models or {})):
        for name, files in repos.items():
            hub.repos[name] = _Repo(kind, token=(private or {}).get(name, ""))
            hub.commit(name, files)
    servers = [
        _Server(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub, "is_cdn": is_cdn}))
        for is_cdn in (False, True)
    ]
    hub.url, hub.cdn = (f"http://127.0.0.1:{server.server_address[1]}" for server in servers)
    threads = [threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True) for server in servers]
    for thread in threads:
        thread.start()
    try:
        yield hub
    finally:
        hub.ended.set()
        for server, thread in zip(servers, threads, strict=True):
            server.shutdown()
            server.server_close()
            thread.join()
