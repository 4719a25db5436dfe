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
import os
import re
import sys
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np

from dcfast.errors import CorruptDataError, MissingDependencyError
from dcfast.filters.installed import find_installed, in_package
from dcfast.filters.rules import Mask
from dcfast.storage.hashing import sha256_file
from dcfast.storage.inputs import read_input
from dcfast.storage.lines import split_lines
from dcfast.storage.zip_directory import open_zip

WORDNET_VARIABLE = "DCFAST_WORDNET"
IMAGENET21K_VARIABLE = "DCFAST_IMAGENET21K"
DEBIAN_WORDNET = Path("/usr/share/wordnet")
_TIMM_LIST = Path("data", "_info", "imagenet21k_goog_synsets.txt")

# Parts of speech in the order in which their senses are tried.
_PARTS = ("noun", "verb", "adj", "adv")
_NEEDED = tuple(f"index.{part}" for part in _PARTS) + tuple(f"{part}.exc" for part in _PARTS)


def _endings(text: str) -> tuple[tuple[str, str], ...]:
    return tuple((old, new) for old, _, new in (ending.partition(":") for ending in text.split()))


# Suffixes taken off, and what is put in their place: morphy(7WN), "Rules of Detachment", in the order tried. What they
# make of a word is shorter (or ends in "man"), so that applying them again comes to an end.
_DETACHMENTS = {
    "noun": _endings("s: ses:s ves:f xes:x zes:z ches:ch shes:sh men:man ies:y"),
    "verb": _endings("s: ies:y es:e es: ed:e ed: ing:e ing:"),
    "adj": _endings("er: est: er:e est:e"),
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


def _nltk_folders() -> list[Path]:
    """Where NLTK keeps its data, by its own documented rules."""
    given = [entry for entry in os.environ.get("NLTK_DATA", "").split(os.pathsep) if entry]
    bases = (sys.prefix, f"{sys.prefix}/share", f"{sys.prefix}/lib", "/usr/share", "/usr/local/share")
    folders = ("~/nltk_data", *(f"{base}/nltk_data" for base in (*bases, "/usr/lib", "/usr/local/lib")))
    return [Path(folder).expanduser() for folder in (*given, *folders)]


def _is_wordnet(place: Path) -> bool:
    try:
        if place.suffix == ".zip":
            return place.is_file() and zipfile.is_zipfile(place)
        return all((place / name).is_file() for name in _NEEDED)
    except OSError:
        return False


def find_wordnet() -> Path:
    """The folder (or NLTK's wordnet.zip) with WordNet 3.0: $DCFAST_WORDNET, Debian's, or NLTK's."""
    corpora = [folder / "corpora" for folder in _nltk_folders()]
    return find_installed(
        "WordNet",
        WORDNET_VARIABLE,
        [DEBIAN_WORDNET, *(folder / name for folder in corpora for name in ("wordnet", "wordnet.zip"))],
        f"a folder with {', '.join(_NEEDED)}; {_HOW_WORDNET}",
        f"filter text_based: WordNet 3.0 is not here; {_HOW_WORDNET}",
        _is_wordnet,
    )


def find_imagenet21k() -> Path:
    """The file of ImageNet-21k synset ids: $DCFAST_IMAGENET21K, or timm's."""
    return find_installed(
        "ImageNet-21k list",
        IMAGENET21K_VARIABLE,
        in_package("timm", *_TIMM_LIST.parts),
        f"a file; {_HOW_IMAGENET21K}",
        f"filter text_based: the ImageNet-21k list is not here; {_HOW_IMAGENET21K}",
    )


MOST_LIST_BYTES = 64 << 20


def load_imagenet21k() -> frozenset[int]:
    """Offsets of the ImageNet-21k synsets (21,843 in timm's list). CorruptDataError: a line is not an id."""
    file = find_imagenet21k()
    ids = read_input(file, MOST_LIST_BYTES).decode("ascii", "replace").split()
    for number, synset in enumerate(ids, 1):
        if not re.fullmatch(r"n[0-9]{8}", synset):
            raise CorruptDataError(
                f"{file}: entry {number} must be an id like n01440764; got {synset[:40]!r}", path=file
            )
    return frozenset(int(synset[1:]) for synset in ids)


def _read(place: Path, name: str) -> bytes:
    if place.suffix == ".zip":
        with open_zip(place) as archive:
            listed = archive.getinfo(f"wordnet/{name}")
            if listed.file_size > MOST_LIST_BYTES:
                raise CorruptDataError(f"{place}: {name} is too large: expected at most {MOST_LIST_BYTES:,} bytes")
            return archive.read(listed)
    return read_input(place / name, MOST_LIST_BYTES)


class WordNet:
    """First senses of English words, as WordNet 3.0 orders them. Memory: about 30 MB.   Cost: 0.3 s to load."""

    def __init__(self, place: Path) -> None:
        """Reads ``place``. MissingDependencyError: another version, whose offsets differ; CorruptDataError."""
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
        self.longest_lemma: int = max(len(lemma) for first in self._first.values() for lemma in first)

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
                raise CorruptDataError(f"{name}: line {number} is not a WordNet index line", path=name) from error
        return first

    def first_offset(self, word: str) -> int | None:
        """The offset of the first synset of a word in any inflected form, or None.

        Nouns are tried before verbs, adjectives, adverbs; in each the word itself, then its exceptional base
        forms or, if it has none, what the rules of detachment make of it, and where that is no word what they make of
        that, until nothing can be detached: "womens" is a form of "woman". Cost: O(characters).
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


@functools.lru_cache(maxsize=1)
def _caption_rule() -> Callable[[str], bool]:
    """Whether a caption has a word of the list; verdicts of words are remembered."""
    wordnet, listed = WordNet(find_wordnet()), load_imagenet21k()
    longest = wordnet.longest_lemma + _LONGEST_CHANGE

    def is_listed(word: str) -> bool:
        return wordnet.first_offset(word) in listed

    remembered = functools.lru_cache(maxsize=_CACHED_WORDS)(is_listed)

    def passes(caption: str) -> bool:
        # longer words hardly ever match ("dogssss..." does), and would fill the cache with captions of 100 kB
        return any(remembered(word) if len(word) <= longest else is_listed(word) for word in caption.split())

    return passes


def has_imagenet_word(captions: Iterable[str]) -> Mask:
    """Captions with a word whose first WordNet 3.0 synset is an ImageNet-21k class; (n,) bool.

    MissingDependencyError: WordNet or the list is missing.
    Memory: 60 MB a process.   Cost: O(words), 0.1 us a word seen before.   Source: DataComp text_based.
    """
    return np.array([*map(_caption_rule(), captions)], np.bool_)


def text_fingerprint() -> dict[str, str | int]:
    """What identifies the word rule in a run's settings: SHA-256 of WordNet and of the list, and the morphology."""
    place = find_wordnet()
    digest = hashlib.sha256()
    for name in _NEEDED:
        digest.update(_read(place, name))
    imagenet21k = sha256_file(find_imagenet21k())
    return {"wordnet": digest.hexdigest(), "imagenet21k": imagenet21k, "morphology": MORPHOLOGY}
