"""Installs Python packages into the environment that runs it: by uv where it can be had, else by pip.

    .venv/bin/python cmake/install.py numpy 'pyarrow>=18'    # arguments as of `pip install`
    .venv/bin/python cmake/install.py --lowest test lint     # the lowest versions that pyproject.toml allows, of extras

uv downloads side by side, links files from its cache instead of copying them, and leaves compiling Python files to
their first import. It reads none of pip's settings: those that say where packages come from are handed on as its
variables, unless they are set. Where uv fails, pip has the last word. DCFAST_INSTALLER=pip does without uv.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
UV = "uv>=0.5,<1"
PIP = (sys.executable, "-m", "pip", "--disable-pip-version-check")
FROM_PIP = {
    "index-url": "UV_DEFAULT_INDEX",
    "extra-index-url": "UV_INDEX",
    "find-links": "UV_FIND_LINKS",
    "constraint": "UV_CONSTRAINT",
    "trusted-host": "UV_INSECURE_HOST",
    "cert": "SSL_CERT_FILE",
    "timeout": "UV_HTTP_TIMEOUT",
    "default-timeout": "UV_HTTP_TIMEOUT",
}
"""A setting of pip -> the variable of uv that means the same."""
LATER_WINS = ("global.", "install.", ":env:.")
"""Where `pip config list` has a setting from: what stands in the environment counts most."""


def uv_variables(listed: str, environment: Mapping[str, str]) -> dict[str, str]:
    """What `pip config list` printed, as variables of uv; those that the environment has already are left out."""
    settings: dict[str, str] = {}
    for source in LATER_WINS:
        for line in listed.splitlines():
            name, is_setting, value = line.partition("=")
            if is_setting and name.startswith(source):
                settings[name.removeprefix(source)] = " ".join(shlex.split(value))
    variables = {FROM_PIP[name]: value for name, value in settings.items() if name in FROM_PIP}
    if "UV_FIND_LINKS" in variables:  # a list with commas, of whole paths
        variables["UV_FIND_LINKS"] = ",".join(variables["UV_FIND_LINKS"].split())
    if "no-index" in settings and settings["no-index"].lower() in ("1", "true", "yes", "on"):
        variables["UV_NO_INDEX"] = "1"
    # pip takes the best version that any index has, and trusts the system's certificates
    variables |= {"UV_INDEX_STRATEGY": "unsafe-best-match", "UV_NATIVE_TLS": "1"}
    if not writable(Path(environment.get("UV_CACHE_DIR") or environment.get("XDG_CACHE_HOME") or "~/.cache")):
        variables["UV_NO_CACHE"] = "1"
    return {name: value for name, value in variables.items() if name not in environment}


def writable(folder: Path) -> bool:
    """Whether a folder is there, or can be made, and takes files."""
    try:
        folder = folder.expanduser()
        folder.mkdir(parents=True, exist_ok=True)
    except (OSError, RuntimeError):  # RuntimeError: nobody's home
        return False
    return os.access(folder, os.W_OK)


def find_uv() -> str | None:
    """The uv beside this Python or on PATH; None where it is not wanted or cannot be installed."""
    if os.environ.get("DCFAST_INSTALLER") == "pip":
        return None
    beside = Path(sys.executable).with_name("uv")
    if not beside.exists() and not shutil.which("uv"):
        subprocess.run([*PIP, "install", "-q", UV], check=False)
    return str(beside) if beside.exists() else shutil.which("uv")


def install_lowest(uv: str, extras: list[str], environment: Mapping[str, str]) -> int:
    """The lowest versions of dcfast's own dependencies, those of some extras too; not dcfast itself."""
    chosen = [word for extra in extras for word in ("--extra", extra)]
    with tempfile.TemporaryDirectory() as folder:
        listed = Path(folder) / "lowest.txt"
        options = ["-q", "--resolution", "lowest-direct", "--python", sys.executable, "-o", str(listed)]
        resolve = [uv, "pip", "compile", *options, *chosen, str(ROOT / "pyproject.toml")]
        install = [uv, "pip", "install", "-q", "--python", sys.executable, "-r", str(listed)]
        statuses = (subprocess.run(command, env=environment, check=False).returncode for command in (resolve, install))
        return next(filter(None, statuses), 0)


def main(arguments: list[str]) -> int:
    """0 where everything is installed; else the status of uv or pip, which has said why."""
    uv = find_uv()
    if uv:
        listed = subprocess.run([*PIP, "config", "list"], capture_output=True, text=True, check=False).stdout
        environment = {**os.environ, **uv_variables(listed, os.environ)}
        if arguments[:1] == ["--lowest"]:
            return install_lowest(uv, arguments[1:], environment)
        # uv takes a checkout for unchanged while its pyproject.toml is: CMake knows better what to compile
        options = ["-q", "--python", sys.executable, "--reinstall-package", "dcfast"]
        if subprocess.run([uv, "pip", "install", *options, *arguments], env=environment, check=False).returncode == 0:
            return 0
        print("uv could not install it: pip tries", file=sys.stderr, flush=True)
    elif arguments[:1] == ["--lowest"]:
        sys.exit("the lowest versions are found by uv, which is not here: pip install uv")
    return subprocess.run([*PIP, "install", "-q", *arguments], check=False).returncode


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
