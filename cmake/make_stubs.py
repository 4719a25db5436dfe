"""Writes the type stubs of dcfast._core from the signatures of the built extension (needs pybind11-stubgen and ruff).

Usage: python cmake/make_stubs.py [--check]. --check writes nothing: exit status 1 where the stubs are not what the
extension says. After a change in csrc/bindings: build and install first.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tempfile
from pathlib import Path

STUBS = Path(__file__).resolve().parent.parent / "python/dcfast/_core"
#: what pybind11 calls an argument that it takes as a whole number: depends on its version
_INTEGER = ("typing.SupportsInt | typing.SupportsIndex", "typing.SupportsInt")


def generate() -> dict[str, ast.Module]:
    """The stubs of the extension that `import dcfast._core` finds: file name -> its tree, as it should stand."""
    with tempfile.TemporaryDirectory(prefix="dcfast-stubs-") as folder:
        command = [sys.executable, "-m", "pybind11_stubgen", "dcfast._core", "--output-dir", folder, "--exit-code"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise SystemExit(f"pybind11-stubgen failed:\n{done.stdout}{done.stderr}")
        files = Path(folder, "dcfast/_core").glob("*.pyi")
        return {path.name: plain(path.read_text(encoding="utf-8")) for path in sorted(files)}


def plain(text: str) -> ast.Module:
    """The tree of a stub: imports that are used, in order; one name for whole numbers; no version number."""
    for name in _INTEGER:
        text = text.replace(name, "typing.SupportsIndex")
    tree = ast.parse(text)
    imports: dict[tuple[int, str], ast.stmt] = {}
    submodules: list[ast.alias] = []
    rest: list[ast.stmt] = []
    head: list[ast.stmt] = []
    for node in tree.body:
        if isinstance(node, ast.Import):
            imports |= {_import_key(name.name): ast.Import([name]) for name in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 1:
            submodules += node.names
        elif isinstance(node, ast.ImportFrom) or (not rest and isinstance(node, ast.Expr)):
            head.append(node)
        else:
            rest.append(_settled(node))
    code = "\n".join(ast.unparse(node) for node in rest)
    used = [imports[key] for key in sorted(imports) if re.search(rf"(?<![\w.]){re.escape(key[1])}\.", code)]
    if submodules:
        used.append(ast.ImportFrom(None, sorted(submodules, key=lambda alias: alias.name), 1))
    return ast.Module([*head, *used, *rest], [])


def _import_key(name: str) -> tuple[int, str]:
    top = name.split(".")[0]
    return (0 if top in sys.stdlib_module_names else 2 if top == "dcfast" else 1), name


def _settled(node: ast.stmt) -> ast.stmt:
    """The statement without what changes from build to build, or with the sorting of names."""
    if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
        if node.target.id == "version":
            node.value = None
        elif node.target.id == "__all__" and isinstance(node.value, ast.List):
            node.value.elts.sort(key=ast.unparse)
    return node


def differences(folder: Path = STUBS) -> list[str]:
    """Names of the stubs in the folder that are missing, too many, or other than the extension says."""
    wanted = generate()
    there = {path.name: plain(path.read_text(encoding="utf-8")) for path in folder.glob("*.pyi")}
    return sorted(
        name
        for name in wanted.keys() | there.keys()
        if name not in wanted or name not in there or ast.dump(wanted[name]) != ast.dump(there[name])
    )


def main(argv: list[str]) -> int:
    """Writes or checks."""
    if "--check" in argv:
        wrong = differences()
        for name in wrong:
            print(f"{name} is not what the extension says: run cmake/make_stubs.py", file=sys.stderr)
        return 1 if wrong else 0
    stubs = generate()
    STUBS.mkdir(exist_ok=True)
    for path in STUBS.glob("*.pyi"):
        path.unlink()
    for name, tree in stubs.items():
        (STUBS / name).write_text(ast.unparse(tree) + "\n", encoding="utf-8")
    for command in (("check", "--quiet", "--select", "I,RUF022", "--fix"), ("format", "--quiet")):
        subprocess.run([_ruff(), *command, str(STUBS)], check=True)
    return 0


def _ruff() -> str:
    beside = Path(sys.executable).with_name("ruff")
    return str(beside) if beside.exists() else "ruff"


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
