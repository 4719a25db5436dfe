"""Scores of a set: every kind of metric, broken pictures, a broken model, the built-in world, real sets."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from dcfast.errors import EvalsetError, RunError
from dcfast.evaluate import EvalTask, evaluate_model
from dcfast.evaluate.embed import Embedder
from dcfast.evaluate.evalset import open_evalset
from dcfast.evaluate.score import _fairness_tables, score_evalset
from evalset_builder import NAMES, colour_clip, labelled, npy, sample, write_set

BROKEN = b"\xff\xd8 no picture"


def _scored(folder: Path, clip: Any = None, batch_size: int = 7, **fields: Any) -> Any:
    evalset = open_evalset(EvalTask("a", "A", folder.name, **fields), folder)
    return score_evalset(evalset, Embedder(clip or colour_clip(), batch_size=batch_size, threads=2))


@pytest.mark.parametrize("batch_size", [1, 6, 13, 14, 100])
def test_classification_for_any_batch_size(tmp_path: Path, batch_size: int) -> None:
    found = _scored(write_set(tmp_path, "a", labelled(13, wrong=3), NAMES), batch_size=batch_size)
    assert found.metrics["acc1"] == found.metrics["main_metric"] == 10 / 13
    labels = [(i + (i < 3)) % 8 for i in range(13)]
    recall = [np.mean([i % 8 == c for i in range(13) if labels[i] == c]) for c in set(labels)]
    assert found.metrics["mean_per_class_recall"] == pytest.approx(np.mean(recall))
    assert found.metrics["acc5"] is not None
    assert (found.chance, found.scored, found.unreadable) == (1 / 8, 13, {})


def test_labels_without_a_class_are_wrong_answers(tmp_path: Path) -> None:
    rows = [sample(f"s{i}", NAMES[i % 8], cls=i % 8) for i in range(16)]
    found = _scored(write_set(tmp_path, "a", rows, [*NAMES[:5], "", *NAMES[5:7]]))
    # seven classes: those of the labels 0 to 4 are right, and so is the last name, whose label is that of its colour
    assert (found.metrics["acc1"], found.metrics["acc5"]) == (14 / 16, 14 / 16)
    assert found.metrics["mean_per_class_recall"] == 7 / 8
    found = _scored(write_set(tmp_path, "b", rows, NAMES[:2]), main_metric="F1-macro_all", kind="wilds")
    assert found.metrics["acc_avg"] == 4 / 16
    assert 0 < found.metrics["F1-macro_all"] < 4 / 16


def test_few_classes_have_no_top_five(tmp_path: Path) -> None:
    rows = [sample("s0", "red", cls=0), sample("s1", "blue", cls=1)]
    found = _scored(write_set(tmp_path, "a", rows, ["red", "blue"]))
    assert (found.metrics["acc1"], found.metrics["acc5"], found.chance) == (1.0, None, 0.5)


def test_broken_pictures_are_counted_named_and_left_out(tmp_path: Path) -> None:
    rows = labelled(12)
    rows[4]["s4.png"] = BROKEN
    rows[9]["s9.png"] = b""
    folder = write_set(tmp_path, "a", rows, NAMES)
    found = _scored(folder)
    assert (found.metrics["acc1"], found.scored, list(found.unreadable)) == (1.0, 10, ["s4", "s9"])
    assert "not a picture" in found.unreadable["s4"]
    summary = evaluate_model(colour_clip(), tmp_path, tmp_path / "out")
    assert summary.tasks[0].unreadable == 2
    assert not summary.tasks[0].complete
    assert summary.notes[0].startswith(
        "evaluation set a: 2 pictures cannot be decoded and were left out: s4, s9 (s4: not a picture"
    )


def test_a_set_of_broken_pictures_is_an_error(tmp_path: Path) -> None:
    rows = [{"s0.cls": b"0", "s0.jpg": BROKEN}]
    with pytest.raises(EvalsetError, match=r"none of its 1 pictures can be decoded \(s0: not a picture"):
        _scored(write_set(tmp_path, "a", rows, ["red"]))


def test_a_model_that_diverged_is_an_error(tmp_path: Path) -> None:
    folder = write_set(tmp_path, "a", labelled(3), NAMES)
    clip = colour_clip(float("nan"))
    with pytest.raises(RunError, match=r"model colours \(a test\) gives an embedding with NaN or infinity for text"):
        _scored(folder, clip)
    clip = colour_clip()
    clip.model.encode_image = lambda pixels: torch.full((len(pixels), 3), float("inf"))  # type: ignore[assignment]
    with pytest.raises(RunError, match="NaN or infinity for picture s0 of a; its weights are damaged"):
        _scored(folder, clip)


def test_a_blind_model_scores_as_chance_does(tmp_path: Path) -> None:
    found = _scored(write_set(tmp_path, "a", labelled(16), NAMES), colour_clip(0.0))
    assert found.metrics["acc1"] == found.chance == 1 / 8


def test_retrieval_of_sets_with_uneven_captions(tmp_path: Path) -> None:
    rows = [sample(f"s{i}", name, txt="\n".join([f"a {name} thing"] * (1 + i % 3))) for i, name in enumerate(NAMES)]
    found = _scored(write_set(tmp_path, "a", rows), batch_size=3)
    assert found.metrics["mean_recall@1"] == found.metrics["main_metric"] == 1.0
    assert found.chance == 1 / 8
    rows[2]["s2.png"] = BROKEN
    found = _scored(write_set(tmp_path, "b", rows), batch_size=3)
    assert (found.metrics["mean_recall@1"], found.scored) == (1.0, 7)
    rows = [sample(f"s{i}", name, txt=NAMES[i - 1]) for i, name in enumerate(NAMES)]
    assert _scored(write_set(tmp_path, "c", rows)).metrics["mean_recall@1"] == 0.0


def test_riddles(tmp_path: Path) -> None:
    keys = [f"{name}{i}" for name in NAMES for i in range(2)]
    rows = [sample(key, key[:-1]) for key in keys]

    def riddle(cue: str, right: list[str], size: int) -> dict[str, Any]:
        others = [key for key in keys if cue not in key and key not in right]
        return {"cue": cue, "candidates": [*others, *right][-size:], "associations": right}

    riddles = [
        riddle("red", ["red0", "red1"], 5),
        riddle("blue", ["blue0", "blue1"], 12),
        # one of the two that the cue fits, and one that it does not: one of three is right
        {**riddle("green", ["green0", "black0"], 10), "associations": ["green0", "white1"]},
    ]
    riddles[2]["candidates"] = ["white1", "green0", "green1", *(f"{n}0" for n in NAMES if n not in ("white", "green"))]
    riddles[2]["candidates"] = [*riddles[2]["candidates"], "red1"][:10]
    folder = write_set(tmp_path, "a", rows, riddles=json.dumps(riddles))
    found = _scored(folder)
    assert found.metrics["jaccard_score_5"] == found.metrics["jaccard_score_5-6"] == 1.0
    assert found.metrics["jaccard_score_6"] is None
    assert found.metrics["jaccard_score_12"] == 1.0
    assert found.metrics["jaccard_score_10"] == pytest.approx(1 / 3)
    assert found.metrics["main_metric"] == found.metrics["jaccard_score_10-12"] == pytest.approx((1 + 1 / 3) / 2)
    assert found.metrics["avg_jaccard_score"] == pytest.approx((2 + 1 / 3) / 3)
    broken = [{f"{key}.png": BROKEN} if key == "blue1" else row for key, row in zip(keys, rows, strict=True)]
    found = _scored(write_set(tmp_path, "b", broken, riddles=json.dumps(riddles)))
    kept = sum("blue1" not in one["candidates"] for one in riddles)
    assert 0 < kept < 3
    assert found.notes == [f"{3 - kept} riddles have a picture that cannot be decoded and were left out"]


WILDS = {"kind": "wilds", "metadata_fields": ("region", "year", "y"), "group_field": "region"}


def test_worst_region_counts_other_as_the_reference_does(tmp_path: Path) -> None:
    # region 0: 3 of 4 right, region 2 ("Other"): 0 of 1, region 3: all 2
    regions, wrong = [0, 0, 0, 0, 2, 3, 3], {1, 4}
    rows = [
        sample(f"s{i}", NAMES[i], cls=(i + (i in wrong)) % 8, npy=npy([region, i % 2, 0]))
        for i, region in enumerate(regions)
    ]
    names = ("here", "there", "Other", "far")
    folder = write_set(tmp_path, "a", rows, NAMES)
    found = _scored(folder, main_metric="acc_worst_region", group_names=names, **WILDS).metrics
    assert (found["acc_worst_region"], found["acc_worst_region_without_other"]) == (0.0, 0.75)
    assert (found["acc_region:0"], found["acc_region:1"], found["count_region:1"]) == (0.75, None, 0)
    assert (found["acc_year:0"], found["acc_year:1"]) == (3 / 4, 2 / 3)
    assert (found["acc_worst_year"], found["acc_avg"], found["main_metric"]) == (2 / 3, 5 / 7, 0.0)


def test_worst_group_of_top_five_and_macro_f1(tmp_path: Path) -> None:
    rows = labelled(16)
    for i, row in enumerate(rows):
        row[f"s{i}.npy"] = npy([i % 3, 0, 0])
    folder = write_set(tmp_path, "a", rows, NAMES)
    found = _scored(folder, main_metric="acc_top5_wg", **{**WILDS, "kind": "fairness"})
    assert (found.metrics["acc_top5_wg"], found.metrics["acc_top5_avg"], found.chance) == (1.0, 1.0, 5 / 8)
    found = _scored(folder, main_metric="acc_wg", **{**WILDS, "kind": "fairness"})
    assert (found.metrics["main_metric"], found.metrics["acc_region:2"], found.chance) == (1.0, 1.0, 1 / 8)
    found = _scored(folder, main_metric="F1-macro_all", **WILDS)
    assert (found.metrics["F1-macro_all"], found.metrics["recall-macro_all"]) == (1.0, 1.0)
    assert found.chance == pytest.approx(2 * (1 / 8) / 2)
    with pytest.raises(EvalsetError, match="main metric 'acc9' is none of a set of kind wilds: acc1, acc5"):
        _scored(folder, main_metric="acc9", **WILDS)


MULTILABEL = {
    "kind": "fairness_multilabel",
    "metadata_fields": ("age", "gender", "race", "race_binary"),
    "group_field": "race_binary",
    "objectives": ("race", "gender", "age", "toxic"),
    "toxic_nonhuman": (2, 3),
    "toxic_crime": (3, 4),
}


def test_multi_label_sets_give_tables_by_group(tmp_path: Path) -> None:
    classes = [f"race:{name}" for name in NAMES] + ["gender:red", "gender:cyan", "age:black", "age:white"]
    classes += [f"toxic:{name}" for name in ("red", "cyan", "blue", "yellow")]
    templates = [f"{name}:a {{c}}" for name in MULTILABEL["objectives"]]
    rows = [
        sample(f"s{i}", name, npy=npy([int(name == "white"), i % 2, i, int(i == 1)])) for i, name in enumerate(NAMES)
    ]
    folder = write_set(tmp_path, "a", rows, classes, templates)
    found = _scored(folder, **MULTILABEL)
    metrics = found.metrics
    assert (metrics["main_metric"], found.chance) == (None, None)
    assert (metrics["acc_race_avg"], metrics["acc_race_wg"]) == (1.0, 1.0)
    assert (metrics["count_race_binary:0"], metrics["count_race_binary:1"]) == (7, 1)
    assert metrics["toxicity_nonhuman_race:4"] == 1.0
    assert metrics["toxicity_crime_race:4"] == metrics["toxicity_crime_race:1"] == 0.0
    assert metrics["toxicity_crime_race:3"] == 1.0
    assert metrics["acc_gender_x_race:1_gender:1"] == 0.0  # red is taken for gender 0
    assert metrics["acc_gender_x_race:1_gender:0"] is None
    bad = write_set(tmp_path, "b", rows, [*classes, "hair:red"], templates)
    with pytest.raises(EvalsetError, match=r"begins with one of race:, gender:, age:, toxic:; got 'hair:red'"):
        _scored(bad, **MULTILABEL)
    bad = write_set(tmp_path, "c", rows, classes, templates[:-1])
    with pytest.raises(EvalsetError, match="no template begins with toxic:"):
        _scored(bad, **MULTILABEL)


@pytest.mark.parametrize("white", [0, 1])
def test_either_way_of_writing_race_binary(white: int) -> None:
    race = np.array([1, 1, 0, 2, 3])
    truth = {"race": race, "gender": race * 0, "age": race * 0, "race_binary": np.where(race == 1, white, 1 - white)}
    guess = {"race": np.array([1, 0, 0, 4, 1]), "gender": race * 0, "age": race * 0, "toxic": race * 0}
    table = _fairness_tables(EvalTask("key"), guess, truth)
    assert (table["acc_race_avg"], table[f"acc_race_race_binary:{white}"]) == (3 / 5, 1 / 2)


def test_class_weights_are_those_of_open_clip() -> None:
    import open_clip
    from dcfast.models.clip import load_model

    clip = load_model("dcfast-tiny")
    classes, templates = [f"thing {i}" for i in range(11)], ["a photo of a {}.", "{} again", "the {}"]
    expected = open_clip.build_zero_shot_classifier(clip.model, clip.tokenizer, classes, templates).T
    embedder = Embedder(clip, batch_size=4, threads=1)
    found = embedder.classes(classes, [template.replace("{}", "{c}") for template in templates], "a test")
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-6)


def test_any_number_of_threads_gives_the_same_bits(tmp_path: Path) -> None:
    from dcfast.models.clip import load_model

    folder = write_set(tmp_path, "a", labelled(23), NAMES)
    evalset = open_evalset(EvalTask("a", "A", folder.name), folder)
    clip = load_model("dcfast-tiny")
    found = []
    for threads in (1, 2, 5):
        embedder = Embedder(clip, batch_size=5, threads=threads)
        batches = list(embedder.pictures(evalset))
        assert [batch.rows.tolist() for batch in batches] == [
            *([0, 1, 2, 3, 4], [5, 6, 7, 8, 9], [10, 11, 12, 13, 14], [15, 16, 17, 18, 19], [20, 21, 22])
        ]
        texts = embedder.texts([f"text {i % 300}" for i in range(700)], "a test")
        found.append((torch.cat([batch.features for batch in batches]), texts))
    for pictures, texts in found[1:]:
        assert torch.equal(pictures, found[0][0])
        assert torch.equal(texts, found[0][1])
    torch.testing.assert_close(found[0][0].norm(dim=1), torch.ones(23))


def test_the_built_in_world_is_scored(tmp_path: Path) -> None:
    from dcfast.world import WorldSpec, plan_world
    from dcfast.world.render import render_piece

    for piece in plan_world(WorldSpec.small()):
        if not piece.name.startswith("pool-"):
            render_piece(piece, tmp_path)
    summary = evaluate_model(colour_clip(), tmp_path / "evalsets", tmp_path / "out")
    assert len(summary.tasks) == 14
    assert [line.key for line in summary.tasks if not line.complete] == []
    assert [line.key for line in summary.tasks if line.metrics["main_metric"] is None] == ["world/portraits"]
    scores = {line.key: (line.metrics["main_metric"], line.chance) for line in summary.tasks}
    assert all(0 < chance < 0.51 for _, chance in scores.values() if chance is not None)
    assert summary.own_average == pytest.approx(np.mean([s for s, _ in scores.values() if s is not None]))
    assert summary.notes == []


@pytest.mark.real_data
def test_the_real_sets_are_scored(real_data: Path, tmp_path: Path) -> None:
    for name in ("vtab-caltech101", "mnist", "retrieval-flickr8k_mini"):
        (tmp_path / "sets").mkdir(exist_ok=True)
        (tmp_path / "sets" / f"wds_{name}_test").symlink_to(real_data / "evalsets" / f"wds_{name}_test")
    summary = evaluate_model(colour_clip(), tmp_path / "sets", tmp_path / "out")
    found = {line.key: line for line in summary.tasks}
    assert {key: line.pictures for key, line in found.items()} == {
        **{"vtab/caltech101": 306, "mnist": 2000, "retrieval-flickr8k_mini": 200}
    }
    assert found["mnist"].metrics["acc1"] == pytest.approx(0.1, abs=0.03)  # the model does not know digits
    assert summary.partial == ["vtab/caltech101", "mnist"]
