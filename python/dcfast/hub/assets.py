"""Published assets in a folder: fetched, held to their hashes, and converted to files that hold numbers alone.

``assets.lock.json`` beside them says what was fetched: of an asset whose hash nobody tells, it is what later fetches
compare with.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from urllib.parse import quote, urlsplit

from dcfast.errors import CorruptDataError, HubError, did_you_mean, last_line
from dcfast.hub.asset_table import ASSETS, Asset
from dcfast.hub.hashes import Hashes, hashes_of
from dcfast.hub.lock_file import LockedFile, is_sha256
from dcfast.hub.transfer import Server, agent, download, require_hub
from dcfast.process.libraries import require_library
from dcfast.storage.atomic import remove_leftovers, write_json
from dcfast.storage.inputs import open_input
from dcfast.storage.lock import locked
from dcfast.storage.npz import Array, load_array, read_header, write_npy
from dcfast.storage.paths import LOCK_NAME, absolute, make_directory, not_left_empty
from dcfast.storage.records import Record, plain, read_record, replaced
from dcfast.storage.whole import fsync

ASSETS_VARIABLE = "DCFAST_ASSETS"
ASSETS_LOCK = "assets.lock.json"
FORMAT = 1
CONVERT_SECONDS = 1800
_PART = ".fetching-"
_ADVICE = "remove it: the next fetch writes another"
_KEPT = ("PATH", "PYTHONPATH", "LD_LIBRARY_PATH", "TMPDIR", "LANG", "LC_ALL", "PYTHONUTF8", "VIRTUAL_ENV")
"""Of the environment, for the process that converts: no tokens, no addresses."""


class LockedAsset(Record):
    """An asset as it was fetched, and what it was converted to."""

    url: str
    file: LockedFile
    converted: LockedFile | None = None


class AssetsLock(Record):
    """The lock file: asset -> what was fetched; joined file -> what it is, and the hashes of its parts."""

    format: int = FORMAT
    assets: dict[str, LockedAsset] = {}
    joined: dict[str, LockedFile] = {}
    parts: dict[str, list[str]] = {}


def assets_folder() -> Path:
    """Where assets are by default: DCFAST_ASSETS, else ``dcfast/assets`` in the user's cache (XDG_CACHE_HOME)."""
    given, cache = os.environ.get(ASSETS_VARIABLE), os.environ.get("XDG_CACHE_HOME", "")
    if given:
        return Path(os.path.expanduser(given))
    return Path(cache if os.path.isabs(cache) else os.path.expanduser("~/.cache")) / "dcfast/assets"


def chosen_assets(names: Sequence[str]) -> list[Asset]:
    """The assets of some names, or patterns of names, in the table's order.   ValueError: one is of none."""
    known = [asset.name for asset in ASSETS]
    for name in names:
        if not any(fnmatchcase(one, name) for one in known):
            hint = did_you_mean(name, known) or f"; there are {', '.join(known)}"
            raise ValueError(f"expected the name of an asset; got {name!r}{hint}")
    return [asset for asset in ASSETS if any(fnmatchcase(asset.name, name) for name in names)]


def read_assets_lock(folder: Path) -> AssetsLock:
    """What was fetched into a folder; CorruptDataError: the lock file is damaged, or of a later release."""
    path = folder / ASSETS_LOCK
    if not os.path.lexists(path):
        return AssetsLock()
    lock = read_record(path, AssetsLock, advice=_ADVICE)
    files = [*(entry.file for entry in lock.assets.values()), *lock.joined.values()]
    files += [entry.converted for entry in lock.assets.values() if entry.converted is not None]
    if lock.format != FORMAT or not all(is_sha256(file.sha256) for file in files):
        problem = f"expected format {FORMAT} and hashes of 64 hex digits; {_ADVICE}"
        raise CorruptDataError(f"{path}: {problem}", path=path)
    return lock


def fetch_assets(
    names: Sequence[str],
    folder: Path,
    *,
    url_base: str = "",
    convert: bool = True,
    update_lock: bool = False,
    say: Callable[[str], None] = lambda line: None,
) -> list[Path]:
    """Fetches assets into a folder, where each appears when it is whole and what it must be.

    Args:
        names: of the table, or patterns of names.
        url_base: of a mirror, to which the file's name is appended; empty: each asset's own address.
        convert: torch's pickles to ``.npy`` and ``.safetensors``, in a process of their own.
        update_lock: of assets whose hash nobody tells, take what is there today.
    Returns:
        the files to use: what was converted, where it was, else what was fetched; and what was joined of several.
    Raises:
        HubError: not reached, refused, too large, no room, other bytes than expected (they are removed), or what was
            fetched holds more than numbers (it is removed).
        MissingDependencyError: huggingface_hub, or torch and safetensors to convert.   ValueError: arguments.
        RunError: another fetch into the folder is at work.   CorruptDataError: the lock file.   OSError.
    The same call goes on after a kill: a file whose hash is known, where it was cut. Memory: 1 MiB; to convert, up to
    eight times the file, in another process.
    """
    assets = chosen_assets(names)
    address = urlsplit(url_base)
    if url_base and (
        address.scheme not in ("http", "https") or not address.hostname or "@" in address.netloc or address.query
    ):
        raise ValueError(
            "url_base must be an address, https://HOST/FOLDER, without a password or a question mark; got "
            f"{address.scheme[:20]}://{(address.hostname or '')[:200]}..."
        )
    require_hub("fetching assets")
    for asset in assets if convert else ():
        for library in {"npy": ["torch"], "safetensors": ["torch", "safetensors"]}.get(asset.convert, []):
            require_library(library, f"converting {asset.file} (--no-convert leaves it as it is)")
    folder = Path(absolute(folder))
    made: list[Path] = []
    with not_left_empty(folder):
        make_directory(folder, "the folder of assets")
        with locked(folder / LOCK_NAME, f"{folder}: another fetch into it is at work; wait for it to end"):
            remove_leftovers(folder, below=False)
            for asset in assets:
                entry = _fetched(asset, folder, url_base, update=update_lock, say=say)
                made.append(_converted(asset, folder, entry, say=say) if convert else folder / asset.file)
            if convert:
                made += _join_all(assets, folder, say)
    return made


def _lock(folder: Path, name: str, entry: LockedAsset | None) -> None:
    lock = read_assets_lock(folder)
    others = {known: its for known, its in lock.assets.items() if known != name}
    assets = others if entry is None else {**others, name: entry}
    write_json(folder / ASSETS_LOCK, plain(replaced(lock, assets=assets)))


def _fetched(asset: Asset, folder: Path, url_base: str, *, update: bool, say: Callable[[str], None]) -> LockedAsset:
    """An asset that is there as it must be; fetched where it is not."""
    entry = read_assets_lock(folder).assets.get(asset.name)
    if entry is not None and not entry.file.sha256.startswith(asset.sha256):
        entry = None  # of an earlier release that expected another
    expected = entry.file.sha256 if entry is not None and not update else asset.sha256
    path = folder / asset.file
    if expected and path.is_file():
        hashes = hashes_of(path)
        if hashes.sha256.startswith(expected):
            say(f"{asset.name}: {path} is there as it must be")
            if entry is None or entry.file.sha256 != hashes.sha256:
                entry = LockedAsset(asset.url, LockedFile(hashes.size, hashes.sha256))
                _lock(folder, asset.name, entry)
            return entry
    url = f"{url_base.rstrip('/')}/{quote(asset.file)}" if url_base else asset.url
    say(f"{asset.name}: fetching {url} (terms: {asset.terms})")
    hashes = _download(asset, url, folder, expected)
    os.replace(folder / f"{_PART}{asset.file}", path)
    fsync(folder)
    if not expected:
        say(f"{asset.name}: nobody tells its hash; it has SHA-256 {hashes.sha256}, which {ASSETS_LOCK} keeps")
    if entry is not None and entry.file.sha256 == hashes.sha256:
        return entry
    entry = LockedAsset(url, LockedFile(hashes.size, hashes.sha256))
    _lock(folder, asset.name, entry)
    return entry


def _download(asset: Asset, url: str, folder: Path, expected: str) -> Hashes:
    """Fetches an asset's bytes beside its place; those of another hash are removed."""

    def refused(status: int, headers: Mapping[str, str], url: str) -> HubError:
        return HubError(f"{url}: the server refuses it (status {status}); name a mirror by --url-base")

    server = Server(f"{urlsplit(url).scheme}://{urlsplit(url).netloc}", refused, {"User-Agent": agent()})
    part = folder / f"{_PART}{asset.file}"
    # a beginning that may be of another version is taken only where the hash would tell
    resume = bool(expected) and part.exists()
    hashes = download(server, url, part, size=None, most=asset.most, resume=resume)
    if resume and not hashes.sha256.startswith(expected):
        hashes = download(server, url, part, size=None, most=asset.most, resume=False)
    if not hashes.sha256.startswith(expected):
        part.unlink()
        raise HubError(
            f"{url}: other bytes came than expected: SHA-256 must begin with {expected}; got {hashes.sha256}. They "
            "were removed; fetch it from where it was published, or look at whether it was replaced there "
            "(--update-lock takes what is there today, of assets whose hash nobody tells)"
        )
    return hashes


def _is_there(path: Path, file: LockedFile | None) -> bool:
    if file is None or not path.is_file():
        return False
    hashes = hashes_of(path)
    return (hashes.size, hashes.sha256) == (file.size, file.sha256)


def _converted(asset: Asset, folder: Path, entry: LockedAsset, *, say: Callable[[str], None]) -> Path:
    """The file to use of an asset that is there."""
    source = folder / asset.file
    if not asset.converted:
        return source
    target = folder / asset.converted
    if _is_there(target, entry.converted):
        return target
    command = [sys.executable, "-P", "-m", "dcfast.models.convert", str(os.getpid()), str(source), str(target)]
    environment = {name: os.environ[name] for name in _KEPT if name in os.environ}
    environment |= {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    try:
        done = subprocess.run(
            [*command, asset.key],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            env=environment,
            cwd=folder,
            timeout=CONVERT_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise HubError(
            f"{source}: its conversion took more than {CONVERT_SECONDS} s; leave it as it is by --no-convert"
        ) from None
    if done.returncode:
        said = last_line(done.stderr.decode("utf-8", "replace")).removeprefix("error: ")[:500]
        reason = said or f"the process ended by {done.returncode}: it took more memory or time than such a file needs"
        if not asset.sha256:  # what has a known hash is what was published, and the fault is here
            source.unlink()
            _lock(folder, asset.name, None)
            reason += "; what was fetched was removed"
        raise HubError(f"{asset.name} cannot be converted: {reason}; leave it as it is by --no-convert")
    hashes = hashes_of(target)
    _lock(folder, asset.name, replaced(entry, converted=LockedFile(hashes.size, hashes.sha256)))
    say(f"{asset.name}: {target} ({hashes.size:,} bytes), for {asset.use}")
    return target


def _join_all(assets: Sequence[Asset], folder: Path, say: Callable[[str], None]) -> list[Path]:
    """Files that are joined of several assets, where all of these are there."""
    made = []
    for name in sorted({asset.joined for asset in assets if asset.joined}):
        parts = [asset for asset in ASSETS if asset.joined == name]
        lock = read_assets_lock(folder)
        entries = [lock.assets[part.name].converted for part in parts if part.name in lock.assets]
        hashes = [entry.sha256 for entry in entries if entry is not None]
        lacking = [p.name for p in parts if p.name not in lock.assets or lock.assets[p.name].converted is None]
        if lacking:
            say(f"{name}: not made yet, for want of {', '.join(lacking)}")
            continue
        path = folder / name
        if lock.parts.get(name) != hashes or not _is_there(path, lock.joined.get(name)):
            _join([folder / part.converted for part in parts], path)
            found = hashes_of(path)
            joined = {**lock.joined, name: LockedFile(found.size, found.sha256)}
            write_json(folder / ASSETS_LOCK, plain(replaced(lock, joined=joined, parts={**lock.parts, name: hashes})))
            say(f"{path}: made of {len(parts)} files")
        made.append(path)
    return made


def _join(parts: Sequence[Path], target: Path) -> None:
    """Writes the rows of several arrays to one. Memory: the largest of them."""
    headers: list[Array] = []
    for part in parts:
        with open_input(part) as file:
            headers.append(read_header(file)[0])
    if len({(array.dtype, array.shape[1:]) for array in headers}) != 1:
        shapes = ", ".join(f"{part.name}: {a.dtype} {a.shape}" for part, a in zip(parts, headers, strict=True))
        raise HubError(f"{target}: its parts do not fit together ({shapes}); fetch them from where they were published")
    shape = (sum(array.shape[0] for array in headers), *headers[0].shape[1:])
    write_npy(target, shape, headers[0].dtype, map(load_array, parts))


def verify_assets(names: Sequence[str], folder: Path) -> dict[str, str]:
    """Of those assets that were fetched into a folder, or lie there: what is wrong, in words; empty: nothing.

    Returns:
        name -> problem.   Cost: the files are hashed.
    Raises: as ``read_assets_lock`` and ``chosen_assets``; OSError.
    """
    lock, found = read_assets_lock(folder), {}
    for asset in chosen_assets(names):
        entry = lock.assets.get(asset.name)
        if entry is None and not (folder / asset.file).exists():
            continue
        problem = _problem(folder / asset.file, entry.file if entry is not None else None, asset.sha256)
        if not problem and entry is not None and entry.converted is not None:
            problem = _problem(folder / asset.converted, entry.converted)
        found[asset.name] = problem
    for name, file in lock.joined.items():
        if any(asset.joined == name and asset.name in found for asset in ASSETS):
            found[name] = _problem(folder / name, file)
    return found


def _problem(path: Path, file: LockedFile | None, sha256: str = "") -> str:
    """What is wrong with a file, by the lock, or by a hash or its first digits; empty where nothing is."""
    if not path.is_file():
        return f"{path} is missing; fetch it again"
    found = hashes_of(path)
    if file is not None and found.size != file.size:
        return f"{path} has {found.size:,} bytes; expected {file.size:,}: fetch it again"
    expected = sha256 if file is None else file.sha256
    if not found.sha256.startswith(expected):
        return f"{path} has SHA-256 {found.sha256}; expected {expected}: fetch it again"
    return "" if expected else f"{path} was not fetched by this command, and nobody tells its hash; fetch it again"
