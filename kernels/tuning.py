"""Tile configurations of the kernels: defaults for each architecture, and a cache on disk of what was fastest.

The cache is one JSON file a GPU model, ``$DCFAST_TUNE_DIR`` (default ``$XDG_CACHE_HOME/dcfast/kernels``, that is
``~/.cache/dcfast/kernels``). It may be deleted at any time; a file that cannot be read or was written by another
version of Triton or of the kernels is ignored. ``DCFAST_AUTOTUNE=0`` turns measuring off: the defaults are used.
"""

from __future__ import annotations

import functools
import hashlib
import json
import math
import os
import re
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import triton

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"  # as Triton decides when it is imported
INTERPRET_TMA = False  # tests set it: tensor descriptors in the interpreter, too


@dataclass(frozen=True)
class Config:
    """Tile sizes and launch options of one kernel."""

    bm: int
    bn: int
    bk: int
    warps: int
    stages: int
    group: int = 8
    flatten: bool = False
    sub: bool = False

    @property
    def row_warps(self) -> int:
        """Groups of 16 rows side by side in a tile: as many as warps, where there are enough rows."""
        return min(self.warps, self.bm // 16)


_HOPPER = {
    "clip_sweep": (
        Config(256, 128, 64, 8, 3),
        Config(256, 128, 64, 8, 4),
        Config(128, 128, 64, 8, 4),
        Config(128, 128, 128, 8, 3),
    ),
    "clip_grad": (
        Config(128, 256, 64, 8, 3, sub=True, flatten=True),
        Config(128, 256, 64, 8, 3, sub=True),
        Config(256, 128, 64, 8, 3, sub=True, flatten=True),
        Config(128, 256, 64, 8, 3, sub=True, flatten=True, group=16),
        Config(128, 128, 64, 8, 4, flatten=True),
    ),
    "clip_grad_dots": (Config(128, 128, 64, 8, 4, flatten=True), Config(128, 128, 64, 8, 4)),
    "clip_online": (Config(128, 128, 64, 8, 3),),
    "siglip_tile": (Config(128, 128, 64, 8, 4, flatten=True, sub=True), Config(128, 128, 64, 8, 4, sub=True)),
}
_AMPERE = {
    "clip_sweep": (Config(128, 128, 32, 8, 3), Config(128, 128, 32, 8, 4)),
    "clip_grad": (Config(128, 128, 32, 8, 3), Config(128, 128, 64, 8, 3), Config(128, 128, 32, 8, 4, group=16)),
    "clip_grad_dots": (Config(128, 128, 32, 8, 3),),
    "clip_online": (Config(128, 128, 32, 8, 3),),
    "siglip_tile": (Config(64, 128, 32, 8, 3),),
}
# few rows: small tiles, so that every multiprocessor has one
SMALL = Config(64, 128, 64, 4, 3)
KERNELS = tuple(_HOPPER)
# without tensor cores: accumulators and products share registers
_IEEE = Config(64, 64, 32, 8, 3)
_TF32_LARGE, _TF32_SMALL = Config(128, 128, 32, 8, 3), Config(64, 64, 32, 4, 3)
_INTERPRETER = Config(32, 32, 32, 2, 1)
_ALL = (
    SMALL,
    _IEEE,
    _TF32_LARGE,
    _TF32_SMALL,
    *(c for table in (_HOPPER, _AMPERE) for row in table.values() for c in row),
)
_BY_JSON = {json.dumps(asdict(config), sort_keys=True): config for config in _ALL}


def candidates(kernel: str, capability: tuple[int, int], dtype: torch.dtype, precision: str) -> tuple[Config, ...]:
    """At most 5 configurations worth timing, the default first; none spills registers (``check_machine_code``).

    Args:
        kernel: one of ``KERNELS``.
        capability: compute capability, (9, 0) for Hopper.
        precision: of float32 products.
    """
    if kernel not in KERNELS:
        raise ValueError(f"kernel must be one of {', '.join(KERNELS)}; got {kernel!r}")
    if INTERPRETED:
        return (_INTERPRETER,)
    if dtype == torch.float32 and precision == "ieee":
        return (_IEEE,)
    wide = capability[0] in (9, 10)  # 227 KiB of shared memory; later ones for desks have 99
    if dtype == torch.float32:
        # SigLIP's epilogue is the longest
        large = wide and kernel != "siglip_tile"
        return (_TF32_LARGE if large else _TF32_SMALL,)
    return (_HOPPER if wide else _AMPERE)[kernel]


def default_config(kernel: str, device: torch.device, dtype: torch.dtype, precision: str, rows: int) -> Config:
    """What is used where nothing was measured."""
    if INTERPRETED:
        return candidates(kernel, (0, 0), dtype, precision)[0]
    capability = torch.cuda.get_device_capability(device)
    if rows < 2048 and dtype != torch.float32 and capability >= (9, 0) and kernel in ("clip_sweep", "clip_grad"):
        return SMALL
    return candidates(kernel, capability, dtype, precision)[0]


def cache_directory() -> Path:
    """Where the measured choices are kept."""
    named = os.environ.get("DCFAST_TUNE_DIR")
    if named:
        return Path(named)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "dcfast" / "kernels"


@functools.cache
def _version() -> str:
    # the kernels' source decides: a choice measured on other code is worth nothing
    digest = hashlib.sha256()
    for name in ("clip_kernels.py", "siglip_kernels.py", "tuning.py"):
        digest.update(Path(__file__).with_name(name).read_bytes())
    return f"triton {triton.__version__}, kernels {digest.hexdigest()[:16]}"


def _file(gpu: str) -> Path:
    return cache_directory() / (re.sub(r"[^A-Za-z0-9]+", "-", gpu).strip("-").lower() + ".json")


def load(gpu: str) -> dict[str, Config]:
    """The choices kept for a GPU model; empty where there are none, or none that can be read."""
    try:
        content = json.loads(_file(gpu).read_text("utf-8"))
        if content["version"] != _version() or content["gpu"] != gpu:
            return {}
        return {key: _BY_JSON[json.dumps(choice, sort_keys=True)] for key, choice in content["choices"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def store(gpu: str, key: str, config: Config) -> None:
    """Adds a choice; the file is replaced whole, and a directory that cannot be written is no error."""
    choices = load(gpu) | {key: config}
    content = {"gpu": gpu, "version": _version(), "choices": {k: asdict(v) for k, v in sorted(choices.items())}}
    path = _file(gpu)
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(prefix=".tmp-", dir=path.parent)
        with os.fdopen(handle, "w", encoding="utf-8") as f:
            json.dump(content, f, indent=1, sort_keys=True)
        os.replace(temporary, path)
    except OSError:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)


def key_of(kernel: str, dtype: torch.dtype, rows: int, cols: int, depth: int, precision: str) -> str:
    """Shapes within a factor of two share a choice; the feature width counts exactly."""
    up = [1 << math.ceil(math.log2(max(n, 1))) for n in (rows, cols)]
    return f"{kernel}/{str(dtype).removeprefix('torch.')}/{precision}/rows<={up[0]}/cols<={up[1]}/depth={depth}"


_chosen: dict[tuple[str, str], Config] = {}


def choose(
    kernel: str,
    device: torch.device,
    dtype: torch.dtype,
    shape: tuple[int, int, int],
    precision: str,
    launch: Callable[[Config], object],
    *,
    time: Callable[[Callable[[], object]], float] | None = None,
) -> Config:
    """The configuration to launch with: from memory, from the cache, or measured now and kept.

    Args:
        shape: rows, columns, feature width.
        launch: runs the kernel once with a configuration; called only to measure.
        time: seconds (any unit) of a call; for tests.
    """
    fallback = default_config(kernel, device, dtype, precision, shape[0])
    if time is None and (INTERPRETED or not worth_measuring(shape[0] * shape[1])):
        return fallback
    gpu = "interpreter" if INTERPRETED else torch.cuda.get_device_name(device)
    key = key_of(kernel, dtype, *shape, precision)
    config = _chosen.get((gpu, key)) or load(gpu).get(key)
    if config is None:
        if time is None and torch.cuda.is_current_stream_capturing():
            return fallback  # nothing can be timed in a capture, and this is not kept
        capability = (0, 0) if INTERPRETED else torch.cuda.get_device_capability(device)
        configs = (fallback, *candidates(kernel, capability, dtype, precision))
        config = measure(configs, launch, time or _milliseconds)
        store(gpu, key, config)
    _chosen[gpu, key] = config
    return config


def worth_measuring(logits: int) -> bool:
    """Not for small batches (a better tile cannot matter), or when turned off."""
    return os.environ.get("DCFAST_AUTOTUNE") != "0" and logits >= 2048 * 2048


def _milliseconds(call: Callable[[], object]) -> float:
    return float(triton.testing.do_bench(call, warmup=20, rep=60, return_mode="median"))


def measure(
    configs: Sequence[Config], launch: Callable[[Config], object], time: Callable[[Callable[[], object]], float]
) -> Config:
    """The fastest of the configurations that run; the first where none does."""
    best, least = configs[0], math.inf
    for config in dict.fromkeys(configs):
        try:
            launch(config)
            took = time(functools.partial(launch, config))
        except (triton.runtime.errors.OutOfResources, triton.runtime.errors.PTXASError, triton.CompilationError):
            continue  # too much shared memory or too many registers for this GPU
        if took < least:
            best, least = config, took
    return best
