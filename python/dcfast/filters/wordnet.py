"""Does a caption name a thing of ImageNet-21k? The word rule of DataComp's text_based filter.

For each whitespace-separated word, the first synset of WordNet 3.0 over all parts of speech, with morphology,
is looked up; the caption passes when the offset of any of them is in the ImageNet-21k list. The result is that
of ``wordnet.synsets(word)[0].offset()`` of NLTK 3.8.1, which DataComp pins (tested word by word; newer releases detach
endings once alone), read straight from WordNet's index and exception files: NLTK's reader takes 300 MB and several
seconds a process for what is here a table of first senses, 0.1 ms a new word, and lends its answers only inside its own
data folders.

WordNet comes from Debian's wordnet-base, from an NLTK data folder (unpacked or zipped), or from $DCFAST_WORDNET;
the ImageNet-21k list from timm's data files (timm itself is not imported), or from $DCFAST_IMAGENET21K.
File formats: wndb(5WN); morphology: morphy(7WN).
"""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import os
import sys
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from dcfast.errors import CorruptDataError, MissingDependencyError
from dcfast.filters.rules import Mask
from dcfast.storage.hashing import sha256_file
from dcfast.storage.inputs import open_input, read_input
from dcfast.storage.lines import split_lines

__all__ = ["WordNet", "find_imagenet21k", "find_wordnet", "has_imagenet_word", "load_imagenet21k", "text_fingerprint"]

WORDNET_VARIABLE = "DCFAST_WORDNET"
IMAGENET21K_VARIABLE = "DCFAST_IMAGENET21K"
DEBIAN_WORDNET = Path("/usr/share/wordnet")
_TIMM_LIST = Path("data", "_info", "imagenet21k_goog_synsets.txt")

# Parts of speech in the order in which their senses are tried.
_PARTS = ("noun", "verb", "adj", "adv")
_NEEDED = tuple(f"index.{part}" for part in _PARTS) + tuple(f"{part}.exc" for part in _PARTS)
# Suffixes taken off, and what is put in their place: morphy(7WN), "Rules of Detachment", in the order tried. What they
# make of a word is shorter (or ends in "man"), so that applying them again comes to an end.
_DETACHMENTS: dict[str, tuple[tuple[str, str], ...]] = {
    "noun": (
        ("s", ""),
        ("ses", "s"),
        ("ves", "f"),
        ("xes", "x"),
        ("zes", "z"),
        ("ches", "ch"),
        ("shes", "sh"),
        ("men", "man"),
        ("ies", "y"),
    ),
    "verb": (
        ("s", ""),
        ("ies", "y"),
        ("es", "e"),
        ("es", ""),
        ("ed", "e"),
        ("ed", ""),
        ("ing", "e"),
        ("ing", ""),
    ),
    "adj": (("er", ""), ("est", ""), ("er", "e"), ("est", "e")),
    "adv": (),
}
_LONGEST_CHANGE = 3  # a rule takes at most this many characters off a word
MORPHOLOGY = "nltk 3.8.1"
"""Whose morphology it is: rules of detachment again and again."""
_CACHED_WORDS = 1 << 17  # verdicts kept a process, about 20 MB: words repeat as Zipf says

_HOW_WORDNET = (
    "apt-get install wordnet-base; or, with NLTK, python -m nltk.downloader wordnet; or set "
    f"{WORDNET_VARIABLE} to a folder with WordNet 3.0's index.* and *.exc files"
)
_HOW_IMAGENET21K = (
    f"pip install timm (its data file {_TIMM_LIST.name}), or set {IMAGENET21K_VARIABLE} to a file of ids like "
    "n01440764, one a line"
)


def _nltk_folders() -> Iterator[Path]:
    """Where NLTK keeps its data, by its own documented rules."""
    for entry in os.environ.get("NLTK_DATA", "").split(os.pathsep):
        if entry:
            yield Path(entry).expanduser()
    yield Path("~/nltk_data").expanduser()
    for base in (sys.prefix, f"{sys.prefix}/share", f"{sys.prefix}/lib"):
        yield Path(base, "nltk_data")
    for base in ("/usr/share", "/usr/local/share", "/usr/lib", "/usr/local/lib"):
        yield Path(base, "nltk_data")


def _is_wordnet(place: Path) -> bool:
    try:
        if place.suffix == ".zip":
            return zipfile.is_zipfile(place)
        return all((place / name).is_file() for name in _NEEDED)
    except OSError:
        return False


def find_wordnet(path: str | os.PathLike[str] | None = None) -> Path:
    """The folder (or NLTK's wordnet.zip) with WordNet 3.0: ``path``, $DCFAST_WORDNET, Debian's, or NLTK's.

    Raises:
        MissingDependencyError: none is there; the message says how to get it.
    """
    given = path if path is not None else os.environ.get(WORDNET_VARIABLE) or None
    if given is not None:
        if not _is_wordnet(Path(given)):
            raise MissingDependencyError(
                f"WordNet: {os.fspath(given)!r} is not a folder with {', '.join(_NEEDED)}; {_HOW_WORDNET}"
            )
        return Path(given)
    candidates = [DEBIAN_WORDNET]
    for folder in _nltk_folders():
        candidates += [folder / "corpora" / "wordnet", folder / "corpora" / "wordnet.zip"]
    for candidate in candidates:
        if _is_wordnet(candidate):
            return candidate
    raise MissingDependencyError(f"filter text_based: WordNet 3.0 is not here; {_HOW_WORDNET}")


def find_imagenet21k(path: str | os.PathLike[str] | None = None) -> Path:
    """The file of ImageNet-21k synset ids: ``path``, $DCFAST_IMAGENET21K, or timm's.

    Raises:
        MissingDependencyError: none is there; the message says how to get it.
    """
    given = path if path is not None else os.environ.get(IMAGENET21K_VARIABLE) or None
    if given is not None:
        if not Path(given).is_file():
            raise MissingDependencyError(f"ImageNet-21k list: {os.fspath(given)!r} is not a file; {_HOW_IMAGENET21K}")
        return Path(given)
    spec = importlib.util.find_spec("timm")  # finds, does not import: importing timm imports torch
    for place in (spec.submodule_search_locations or []) if spec else []:
        if (Path(place) / _TIMM_LIST).is_file():
            return Path(place) / _TIMM_LIST
    raise MissingDependencyError(f"filter text_based: the ImageNet-21k list is not here; {_HOW_IMAGENET21K}")


MOST_LIST_BYTES = 64 << 20


def load_imagenet21k(path: str | os.PathLike[str] | None = None) -> frozenset[int]:
    """Offsets of the ImageNet-21k synsets (21,843 in timm's list).

    Raises:
        MissingDependencyError: see ``find_imagenet21k``.   CorruptDataError: a line is not an id.
    """
    file = find_imagenet21k(path)
    offsets = set()
    for number, line in enumerate(read_input(file, MOST_LIST_BYTES).decode("ascii", "replace").split(), 1):
        if len(line) != 9 or line[0] != "n" or not (line[1:].isascii() and line[1:].isdigit()):
            raise CorruptDataError(
                f"{file}: entry {number} must be an id like n01440764; got {line[:40]!r}", path=str(file)
            )
        offsets.add(int(line[1:]))
    return frozenset(offsets)


def _read(place: Path, name: str) -> bytes:
    if place.suffix == ".zip":
        with open_input(place) as file, zipfile.ZipFile(file) as archive:
            return archive.read(f"wordnet/{name}")
    return read_input(place / name, MOST_LIST_BYTES)


class WordNet:
    """First senses of English words, as WordNet 3.0 orders them.

    Attributes:
        longest_lemma: in characters.
    Memory: about 30 MB.   Cost: 0.3 s to load.
    """

    def __init__(self, place: Path) -> None:
        """Reads ``place`` (see ``find_wordnet``).

        Raises:
            MissingDependencyError: it is another version: offsets differ.   CorruptDataError: a line is malformed.
        """
        self._first: dict[str, dict[str, int]] = {}
        self._exceptions: dict[str, dict[str, list[str]]] = {}
        for part in _PARTS:
            index = _read(place, f"index.{part}").decode("utf-8", "replace")
            if "WordNet 3.0 Copyright" not in index[:4096]:
                raise MissingDependencyError(
                    f"WordNet: {place / f'index.{part}'} is not of version 3.0; {_HOW_WORDNET}"
                )
            self._first[part] = self._first_senses(index, place / f"index.{part}")
            self._exceptions[part] = {}
            for line in split_lines(_read(place, f"{part}.exc").decode("utf-8", "replace")):
                form, *bases = line.split()
                self._exceptions[part][form] = bases
        self.longest_lemma = max(len(lemma) for first in self._first.values() for lemma in first)

    @staticmethod
    def _first_senses(index: str, name: Path) -> dict[str, int]:
        first: dict[str, int] = {}
        for number, line in enumerate(index.split("\n"), 1):
            if not line or line[0] == " ":  # the licence
                continue
            fields = line.split()
            try:
                # lemma pos synset_cnt p_cnt ptr_symbol... sense_cnt tagsense_cnt offset...
                first[fields[0]] = int(fields[6 + int(fields[3])])
            except (IndexError, ValueError) as error:
                raise CorruptDataError(f"{name}: line {number} is not a WordNet index line", path=str(name)) from error
        return first

    def first_offset(self, word: str) -> int | None:
        """The offset of the first synset of a word in any inflected form, or None.

        Nouns are tried before verbs, adjectives, adverbs; in each the word itself, then its exceptional base
        forms or, if it has none, what the rules of detachment make of it, and where that is no word what they make of
        that, until nothing can be detached: "womens" is a form of "woman".

        Cost: O(characters).
        """
        form = word.lower()
        for part, first in self._first.items():
            bases = self._exceptions[part].get(form)
            forms = [form] if bases is None else [form, *bases]
            rules = _DETACHMENTS[part] if bases is None else ()
            detached = _detached(self._shortened(form, rules), rules)
            tried = [*forms, *detached]
            while tried:
                offset = next((first[base] for base in tried if base in first), None)
                if offset is not None:
                    return offset
                detached = tried = _detached(detached, rules)
        return None

    def _shortened(self, form: str, rules: tuple[tuple[str, str], ...]) -> list[str]:
        """A form so long that neither it nor what one rule makes of it can be a word, after as many rules as it takes.

        Each time one result at most is of use, the shortest: no rule applies where another letter than "s" was put.
        """
        cuts = [(old, len(old) - len(new)) for old, new in rules if new in ("", "s")]
        end = len(form)
        while end > self.longest_lemma + _LONGEST_CHANGE:
            cut = max((cut for old, cut in cuts if form.endswith(old, 0, end)), default=0)
            if not cut:
                return []
            end -= cut
        return [form[:end]]


def _detached(forms: list[str], rules: tuple[tuple[str, str], ...]) -> list[str]:
    """What each rule makes of each form that it applies to."""
    return [form[: -len(old)] + new for form in forms for old, new in rules if form.endswith(old)]


class _WordRule:
    """One word's verdict, remembered; one a process."""

    def __init__(self) -> None:
        self.wordnet = WordNet(find_wordnet())
        self.listed = load_imagenet21k()
        self.longest = self.wordnet.longest_lemma + _LONGEST_CHANGE
        self.named = functools.lru_cache(maxsize=_CACHED_WORDS)(self._named)

    def _named(self, word: str) -> bool:
        return self.wordnet.first_offset(word) in self.listed

    def passes(self, caption: str) -> bool:
        # longer words hardly ever match ("dogssss..." does), and would fill the cache with captions of 100 kB
        return any(self.named(word) if len(word) <= self.longest else self._named(word) for word in caption.split())


@functools.lru_cache(maxsize=1)
def _word_rule() -> _WordRule:
    return _WordRule()


def has_imagenet_word(captions: Iterable[str]) -> Mask:
    """Captions with a word whose first WordNet 3.0 synset is an ImageNet-21k class.

    Args:
        captions: n strings of any length and script.
    Returns:
        (n,) bool.
    Raises:
        MissingDependencyError: WordNet or the list is missing.
    Memory: 60 MB a process.   Cost: O(words), 0.1 us a word seen before.   Source: DataComp text_based.
    """
    passes = _word_rule().passes
    return np.array([passes(caption) for caption in captions], np.bool_)


def text_fingerprint() -> dict[str, str]:
    """What identifies the word rule in a run's settings: SHA-256 of WordNet and the ImageNet-21k list, the morphology.

    Raises:
        MissingDependencyError: see ``find_wordnet``, ``find_imagenet21k``.
    """
    place = find_wordnet()
    digest = hashlib.sha256()
    for name in _NEEDED:
        digest.update(_read(place, name))
    return {
        "wordnet": digest.hexdigest(),
        "imagenet21k": sha256_file(find_imagenet21k()),
        "morphology": MORPHOLOGY,
    }
