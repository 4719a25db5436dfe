"""The commands and programs that the documents show: collected, and which of them cannot be run by a test, and why."""

from __future__ import annotations

import argparse
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
INDENTED = re.compile(r"^    (?:dcfast|python3? -m dcfast|torchrun)\b.*(?:\\\n.*)*", re.MULTILINE)

NOT_DCFAST = {
    "docker": "needs docker; tests/install/dockerfile.sh follows the lines of docs/Dockerfile",
    "make": "its targets are looked for by tests/test_docs.py",
    "pip": "installs packages; make wheel does it in an empty environment",
    "sudo": "installs packages of the system",
    "python3": "makes a virtual environment",
    ".": "enters it",
    "uv": "installs packages",
    "export": "an environment variable of the commands after it",
    "set": "an option of the shell that reads the commands after it",
    "ray": "starts a cluster",
    "git": "fetches the tree",
}
"""Name of a program that is not ours -> why no test runs it."""

NOT_RUN = {
    r"--assume-gpu": "a pool of more samples than a batch of that scale has",
    r"ViT-\w+-\d+:openai": "weights from a model hub",
    r"isc_ft_v107\.pth": "the weights of ISC's winner",
    r"--device cuda": "a GPU",
    r"evalsets fetch|fetch_repo": "Hugging Face's hub",
    r"dcfast acquire|--acquire": "the net",
    r"assets (fetch|verify)": "files that others publish",
    r"--sets cifar10": "evaluation sets of DataComp's",
    r"torchrun|srun|--ray-address|dcfast launch": "several machines",
    r"--engine slurm": "a cluster of Slurm: tests/run/test_real_slurm.py has one",
    r"(python -m dcfast\.run|env/bin/dcfast run)\s*(#|$)": "the whole workflow, ten minutes: .ci/run does it",
    r"dcfast\.study|dcfast study": "two hours: make study",
    r"/data/runs/mine-large": "the checkpoint of a training on several machines",
    r"--scale (small|large)(?!.*(--no-train|--to ))": "training at a scale of DataComp, a GPU for hours",
    r"python -m dcfast\.train --scale small": "training at a scale of DataComp, a GPU for hours",
    r"RemoteOptions": "shards behind URLs",
    r"import duckdb": "DuckDB, which nothing of dcfast needs",
    r"import faiss": "faiss, which nothing of dcfast needs",
    r"def encode\(piece\)": "a part of a training program of one's own",
}
"""What a command or a program has in it -> what it needs that a test has not; such a command is parsed alone."""


@dataclass(frozen=True)
class Shown:
    """A block of a document: a command of a shell, or a program.

    Attributes:
        place: ``docs/index.md:30``.   language: ``sh`` or ``python``.
    """

    place: str
    language: str
    text: str

    @property
    def reason(self) -> str | None:
        """Why it is not run; None where it is."""
        return next((why for pattern, why in NOT_RUN.items() if re.search(pattern, self.text)), None)


def shown(documents: Sequence[Path] = DOCUMENTS) -> Iterator[Shown]:
    """Everything that can be run in the documents, in their order; a command of several lines is one."""
    for path in documents:
        text = path.read_text(encoding="utf-8")
        blocks = [(match.start(2), match[1], match[2]) for match in FENCE.finditer(text)]
        blocks += [(match.start(), "sh", match[0]) for match in INDENTED.finditer(text)]
        for start, language, block in sorted(blocks):
            place = f"{path.relative_to(ROOT)}:{text.count(chr(10), 0, start) + 1}"
            if language in ("python", "py"):
                yield Shown(place, "python", block)
            if language in ("sh", "console", "bash", "shell"):
                prompts = language == "console"
                for line in re.sub(r"\\\n\s*", " ", block).splitlines():
                    line = line.strip()
                    if line and not line.startswith("#") and (not prompts or line.startswith("$ ")):
                        yield Shown(place, "sh", line.removeprefix("$ "))


def simple_commands(line: str) -> Iterator[list[str]]:
    """The words of each command of a line, without what is set before it or starts it."""
    lexer = shlex.shlex(re.sub(r"\$\([^()]*\)", "SOMETHING", line), posix=True, punctuation_chars="&|;")
    lexer.whitespace_split, lexer.commenters = True, "#"
    words: list[str] = []
    for word in [*lexer, ";"]:
        if set(word) <= set("&|;"):
            while words and (words[0] in ("exec", "time", "nohup", "env") or re.match(r"[A-Z_]+=", words[0])):
                words.pop(0)
            if words:
                yield words
            words = []
        else:
            words.append(word)


def ours(words: Sequence[str]) -> list[str] | None:
    """The words from dcfast's name on, also by its path or behind torchrun; None where it is not named."""
    for place, word in enumerate(words):
        if Path(word).name == "dcfast":
            return ["dcfast", *words[place + 1 :]]
        if word == "-m" and words[place + 1].startswith("dcfast"):
            name = words[place + 1].removeprefix("dcfast.")
            return ["dcfast", {"pool_refresh": "refresh"}.get(name, name), *words[place + 2 :]]
    return None


def parsed(
    words: Sequence[str], parsers: Mapping[str, Sequence[argparse.ArgumentParser]], *, as_module: bool
) -> argparse.Namespace:
    """What a command line's parser makes of it: a stage's, or that of the program of its name; SystemExit."""
    from dcfast.rundir.stage_table import STAGE_TABLE

    stage = STAGE_TABLE.get(words[1])
    is_program = stage and (as_module or stage.means_program(words[2:]))
    parser, rest = parsers[words[1]][-1 if is_program else 0], list(words[2:])
    for other in parsers[words[1]]:
        more = other.prog.split()[2:] if other.prog.startswith("dcfast ") else []  # ``dcfast evalsets import``
        if more and rest[: len(more)] == more:
            parser, rest = other, rest[len(more) :]
    return parser.parse_args([word for word in rest if word != "..."])
