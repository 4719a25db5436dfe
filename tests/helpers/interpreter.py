"""A process with Triton's interpreter that answers cases, one JSON object a line (see ``kernel_cases``)."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

Run = Callable[..., str]
"""Of a case: the traceback of what failed, or an empty text."""


@contextmanager
def interpreter(script: str) -> Iterator[Run]:
    """``run(case, **args)`` of a script of this folder."""
    environment = os.environ | {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    worker = subprocess.Popen(
        [sys.executable, str(Path(__file__).with_name(script))],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment,
    )  # fmt: skip
    assert worker.stdin is not None
    assert worker.stdout is not None

    def ask(case: str, **args: object) -> str:
        worker.stdin.write(json.dumps({"case": case, "args": args}) + "\n")
        worker.stdin.flush()
        answer = worker.stdout.readline()
        assert answer, "the interpreter's process ended"
        error = json.loads(answer)["error"]
        return error or ""

    with worker:
        yield ask
        worker.stdin.close()
        worker.wait(timeout=60)


def answer_cases(cases: Mapping[str, Callable[..., None]]) -> None:
    """The other side: reads {"case": name, "args": {...}} a line, writes {"error": null or a traceback} a line."""
    for line in sys.stdin:
        request = json.loads(line)
        answer = None
        try:
            cases[request["case"]](**request["args"])
        except BaseException:  # an assertion, a failing kernel: told to who asked
            answer = traceback.format_exc()
        print(json.dumps({"error": answer}), flush=True)
