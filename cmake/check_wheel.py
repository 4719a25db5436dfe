"""Checks a built wheel: its tag, its files, and that it works in an empty environment.

The environment gets the wheel with its required dependencies alone (NumPy, pyarrow and msgspec) and is removed at the
end. With --run it gets FILE[run] too, and must bring a small run from the built-in world to its report.
Usage: python cmake/check_wheel.py dist/dcfast-*.whl [--cuda] [--run]
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import time
import venv
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
WANTED = sorted(
    f"{package}/{path.relative_to(ROOT / folder).as_posix()}"
    for package, folder in (("dcfast", "python/dcfast"), ("dcfast/kernels", "kernels"))
    for path in (ROOT / folder).rglob("*")
    if path.is_file() and path.suffix not in (".so", ".pyc")
)
"""Every source file, whatever it is: templates, configurations of models and stubs too."""
UNWANTED = re.compile(r"(^|/)(tests|bench|csrc|docs|runs)/|\.(a|o|cpp|hpp|cu|pyc)$")
TRY = """
import io, sys, tarfile
import dcfast, dcfast._core.uids, dcfast.kernels
assert "site-packages" in dcfast.__file__, dcfast.__file__
heavy = sorted({"pyarrow", "polars", "torch", "PIL"} & set(sys.modules))
assert not heavy, heavy
print("kernels:", dcfast.kernels.available())
with tarfile.open("0.tar", "w") as tar:
    for name, data in (("a.txt", b"x" * 513), ("a.json", b"{}"), ("b.txt", b"")):
        info = tarfile.TarInfo(name)
        info.size = len(data)
        tar.addfile(info, io.BytesIO(data))
table = dcfast.index_tars(["0.tar"]).members()
assert table["name"].to_pylist() == ["a.txt", "a.json", "b.txt"], table
assert table["size"].to_pylist() == [513, 2, 0], table
print("index_tars:", table.num_rows, "members")
"""
SMALL_RUN = (
    *("--world", "rows=300", "rows_per_shard=100", "eval_scale=0.1", "--samples-seen", "256", "--compare", "none"),
    *("--features", "none", "--filter", "basic_filter & ~contaminated", "--quiet"),
)
"""Every stage but the teacher, which alone would train for a minute."""


def check_files(wheel: Path, *, cuda: bool) -> list[str]:
    """What is wrong with the wheel's name or contents, as sentences."""
    faults = []
    if not re.search(r"-manylinux_\d+_\d+_\w+\.whl$", wheel.name):
        faults.append(f"{wheel.name} carries no manylinux tag")
    names = zipfile.ZipFile(wheel).namelist()
    faults += [f"lacks {name}" for name in WANTED if name not in names]
    faults += [f"must not hold {name}" for name in names if UNWANTED.search(name)]
    for stem, expected in (("dcfast/_core.", True), ("dcfast/_cuda.", cuda), ("dcfast/libdcfast_cuda", cuda)):
        if any(name.startswith(stem) for name in names) != expected:
            faults.append(f"{'lacks' if expected else 'must not hold'} {stem}*")
    return faults


def try_in_empty_environment(wheel: Path, *, whole_run: bool) -> None:
    """Installs the wheel alone and runs it from an empty directory; CalledProcessError where that fails.

    Args:
        wheel: fits the Python that runs this.
        whole_run: installs what a run needs, too (with torch), and does a small one.
    """
    with tempfile.TemporaryDirectory(prefix="dcfast-wheel-") as folder:
        venv.create(Path(folder) / "env", with_pip=True)
        python = str(Path(folder) / "env" / "bin" / "python")
        work = Path(folder) / "work"
        work.mkdir()
        clean = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}

        def run(*command: str) -> None:
            subprocess.run(command, check=True, cwd=work, env=clean)

        run(python, "-m", "pip", "-q", "--disable-pip-version-check", "install", str(wheel.resolve()))
        run(python, "-W", "error", "-c", TRY)
        dcfast = str(Path(python).with_name("dcfast"))
        run(dcfast, "doctor")
        if whole_run:
            began = time.monotonic()
            run(python, str(ROOT / "cmake/install.py"), f"{wheel.resolve()}[run]")
            installed = time.monotonic()
            run(dcfast, "run", "--out", "small", *SMALL_RUN)
            if not (work / "small/report.html").is_file():
                raise FileNotFoundError("dcfast run ended well, but wrote no report.html")
            times = f"{installed - began:.0f} s to install, {time.monotonic() - installed:.0f} s for a small run"
            print(f"{wheel.name}[run]: {times}")


def main(argv: list[str]) -> int:
    """0 when the wheel is as it should be, else 1 with the reasons on stderr."""
    wheel = Path(next(argument for argument in argv if not argument.startswith("-")))
    faults = check_files(wheel, cuda="--cuda" in argv)
    for fault in faults:
        print(f"{wheel.name}: {fault}", file=sys.stderr)
    if faults:
        return 1
    try_in_empty_environment(wheel, whole_run="--run" in argv)
    print(f"{wheel.name}: {wheel.stat().st_size} bytes, works in an empty environment")
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
