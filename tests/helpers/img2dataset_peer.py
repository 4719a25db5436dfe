"""img2dataset itself, in an environment of its own: what ``dcfast acquire`` makes is held against what it makes.

As a program (by that environment's Python): ``img2dataset_peer.py URLS.parquet OUT OPTIONS`` with options of
``img2dataset.download`` in JSON.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
from pathlib import Path

VERSION = "1.47.0"
PYTHON_VARIABLE = "DCFAST_IMG2DATASET_PYTHON"
OPTIONS = {
    "input_format": "parquet",
    "url_col": "url",
    "caption_col": "text",
    "output_format": "webdataset",
    "image_size": 512,
    "resize_mode": "keep_ratio_largest",
    "resize_only_if_bigger": True,
    "save_additional_columns": ["uid"],
    "oom_shard_count": 8,
    "thread_count": 16,
    "processes_count": 1,
    "compute_hash": "sha256",
}
"""What DataComp's download gives it, but for sizes."""


def python_with_img2dataset(folder: Path) -> Path:
    """The Python of an environment with img2dataset: the one that the variable names, else one made in the folder."""
    given = os.environ.get(PYTHON_VARIABLE)
    if given:
        return Path(given)
    base = sysconfig.get_config_var("BINDIR")
    found = next((p for p in (Path(base) / "python3.11", Path("/usr/bin/python3.11")) if p.exists()), None)
    assert found is not None, f"img2dataset needs Python 3.11; name one that has it by {PYTHON_VARIABLE}"
    subprocess.run([found, "-m", "venv", folder], check=True)
    python = folder / "bin/python"
    subprocess.run([python, "-m", "pip", "install", "-q", f"img2dataset=={VERSION}"], check=True)
    return python


def run_img2dataset(python: Path, urls: Path, out: Path, **options: object) -> None:
    """Downloads a list."""
    environment = {**os.environ, "NO_ALBUMENTATIONS_UPDATE": "1", "WANDB_MODE": "disabled", "PYTHONPATH": ""}
    words = [python, __file__, urls, out, json.dumps(options)]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]


if __name__ == "__main__":
    from img2dataset import download

    download(url_list=sys.argv[1], output_folder=sys.argv[2], **{**OPTIONS, **json.loads(sys.argv[3])})
