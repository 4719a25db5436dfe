"""The installed package: its version, its public names, what importing it costs, what the build holds."""

from __future__ import annotations

import importlib.metadata
import importlib.resources
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import dcfast
import pytest
from dcfast import kernels

# imported by what uses it, when it is used; NumPy too, but the doctor and the kernels look at it
HEAVY = ["torch", "pyarrow", "polars", "PIL", "triton", "matplotlib", "pandas", "ray", "nltk", "timm", "jinja2"]


def run_python(code: str, *arguments: str, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, **environment},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("module", ["dcfast", "dcfast.kernels", "dcfast.errors", "dcfast.doctor"])
def test_import_is_light(module: str) -> None:
    code = f"import sys, json, {module}; print(json.dumps(sorted(set(sys.argv[1:]) & set(sys.modules))))"
    assert json.loads(run_python(code, *HEAVY)) == []


@pytest.mark.parametrize("module", ["dcfast", "dcfast._core", "dcfast.errors", "dcfast.resharding"])
def test_import_without_numpy(module: str) -> None:
    assert run_python(f"import sys, {module}; print('numpy' in sys.modules)") == "False\n"


def test_import_needs_no_extension() -> None:
    # error classes and the doctor must be there to say what is wrong when the extension is not
    code = "import sys; sys.modules['dcfast._core'] = None; import dcfast.doctor; print('fine')"
    assert run_python(code) == "fine\n"


def test_import_prints_nothing_and_warns_of_nothing() -> None:
    assert run_python("import warnings; warnings.simplefilter('error'); import dcfast, dcfast._core") == ""


def test_versions_agree(repo_root: Path) -> None:
    import dcfast._core as _core

    project = tomllib.loads((repo_root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    cmake = re.search(r"project\(dcfast VERSION (\S+)", (repo_root / "CMakeLists.txt").read_text(encoding="utf-8"))
    assert cmake is not None
    assert dcfast.__version__ == project["version"] == cmake.group(1) == _core.version


def test_public_names_are_spelled_out() -> None:
    lazy = dcfast._LAZY  # type: ignore[attr-defined]
    assert len(set(dcfast.__all__)) == len(dcfast.__all__)
    assert set(lazy) <= set(dcfast.__all__)
    for name in set(dcfast.__all__) - set(lazy):
        assert name in vars(dcfast)


@pytest.mark.parametrize("name", sorted(dcfast._LAZY))  # type: ignore[attr-defined]
def test_public_name_resolves_and_is_documented(name: str) -> None:
    value = getattr(dcfast, name)
    assert callable(value)
    assert (value.__doc__ or "").strip(), f"dcfast.{name} has no docstring"
    assert name in dir(dcfast)


def test_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="'dcfast' has no attribute 'frobnicate'"):
        _ = dcfast.frobnicate  # type: ignore[attr-defined]


def test_error_classes_travel_between_processes() -> None:
    import pickle

    error = dcfast.CorruptDataError("bad header", path="a b.tar", offset=512)
    again = pickle.loads(pickle.dumps(error))
    assert (str(again), again.path, again.offset, type(again)) == ("bad header", "a b.tar", 512, type(error))
    for name in ("DcfastError", "FilterError", "MissingDependencyError", "PoolError", "RunError", "SubsetError"):
        assert issubclass(getattr(dcfast, name), dcfast.DcfastError)


def test_package_is_typed_and_carries_kernels() -> None:
    assert (importlib.resources.files("dcfast") / "py.typed").is_file()
    assert kernels.__name__ == "dcfast.kernels"
    usable, reason = kernels.available()
    assert isinstance(usable, bool)
    assert reason


def test_kernels_available_under_the_interpreter() -> None:
    expected = importlib.util.find_spec("triton") is not None
    out = run_python("from dcfast.kernels import available; print(available())", TRITON_INTERPRET="1")
    assert out.startswith(f"({expected}")


def test_extras_hold_what_the_documentation_names(repo_root: Path) -> None:
    extras = tomllib.loads((repo_root / "pyproject.toml").read_text(encoding="utf-8"))["project"][
        "optional-dependencies"
    ]
    assert {
        "data",
        "train",
        "run",
        "text",
        "laion",
        "ray",
        "kernels",
        "dali-cuda12",
        "dali-cuda13",
        "test",
        "bench",
        "all",
    } <= set(extras)
    for name in ("data", "text", "ray", "bench"):
        # the operations, and the data half of the workflow, stay free of torch (timm alone needs it)
        assert not any(re.match(r"torch\b|triton\b|nvidia", requirement) for requirement in extras[name])


def test_console_script_is_installed() -> None:
    (script,) = [e for e in importlib.metadata.entry_points(group="console_scripts") if e.name == "dcfast"]
    assert script.value == "dcfast.cli:main"
    assert callable(script.load())


def _readelf(*arguments: str) -> str:
    readelf = shutil.which("readelf")
    if readelf is None:
        pytest.skip("readelf (binutils) is not installed")
    return subprocess.run([readelf, "-W", *arguments], check=True, capture_output=True, text=True).stdout


def _needed(library: str) -> list[str]:
    return re.findall(r"\((?:NEEDED|RUNPATH|RPATH)\).*\[(.*)\]", _readelf("-d", library))


def test_core_links_neither_python_nor_cuda() -> None:
    import dcfast._core as _core

    assert not [name for name in _needed(_core.__file__) if re.match(r"libpython|libcud|libtorch", name)]


def test_core_needs_no_newer_glibc_than_the_documents_say(repo_root: Path) -> None:
    import dcfast._core as _core

    told = re.search(
        r"`manylinux_2_(\d+)` where it is built on Debian 12 \(glibc 2\.(\d+)\)",
        (repo_root / "docs/install.md").read_text(encoding="utf-8"),
    )
    assert told is not None
    oldest, built_on = map(int, told.groups())
    if int((os.confstr("CS_GNU_LIBC_VERSION") or "").rpartition(".")[2]) > built_on:
        pytest.skip(f"built on a newer glibc than 2.{built_on}, which gives more names newer versions")
    symbols = re.findall(r"(\S+)@GLIBC_2\.(\d+)", _readelf("--dyn-syms", _core.__file__))
    assert symbols
    assert not [name for name, version in symbols if int(version) > oldest]


def test_cuda_library_stands_alone() -> None:
    if importlib.util.find_spec("dcfast._cuda") is None:
        pytest.skip("built without the CUDA library (no nvcc)")
    from dcfast import _cuda

    assert _cuda.build_version >= 11_000
    needed = _needed(_cuda.__file__)
    assert "libdcfast_cuda.so" in needed
    assert "$ORIGIN" in needed
    library = Path(_cuda.__file__).with_name("libdcfast_cuda.so")
    assert not [name for name in _needed(str(library)) if re.match(r"libpython|libcuda|libcublas|libtorch", name)]


def test_cuda_library_runs_on_a_card_or_says_why_not() -> None:
    if importlib.util.find_spec("dcfast._cuda") is None:
        pytest.skip("built without the CUDA library (no nvcc)")
    from dcfast import _cuda

    if any(Path("/dev").glob("nvidia[0-9]*")):
        for index in range(len(_cuda.devices())):
            _cuda.self_test(index)
        return
    with pytest.raises(RuntimeError, match="counting CUDA devices"):
        _cuda.devices()
    with pytest.raises(RuntimeError, match="self test"):
        _cuda.self_test(0)
