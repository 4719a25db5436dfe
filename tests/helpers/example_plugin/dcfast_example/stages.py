"""A stage: the words of the captions of each metadata file, counted; ``dcfast count_words --out RUN``."""

from __future__ import annotations

from pathlib import Path

from dcfast.engine.piece import piece
from dcfast.index.metadata import open_metadata
from dcfast.rundir.run_dir import Run
from dcfast.stages import Do, PluginStage, folder_of
from dcfast.storage.atomic import write_json
from dcfast.storage.records import Count, Record


class Words(Record):
    """Of some captions."""

    words: Count


@piece()
def count_file(out: Path, file: str, output: str) -> Words:
    """Piece: the words of one metadata file."""
    words = 0
    with open_metadata(out / file) as metadata:
        for batch in metadata.batches(["text"]):
            words += sum(len(text.split()) for text in batch.column("text").to_pylist() if text is not None)
    write_json(out / output, {"words": words})
    return Words(words)


def steps(run: Run, do: Do) -> Words:
    """One piece a metadata file."""
    pieces = []
    for number, file in enumerate(run.metadata_files):
        output = f"{folder_of('count_words')}/{number:05d}.json"
        make = count_file.piece("plugin-count_words/count", f"{number:05d}", inputs=[file], outputs=[output])
        pieces.append(make(file=file, output=output))
    return Words(sum(counted.words for counted in do(pieces)))


COUNT_WORDS = PluginStage(steps, "counts the words of all captions", after=("filter",))
