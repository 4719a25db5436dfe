"""The short way of a reshard: one small directory, plain options, no NumPy (whose import would be the longest part).

Same bytes and same report as ``run``, to which everything else is left, errors of the input too: it is asked again and
says them. Files are written as ``storage.atomic`` does, without its imports.
"""

from __future__ import annotations

import os

from dcfast.resharding.layout import KEY_FILE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = ["quick_key", "quick_reshard"]

# what is held in memory: about 100 bytes a sample of the input
_MOST_SHARDS = 64
_MOST_INPUT_BYTES = 16 << 30
_MOST_SUBSET_BYTES = 16_000_128
#: options that have to be as here, for this way to be taken
_PLAIN = {
    "shards_dir": None,
    "first_shard": 0,
    "num_shards": None,
    "shuffle_seed": None,
    "exclude": None,
    "pool_records": None,
    "boxes": None,
    "apply_blur": False,
    "inject_boxes": False,
    "idx": False,
    "resume": False,
    "verify": False,
}


def quick_reshard(options: dict[str, Any]) -> dict[str, Any] | None:
    """``reshard`` of these options; None, with nothing done, where it has to be done the long way."""
    if any(options[name] is not usual for name, usual in _PLAIN.items()):
        return None
    sizes = (options["shard_size"], options["max_bytes"], options["threads"])
    if any(type(size) is not int or not 0 <= size < 1 << 32 for size in sizes):
        return None
    base = os.fspath(options["pool"])
    subset = os.fspath(options["subset"])
    out = os.fspath(options["output_dir"])
    if not all(isinstance(path, str) for path in (base, subset, out)):
        return None
    if _is_inside(out, base) or not os.path.isdir(_present(out)):
        return None
    try:
        if os.path.isdir(os.path.join(base, "shards")):
            base = os.path.join(base, "shards")
        names = sorted(name for name in os.listdir(base) if name.endswith(".tar"))
        paths = [os.path.join(base, name) for name in names]
        if not _is_small(paths, subset) or (os.path.exists(out) and os.listdir(out)):
            return None
        from dcfast._core import reshard as core_reshard

        # of the shards before they are indexed: where one changes meanwhile, the key is not that of a later run
        key = quick_key(paths, subset, options["shard_size"], options["max_bytes"])
        plan = core_reshard.PoolReshard(
            [os.fsencode(path) for path in paths],
            os.fsencode(subset),
            shard_size=options["shard_size"],
            max_bytes=options["max_bytes"],
            threads=options["threads"],
        )
    except (OSError, ValueError):
        return None  # the long way finds it too, and has the words for it
    report: dict[str, Any] = plan.counts
    report["needed_bytes"] = (
        report["tar_bytes"] + (report["output_shard_count"] + 1) * 8192 + report["subset_count"] * 16
    )
    report["free_bytes"] = _free_bytes(out)
    damage = [{"shard": names[i], "offset": at, "message": message} for i, at, message in plan.damage]
    if damage:
        report["damage"] = damage
    if options["dry_run"]:
        return report
    if report["needed_bytes"] > report["free_bytes"]:
        return None
    os.makedirs(out, exist_ok=True)
    _atomic(out, KEY_FILE, _flat_json({"quick_key": key}), options["sync"])
    report["tar_bytes"] = _write(plan, report, out, base, subset, options)
    os.unlink(os.path.join(out, KEY_FILE))
    report |= {"skipped": 0, "mended": 0}
    return report


def quick_key(paths: list[str], subset: str, shard_size: int, max_bytes: int) -> str:
    """A hash of all that decides the bytes of a short run: a killed one is resumed, the long way, by an equal key.

    Args:
        paths: the input shards in order.   subset: file.
    Raises OSError. Cost: a stat a shard, one read of the subset file.
    """
    from dcfast._core import hashing as core_hashing

    parts = [f"{shard_size} {max_bytes}".encode()]
    for path in paths:
        state = os.stat(path)
        parts.append(f"{state.st_size} {state.st_mtime_ns} ".encode() + os.fsencode(os.path.abspath(path)))
    with open(subset, "rb") as file:
        parts.append(file.read())
    return repr(core_hashing.xxh3_128(b"\0".join(parts)))


def _is_inside(out: str, base: str) -> bool:
    return os.path.realpath(out).startswith(os.path.join(os.path.realpath(base), ""))


def _is_small(paths: list[str], subset: str) -> bool:
    if not 0 < len(paths) <= _MOST_SHARDS or os.path.getsize(subset) > _MOST_SUBSET_BYTES:
        return False
    with open(subset, "rb") as file:
        if file.read(6) != b"\x93NUMPY":
            return False
    return sum(os.path.getsize(path) for path in paths) <= _MOST_INPUT_BYTES


def _present(out: str) -> str:
    """What is there of the path: itself, or the nearest above it."""
    present = os.path.abspath(out)
    while not os.path.exists(present):
        present = os.path.dirname(present)
    return present


def _free_bytes(out: str) -> int:
    found = os.statvfs(_present(out))
    return found.f_bavail * found.f_frsize


def _write(plan: Any, report: dict[str, Any], out: str, base: str, subset: str, options: dict[str, Any]) -> int:
    sync, threads = options["sync"], options["threads"] or os.cpu_count() or 1
    sizes = {}
    total = 0

    def shard(path: str) -> None:
        nonlocal total
        total += plan.write(k, os.fsencode(path), threads=threads, check_mtime=options["check_mtime"])

    for k in range(report["output_shard_count"]):
        name = f"{k:08d}.tar"
        sizes[name] = plan.samples(k)
        _atomic(out, name, shard, sync)
        _atomic(out, f"{k:08d}_stats.json", _flat_json({"successes": sizes[name]}), sync)
    with open(subset, "rb") as file:
        _atomic(out, "sample_ids.npy", file.read(), sync)
    _atomic(out, "sizes.json", _flat_json(sizes), sync)
    meta: dict[str, Any] = {
        name: str(options[name]) for name in ("shard_size", "max_bytes", "first_shard", "num_shards")
    }
    meta |= {"input_dir": base, "subset_file": subset}
    meta |= {"shard_format": "{:08d}.tar", "output_shard_format": "{:08d}.tar"}
    meta["output_shard_stats_format"] = "{:08d}_stats.json"
    meta |= {name: report[name] for name in ("output_shard_count", "processed_count", "output_count", "missing_count")}
    _atomic(out, "meta.json", _flat_json(meta), sync)
    return total


def _atomic(out: str, name: str, content: Any, sync: bool) -> None:
    """A file that is whole or absent: ``content`` is its bytes, or a function that writes it to a path."""
    path = os.path.join(out, name)
    temporary = os.path.join(out, f".tmp-{os.getpid()}-{os.urandom(4).hex()}-{name}")
    try:
        if isinstance(content, bytes):
            with open(temporary, "wb") as file:
                file.write(content)
        else:
            content(temporary)
        if sync:
            _fsync(temporary)
        os.replace(temporary, path)
    except BaseException as error:
        if os.path.exists(temporary):
            os.unlink(temporary)
        if isinstance(error, OSError):
            from dcfast.storage.atomic import FULL, full_disk

            if error.errno in FULL:
                raise full_disk(error.errno, path) from error
        raise
    if sync:
        _fsync(out)


def _fsync(path: str) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _flat_json(values: dict[str, Any]) -> bytes:
    """As ``storage.atomic.write_json``, of text and whole numbers alone: importing json takes longer than all of it."""
    from _json import encode_basestring as quoted

    lines = [f" {quoted(key)}: {quoted(v) if isinstance(v, str) else v}" for key, v in sorted(values.items())]
    text = "{\n" + ",\n".join(lines) + "\n}\n" if lines else "{}\n"
    return text.encode("utf-8", "surrogatepass")
