"""Models whose weights, tokenizer or library are not on this machine: one line, before any work."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
from dcfast.errors import MissingDependencyError
from dcfast.models.clip import load_model, load_tokenizer, require_model
from dcfast.run.workflow import main, run
from dcfast.rundir.settings import Settings
from pool_builder import plain_pool


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """As on a machine without a network: nothing in the cache, and nothing to fetch."""
    import huggingface_hub.constants
    from huggingface_hub.errors import OfflineModeIsEnabled
    from open_clip import factory, pretrained

    def refuse(*args: Any, **options: Any) -> Any:
        raise OfflineModeIsEnabled("Cannot reach the hub:\x1b[1m offline mode is enabled\x1b[0m")

    for module in (factory, pretrained):
        if hasattr(module, "hf_hub_download"):
            monkeypatch.setattr(module, "hf_hub_download", refuse)
    monkeypatch.setattr(pretrained, "download_pretrained_from_url", refuse)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    load_tokenizer.cache_clear()


@pytest.mark.parametrize("look", [require_model, load_model])
def test_weights_that_are_not_here(look: Any, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(MissingDependencyError) as raised:
        look("ViT-B-32", "openai")
    said = str(raised.value)
    assert said.startswith("the weights ViT-B-32:openai are not on this machine, and cannot be fetched (")
    assert "or give a file of weights in place of the tag" in said
    assert said.isprintable()
    assert capfd.readouterr() == ("", ""), "the library logs what we say"


@pytest.mark.parametrize("look", [require_model, load_model])
def test_a_tokenizer_that_needs_transformers(look: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(MissingDependencyError, match=r"the tokenizer of ViT-B-16-SigLIP needs transformers, .*pip ins"):
        look("ViT-B-16-SigLIP") if look is require_model else load_tokenizer("ViT-B-16-SigLIP")


def test_a_text_tower_that_needs_transformers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(
        MissingDependencyError, match=r"model roberta-ViT-B-32 needs transformers, which is not installe"
    ):
        require_model("roberta-ViT-B-32", "laion2b_s12b_b32k")


def test_a_name_on_the_hub_is_never_a_model_of_random_weights() -> None:
    with pytest.raises(MissingDependencyError, match=r"model hf-hub:some/model cannot be made"):
        require_model("hf-hub:some/model")


def test_names_and_tags_are_checked_first() -> None:
    with pytest.raises(ValueError, match="did you mean 'ViT-B-32'"):
        require_model("ViT-B32", "openai")
    with pytest.raises(ValueError, match="did you mean 'openai'"):
        require_model("ViT-B-32", "openia")
    require_model("dcfast-tiny")


@pytest.mark.parametrize("model", ["ViT-B-32:openai", "hf-hub:some/model"])
def test_a_run_says_it_before_any_stage(model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pool = plain_pool(tmp_path / "pool", 4, 1).write()
    out = tmp_path / "deep" / "out"
    words = ["--pool", str(pool), "--out", str(out), "--filter", "no_filter", "--no-train", "--device", "cpu"]
    assert main([*words, "--features", f"l14={model}"]) == 1
    said = capsys.readouterr().err
    assert said.startswith("error: ")
    assert said.count("\n") == 1
    assert not out.parent.exists()
    # what does not need the model is done without it
    assert "index" in run(
        tmp_path / "run", Settings(pool=str(pool), features={"l14": model}, train=False), last="index"
    )


def test_training_looks_for_its_model_before_any_stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from dcfast.run import checks

    asked = []

    def missing(name: str, pretrained: str | None = None) -> None:
        asked.append(name)
        raise MissingDependencyError("not here")

    monkeypatch.setattr(checks, "require_model", missing)
    pool = plain_pool(tmp_path / "pool", 4, 1).write()
    with pytest.raises(MissingDependencyError, match="not here"):
        run(tmp_path / "out", Settings(pool=str(pool), scale="small", filter="no_filter", device="cpu"))
    assert asked == ["ViT-B-32"]
    assert not (tmp_path / "out").exists()


def test_a_tag_gets_the_activation_of_its_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    import open_clip

    seen = []

    def record(name: str, pretrained: str, **options: Any) -> Any:
        seen.append((name, options["force_quick_gelu"]))
        raise RuntimeError("not built")

    monkeypatch.setattr(open_clip, "create_model", record)
    for name, tag in (("ViT-B-32", "openai"), ("ViT-B-32", "laion2b_s34b_b79k"), ("ViT-B-32-quickgelu", "openai")):
        with pytest.raises(MissingDependencyError, match="not built"):
            load_model(name, tag)
    assert seen == [("ViT-B-32", True), ("ViT-B-32", False), ("ViT-B-32-quickgelu", False)]


@pytest.mark.parametrize(("library", "stage"), [("jinja2", "report"), ("PIL", "signatures")])
def test_a_library_of_a_late_stage_is_looked_for_first(
    library: str, stage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = plain_pool(tmp_path / "pool", 4, 1).write()
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(MissingDependencyError, match=f"stage {stage} needs {library}, which is not installed; pip in"):
        run(tmp_path / "out", Settings(pool=str(pool), filter="no_filter", train=False))
    assert not (tmp_path / "out").exists()


def test_features_of_another_activation_are_made_anew() -> None:
    from dcfast.features.spec import FeatureModel
    from dcfast.stages.features import model_source

    for name, tag, activation in (
        ("ViT-L-14", "openai", "quickgelu"),
        ("ViT-L/14", "openai", "quickgelu"),
        ("ViT-L-14-quickgelu", "openai", None),
        ("ViT-L-14", "datacomp_xl_s13b_b90k", None),
    ):
        assert model_source(FeatureModel(("l14",), name, tag))[0].activation == activation
