"""First WordNet senses, against NLTK 3.8.1; the ImageNet-21k list; and what is said where they are missing."""

from __future__ import annotations

import importlib.util
import random
import shutil
import subprocess
import sys
import time
import warnings
import zipfile
from pathlib import Path

import pyarrow as pa
import pytest
from dcfast.errors import CorruptDataError, MissingDependencyError
from dcfast.filters import compile_filter, wordnet
from filter_reference import ODD_CAPTIONS, is_english, real_captions

try:
    PLACE = wordnet.find_wordnet()
    LISTED = wordnet.load_imagenet21k()
except MissingDependencyError as error:
    pytest.skip(f"text_based cannot run here: {error}", allow_module_level=True)

pytestmark = pytest.mark.xdist_group("wordnet")  # they share the slow reference

INFLECTIONS = ("", "s", "ss", "sed", "es", "ed", "ing", "er", "est", "men", "ies", "'s")


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> object:
    """NLTK's own reader on the same files, in a data folder as it wants one."""
    pytest.importorskip("nltk")
    import nltk.data
    from nltk.corpus.reader.wordnet import WordNetCorpusReader

    if PLACE.suffix == ".zip" or not (PLACE / "data.noun").is_file():
        pytest.skip(f"{PLACE} has no data files for NLTK's reader")
    root = tmp_path_factory.mktemp("nltk_data")
    folder = root / "corpora" / "wordnet"
    folder.mkdir(parents=True)
    for file in PLACE.iterdir():
        if file.is_file():
            shutil.copy(file, folder)
    if not (folder / "lexnames").exists():  # only its line count matters here
        (folder / "lexnames").write_text("".join(f"{i:02d}\tname.{i}\t1\n" for i in range(45)))
    nltk.data.path.append(str(root))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made = WordNetCorpusReader(str(folder), None)
    yield made
    nltk.data.path.remove(str(root))


@pytest.fixture(scope="module")
def words() -> wordnet.WordNet:
    return wordnet.WordNet(PLACE)


def first(reader: object, word: str) -> int | None:
    """What NLTK 3.8.1 answers, whatever release has read the tables: endings are taken off until that is a word."""
    for part in "nvar":
        entry, left = word.lower(), [word.lower()]
        known = {form: at for form in left if (at := _offset(reader, form, part))}
        bases = reader._exception_map[part].get(entry)  # type: ignore[attr-defined]
        left = bases if bases is not None else _shorter(reader, left, part)
        while not known and left:
            known = {form: at for form in reversed(left) if (at := _offset(reader, form, part))}
            left = [] if bases is not None else _shorter(reader, left, part)
        if known:
            return list(known.values())[-1]
    return None


def _offset(reader: object, form: str, part: str) -> int | None:
    found = reader._lemma_pos_offset_map[form].get(part)  # type: ignore[attr-defined]
    return found[0] if found else None


def _shorter(reader: object, forms: list[str], part: str) -> list[str]:
    rules = reader.MORPHOLOGICAL_SUBSTITUTIONS[part]  # type: ignore[attr-defined]
    return [form.removesuffix(old) + new for form in forms for old, new in rules if form.endswith(old)]


# made by NLTK 3.8.1 itself, on WordNet 3.0
GOLDEN = {
    **{"dogs": 2084071, "Womens": 10787470, "WOMENS": 10787470, "princessess": 10474064, "mens": 8212347},
    **{"dogssess": 2084071, "busseses": 138221, "fishermens": 10093658, "wolveses": 2114100, "geesess": 13648596},
    **{"glassesses": 4272054, "churcheses": 8082602, "bigestest": 1382086, "abolishinged": 2427334, "bested": 1109277},
    **{"childrens": None, "knivess": None, "runninged": None, "placekickinges": None, "bestsest": None},
    **{"ladieses": 10243137, "boxeses": 2883344, "quizzeses": None, "firemens": 432587, "postmens's": None},
    **{"greatestest": 2343518, "sleepinging": 14742, "sleepinginges": 14742, "was": 9152944, "wass": 9152944},
    **{"better": 5143558, "betterer": 230335, "axes": 2764044, "axeses": 2764044, "less": 14221138, "lesses": 14221138},
    **{"news": 6642138, "newses": 6642138, "s": 15235126, "ss": 8348400, "sss": 8353563, "es": 14636822},
    **{"eses": 13832599, "ing": None, "inging": None, "ed": 14045141, "eded": None, "er": 14636988, "erer": None},
    **{"menmen": None, "womenmen": None, "bus": 2924116, "buss": 138221, "İs": None, "men": 8212347},
    # longer than any lemma
    **{"dog" + "s" * 300: 2084071, "run" + "ing" * 200: 1926329, "women" + "s" * 80: 10787470},
    **{"fire" + "ses" * 400: 7302836, "box" + "es" * 500: 2883344, "great" + "est" * 60: 2343518},
    **{"x" + "s" * 300: 13746512, "dog" + "x" * 5000: None},
}


def test_first_senses_are_those_of_the_release_that_datacomp_pins(words: wordnet.WordNet) -> None:
    assert {word: words.first_offset(word) for word in GOLDEN} == GOLDEN


def test_a_caption_of_one_endless_word_takes_no_time(words: wordnet.WordNet) -> None:
    began = time.process_time()
    assert words.first_offset("dog" + "s" * 130_000) == words.first_offset("dog")
    assert wordnet.has_imagenet_word(["dog" + "s" * 60_000, "q" * 130_000]).tolist() == [True, False]
    assert time.process_time() - began < 5


def test_first_senses_are_a_slow_versions(reader: object, words: wordnet.WordNet) -> None:
    lemmas = sorted(reader.all_lemma_names())  # type: ignore[attr-defined]
    picked = random.Random(0).sample(lemmas, 600)
    tried = [lemma + ending for lemma in picked for ending in random.Random(lemma).sample(INFLECTIONS, 3)]
    tried += ["Dogs", "RUNNING", "geese", "men", "was", "has", "better", "churches", "Womens", "axes", "hot_dog", "the",
              "", "s", "ed", "ing", "İs", "ǅ", "日本", "a" * 1000, "dog,", "dogs'", "o'clock", "vs.", "C"]  # fmt: skip
    for word in tried:
        assert words.first_offset(word) == first(reader, word), word


def test_exceptions_are_nltks(reader: object, words: wordnet.WordNet) -> None:
    lines = (PLACE / "noun.exc").read_text().splitlines() + (PLACE / "verb.exc").read_text().splitlines()
    for line in random.Random(1).sample(lines, 300):
        assert words.first_offset(line.split()[0]) == first(reader, line.split()[0]), line


@pytest.mark.real_data
def test_text_based_on_real_captions_is_the_slow_way(reader: object) -> None:
    captions = real_captions()[:1500]
    compiled = compile_filter("text_based")
    codes = compiled.evaluate(pa.record_batch({"text": captions}))
    for caption, code in zip(captions, codes, strict=True):
        named = any(first(reader, word) in LISTED for word in caption.split())
        expected = (
            "kept"
            if named and is_english(caption)
            else f"text_based: {'language' if named else 'no ImageNet-21k word'}"
        )
        assert compiled.reasons[code] == expected, caption
    assert set(codes) == {0, 1, 2}


def test_odd_captions_and_nulls() -> None:
    compiled = compile_filter("text_based")
    codes = compiled.evaluate(pa.record_batch({"text": pa.array([*ODD_CAPTIONS, None])}))
    kept = [caption for caption, code in zip([*ODD_CAPTIONS, None], codes, strict=True) if code == 0]
    assert "a photograph of a dog running on a beach" in kept
    assert "犬が海辺を走っている写真" not in kept
    assert None not in kept
    assert wordnet.has_imagenet_word(["dog " * 25_000, "\0dog", "a\u2028dog", "the of and", ""]).tolist() == [
        True, False, True, False, False
    ]  # fmt: skip


def test_the_list_resolves_in_this_wordnet(words: wordnet.WordNet) -> None:
    assert len(LISTED) == 21_843
    firsts = {words.first_offset(word) for word in ("goldfish", "teapot", "dogs")}
    assert firsts <= LISTED


def test_zip_and_folder_are_read_alike(tmp_path: Path, words: wordnet.WordNet, monkeypatch: pytest.MonkeyPatch) -> None:
    corpora = tmp_path / "nltk data" / "corpora"
    corpora.mkdir(parents=True)
    with zipfile.ZipFile(corpora / "wordnet.zip", "w") as archive:
        for name in wordnet._NEEDED:
            archive.writestr(f"wordnet/{name}", wordnet._read(PLACE, name))
    monkeypatch.setattr(wordnet, "DEBIAN_WORDNET", tmp_path / "absent")
    monkeypatch.setenv("NLTK_DATA", str(tmp_path / "nltk data"))
    monkeypatch.delenv("DCFAST_WORDNET", raising=False)
    assert wordnet.find_wordnet() == corpora / "wordnet.zip"
    zipped = wordnet.WordNet(wordnet.find_wordnet())
    for word in ("dog", "geese", "running", "zzz"):
        assert zipped.first_offset(word) == words.first_offset(word)


def test_missing_files_say_how_to_get_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DCFAST_WORDNET", str(tmp_path))
    with pytest.raises(MissingDependencyError, match=r"is not a folder with .*apt-get install wordnet-base"):
        wordnet.find_wordnet()
    monkeypatch.delenv("DCFAST_WORDNET")
    monkeypatch.setattr(wordnet, "DEBIAN_WORDNET", tmp_path)
    monkeypatch.setattr(wordnet, "_nltk_folders", lambda: iter([tmp_path]))
    with pytest.raises(MissingDependencyError, match=r"text_based: WordNet 3[.]0 is not here; apt-get install"):
        wordnet.find_wordnet()
    monkeypatch.setenv("DCFAST_IMAGENET21K", str(tmp_path / "absent.txt"))
    with pytest.raises(MissingDependencyError, match=r"not a file; pip install timm"):
        wordnet.find_imagenet21k()
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.delenv("DCFAST_IMAGENET21K", raising=False)
    with pytest.raises(MissingDependencyError, match="text_based: the ImageNet-21k list is not here; pip install timm"):
        wordnet.find_imagenet21k()


def test_damaged_files_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in wordnet._NEEDED:
        (tmp_path / name).write_bytes(wordnet._read(PLACE, name))
    index = (tmp_path / "index.noun").read_text()
    (tmp_path / "index.noun").write_text(index.replace("WordNet 3.0 Copyright", "WordNet 3.1 Copyright"))
    with pytest.raises(MissingDependencyError, match=r"index\.noun is not of version 3\.0"):
        wordnet.WordNet(tmp_path)
    (tmp_path / "index.noun").write_text(index + "cut n 1\n")
    with pytest.raises(CorruptDataError, match=r"index\.noun: line \d+ is not a WordNet index line"):
        wordnet.WordNet(tmp_path)
    ids = tmp_path / "ids.txt"
    ids.write_text("n01440764\nn0144\n")
    monkeypatch.setenv("DCFAST_IMAGENET21K", str(ids))
    with pytest.raises(CorruptDataError, match=r"entry 2 must be an id like n01440764; got 'n0144'"):
        wordnet.load_imagenet21k()
    ids.write_text("n01440764\n\n n00004475\n")
    assert wordnet.load_imagenet21k() == {1440764, 4475}


def test_fingerprint_and_no_heavy_import() -> None:
    assert compile_filter("text_based").fingerprint()["text_based"] == wordnet.text_fingerprint()
    code = (
        "import sys; from dcfast.filters import wordnet; print(wordnet.has_imagenet_word(['two dogs']).tolist());"
        "assert not {'torch', 'timm', 'nltk'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[True]\n"
