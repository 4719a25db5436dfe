"""What of a library's words or a stranger's names may be shown, and what an unknown name is answered by."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
from dcfast.engine.engine import check_engine
from dcfast.errors import did_you_mean, first_line, last_line, printable
from dcfast.features.spec import feature_models
from dcfast.models.devices import resolve_device, resolve_precision
from dcfast.resharding.run import reshard
from dcfast.scales import changed_recipe, check_recipe_field, scale
from dcfast.world.spec import WorldSpec


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain, größer, 大きな犬 🐕", "plain, größer, 大きな犬 🐕"),
        ("\x1b[1;31mred\x1b[0m and \x1b[2Jcleared", "red and cleared"),
        ("\x1b]0;a title\x07text\x1b]8;;http://x\x1b\\link", "textlink"),
        ("\x9b31mred", "red"),
        ("lines\nand\ttabs\r\x07\x7f\x85\x00", "lines\nand\ttabs\\r\\x07\\x7f\\x85\\x00"),
        ("\x1bcut \x1b[", "\\x1bcut \\x1b["),
        ("shard a\x1b]0;b.tar: is damaged\nnext\x07", "shard a\\x1b]0;b.tar: is damaged\nnext\\x07"),
        ("half \udc80 and \u202eturned", "half \\udc80 and \\u202eturned"),
        ("", ""),
    ],
)
def test_printable(text: str, shown: str) -> None:
    assert printable(text) == shown
    assert printable(shown) == shown


def test_lines_of_errors_are_printable() -> None:
    assert first_line(RuntimeError("one\x1b[1m bold\x1b[0m\x07\ntwo")) == "one bold\\x07"
    assert first_line(RuntimeError()) == "RuntimeError"
    assert last_line("progress 1\rprogress 2\x1b[K\r\nlast \x1b[31mwords\x1b[0m\n") == "last words"


def test_the_nearest_names_are_those_of_the_list() -> None:
    assert did_you_mean("SMAL", ["tiny", "small"]) == "; did you mean 'small'?"
    assert did_you_mean("vit-b-32", ["ViT-B-32", "ViT-B-16"], most=2) == "; did you mean 'ViT-B-32' or 'ViT-B-16'?"
    assert did_you_mean("nothing", ["tiny", "small"]) == did_you_mean("", ["tiny"]) == did_you_mean("x", []) == ""


@pytest.mark.parametrize(
    ("refused", "nearest"),
    [
        (lambda: scale("Small"), "small"),
        (lambda: check_recipe_field("lr"), "learning_rate"),
        (lambda: check_recipe_field("warmup-step"), "warmup_steps"),
        (lambda: changed_recipe(scale("tiny"), {"precision": "amp_bf61"}), "amp_bf16"),
        (lambda: check_engine("lokal", 1), "local"),
        (lambda: resolve_device("gpu"), "cuda"),
        (lambda: resolve_precision("fp61", "cpu"), "fp16"),
        (lambda: feature_models({"l41": "teacher"}), "l14"),
        (lambda: WorldSpec.from_json({"row": 1}), "rows"),
        (lambda: reshard("p", "o", "s", uid_from="urls"), "url"),
    ],
)
def test_an_unknown_name_is_answered_by_the_nearest(refused: Callable[[], Any], nearest: str) -> None:
    with pytest.raises(ValueError, match=re.escape(f"; did you mean {nearest!r}?")):
        refused()
