"""The stubs of the compiled core: what its signatures say, and nothing untyped among them."""

from __future__ import annotations

import ast
import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

pytestmark = pytest.mark.lint

ROOT = Path(__file__).resolve().parent.parent
STUBS = sorted((ROOT / "python/dcfast/_core").glob("*.pyi"))
DOMAINS = {"access", "filters", "hashing", "images", "index", "reshard", "similarity", "system", "tokens", "uids"}
#: types that say too little: of any dtype, of any elements, of any kind
VAGUE = {"Any", "object", "Incomplete", "ndarray", "array", "list", "dict", "tuple", "set", "Callable", "Sequence"}


@pytest.fixture(scope="module")
def make_stubs() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_stubs", ROOT / "cmake/make_stubs.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_domain_is_a_module_with_a_stub() -> None:
    import dcfast._core

    assert {path.stem for path in STUBS} == DOMAINS | {"__init__"}
    for domain in DOMAINS:
        module = importlib.import_module(f"dcfast._core.{domain}")
        assert module is sys.modules[f"dcfast._core.{domain}"] is getattr(dcfast._core, domain)
        assert module.__name__ == f"dcfast._core.{domain}"


def test_the_stubs_are_those_of_the_extension(make_stubs: ModuleType) -> None:
    pytest.importorskip("pybind11_stubgen", reason="pybind11-stubgen is not installed: pip install pybind11-stubgen")
    assert make_stubs.differences() == [], "python cmake/make_stubs.py writes them anew"


def annotations(tree: ast.AST) -> list[ast.expr]:
    """Of all arguments, results and variables."""
    found: list[ast.expr | None] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.arg) and node.arg != "self":
            assert node.annotation is not None, f"{node.arg} has no type"
        if isinstance(node, ast.FunctionDef):
            assert node.returns is not None, f"{node.name} has no type"
        found += [getattr(node, "annotation", None), getattr(node, "returns", None)]
    return [annotation for annotation in found if annotation is not None]


def vague_names(annotation: ast.expr) -> set[str]:
    """Names of an annotation that say too little where they stand: ``list`` does alone, ``list[int]`` does not."""
    told = {id(node.value) for node in ast.walk(annotation) if isinstance(node, ast.Subscript)}
    names = set()
    for node in ast.walk(annotation):
        name = node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else ""
        if name in VAGUE and id(node) not in told:
            names.add(name)
    return names


@pytest.mark.parametrize("path", STUBS, ids=[path.stem for path in STUBS])
def test_no_function_takes_or_gives_what_has_no_type(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    told = annotations(ast.parse(text))
    assert told
    assert [ast.unparse(annotation) for annotation in told if vague_names(annotation)] == []
    assert "Any" not in text


def test_what_is_vague() -> None:
    source = (
        "def f(a: list, b: list[int], c: dict[str, object], d: numpy.ndarray, e: typing.Any) -> tuple[int, bool]: ..."
    )
    assert [sorted(vague_names(a)) for a in annotations(ast.parse(source))] == [
        [], ["list"], [], ["object"], ["ndarray"], ["Any"],
    ]  # fmt: skip


def test_the_core_is_imported_by_its_domains() -> None:
    """One style: ``from dcfast._core import uids as core_uids``. ``import dcfast._core`` reads as the root package."""
    for path in sorted((ROOT / "python/dcfast").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                assert not [name.name for name in node.names if name.name.startswith("dcfast._core")], path
            elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("dcfast"):
                assert not any(name.name == "_core" for name in node.names), path
                if node.module == "dcfast._core":
                    assert [name.asname for name in node.names] == [f"core_{name.name}" for name in node.names], path


AT_ONCE = """
import sys, threading
from dcfast._core import uids as core_uids

sys.setswitchinterval(1e-6)
wait, errors = threading.Barrier(8), []

def first():
    wait.wait()
    try:
        core_uids.uid_parse_list(["0" * 32], 1)
    except Exception as error:
        errors.append(error)

threads = [threading.Thread(target=first) for _ in range(8)]
[t.start() for t in threads]
[t.join() for t in threads]
sys.exit(str(errors) if errors else 0)
"""


def test_many_threads_may_make_the_first_call() -> None:
    """It imports NumPy and registers dtypes, which is done once; a thread that came second was refused."""
    for _ in range(3):
        subprocess.run([sys.executable, "-c", AT_ONCE], check=True)
