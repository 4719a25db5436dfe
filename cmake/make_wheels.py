"""Builds wheels that carry their libraries: dist/*.whl, one for each Python, each tried in an empty environment.

    python cmake/make_wheels.py                       # for the Python that runs this, by its own build tools
    python cmake/make_wheels.py python3.12 python3.13 # for those, in build environments under build/wheel
    python cmake/make_wheels.py all                   # for every supported Python at hand (PATH and pyenv)

auditwheel copies the libraries into the wheel and gives it the tag of the oldest glibc that it can live with. With
ccache on PATH the core, which is the same for each Python, is compiled once. `--run` tries `pip install "FILE[run]"`
and a small `dcfast run` as well (gigabytes, where torch comes with CUDA).
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
BUILD = ROOT / "build/wheel"
DIST = ROOT / "dist"


def supported() -> range:
    """The minor versions of Python 3 that pyproject.toml allows, 3.N."""
    bounds = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["requires-python"]
    low, high = re.fullmatch(r">=3\.(\d+),<3\.(\d+)", bounds).groups()
    return range(int(low), int(high))


def minor_of(python: str) -> int | None:
    """N of a Python 3.N that runs; None where it does not, or is another one."""
    code = "import sys; print(*sys.version_info[:2])"
    try:
        done = subprocess.run([python, "-c", code], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    major, minor = map(int, done.stdout.split())
    return minor if major == 3 else None


def at_hand() -> Iterator[str]:
    """A Python of each supported version, where there is one; says which there is none of."""
    for minor in supported():
        pyenv = Path(os.environ.get("PYENV_ROOT", "~/.pyenv")).expanduser() / "versions"
        places = [shutil.which(f"python3.{minor}"), *map(str, sorted(pyenv.glob(f"3.{minor}.*/bin/python3")))]
        found = next((place for place in places if place and minor_of(place) == minor), None)
        if found:
            yield found
        else:
            print(f"no Python 3.{minor} here: no wheel of it is built or tried", file=sys.stderr)


def build_tools(python: str, minor: int) -> str:
    """The Python of an environment with the build tools, made of another Python."""
    environment = BUILD / f"tools-3.{minor}"
    inside = str(environment / "bin/python")
    if minor_of(inside) != minor:
        subprocess.run([python, "-m", "venv", "--clear", str(environment)], check=True)
        requires = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["build-system"]["requires"]
        subprocess.run([inside, str(ROOT / "cmake/install.py"), *requires], check=True)
    return inside


def build(python: str, minor: int) -> Path:
    """The wheel of one Python, repaired: a file of dist."""
    place = BUILD / f"3.{minor}"
    shutil.rmtree(place / "wheelhouse", ignore_errors=True)
    defines = ["DCFAST_CUDA=OFF", *(["CMAKE_CXX_COMPILER_LAUNCHER=ccache"] if shutil.which("ccache") else [])]
    settings = [f"build-dir={place / 'cmake'}", *(f"cmake.define.{name}" for name in defines)]
    options = [word for setting in settings for word in ("-C", setting)]
    command = [python, "-m", "pip", "--disable-pip-version-check", "-q", "wheel", "--no-deps", "--no-build-isolation"]
    subprocess.run([*command, *options, "-w", str(place / "wheelhouse"), str(ROOT)], check=True)
    (wheel,) = (place / "wheelhouse").glob("dcfast-*.whl")
    subprocess.run(["auditwheel", "repair", "--wheel-dir", str(place / "wheelhouse/repaired"), str(wheel)], check=True)
    (repaired,) = (place / "wheelhouse/repaired").glob("*.whl")
    return Path(shutil.move(repaired, DIST / repaired.name))


def main(argv: list[str] | None = None) -> int:
    """0 where every wheel was built and works."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pythons", nargs="*", metavar="PYTHON", help="paths or names of Pythons, or all")
    parser.add_argument("--run", action="store_true", help="try FILE[run] and a small run too")
    arguments = parser.parse_args(argv)
    os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])  # cmake, auditwheel
    pythons = list(at_hand()) if arguments.pythons == ["all"] else arguments.pythons or [sys.executable]
    shutil.rmtree(DIST, ignore_errors=True)
    DIST.mkdir()
    for python in pythons:
        minor = minor_of(python)
        if minor not in supported():
            versions = ", ".join(f"3.{n}" for n in supported())
            sys.exit(f"{python} is no Python that dcfast supports: expected one of {versions}")
        inside = python if python == sys.executable else build_tools(python, minor)
        wheel = build(inside, minor)
        check = [inside, str(ROOT / "cmake/check_wheel.py"), str(wheel), *(["--run"] if arguments.run else [])]
        subprocess.run(check, check=True)
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except subprocess.CalledProcessError as error:  # it has said why
        sys.exit(f"failed: {' '.join(error.cmd)}")
