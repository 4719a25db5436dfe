"""The bar on real data: all leaks are found by each set of methods, with their evidence, and nothing else is."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from dcfast.decontamination.options import DecontaminateOptions
from dcfast.decontamination.pool import decontaminate_pool
from dcfast.engine.progress import Silent
from dcfast.evaluate.sign_sets import SignOptions, sign_evalsets
from dcfast.uids.sets import load_subset, uid_format

pytestmark = pytest.mark.real_data


@pytest.fixture(scope="module")
def signed(real_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("real")
    sign_evalsets(SignOptions(str(real_data / "evalsets"), str(root / "sets.sig"), workers=2), Silent)
    return root


@pytest.fixture(scope="module")
def truth(real_data: Path) -> dict[str, str]:
    lines = (real_data / "pool_truth.tsv").read_text().splitlines()[1:]
    return dict(line.split("\t") for line in lines)  # type: ignore[misc]


def found(real_data: Path, signed: Path, **options: Any) -> tuple[set[str], list[dict[str, Any]]]:
    out = signed / "out"
    given = DecontaminateOptions(str(real_data / "pool"), [str(signed / "sets.sig")], str(out), workers=2, **options)
    decontaminate_pool(given, Silent)
    uids = set(uid_format(np.asarray(load_subset(out / "contaminated.npy")), as_list=True))
    return uids, pq.read_table(out / "contamination.parquet").to_pylist()


def test_leaks_are_found_and_nothing_else(real_data: Path, signed: Path, truth: dict[str, str]) -> None:
    exact = {uid for uid, kind in truth.items() if kind.startswith("leak-exact:")}
    near = {uid for uid, kind in truth.items() if kind.startswith("leak-near:")}
    assert (len(exact), len(near)) == (40, 120)
    uids, rows = found(real_data, signed)
    assert uids == exact | near
    by_method = {
        method: {row["uid"] for row in rows if row["method"] == method} for method in {r["method"] for r in rows}
    }
    assert by_method["content"] == exact
    assert by_method["perceptual"] == exact | near
    assert by_method["perceptual256"] == exact | near
    assert {row["evalset"] for row in rows} == {"retrieval-flickr8k_mini"}
    named = {uid: {row["evalset_key"] for row in rows if row["uid"] == uid} for uid in uids}
    assert {len(keys) for keys in named.values()} == {1}  # all methods name one picture


@pytest.mark.parametrize("methods", [["content", "perceptual"], ["content", "perceptual256"]])
def test_each_hash_does_alone(methods: list[str], real_data: Path, signed: Path, truth: dict[str, str]) -> None:
    uids, _ = found(real_data, signed, methods=methods)
    kinds = Counter(truth[uid].partition(":")[0] for uid in uids)
    assert kinds == {"leak-exact": 40, "leak-near": 120}
