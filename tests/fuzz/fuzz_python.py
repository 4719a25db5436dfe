"""The readers in Python of what strangers write, fuzzed under coverage (atheris is libFuzzer for Python).

    python fuzz_python.py PLACE/fuzz_TARGET [options of libFuzzer] CORPUS...

The first argument is a program that calls this one, which libFuzzer starts again where it merges corpora. What each
target promises stands in ``python_targets.py``.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path

import atheris


def _use_the_tree() -> str:
    """Where the core lies. An editable install has a finder of its own, and atheris would not see what it loads."""
    core = importlib.util.find_spec("dcfast._core")
    assert core is not None
    assert core.origin is not None
    sys.meta_path[:] = [finder for finder in sys.meta_path if "editable" not in type(finder).__module__]
    for name in [name for name in sys.modules if name.partition(".")[0] == "dcfast"]:
        del sys.modules[name]
    sys.path.insert(0, str(Path(__file__).parents[2] / "python"))
    return os.path.dirname(core.origin)


CORE = _use_the_tree()
with atheris.instrument_imports(include=["dcfast"]):
    import dcfast

    dcfast.__path__.append(CORE)
    from python_targets import TARGETS


if __name__ == "__main__":
    target = TARGETS[Path(sys.argv[1]).name.removeprefix("fuzz_")]
    atheris.Setup(sys.argv[1:], target)
    atheris.Fuzz()
