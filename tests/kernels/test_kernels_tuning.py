"""The cache of tile sizes: what it keeps, what it ignores; choices; and the kernels' machine code, with no GPU."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("triton", reason="the kernels need Triton")
torch = pytest.importorskip("torch", reason="the kernels need torch")

from dcfast.kernels import (  # noqa: E402
    check_machine_code,
    clip_kernels,
    contrastive,
    products,
    siglip_kernels,
    tuning,
)
from dcfast.kernels.tuning import Config  # noqa: E402

GPU = "NVIDIA H100 80GB HBM3"
ONE, TWO = Config(128, 128, 64, 8, 4), Config(128, 256, 64, 8, 3, group=16, flatten=True, sub=True)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache; the file in it that is this GPU's."""
    monkeypatch.setenv("DCFAST_TUNE_DIR", str(tmp_path / "tune"))
    monkeypatch.setattr(tuning, "_chosen", {})
    return tmp_path / "tune" / "nvidia-h100-80gb-hbm3.json"


def test_what_is_stored_is_loaded(cache: Path) -> None:
    assert tuning.load(GPU) == {}
    tuning.store(GPU, "a", ONE)
    tuning.store(GPU, "b", TWO)
    assert tuning.load(GPU) == {"a": ONE, "b": TWO}
    assert tuning.load("another") == {}
    assert [p.name for p in cache.parent.iterdir()] == [cache.name]  # no temporary file is left
    cache.unlink()
    assert tuning.load(GPU) == {}


def test_default_directory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DCFAST_TUNE_DIR", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert tuning.cache_directory() == Path("/somewhere/dcfast/kernels")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert tuning.cache_directory() == Path.home() / ".cache" / "dcfast" / "kernels"


def _change(path: Path, change: Callable[[dict[str, object]], object]) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


@pytest.mark.parametrize(
    "damage",
    [
        lambda p: p.write_text(""),
        lambda p: p.write_text(p.read_text()[:40]),
        lambda p: p.write_bytes(b"\xff\xfe\x00"),
        lambda p: p.write_text("[]"),
        lambda p: p.write_text("null"),
        lambda p: _change(p, lambda c: c.update(version="triton 1.0, kernels 0")),
        lambda p: _change(p, lambda c: c.update(gpu="another")),
        lambda p: _change(p, lambda c: c.update(choices=[1])),
        lambda p: _change(p, lambda c: c["choices"]["a"].update(bm=100)),
        lambda p: _change(p, lambda c: c["choices"]["a"].update(stages="3")),
        lambda p: _change(p, lambda c: c["choices"]["a"].update(sub=1)),
        lambda p: _change(p, lambda c: c["choices"]["a"].update(unknown=1)),
        lambda p: _change(p, lambda c: c["choices"]["a"].pop("bk")),
        lambda p: (p.unlink(), p.mkdir()),
    ],
)
def test_a_damaged_cache_is_ignored(cache: Path, damage: Callable[[Path], object]) -> None:
    tuning.store(GPU, "a", ONE)
    damage(cache)
    assert tuning.load(GPU) == {}
    if cache.is_file():
        tuning.store(GPU, "b", TWO)  # and replaced
        assert tuning.load(GPU) == {"b": TWO}
    else:
        tuning.store(GPU, "b", TWO)  # what cannot be written is no error
        assert [p.name for p in cache.parent.iterdir()] == [cache.name]


def test_a_directory_that_cannot_be_made_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("DCFAST_TUNE_DIR", str(tmp_path / "file" / "tune"))
    tuning.store(GPU, "a", ONE)
    assert tuning.load(GPU) == {}


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    """The tuner believes that it is on an H100."""
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: GPU)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)


def _choose(seen: list[Config], fastest: Config, rows: int = 4096) -> Config:
    def launch(config: Config) -> None:
        seen.append(config)

    def time(call: Callable[[], object]) -> float:
        call()
        return 1.0 if seen[-1] == fastest else 2.0

    shape = (rows, 4096, 512)
    return tuning.choose("clip_grad", torch.device("cuda"), torch.bfloat16, shape, "ieee", launch, time=time)


@pytest.mark.usefixtures("gpu")
def test_the_fastest_is_chosen_and_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    candidates = tuning.candidates("clip_grad", (9, 0), torch.bfloat16, "ieee")
    assert len(set(candidates)) <= 5
    seen: list[Config] = []
    assert _choose(seen, candidates[2]) == candidates[2]
    assert set(seen) == set(candidates)
    # from memory, for another size within a factor of two, and from the file in another process
    seen.clear()
    assert _choose(seen, candidates[0]) == candidates[2]
    assert _choose(seen, candidates[0], rows=3000) == candidates[2]
    monkeypatch.setattr(tuning, "_chosen", {})
    assert _choose(seen, candidates[0]) == candidates[2]
    assert seen == []
    assert _choose(seen, candidates[1], rows=5000) == candidates[1]


@pytest.mark.usefixtures("gpu")
def test_when_nothing_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(config: Config) -> None:
        raise AssertionError("launched")

    def choose(rows: int) -> Config:
        return tuning.choose("clip_grad", torch.device("cuda"), torch.bfloat16, (rows, rows, 512), "ieee", never)

    default = tuning.candidates("clip_grad", (9, 0), torch.bfloat16, "ieee")[0]
    assert choose(1000) == tuning.SMALL
    assert choose(2047) == tuning.SMALL
    with monkeypatch.context() as patch:
        patch.setenv("DCFAST_AUTOTUNE", "0")
        assert choose(4096) == default
    with monkeypatch.context() as patch:
        patch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
        assert choose(4096) == default
        # what was measured before, in this process or another, is used there too
        measured = tuning.candidates("clip_grad", (9, 0), torch.bfloat16, "ieee")[2]
        tuning.store(GPU, tuning.key_of("clip_grad", torch.bfloat16, 8192, 8192, 512, "ieee"), measured)
        assert choose(8192) == measured
        assert choose(4096) == default
    with pytest.raises(AssertionError, match="launched"):
        choose(4096)


def test_tiles_that_do_not_fit_are_passed_over() -> None:
    from triton.runtime.errors import OutOfResources

    def launch(config: Config) -> None:
        if config == ONE:
            raise OutOfResources(300000, 232448, "shared memory")

    def time(call: Callable[[], object]) -> float:
        call()
        return 1.0

    assert tuning.measure((ONE, TWO), launch, time) == TWO
    assert tuning.measure((ONE,), launch, time) == ONE


def test_candidates_of_an_unknown_kernel() -> None:
    with pytest.raises(ValueError, match=r"kernel must be one of clip_sweep, .*; got 'clip'"):
        tuning.candidates("clip", (9, 0), torch.bfloat16, "ieee")


def test_every_candidate_can_be_launched() -> None:
    for kernel in tuning.KERNELS:
        for capability in ((8, 0), (8, 9), (9, 0), (10, 0), (12, 0)):
            for dtype, precision in ((torch.bfloat16, "ieee"), (torch.float32, "tf32"), (torch.float32, "ieee")):
                for c in tuning.candidates(kernel, capability, dtype, precision):
                    # the sweep adds groups of 16 rows
                    assert c.bm % (16 * c.row_warps) == 0
                    assert all(v & (v - 1) == 0 for v in (c.bm, c.bn, c.bk, c.warps, c.row_warps))


def test_a_new_size_of_a_batch_compiles_nothing_anew() -> None:
    """What varies with it is neither a constant of the machine code nor assumed to be aligned, as the check has it."""
    tiles = {"M", "N", "rows_n", "cols_n", "first", "nbm", "nbn", "chunks", "per"}
    vectors = {"rows", "partners", "offset", "n", "count_a", "count_b"}
    varying = dict.fromkeys(("clip_sweep", "clip_online", "clip_grad", "siglip_tile"), tiles)
    varying |= dict.fromkeys(("clip_restate", "clip_shift", "clip_stats", "row_dots", "row_norms"), vectors)
    varying |= dict.fromkeys(("scale_cast", "seed_positives"), vectors)
    for name, arguments in varying.items():
        kernel = getattr(clip_kernels, name, None) or getattr(siglip_kernels, name)
        found = {p.name: p.do_not_specialize for p in kernel.params if p.name in arguments}
        assert found == dict.fromkeys(found, True), name
        assert found


def test_tiles_for_hopper_are_for_its_shared_memory() -> None:
    for kernel in tuning.KERNELS:
        for dtype, precision in ((torch.bfloat16, "ieee"), (torch.float32, "tf32")):
            of = {c: tuning.candidates(kernel, c, dtype, precision) for c in ((8, 0), (9, 0), (10, 0), (12, 0))}
            assert of[10, 0] == of[9, 0]
            assert of[12, 0] == of[8, 0]  # tensor descriptors, but 99 KiB


def test_chunks_cover_the_rows_and_keep_programs_busy() -> None:
    for row_blocks in (1, 2, 63, 64, 65, 128, 352):
        for col_blocks in (1, 7, 64, 256, 704):
            chunks = contrastive.chunks_of(row_blocks, col_blocks, 132)
            assert 1 <= chunks <= min(row_blocks, 64)
            rounds = -(-chunks * col_blocks // 132) * -(-row_blocks // chunks)
            assert rounds * 132 >= row_blocks * col_blocks
    # a large batch leaves less than a tenth of the machine idle
    chunks = contrastive.chunks_of(128, 256, 132)
    assert -(-chunks * 256 // 132) * 132 * -(-128 // chunks) <= 1.1 * 256 * 128


@pytest.mark.parametrize(("rows", "cols"), [(1, 1), (127, 5000), (8192, 8192), (32768, 32768), (90112, 90112)])
def test_chunks_stay_within_their_bound(rows: int, cols: int) -> None:
    for depth in (16, 512, 768, 1024, 4096):
        for bound in (1, 1 << 20, 352 << 20):
            height = products.chunk_rows(rows, cols, depth, 2, bound)
            assert 1 <= height <= rows
            assert height <= 128 or height * cols * 2 <= bound
            assert height == rows or height % 128 == 0


# --- machine code -------------------------------------------------------------------------------------------------


@pytest.mark.cuda
@pytest.mark.parametrize("build", list(check_machine_code.builds()), ids=str)
def test_machine_code(build: check_machine_code.Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tensor cores, TMA or asynchronous copies, no spilled register, no atomics."""
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    assert check_machine_code.problems(build, check_machine_code.report(build)) == []


def test_problems_of_machine_code_are_named() -> None:
    build = next(b for b in check_machine_code.builds() if b.target == 90)
    names = ("HGMMA", "HMMA", "UTMALDG", "UTMASTG", "LDGSTS", "STL", "LDL", "RED", "ATOM")
    good = check_machine_code.Report(200, 1000, dict.fromkeys(names, 0) | {"HGMMA": 4, "UTMALDG": 6})
    assert check_machine_code.problems(build, good) == []
    for change, says in (
        ({"STL": 2}, "spills registers: 2 stores, 0 loads of local memory"),
        ({"HGMMA": 0, "HMMA": 8}, "multiplies without HGMMA"),
        ({"UTMALDG": 0}, "loads tiles without TMA"),
        ({"RED": 1}, "has atomics: results would depend on the order of programs"),
    ):
        assert check_machine_code.problems(build, replace(good, counts=good.counts | change)) == [says]
    large = replace(good, shared_bytes=300000)
    assert check_machine_code.problems(build, large) == ["needs 300000 bytes of shared memory, the target has 232448"]
    ampere = replace(build, target=80)
    assert check_machine_code.problems(ampere, good) == [
        "multiplies without HMMA",
        "loads tiles without asynchronous copies",
    ]


@pytest.mark.cuda
def test_machine_code_is_not_checked_in_the_interpreter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    command = [sys.executable, "-m", "dcfast.kernels.check_machine_code"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "TRITON_INTERPRET=1 is set: nothing is compiled under it" in done.stderr


@pytest.mark.parametrize("words", ["self and mat2 must have the same dtype, but got Float and BFloat16", ""])
def test_builds_that_refuse_to_add_to_float32(words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The product is added by a second call then, asked for once; an out of memory is none of theirs."""
    asked: list[float] = []

    def refuse(*_: object, alpha: float, **__: object) -> None:
        asked.append(alpha)
        raise RuntimeError(words) if words else torch.OutOfMemoryError("no memory for a dtype")

    def mm(a: torch.Tensor, b: torch.Tensor, *, out_dtype: torch.dtype) -> torch.Tensor:
        return a.to(out_dtype) @ b.to(out_dtype)

    monkeypatch.setattr(products, "_fused", True)
    monkeypatch.setattr(torch.ops.aten.addmm, "dtype_out", refuse)
    monkeypatch.setattr(torch, "mm", mm)
    a, b = torch.ones(3, 4, dtype=torch.bfloat16), torch.ones(4, 2, dtype=torch.bfloat16)
    out = torch.ones(3, 2)
    if not words:
        with pytest.raises(torch.OutOfMemoryError):
            products._add_mixed(out, a, b, 0.5)
        return
    for _ in range(2):
        products._add_mixed(out, a, b, 0.5)
    assert torch.equal(out, torch.full((3, 2), 5.0))
    assert asked == [0.5]
