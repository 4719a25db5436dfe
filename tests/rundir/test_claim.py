"""Settings mean the same from everywhere: paths, uid files by content, the same pool by another path, older runs."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from dcfast.errors import RunError
from dcfast.filters.files import move_files, uid_files
from dcfast.run.workflow import main, run
from dcfast.rundir.claim import located, with_uid_hashes
from dcfast.rundir.settings import Settings
from dcfast.storage.hashing import hash_file
from dcfast.uids.sets import save_subset, uid_parse, uid_sort
from pool_builder import plain_pool, uid_of


def save_uids(path: Path, numbers: list[int]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    save_subset(path, uid_sort(uid_parse([uid_of(n) for n in numbers])[0]))
    return path


@pytest.fixture
def pool(tmp_path: Path) -> Path:
    return plain_pool(tmp_path / "pool").write()


def kept(out: Path) -> int:
    return int(json.loads((out / "state/filter.json").read_bytes())["fates"]["kept"])


def stored(out: Path) -> dict[str, Any]:
    return dict(json.loads((out / "state/settings.json").read_bytes()))


def pieces(out: Path) -> dict[str, int]:
    """When each piece was done."""
    return {
        str(p.relative_to(out)): p.stat().st_mtime_ns
        for p in (out / "state").rglob("*.json")
        if p.parent != out / "state"
    }


def test_every_path_of_the_settings_is_made_real(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "weights.pt").touch()
    at = os.path.realpath(tmp_path)
    given = Settings(
        pool="~/pool/",
        evalsets="sub/../sets",
        teacher_uids="mine.npy",
        filter='"a.npy" & ~uids( path="~/b.npy") | image_based(target="t.npy") & clip_score("l14", fraction=0.3)',
        compare="none",
        features={"b32": "ViT-B-32:openai", "l14": "ViT-L-14:weights.pt"},
    )
    found = located(given)
    assert (found.pool, found.evalsets, found.teacher_uids) == (f"{at}/home/pool", f"{at}/sets", f"{at}/mine.npy")
    assert found.filter == (
        f'"{at}/a.npy" & ~uids( path="{at}/home/b.npy") | image_based(target="{at}/t.npy")'
        ' & clip_score("l14", fraction=0.3)'
    )
    assert found.features == {"b32": "ViT-B-32:openai", "l14": f"ViT-L-14:{at}/weights.pt"}
    assert found.compare == "none"
    assert located(found) == found
    for text in ("hf-hub:org/name", "local-dir:here", "ViT-L-14:~/x.pt", "ViT-L-14:sub/x.pt", "teacher"):
        place = (located(Settings(features={"l14": text})).features or {})["l14"]
        assert (
            place
            == {
                "hf-hub:org/name": "hf-hub:org/name",
                "local-dir:here": f"local-dir:{at}/here",
                "ViT-L-14:~/x.pt": f"ViT-L-14:{at}/home/x.pt",
                "ViT-L-14:sub/x.pt": f"ViT-L-14:{at}/sub/x.pt",
                "teacher": "teacher",
            }[text]
        )


def test_paths_of_expressions() -> None:
    text = 'no_filter & ("x \\" y.npy" | ~"contaminated") & image_based(centroids=\'c.npy\')'
    assert uid_files(text) == ['x " y.npy', "contaminated"]
    moved = move_files(text, lambda path: f"/at/{path}")
    assert moved == 'no_filter & ("/at/x \\" y.npy" | ~"/at/contaminated") & image_based(centroids="/at/c.npy")'
    assert move_files("basic_filter & clip_score('b32', threshold=0.3)", str.upper) == (
        "basic_filter & clip_score('b32', threshold=0.3)"
    )


def test_a_relative_uid_file_is_never_another_one_silently(
    tmp_path: Path, pool: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    first = save_uids(tmp_path / "one/mine.npy", [1, 2, 3])
    save_uids(tmp_path / "two/mine.npy", [4])
    out = tmp_path / "out"
    words = ["--pool", str(pool), "--out", str(out), "--no-train", "--to", "filter", "--workers", "1", "--quiet"]
    words += ["--filter", 'uids("mine.npy")']
    monkeypatch.chdir(tmp_path / "one")
    assert main(words) == 0
    assert kept(out) == 3
    assert stored(out)["uid_hashes"] == {os.path.realpath(first): hash_file(first)}
    manifest = json.loads((out / "manifest.json").read_bytes())
    assert manifest["settings"]["uid_hashes"] == {"mine.npy": hash_file(first)}  # without the place
    monkeypatch.chdir(tmp_path / "two")
    assert main(words) == 1
    assert "holds another run (filter: " in capsys.readouterr().err
    assert kept(out) == 3
    # by its place it is the same run from anywhere
    done = pieces(out)
    assert main([*words[:-1], f'uids("{os.path.relpath(first)}")']) == 0
    assert pieces(out) == done


def test_a_uid_file_that_changed_is_noticed(tmp_path: Path, pool: Path) -> None:
    file = save_uids(tmp_path / "mine.npy", [1, 2, 3])
    chosen = Settings(pool=str(pool), filter=f'no_filter & "{file}"', train=False)
    out = tmp_path / "out"
    run(out, chosen, last="filter")
    data = file.read_bytes()
    file.unlink()
    file.write_bytes(data)  # the same uids at another time
    run(out, chosen, last="filter")
    save_uids(file, [1, 2])
    with pytest.raises(RunError, match=r"the uid file .*mine\.npy holds other uids than it did.*--overwrite"):
        run(out, chosen, last="filter")
    run(out, chosen, last="filter", overwrite=True)
    assert kept(out) == 2
    # a stage that does not read it goes on without it
    file.unlink()
    assert run(out, chosen, last="index")["index"].samples == 12
    assert stored(out)["uid_hashes"] is not None


@pytest.mark.parametrize("how", ["link", "dots", "slash", "relative"])
def test_the_same_pool_by_another_path_is_the_same_run(
    how: str, tmp_path: Path, pool: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "link").symlink_to(pool)
    monkeypatch.chdir(tmp_path)
    other = {"link": f"{tmp_path}/link", "dots": f"{pool}/shards/..", "slash": f"{pool}//", "relative": "link/."}[how]
    out = tmp_path / "out"
    chosen = Settings(pool=other, filter="basic_filter", train=False)
    run(out, chosen, last="verify")
    done = pieces(out)
    assert len(done) > 8
    for path in (str(pool), f"{tmp_path}/link/"):
        run(out, replace(chosen, pool=path), last="verify")
        assert pieces(out) == done, path
    assert stored(out)["pool"] == os.path.realpath(pool)


def test_a_link_that_leads_elsewhere_now_is_another_run(tmp_path: Path, pool: Path) -> None:
    other = plain_pool(tmp_path / "other", 4, 1).write()
    (tmp_path / "current").symlink_to(pool)
    chosen = Settings(pool=str(tmp_path / "current"), filter="no_filter", train=False)
    run(tmp_path / "out", chosen, last="index")
    (tmp_path / "current").unlink()
    (tmp_path / "current").symlink_to(other)
    with pytest.raises(RunError, match="holds another run \\(pool: "):
        run(tmp_path / "out", chosen, last="index")


def test_a_run_of_before_is_resumed_as_it_stands(tmp_path: Path, pool: Path) -> None:
    """Its settings lack what came later, and name the pool by a link: nothing is redone, no summary dropped."""
    (tmp_path / "link").symlink_to(pool)
    out = tmp_path / "out"
    chosen = Settings(pool=str(pool), filter="no_filter", train=False)
    run(out, chosen, last="verify")
    older = {name: value for name, value in stored(out).items() if name != "uid_hashes"}
    (out / "state/settings.json").write_text(json.dumps(older))
    done = pieces(out)
    assert run(out, replace(chosen, pool=str(tmp_path / "link")), first="verify", last="verify")
    assert pieces(out) == done
    older["pool"] = str(tmp_path / "link")  # as an older dcfast claimed it
    (out / "state/settings.json").write_text(json.dumps(older))
    assert run(out, chosen, first="verify", last="verify")
    assert stored(out)["pool"] == str(tmp_path / "link")


def test_hashes_are_those_of_the_files(tmp_path: Path) -> None:
    a, b = save_uids(tmp_path / "a.npy", [1]), save_uids(tmp_path / "b.npy", [2])
    chosen = Settings(filter=f'"{a}" | "{tmp_path}/none.npy"', compare=f'~"{b}"', teacher_uids=str(b))
    assert with_uid_hashes(chosen).uid_hashes == {str(a): hash_file(a), str(b): hash_file(b)}
    assert with_uid_hashes(Settings()).uid_hashes is None
    assert asdict(with_uid_hashes(Settings())) == asdict(Settings())
