"""Every command and program in the documents: all are parsed here; ``make soak`` runs those that can be run."""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from dcfast import cli
from dcfast.filters.files import move_files
from dcfast.models.clip import create_model
from dcfast.process.options import given_options
from dcfast.run.options import RunOptions
from dcfast.rundir.settings import Settings
from dcfast.uids import load_subset, uid_format
from doc_commands import DOCUMENTS, NOT_DCFAST, NOT_RUN, ROOT, Shown, ours, parsed, shown, simple_commands

SHOWN = list(shown())
COMMANDS = [item for item in SHOWN if item.language == "sh"]
SHARD = "data/pool/shards/00000000.tar"
PROGRAMS = [item for item in SHOWN if item.language == "python"]


def named(items: list[Shown]) -> Any:
    return pytest.mark.parametrize("item", items, ids=[f"{item.place}-{n}" for n, item in enumerate(items)])


@pytest.fixture(scope="module")
def parsers() -> dict[str, list[argparse.ArgumentParser]]:
    return cli.parsers()


@named(COMMANDS)
def test_a_command_is_taken_by_its_parser(item: Shown, parsers: dict[str, list[argparse.ArgumentParser]]) -> None:
    for words in simple_commands(item.text):
        command = ours(words)
        if command is None:
            assert os.path.basename(words[0]) in NOT_DCFAST, (
                f"{item.place}: {words[0]} is no command of dcfast; say why it is not run"
            )
        elif len(command) > 1 and not command[1].startswith("-"):
            assert command[1] in parsers, f"{item.place}: dcfast has no command {command[1]}"
            try:
                values = parsed(command, parsers, as_module="-m" in words)
            except SystemExit as stopped:
                pytest.fail(f"{item.place}: {item.text}: exit status {stopped.code}")
            for kind in (Settings, RunOptions) if command[1] == "run" else ():
                given = given_options(values, kind)
                for expression in (given.get("filter"), given.get("compare")):
                    assert expression in (None, "none") or move_files(expression, str)


@named(PROGRAMS)
def test_a_program_compiles(item: Shown) -> None:
    compile(item.text, item.place, "exec")


def test_what_is_not_run_is_there() -> None:
    unused = [pattern for pattern in NOT_RUN if not any(re.search(pattern, item.text) for item in SHOWN)]
    assert not unused, f"no command of the documents has {unused}"
    assert len(COMMANDS) > 20
    assert len(PROGRAMS) > 5


def test_options_that_the_documents_name_exist(parsers: dict[str, list[argparse.ArgumentParser]]) -> None:
    known = {flag for several in parsers.values() for p in several for a in p._actions for flag in a.option_strings}
    known |= {"--version", "--completion", "--help"}
    text = (ROOT / "docs/coming_from.md").read_text(encoding="utf-8")
    rows = [line.split("|")[2] for line in text.partition("## img2dataset")[0].splitlines() if line.startswith("| `")]
    mine = {flag for row in rows for flag in re.findall(r"(?<![\w-])--?[a-z][\w-]*", row)}
    assert len(mine) > 15
    assert mine <= known


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the documents' files are there: /data is its ``data``, with finished runs beside it."""
    folder = tmp_path_factory.mktemp("documents")
    (folder / "bin").mkdir()
    for name, words in {"dcfast": "-m dcfast", "python": "", "python3": ""}.items():
        (folder / "bin" / name).write_text(f'#!/bin/sh\nexec {sys.executable} {words} "$@"\n')
        (folder / "bin" / name).chmod(0o755)
    data = "--filter no_filter --no-train --compare none"
    shell(folder, f"dcfast run --features none --world rows=300 eval_scale=0.1 {data} --out first")
    for name in ("pool", "evalsets"):
        shutil.copytree(folder / "first/world" / name, folder / "data" / name)
    shutil.copytree(folder / "data/pool/shards", folder / "data/img2dataset")
    for path in sorted((folder / "data/pool/metadata").iterdir()):
        shutil.copy(path, folder / "data/img2dataset")
        table = pq.read_table(path)
        scores = pa.array(np.random.default_rng(0).random(len(table)), pa.float32())
        pq.write_table(table.append_column("clip_l14_similarity_score", scores), path)
    shutil.copytree(folder / "data/img2dataset", folder / "DIR")
    pictures = [name for name in members(folder) if name.endswith(".jpg")][:6]
    for number, name in enumerate(pictures):
        shell(folder, f"mkdir -p FOLDER/c{number % 2}; tar xf {SHARD} -C FOLDER/c{number % 2} {name}")
    shell(folder, f"dcfast run --pool data/pool --evalsets data/evalsets {data} --out runs/mine")
    for name in ("pool", "evalsets"):
        (folder / name).symlink_to(folder / "data" / name)
    for name in ("new", "2023", "2024"):
        shutil.copytree(folder / "data/pool", folder / "data" / name)
    torch.save(torch.nn.functional.normalize(torch.ones(4, 256)), folder / "eval_dedup_embeddings.pt")
    (folder / "OTHER").symlink_to(folder / "runs/mine")
    for name in ("subset.npy", "other.npy"):
        shutil.copy(folder / "runs/mine/subset.npy", folder / name)
    (folder / "runs/tiny").symlink_to(folder / "runs/mine")
    (folder / "runs/mine/train/checkpoints").mkdir(parents=True)
    for name in ("epoch_5.pt", "runs/mine/train/checkpoints/epoch_5.pt"):
        state = create_model("dcfast-tiny", seed=0).state_dict()
        torch.save({"name": "dcfast-tiny", "dcfast": {}, "state_dict": state}, folder / name)
    return folder


def members(folder: Path) -> list[str]:
    with tarfile.open(folder / SHARD) as tar:
        return tar.getnames()


def run(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """A program in the folder; ``dcfast`` and ``python`` are those of these tests."""
    environment = {**os.environ, "HOME": str(folder), "PATH": f"{folder / 'bin'}:{os.environ['PATH']}"}
    return subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, timeout=900, check=False)


def shell(folder: Path, line: str) -> str:
    done = run(folder, "bash", "-c", line)
    assert done.returncode == 0, f"{line}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def filled_in(text: str, folder: Path) -> str:
    """A text of the documents for this folder: a path, a uid, a model or a GPU of the reader's becomes ours."""
    uid = uid_format(load_subset(folder / "subset.npy")[:1], as_list=True)[0]
    text = re.sub("00112233445566778899aabbccddeeff|0123456789abcdef0123456789abcdef", uid, text)
    text = text.replace("00000012.tar/000120034", f"00000000.tar/{members(folder)[0].partition('.')[0]}")
    text = text.replace("--evalsets DIR", "--evalsets data/evalsets")
    text = text.replace("calibrate POOL/shards EVALSETS", "calibrate data/pool/shards data/evalsets")
    text = text.replace("--model ViT-B-32 --checkpoint", "--model dcfast-tiny --checkpoint")
    text = re.sub(r'device=("cuda"|\["cuda.*?\])', 'device="cpu"', text)
    return re.sub(r"(?<![\w/])/data/", f"{folder}/data/", text)


RUNNABLE = [item for item in SHOWN if item.reason is None and (item.language == "python" or ours(item.text.split()))]


@pytest.mark.soak
def test_the_commands_do_what_they_say(place: Path) -> None:
    """In the order of the documents, in one folder: a later one may use what an earlier one wrote."""
    failed = []
    for item in RUNNABLE:
        text = filled_in(item.text, place)
        done = run(place, "python" if item.language == "python" else "bash", "-c", text)
        if done.returncode != 0:
            failed.append(f"{item.place}: {text}\n{done.stdout[-500:]}{done.stderr[-1500:]}")
    assert not failed, "\n\n".join(failed)


def test_the_documents_are_looked_at() -> None:
    assert {"README.md", "cluster.md", "coming_from.md"} <= {path.name for path in DOCUMENTS}
