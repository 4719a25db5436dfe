"""``python -m dcfast.engine.slurm_task FOLDER SHA256 ROUND``: one task of an array of Slurm, which does pieces.

Called by the script of ``dcfast.engine.slurm``, and by nobody else.
"""

from __future__ import annotations

import hashlib
import os
import pickle
import sys
import threading
import time
import traceback
from contextlib import suppress
from pathlib import Path

from dcfast.engine.piece import Piece, perform
from dcfast.errors import CorruptDataError
from dcfast.storage.atomic import write_json
from dcfast.storage.inputs import read_input
from dcfast.storage.records import Count, Record, plain, read_record

PIECES, RESULTS, ALIVE = "pieces.pickle", "results", "alive"
GONE_SECONDS = 60.0
"""Without a sign of life of the run, until its jobs end."""
_MOST_BYTES = 1 << 30


class Round(Record):
    """What an array does: ``pieces``, by their numbers, each task every ``tasks``-th of them."""

    out: str
    pieces: list[Count]
    tasks: Count


class Result(Record, omit_defaults=True):
    """What became of a piece: its statistics, or class and message of its error."""

    stats: dict[str, object] | None = None
    error: str | None = None
    message: str | None = None


def round_file(number: int) -> str:
    """Name of the file of a ``Round``."""
    return f"round-{number}.json"


def main(argv: list[str]) -> int:
    """Does the pieces of this task; 1 where one of them failed."""
    folder, digest, number = Path(argv[0]), argv[1], int(argv[2])
    task = int(os.environ["SLURM_ARRAY_TASK_ID"])
    data = read_input(folder / PIECES, _MOST_BYTES)
    if hashlib.sha256(data).hexdigest() != digest:
        raise CorruptDataError(f"{folder / PIECES} is not the file that the run wrote; start the same command again")
    pieces: list[Piece[Record]] = pickle.loads(data)  # noqa: S301  (the run's own, by its hash)
    threading.Thread(target=_watch, args=(folder / ALIVE,), name="dcfast-alive", daemon=True).start()
    work = read_record(folder / round_file(number), Round)
    for chosen in work.pieces[task :: work.tasks]:
        path = folder / RESULTS / f"{chosen}.json"
        if path.exists():
            continue
        try:
            result = Result(stats=_as_dict(perform(work.out, pieces[chosen])))
        except Exception as error:
            traceback.print_exc()
            result = Result(error=type(error).__name__, message=str(error))
        write_json(path, plain(result))
        if result.error is not None:
            return 1
    return 0


def _as_dict(stats: Record) -> dict[str, object]:
    values = plain(stats)
    assert isinstance(values, dict)
    return values


def _watch(alive: Path) -> None:
    """Ends this process when the run is gone: nobody waits for what it makes, and the next run must not meet it."""
    held, since = b"", time.monotonic()
    while time.monotonic() - since < GONE_SECONDS:
        time.sleep(GONE_SECONDS / 12)
        with suppress(OSError, CorruptDataError):
            now = read_input(alive, 64)
            if now != held:
                held, since = now, time.monotonic()
    os.write(2, b"the run that started this job gives no sign of life: ended\n")
    os._exit(1)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
