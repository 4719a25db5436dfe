"""A repository of the hub: which commit a revision is, which files it has, and what its refusals mean."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from urllib.parse import parse_qs, quote, unquote, urlencode, urlsplit

from dcfast.errors import HubError, printable
from dcfast.hub.hashes import Hashes
from dcfast.hub.lock_file import LOCK_FILE, is_commit, is_sha256
from dcfast.hub.transfer import Server, agent, read_page
from dcfast.storage.records import Count, Record, as_record

ENDPOINT_VARIABLE, USUAL_ENDPOINT = "HF_ENDPOINT", "https://huggingface.co"
MOST_FILES = 2_000_000
"""Of a repository: a listing that is longer has no end."""
_NO_TOKEN_VARIABLE = "HF_HUB_DISABLE_IMPLICIT_TOKEN"  # noqa: S105 (a name)
_YES = ("1", "ON", "YES", "TRUE")


class _Lfs(Record):
    oid: str
    size: Count


class _Entry(Record):
    type: str
    path: str
    oid: str = ""
    size: Count = 0
    lfs: _Lfs | None = None


class _Info(Record):
    sha: str


class Listed(Record):
    """A file as the hub lists it: of large ones it tells the SHA-256, of all others git's blob id; one is empty."""

    size: Count
    sha256: str
    blob: str

    @property
    def said(self) -> str:
        """Its hash, in words."""
        return f"SHA-256 {self.sha256}" if self.sha256 else f"git blob {self.blob}"

    def is_same(self, hashes: Hashes) -> bool:
        """Whether a file's bytes are these."""
        return hashes.size == self.size and self._hash in (hashes.sha256, hashes.blob)

    def said_of(self, hashes: Hashes) -> str:
        """The hash of a file's bytes, of the kind that is known of this one, in words."""
        return f"SHA-256 {hashes.sha256}" if self.sha256 else f"git blob {hashes.blob}"

    @property
    def _hash(self) -> str:
        return self.sha256 or self.blob


def endpoint() -> str:
    """The hub's address: HF_ENDPOINT as it is now (the library reads it once), or the usual one.

    ValueError: it is no address.
    """
    given = (os.environ.get(ENDPOINT_VARIABLE) or USUAL_ENDPOINT).rstrip("/")
    split = urlsplit(given)
    is_plain = given.isprintable() and not set(given) & set(" ?#@")  # a password would be in every message
    if split.scheme not in ("http", "https") or not split.hostname or not is_plain:
        raise ValueError(
            f"{ENDPOINT_VARIABLE} must be an address like {USUAL_ENDPOINT}, without a password or a question mark; got "
            f"{split.scheme[:20]}://{(split.hostname or '')[:200]}..."
        )
    return given


def _token() -> str | None:
    """As the library has it: HF_TOKEN, or what ``hf auth login`` left."""
    from huggingface_hub import get_token

    return None if os.environ.get(_NO_TOKEN_VARIABLE, "").upper() in _YES else get_token()


@dataclass
class Repository:
    """A repository, and who asks for it.

    Attributes:
        lock: the lock file, for messages.
        fixed_by: where the commit is from, in words; empty: from the hub, today.
    """

    name: str
    kind: str
    lock: str = LOCK_FILE
    fixed_by: str = ""

    @cached_property
    def endpoint(self) -> str:
        return endpoint()

    @cached_property
    def server(self) -> Server:
        """Whoever serves it, with the token that is set."""
        token = _token()
        headers = {"User-Agent": agent(), **({"Authorization": f"Bearer {token}"} if token else {})}
        return Server(self.endpoint, self._refused, headers)

    @property
    def page(self) -> str:
        """For people."""
        return f"{self.endpoint}/{'datasets/' if self.kind == 'dataset' else ''}{self.name}"

    def file_url(self, commit: str, path: str) -> str:
        """Where a file's bytes are."""
        return f"{self.page}/resolve/{commit}/{quote(path)}"

    def commit_of(self, revision: str | None) -> str:
        """The commit that a branch, tag or commit is now; None: the head.   Raises HubError."""
        address = f"{self.endpoint}/api/{self.kind}s/{self.name}"
        value, _ = read_page(self.server, f"{address}/revision/{quote(revision, safe='')}" if revision else address)
        found = as_record(value, _Info, self._where).sha
        if not is_commit(found):
            raise HubError(
                f"{self._where}: expected a commit of 40 hex digits; got {ascii(found)[:80]}: look at HF_ENDPOINT"
            )
        return found

    def files(self, commit: str) -> Iterator[tuple[str, Listed]]:
        """Path and file of all that a commit has, a page at a time.

        Raises:
            HubError: refused, not reached, a listing without end.   CorruptDataError: an answer that is no listing.
        """
        address = f"{self.endpoint}/api/{self.kind}s/{self.name}/tree/{commit}"
        cursor, count = "", 0
        while True:
            query = urlencode({"recursive": "true", **({"cursor": cursor} if cursor else {})})
            value, following = read_page(self.server, f"{address}?{query}")
            entries = as_record(value, list[_Entry], self._where, "look at HF_ENDPOINT: is it a hub?")
            for entry in entries:
                if entry.type == "file":
                    yield entry.path, self._listed(entry)
            count += max(1, len(entries))
            # of the next page the cursor alone is taken: the token goes nowhere else
            before, cursor = cursor, parse_qs(urlsplit(following).query).get("cursor", [""])[0]
            if not cursor:
                return
            if count > MOST_FILES or cursor == before:
                raise HubError(
                    f"{self._where}: the listing has no end (more than {count:,} entries); look at HF_ENDPOINT"
                )

    def _listed(self, entry: _Entry) -> Listed:
        file = Listed(entry.size, "", entry.oid) if entry.lfs is None else Listed(entry.lfs.size, entry.lfs.oid, "")
        if not (is_commit(file.blob) or is_sha256(file.sha256)):
            raise HubError(
                f"{self._where}: of {ascii(entry.path)[:200]} it tells no hash; look at HF_ENDPOINT: is it a hub?"
            )
        return file

    @property
    def _where(self) -> str:
        return f"{self.kind} {self.name} at {self.endpoint}"

    def _refused(self, status: int, headers: Mapping[str, str], url: str) -> HubError:
        """A refusal in words, with what to do."""
        code = headers.get("X-Error-Code", "")
        said = printable(headers.get("X-Error-Message", ""))[:200]
        where = f"{self._where} ({status}{f': {said}' if said else ''})"
        has_token = "Authorization" in self.server.headers
        if code == "GatedRepo" or status == 403:
            how = "with the account of HF_TOKEN" if has_token else "and set HF_TOKEN to a token of that account"
            return HubError(f"{where}: its terms were not accepted; open {self.page}, accept them there {how}")
        path = unquote(url.rpartition("/resolve/")[2].partition("/")[2])
        what = f"file {path}" if code == "EntryNotFound" else f"the commit {self.fixed_by}" if self.fixed_by else "it"
        if code in ("RevisionNotFound", "EntryNotFound") and self.fixed_by:
            return HubError(f"{where}: {what} has vanished; take what is there today by --update-lock")
        if code in ("RevisionNotFound", "EntryNotFound"):
            return HubError(
                f"{where}: there is no such revision, or file; name a branch, a tag or a commit that it has"
            )
        if status == 401 or code == "RepoNotFound" or status == 404:
            token = "HF_TOKEN may not read it" if has_token else "set HF_TOKEN to a token that may read it"
            return HubError(
                f"{where}: there is no such {self.kind}, or no longer, or it is private ({token}); look at {self.page}"
            )
        return HubError(f"{where}: the hub refuses; look at {self.page}")
