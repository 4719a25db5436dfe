"""Boxes, index files, copies and several inputs together: a run killed anywhere and resumed is the uninterrupted one.

And both are what the slow reference says, byte for byte.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from dcfast import resharding as resharder
from dcfast.errors import RunError
from dcfast.images.blur import blur_image
from dcfast.resharding.cli import main
from dcfast.uids.sets import save_subset
from pool_builder import picture
from reshard_reference import make_uid, read_samples, subset_of, write_pool, write_with_webdataset
from tar_reference import reference_idx

pytestmark = pytest.mark.xdist_group("reshard_resumed")  # they share the killed runs

#: forks a run for each number of a renaming, which ends it by SIGKILL before (or after) that renaming
KILLER = """
import json, os, signal, sys
import numpy, PIL.Image, pyarrow.parquet
from dcfast import resharding as resharder
from dcfast.resharding import boxes, edit, run, verify
replace = os.replace
for arguments, out, number, after in json.load(sys.stdin):
    child = os.fork()
    if child == 0:
        def renamed(*names):
            global number
            number -= 1
            if number < 0 and not after:
                os.kill(os.getpid(), signal.SIGKILL)
            replace(*names)
            if number < 0:
                os.kill(os.getpid(), signal.SIGKILL)
        os.replace = renamed
        resharder.reshard(out=out, resume=True, threads=1, sync=False, **arguments)
        os._exit(0)
    print(os.waitpid(child, 0)[1])
"""


@dataclass
class Case:
    """One drawn pool with options: ``boxes`` by uid, ``broken`` uids whose picture cannot be decoded."""

    directories: list[Path]
    metadata: Path
    boxes: dict[str, list[list[float]]]
    subset: Path
    options: dict[str, Any]

    def arguments(self) -> dict[str, Any]:
        """Of ``reshard``, as json."""
        pool = [str(directory) for directory in self.directories]
        return {"pool": pool, "subset": str(self.subset), "boxes": str(self.metadata), **self.options}


def write_boxes(path: Path, boxes: dict[str, list[list[float]]]) -> None:
    column = pa.array(list(boxes.values()), pa.list_(pa.list_(pa.float64())))
    pq.write_table(pa.table({"uid": list(boxes), "face_bboxes": column}), path)


def draw(root: Path, seed: int) -> Case:
    """Two or three directories, some uids in several, some without boxes, without picture, or of a broken one."""
    rng = np.random.default_rng(seed)
    number = 0
    directories = []
    for name in ("a", "b/shards", "c with space")[: 2 + seed % 2]:
        shards = []
        for _ in range(int(rng.integers(1, 4))):
            samples = []
            for _ in range(int(rng.integers(0, 8))):
                uid = make_uid(int(rng.integers(0, 12)))
                record = {"uid": uid, "n": number, "face_bboxes": None}
                members = {"json": json.dumps(record).encode(), "txt": b"t" * number}
                kind = int(rng.integers(0, 8))
                if kind:
                    members["jpg"] = picture(number % 7, (24, 20)) if kind > 2 else b"no picture"
                if kind == 7:
                    members["webp"] = b"another"
                samples.append((f"{number:05d}", members))
                number += 1
            shards.append(samples)
        write_pool(root / name, shards)
        directories.append(root / name)
    boxes = {make_uid(i): [[0.1, 0.2, 0.5, 0.5 + i / 40]] * int(rng.integers(0, 3)) for i in range(16)}
    (root / "meta").mkdir()
    write_boxes(root / "meta/0.parquet", boxes)
    subset = root / "s.npy"
    save_subset(subset, subset_of([make_uid(i) for i in range(17) for _ in range(int(rng.integers(0, 4)))]))
    apply = seed % 3 != 1
    options = {
        "apply_blur": apply,
        "inject_boxes": not apply or seed % 2 == 0,
        "idx": seed % 4 != 3,
        "shard_size": int(rng.integers(1, 7)),
        "max_bytes": int(rng.choice([3000, 3_000_000_000])),
        "webp_quality": 80,
    }
    if seed == 4:
        options["shuffle_seed"] = 7
    return Case(directories, root / "meta", boxes, subset, options)


def expected_shards(case: Case) -> list[bytes]:
    """The tars by the rules of docs/formats.md: cut as the unchanged samples, then changed."""
    wanted, copies = Counter(np.load(case.subset).tolist()), Counter[str]()
    planned: list[list[tuple[str, str, dict[str, bytes]]]] = []
    size = 0
    for directory in case.directories:
        for path in sorted(directory.glob("*.tar")):
            data = path.read_bytes()
            for sample in read_samples(path, 0):
                uid = str(sample.uid)
                payloads = {ext: data[at : at + length] for ext, (at, length) in sample.members.items()}
                for _ in range(wanted[divmod(int(uid, 16), 1 << 64)]):
                    full = planned and len(planned[-1]) >= case.options["shard_size"]
                    if not planned or full or size >= case.options["max_bytes"]:
                        planned.append([])
                        size = 0
                    planned[-1].append((uid, f"{uid}-{copies[uid]}", payloads))
                    copies[uid] += 1
                    size += sum(map(len, payloads.values()))
    shards = [[(key, changed(case, uid, payloads)) for uid, key, payloads in shard] for shard in planned]
    return [write_with_webdataset([{"__key__": key, **p} for key, p in shard if p is not None]) for shard in shards]


def changed(case: Case, uid: str, payloads: dict[str, bytes]) -> dict[str, bytes] | None:
    boxes, out = case.boxes[uid], dict(payloads)
    if not boxes:
        return out
    named = next((ext for ext in ("jpg", "webp") if ext in out), None)
    if case.options["apply_blur"] and named:
        source = out.pop(named)
        if source == b"no picture":
            return None
        out["webp"] = blur_image(source, np.array(boxes), 80)
    if case.options["inject_boxes"]:
        out["json"] = json.dumps({**json.loads(out["json"]), "face_bboxes": boxes}).encode()
    return out


def files(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(out.iterdir())}


Run = tuple[Case, Path, list[tuple[str, int]]]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Run]:
    """Per seed: the case, an uninterrupted run of it, and killed ones with the number of renamings they had done."""
    found: list[Run] = []
    kills: list[tuple[dict[str, Any], str, int, bool]] = []
    for seed in range(7):
        root = tmp_path_factory.mktemp(f"seed{seed}")
        case = draw(root / "in", seed)
        resharder.reshard(out=root / "whole", threads=2, sync=False, **case.arguments())
        shards = len(list((root / "whole").glob("*.tar")))
        # the box table's three, the key, of each shard its tar, idx and stats, the companions of all
        renamings = 3 + 1 + shards * (2 + case.options["idx"]) + 3
        rng = np.random.default_rng(seed)
        numbers = sorted({3, renamings - 1, *rng.integers(4, renamings, 2).tolist()})
        outs = [(str(root / f"killed{number}"), number) for number in numbers]
        kills += [(case.arguments(), out, number, bool(number % 2)) for out, number in outs]
        found.append((case, root / "whole", outs))
    words = [sys.executable, "-c", KILLER]
    done = subprocess.run(words, input=json.dumps(kills), capture_output=True, text=True, check=True)
    assert [int(line) for line in done.stdout.split()] == [signal.SIGKILL] * len(kills)
    return found


@pytest.mark.parametrize("seed", range(7))
def test_a_killed_run_is_resumed_to_the_same_bytes(runs: list[Run], seed: int) -> None:
    case, whole_dir, outs = runs[seed]
    whole = files(whole_dir)
    tars = [data for name, data in whole.items() if name.endswith(".tar")]
    if "shuffle_seed" not in case.options:
        assert tars == expected_shards(case)
    for name in whole:
        if name.endswith(".tar") and case.options["idx"]:
            assert whole[name.replace(".tar", ".idx")].decode() == reference_idx(whole_dir / name)
    for out, number in outs:
        assert files(Path(out)) != whole
        arguments = {**case.arguments(), "resume": True, "verify": True, "threads": 1 + number % 2, "sync": False}
        resharder.reshard(out=out, **arguments)
        assert files(Path(out)) == whole, out


def test_the_cases_have_what_they_are_for(runs: list[Run]) -> None:
    """Each of the options, pictures that cannot be decoded, uids of several rows, and shards found done."""
    metas = [json.loads((whole / "meta.json").read_bytes()) for _, whole, _ in runs]
    for name in ("blurred", "injected", "blur_failed", "missing_count", "output_shard_count"):
        assert any(meta[name] > 1 for meta in metas), name
    assert {len(case.directories) for case, _, _ in runs} == {2, 3}
    assert {case.options["idx"] for case, _, _ in runs} == {True, False}


def test_an_ended_run_with_other_boxes_is_another(tmp_path: Path) -> None:
    """Its pictures are blurred elsewhere: resuming must not take them for what is asked."""
    write_pool(tmp_path / "p", [[("0", {"jpg": picture(1), "json": json.dumps({"uid": make_uid(0)}).encode()})]])
    subset, out = subset_of([make_uid(0)]), tmp_path / "o"
    for number, box in enumerate(([0.1, 0.1, 0.4, 0.4], [0.5, 0.5, 0.9, 0.9])):
        write_boxes(tmp_path / f"{number}.parquet", {make_uid(0): [box]})
    options: dict[str, Any] = {"apply_blur": True, "resume": True}
    resharder.reshard(tmp_path / "p", out, subset, boxes=tmp_path / "0.parquet", **options)
    before = files(out)
    assert resharder.reshard(tmp_path / "p", out, subset, boxes=tmp_path / "0.parquet", **options)["skipped"] == 1
    with pytest.raises(RunError, match="holds another run"):
        resharder.reshard(tmp_path / "p", out, subset, boxes=tmp_path / "1.parquet", **options)
    assert files(out) == before


@pytest.mark.parametrize("kind", ["plain", "shuffled", "long extension", "blurred"])
def test_a_cut_output_shard_of_an_ended_run_is_written_again(tmp_path: Path, kind: str) -> None:
    """By its size alone, which of a plain one the plan knows; a blurred one is walked; and index and stats are read."""
    ext = "e" * 120 if kind == "long extension" else "txt"
    samples: list[tuple[str, dict[str, bytes]]] = [
        (f"{i:03d}", {"jpg": picture(i, (24, 20)), ext: b"x" * i, "json": json.dumps({"uid": make_uid(i)}).encode()})
        for i in range(23)
    ]
    write_pool(tmp_path / "p", [samples])
    out, subset = tmp_path / "o", subset_of([make_uid(i) for i in range(23)])
    options: dict[str, Any] = {"shard_size": 6, "idx": kind != "plain", "resume": True, "sync": False}
    if kind == "shuffled":
        options["shuffle_seed"] = 3
    if kind == "blurred":
        write_boxes(tmp_path / "0.parquet", {make_uid(i): [[0.1, 0.1, 0.5, 0.5]] for i in range(0, 23, 2)})
        options |= {"apply_blur": True, "boxes": tmp_path / "0.parquet"}
    first = resharder.reshard(tmp_path / "p", out, subset, **options)
    assert (first["skipped"], first["mended"]) == (0, 0)
    whole = files(out)
    again = resharder.reshard(tmp_path / "p", out, subset, **options)
    assert (again["skipped"], again["mended"]) == (4, 0)
    changes = []
    for i, cut in enumerate((lambda n: 0, lambda n: n // 2, lambda n: n - 1, lambda n: n - 10_240, lambda n: n + 512)):
        data = whole[f"{i % 4:08d}.tar"]
        changes.append((f"{i % 4:08d}.tar", data[: cut(len(data))].ljust(cut(len(data)), b"\0")))
    changes += [("00000001_stats.json", data) for data in (b"", b"[6]", b'{"successes": 5}', b'{"successes": null}')]
    if options["idx"]:
        changes += [("00000002.idx", whole["00000002.idx"][:size]) for size in (0, -1)]
    for name, data in changes:
        (out / name).write_bytes(data)
        report = resharder.reshard(tmp_path / "p", out, subset, threads=2, **options)
        assert (report["skipped"], report["mended"]) == (3, 1), (name, len(data))
        assert files(out) == whole, (name, len(data))
    (out / "00000003.tar").unlink()
    assert resharder.reshard(tmp_path / "p", out, subset, **options)["mended"] == 0
    assert files(out) == whole


@pytest.mark.parametrize("threads", [1, 2])
def test_every_cut_shard_of_many_is_found(tmp_path: Path, threads: int) -> None:
    """Looked at are several at a time: a last part of less, and cut ones at either end of parts."""
    samples = [(f"{i:03d}", {"txt": b"a", "json": json.dumps({"uid": make_uid(i)}).encode()}) for i in range(23)]
    write_pool(tmp_path / "p", [samples])
    out, subset = tmp_path / "o", subset_of([make_uid(i) for i in range(23)])
    options: dict[str, Any] = {"shard_size": 1, "resume": True, "sync": False, "threads": threads}
    resharder.reshard(tmp_path / "p", out, subset, **options)
    whole = files(out)
    for cut in ([0, 22], [2, 3, 20], list(range(23))):
        for k in cut:
            (out / f"{k:08d}.tar").write_bytes(b"")
        report = resharder.reshard(tmp_path / "p", out, subset, **options)
        assert (report["skipped"], report["mended"]) == (23 - len(cut), len(cut))
        assert files(out) == whole


def test_the_command_line_says_what_it_mended(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_pool(tmp_path / "p", [[("0", {"txt": b"a", "json": json.dumps({"uid": make_uid(0)}).encode()})]])
    save_subset(tmp_path / "s.npy", subset_of([make_uid(0)]))
    words = ["-i", str(tmp_path / "p"), "-o", str(tmp_path / "o"), "-s", str(tmp_path / "s.npy"), "--resume"]
    assert main(words) == 0
    whole = (tmp_path / "o/00000000.tar").read_bytes()
    (tmp_path / "o/00000000.tar").write_bytes(whole[:700])
    capsys.readouterr()
    assert main(words) == 0
    assert "1 shards were there, but cut or altered since: written again" in capsys.readouterr().out
    assert (tmp_path / "o/00000000.tar").read_bytes() == whole
    assert main(words) == 0
    assert "1 shards were there already" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["sample_ids.npy", "sizes.json"])
@pytest.mark.parametrize("data", [None, b"\x93NU"])
def test_companions_of_an_ended_run_that_cannot_be_read_are_named(
    tmp_path: Path, name: str, data: bytes | None
) -> None:
    write_pool(tmp_path / "p", [[("0", {"txt": b"a", "json": json.dumps({"uid": make_uid(0)}).encode()})]])
    out, subset = tmp_path / "o", subset_of([make_uid(0)])
    resharder.reshard(tmp_path / "p", out, subset)
    (out / name).unlink()
    if data is not None:
        (out / name).write_bytes(data)
    with pytest.raises(RunError, match=rf"{name}.*pass overwrite=True instead"):
        resharder.reshard(tmp_path / "p", out, subset, resume=True)
