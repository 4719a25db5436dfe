"""``python -m dcfast.acquire.apart``: one image made in a process of its own, since another one died while it made it.

A decoder that crashes on a stranger's bytes takes its process with it; the next start of the acquisition would come to
the same image, and die of it again.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict

import msgspec

from dcfast.acquire.causes import FetchError
from dcfast.acquire.members import make_member
from dcfast.acquire.options import ImageOptions
from dcfast.acquire.rows import Row
from dcfast.acquire.spool import Fetched
from dcfast.acquire.web import Answer
from dcfast.errors import last_line
from dcfast.images.resize import silence_codecs
from dcfast.storage.records import as_record

MOST_SECONDS = 120.0


def make_apart(row: Row, answer: Answer, options: ImageOptions) -> tuple[Fetched, bytes]:
    """``make_member`` in another process. Cost: a second.

    FetchError (undecodable): that died of it, too, or took too long.   RuntimeError: it failed in another way.
    """
    command = [sys.executable, "-P", "-m", "dcfast.acquire.apart"]
    given = msgspec.msgpack.encode((row, answer, asdict(options)))
    try:
        done = subprocess.run(command, input=given, capture_output=True, timeout=MOST_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        raise FetchError("undecodable", f"decoding takes more than {MOST_SECONDS:.0f} seconds") from None
    if done.returncode < 0:
        raise FetchError("undecodable", f"its decoder crashed by signal {-done.returncode}")
    if done.returncode:
        raise RuntimeError(last_line(done.stderr.decode("utf-8", "replace")))
    return msgspec.msgpack.decode(done.stdout, type=tuple[Fetched, bytes])


def main(argv: Sequence[str] | None = None) -> int:
    """The other process: a row, its answer and the options come on standard input; its member goes out."""
    silence_codecs()
    row, answer, options = msgspec.msgpack.decode(
        sys.stdin.buffer.read(), type=tuple[list[object], list[object], object]
    )
    made = make_member(Row(*row), Answer(*answer), as_record(options, ImageOptions, "image options"))  # type: ignore[arg-type]
    sys.stdout.buffer.write(msgspec.msgpack.encode(made))
    return 0


if __name__ == "__main__":
    sys.exit(main())
