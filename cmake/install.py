"""Installs Python packages into the environment that runs it: by uv where it can be had, else by pip.

    .venv/bin/python cmake/install.py numpy 'pyarrow>=18'        # arguments as of `pip install`

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
from collections.abc import Mapping
from pathlib import Path

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


def main(arguments: list[str]) -> int:
    """0 where everything is installed; else the status of pip, which has said why."""
    uv = find_uv()
    if uv:
        listed = subprocess.run([*PIP, "config", "list"], capture_output=True, text=True, check=False).stdout
        environment = {**os.environ, **uv_variables(listed, os.environ)}
        # uv takes a checkout for unchanged while its pyproject.toml is: CMake knows better what to compile
        options = ["-q", "--python", sys.executable, "--reinstall-package", "dcfast"]
        command = [uv, "pip", "install", *options, *arguments]
        status = subprocess.run(command, env=environment, check=False).returncode
        # pip knows no lowest versions: it must not put others in their place
        if status == 0 or "UV_RESOLUTION" in os.environ:
            return status
        print("uv could not install it: pip tries", file=sys.stderr, flush=True)
    return subprocess.run([*PIP, "install", "-q", *arguments], check=False).returncode


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
