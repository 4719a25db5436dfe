"""Published assets: fetched from where they are or a mirror, held to what is known of their hashes, and converted."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from dcfast import cli
from dcfast.errors import CorruptDataError, HubError, MissingDependencyError
from dcfast.filters import language, wordnet
from dcfast.hub import asset_table, assets
from dcfast.hub.assets import ASSETS_LOCK, assets_folder, chosen_assets, fetch_assets, read_assets_lock, verify_assets
from dcfast.models.convert import convert
from dcfast.process.exit_codes import DONE, FAILED, USAGE
from dcfast.storage.npz import load_array
from http_shards import ShardServer, serve

torch = pytest.importorskip("torch")
ROWS = [np.arange(12, dtype=np.float16).reshape(3, 4) + 12 * n for n in range(5)]


def pickled(content: Any, path: Path) -> bytes:
    torch.save(content, path)
    return path.read_bytes()


class Bomb:
    def __init__(self, place: Path) -> None:
        self.place = place

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.place),)


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """File -> bytes, small ones of the kinds that are published."""
    path = tmp_path_factory.mktemp("published") / "a"
    files = {
        f"in1k_clip_vit_l14_{n}.pt": pickled({"image_features": torch.from_numpy(rows)}, path)
        for n, rows in enumerate(ROWS)
    }
    files |= {f"{scale}_centroids_l14.pt": pickled(ROWS[0].astype(np.float32), path) for scale in ("small", "medium")}
    files["imagenet21k_wordnet_ids.txt"] = b"n01440764\nn02084071\n"
    files["lid.176.bin"] = bytes(range(256)) * 1000
    files["isc_ft_v107.pth.tar"] = pickled({"state_dict": {"module.fc": torch.ones(2)}}, path)
    files["nsfw_torch.pt"] = pickled({"norm.weight": torch.ones(2)}, path)
    files["eval_dedup_embeddings.pt"] = pickled(torch.from_numpy(ROWS[0]), path)
    return files


@pytest.fixture
def server(published: dict[str, bytes], monkeypatch: pytest.MonkeyPatch) -> Iterator[ShardServer]:
    """Where the assets of the table are, with the hashes of what is there; of every second hash the first digits."""
    with serve(files={f"/there/{name}": data for name, data in published.items()}) as served:
        table = []
        for number, asset in enumerate(asset_table.ASSETS):
            sha256 = hashlib.sha256(published.get(asset.file, b"")).hexdigest()[: 12 if number % 2 else 64]
            table.append(replace(asset, url=served.url(f"/there/{asset.file}"), sha256=sha256 if asset.sha256 else ""))
        monkeypatch.setattr(assets, "ASSETS", tuple(table))
        yield served


def run(*words: str) -> int:
    return cli.main(["assets", *words])


def test_the_table() -> None:
    known = asset_table.ASSETS
    assert len({asset.name for asset in known}) == len({asset.file for asset in known}) == len(known) == 14
    for asset in known:
        assert asset.url.startswith("https://")
        assert asset.url.endswith(f"/{asset.file}")
        assert re.fullmatch("[0-9a-f]{64}|", asset.sha256)
        assert asset.terms
        assert asset.use
    assert [asset.name for asset in known if not asset.sha256] == ["isc_ft_v107"]
    digits = """7e69ec5451bc 304990fd492f 72f008e6aa3b 83c3cc6503b8 83faa289f847 067a45f4a140 23c66a05e49a 028b1721b1d0
        04eeab1069d3 3f62e5f8ae3a 66362bdedf36 3c97d5478477 18aeb08e1d53"""
    assert [asset.sha256[:12] for asset in known if asset.sha256] == digits.split()


def test_where_they_are(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert assets_folder() == tmp_path / "dcfast/assets"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert assets_folder() == Path.home() / ".cache/dcfast/assets"
    monkeypatch.setenv("DCFAST_ASSETS", "~/mine")
    assert assets_folder() == Path.home() / "mine"


def test_fetched_where_filters_can_read_them(
    server: ShardServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DCFAST_ASSETS", str(tmp_path / "a"))
    assert run("fetch", "lid.176", "imagenet21k*") == DONE
    shown = capsys.readouterr()
    assert shown.out == f"{tmp_path}/a/lid.176.bin\n{tmp_path}/a/imagenet21k_wordnet_ids.txt\n"
    assert "terms: CC BY-SA 3.0" in shown.err
    monkeypatch.setenv("DCFAST_IMAGENET21K", str(tmp_path / "a/imagenet21k_wordnet_ids.txt"))
    assert wordnet.load_imagenet21k() == {1440764, 2084071}
    monkeypatch.setenv("DCFAST_LID_MODEL", str(tmp_path / "a/lid.176.bin"))
    assert language.find_model() == tmp_path / "a/lid.176.bin"

    asked = len(server.asked)
    assert run("fetch", "lid.176") == DONE
    assert len(server.asked) == asked, "what is there is not fetched again"
    assert "is there as it must be" in capsys.readouterr().err
    (tmp_path / "a/lid.176.bin").write_bytes(b"broken")
    assert run("verify") == FAILED
    assert "lid.176.bin has 6 bytes; expected 256,000: fetch it again" in capsys.readouterr().out
    assert run("fetch", "lid.176", "--quiet") == DONE
    assert capsys.readouterr().err == ""
    assert run("verify", "lid*") == DONE
    assert capsys.readouterr().out == "lid.176: as it must be\n"


@pytest.mark.long
@pytest.mark.slow
def test_a_pickle_becomes_an_array_in_another_process(server: ShardServer, tmp_path: Path) -> None:
    (made,) = fetch_assets(["small_centroids*"], tmp_path)
    assert made == tmp_path / "small_centroids_l14.npy"
    assert (load_array(made) == ROWS[0]).all()
    assert load_array(made).dtype == np.float32


@pytest.fixture
def converted_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Conversions in this process: starting torch takes a second."""

    def run(words: list[str], **_: Any) -> SimpleNamespace:
        convert(Path(words[5]), Path(words[6]), words[7])
        return SimpleNamespace(returncode=0)

    monkeypatch.setattr("subprocess.run", run)


@pytest.mark.usefixtures("converted_here")
def test_pickles_become_arrays_and_weights(server: ShardServer, tmp_path: Path) -> None:
    """Also those of ImageNet become one, when all five are there."""
    said: list[str] = []
    made = fetch_assets(["in1k*_[0-3]"], tmp_path, say=said.append)
    assert [path.name for path in made] == [f"in1k_clip_vit_l14_{n}.npy" for n in range(4)]
    assert said[-1] == "in1k_clip_vit_l14.npy: not made yet, for want of in1k_clip_vit_l14_4"
    names = ["in1k*_4", "small_centroids*", "isc*", "nsfw_head"]
    assert [path.name for path in fetch_assets(names, tmp_path, say=said.append)] == [
        "in1k_clip_vit_l14_4.npy",
        "small_centroids_l14.npy",
        "nsfw_torch.safetensors",
        "isc_ft_v107.safetensors",
        "in1k_clip_vit_l14.npy",
    ]
    assert (load_array(tmp_path / "in1k_clip_vit_l14.npy") == np.concatenate(ROWS)).all()
    assert load_array(tmp_path / "small_centroids_l14.npy").dtype == np.float32
    sha256 = hashlib.sha256(server.files["/there/isc_ft_v107.pth.tar"]).hexdigest()
    assert f"isc_ft_v107: nobody tells its hash; it has SHA-256 {sha256}, which assets.lock.json keeps" in said
    assert set(verify_assets(["*"], tmp_path).values()) == {""}
    (tmp_path / "in1k_clip_vit_l14.npy").unlink()
    (tmp_path / "isc_ft_v107.safetensors").write_bytes(b"other")
    found = verify_assets(["*"], tmp_path)
    assert found["in1k_clip_vit_l14.npy"] == f"{tmp_path}/in1k_clip_vit_l14.npy is missing; fetch it again"
    assert "isc_ft_v107.safetensors has 5 bytes" in found["isc_ft_v107"]
    asked = len(server.asked)
    fetch_assets(["*_[0-4]", "isc*"], tmp_path)
    assert set(verify_assets(["*"], tmp_path).values()) == {""}
    assert len(server.asked) == asked, "what torch wrote was there"
    # the hash that was found is held to
    (tmp_path / "isc_ft_v107.pth.tar").unlink()
    server.files["/there/isc_ft_v107.pth.tar"] += b"more"
    with pytest.raises(HubError, match=f"SHA-256 must begin with {sha256}; got"):
        fetch_assets(["isc*"], tmp_path)
    assert not (tmp_path / "isc_ft_v107.pth.tar").exists()
    assert len(fetch_assets(["isc*"], tmp_path, update_lock=True, convert=False)) == 1


@pytest.mark.slow
def test_a_pickle_that_would_do_something(server: ShardServer, tmp_path: Path) -> None:
    """Nothing of it is run; what has no known hash is removed."""
    bad = pickled(Bomb(tmp_path / "ran"), tmp_path / "bad")
    (tmp_path / "bad").unlink()
    server.files["/there/isc_ft_v107.pth.tar"] = bad
    with pytest.raises(HubError, match=r"isc_ft_v107 cannot be converted: checkpoint .*; what was fetched was removed"):
        fetch_assets(["isc*"], tmp_path / "a")
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == [".lock", ASSETS_LOCK]
    assert read_assets_lock(tmp_path / "a").assets == {}
    assert not (tmp_path / "ran").exists()


def test_a_mirror(server: ShardServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    server.files["/mirror/lid.176.bin"] = server.files.pop("/there/lid.176.bin")
    out = ["--out", str(tmp_path / "a")]
    assert run("fetch", "lid.176", *out) == FAILED
    assert "the server refuses it (status 404); name a mirror by --url-base" in capsys.readouterr().err
    assert not (tmp_path / "a").exists()
    assert run("fetch", "lid.176", *out, "--url-base", server.url("/mirror/")) == DONE
    assert read_assets_lock(tmp_path / "a").assets["lid.176"].url == server.url("/mirror/lid.176.bin")
    capsys.readouterr()
    for bad in ("https://me:secret@x/", "https://x/?key=secret", "x"):
        assert run("fetch", "lid.176", *out, "--url-base", bad) == USAGE
        assert "secret" not in capsys.readouterr().err
    assert run("fetch", "lid.176", *out, "--url-base", "ftp://x") == USAGE
    assert (
        "url_base must be an address, https://HOST/FOLDER, without a password or a question mark; got ftp://x..."
        in capsys.readouterr().err
    )


@pytest.mark.parametrize("name", ["lid.176", "imagenet21k_wordnet_ids"])
def test_other_bytes_than_expected(name: str, server: ShardServer, tmp_path: Path) -> None:
    """Of the one the whole hash is known, of the other the first digits."""
    (asset,) = (one for one in assets.ASSETS if one.name == name)
    server.files[f"/there/{asset.file}"] = b"x" * 100
    with pytest.raises(HubError, match=f"SHA-256 must begin with {asset.sha256}; got .*They were removed"):
        fetch_assets([name], tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_continued_by_range(server: ShardServer, tmp_path: Path) -> None:
    whole = server.files["/there/lid.176.bin"]
    (tmp_path / ".fetching-lid.176.bin").write_bytes(whole[:100_000])
    fetch_assets(["lid.176"], tmp_path)
    assert server.headers["Range"] == "bytes=100000-"
    assert (tmp_path / "lid.176.bin").read_bytes() == whole
    (tmp_path / "lid.176.bin").unlink()
    (tmp_path / ".fetching-lid.176.bin").write_bytes(b"y" * 100_000)  # of another version
    fetch_assets(["lid.176"], tmp_path)
    assert (tmp_path / "lid.176.bin").read_bytes() == whole
    assert sorted(path.name for path in tmp_path.iterdir()) == [".lock", ASSETS_LOCK, "lid.176.bin"]


def test_a_beginning_of_what_has_no_known_hash_is_begun_anew(server: ShardServer, tmp_path: Path) -> None:
    part = tmp_path / ".fetching-isc_ft_v107.pth.tar"
    part.write_bytes(server.files["/there/isc_ft_v107.pth.tar"][:100])
    fetch_assets(["isc*"], tmp_path, convert=False)
    assert "Range" not in server.headers


def test_more_bytes_than_such_a_file_has(server: ShardServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(assets, "ASSETS", tuple(replace(asset, most=1000) for asset in assets.ASSETS))
    with pytest.raises(HubError, match="it has 256,000 bytes; expected at most 1,000"):
        fetch_assets(["lid.176"], tmp_path)
    assert not (tmp_path / "lid.176.bin").exists()


def test_what_is_listed(server: ShardServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "nsfw_torch.pt").write_bytes(b"mine")
    fetch_assets(["imagenet*"], tmp_path)
    capsys.readouterr()
    assert run("list", "--out", str(tmp_path)) == DONE
    shown = capsys.readouterr().out
    for said in (
        f"in {tmp_path}:\n",
        "lid.176 (not here)\n  for: basic_filter",
        "imagenet21k_wordnet_ids (here)\n",
        "nsfw_head (here, not fetched by dcfast)",
        "  terms: CC BY-SA 3.0\n",
        "  SHA-256: nobody tells one\n",
    ):
        assert said in shown
    assert run("verify", "--out", str(tmp_path)) == FAILED
    shown = capsys.readouterr().out
    assert "imagenet21k_wordnet_ids: as it must be\n" in shown
    assert re.search(r"nsfw_head: .*nsfw_torch.pt has SHA-256 \w{64}; expected \w+: fetch it again", shown)
    assert run("verify", "--out", str(tmp_path / "none")) == DONE
    assert capsys.readouterr().out == f"none of 14 assets is in {tmp_path}/none\n"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["fetch"], "expected names of assets behind fetch"),
        (["fetch", "lid176"], "expected the name of an asset; got 'lid176'; did you mean 'lid.176'?"),
        (["fech", "x"], "the first word must be one of fetch, list, verify; got 'fech'; did you mean 'fetch'?"),
        (["list", "nothing like it"], "got 'nothing like it'; there are lid.176, "),
    ],
)
def test_words_that_make_no_sense(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(*words) == USAGE
    assert said in capsys.readouterr().err


def test_torch_is_asked_for_before_anything_is_fetched(
    server: ShardServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def absent(name: str, *_: Any) -> object | None:
        return None if name == "torch" else object()

    monkeypatch.setattr("importlib.util.find_spec", absent)
    with pytest.raises(MissingDependencyError, match=r"converting eval_dedup_embeddings.pt \(--no-convert leaves it"):
        fetch_assets(["lid.176", "eval*"], tmp_path)
    assert not server.asked
    monkeypatch.undo()


@pytest.mark.parametrize(
    "lock",
    [
        {"format": 2},
        {"format": 1, "assets": {"lid.176": {"url": "", "file": {"size": 1, "sha256": "../x"}}}},
        {"format": 1, "assets": {"lid.176": {"url": "", "file": {"size": -1, "sha256": "0" * 64}}}},
        {"format": 1, "joined": {"in1k": {"size": 1, "sha256": ""}}},
    ],
)
def test_a_lock_file_that_is_none(lock: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / ASSETS_LOCK).write_text(json.dumps(lock))
    with pytest.raises(CorruptDataError, match=f"{ASSETS_LOCK}: "):
        verify_assets(["*"], tmp_path)
    assert chosen_assets(["*"])


def test_parts_that_do_not_fit(tmp_path: Path) -> None:
    for name, width in (("a", 3), ("b", 4)):
        np.save(tmp_path / f"{name}.npy", np.zeros((2, width), np.float16))
    with pytest.raises(HubError, match=r"do not fit together \(a.npy: float16 \(2, 3\), b.npy: float16 \(2, 4\)\)"):
        assets._join([tmp_path / "a.npy", tmp_path / "b.npy"], tmp_path / "c.npy")
