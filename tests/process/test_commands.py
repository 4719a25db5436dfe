"""Whatever goes wrong in a command is said in one line, with the exit status of the table; no traceback leaves it."""

from __future__ import annotations

import errno
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from dcfast import cli
from dcfast.acquire import command as acquire
from dcfast.decontamination import command as decontaminate
from dcfast.doctor import command as doctor
from dcfast.errors import RunError
from dcfast.evaluate import __main__ as evaluate
from dcfast.evaluate import convert_command, fetch_command, import_command, pack_command, sign_command, verify_command
from dcfast.hub import assets_command as assets
from dcfast.importing import command as importing
from dcfast.index import refresh
from dcfast.process import exit_codes
from dcfast.process.command import report
from dcfast.resharding import cli as resharder
from dcfast.run import launch_command, workflow
from dcfast.rundir.settings import Settings
from dcfast.rundir.stage_table import STAGES
from dcfast.study import cell
from dcfast.study import command as study
from dcfast.study.grid import Cell
from dcfast.train import __main__ as train

Words = Callable[[Path], list[str]]
COMMANDS: dict[str, tuple[Callable[[list[str]], int], Words, Any, str]] = {
    "run": (workflow.main, lambda at: ["--out", f"{at}/o", "--quiet"], workflow, "run"),
    "study": (study.main, lambda at: ["--out", f"{at}/o", "--quiet"], study, "run_study"),
    "cell": (cell.main, lambda at: [str(_cell(at)), "1"], cell, "perform_cell"),
    "train": (train.main, lambda at: ["--out", f"{at}/o", "--shards", f"{at}/s"], train, "launch"),
    "evaluate": (
        evaluate.main,
        lambda at: ["--model", "dcfast-tiny", "--evalsets", f"{at}/e", "--out", f"{at}/o"],
        evaluate,
        "check_evalsets",
    ),
    "resharder": (
        resharder.main,
        lambda at: ["-i", f"{at}/p", "-o", f"{at}/o", "-s", f"{at}/s.npy"],
        resharder,
        "reshard",
    ),
    "pool_refresh": (refresh.main, lambda at: [f"{at}/o", f"{at}/p"], refresh, "refresh_index"),
    "doctor": (doctor.main, lambda at: [], doctor, "collect"),
    "dcfast run": (cli.main, lambda at: ["run", "--out", f"{at}/o"], workflow, "run"),
    "dcfast train --data": (cli.main, lambda at: ["train", "--data", f"{at}/s", "--out", f"{at}/o"], train, "launch"),
    "dcfast evaluate --model": (
        cli.main,
        lambda at: ["evaluate", "--model=dcfast-tiny", "--evalsets", f"{at}/e", "--out", f"{at}/o"],
        evaluate,
        "check_evalsets",
    ),
    "dcfast resharder": (
        cli.main,
        lambda at: ["resharder", "-i", f"{at}/p", "-o", f"{at}/o", "-s", f"{at}/s.npy"],
        resharder,
        "reshard",
    ),
    "dcfast acquire": (
        cli.main,
        lambda at: ["acquire", "--urls", f"{at}/l", "--out", f"{at}/o", "--quiet"],
        acquire,
        "acquire_pool",
    ),
    "dcfast import": (cli.main, lambda at: ["import", f"{at}/d", "--out", f"{at}/o"], importing, "import_pool"),
    **{
        f"dcfast evalsets {words[0]}": (
            cli.main,
            lambda at, words=words: ["evalsets", *(word.replace("AT", str(at)) for word in words)],
            module,
            work,
        )
        for words, module, work in (
            (["fetch", "--out", "AT/o"], fetch_command, "fetch_sets"),
            (["convert", "AT/d", "--out", "AT/o"], convert_command, "convert_sets"),
            (["verify", "AT/d"], verify_command, "verify_sets"),
            (["pack", "AT/d", "--out", "AT/o"], pack_command, "pack_sets"),
            (["unpack", "AT/d", "--out", "AT/o"], pack_command, "unpack_sets"),
            (["import", "AT/d", "--out", "AT/o"], import_command, "import_evalset"),
            (["sign", "AT/d", "--out", "AT/o"], sign_command, "sign_evalsets"),
        )
    },
    "dcfast decontaminate --against": (
        cli.main,
        lambda at: ["decontaminate", f"{at}/p", "--against", f"{at}/s", "--out", f"{at}/o"],
        decontaminate,
        "decontaminate_pool",
    ),
    "dcfast assets": (
        cli.main,
        lambda at: ["assets", "fetch", "lid.176", "--out", f"{at}/o"],
        assets,
        "fetch_assets",
    ),
    "dcfast refresh": (cli.main, lambda at: ["refresh", f"{at}/o", f"{at}/p"], refresh, "refresh_index"),
    "dcfast launch": (
        cli.main,
        lambda at: ["launch", "slurm", "--nodes", "1", "--", "--out", f"{at}/o", "--device", "cpu"],
        launch_command,
        "write_script",
    ),
    "dcfast study": (cli.main, lambda at: ["study", "--out", f"{at}/o"], study, "run_study"),
    "dcfast doctor": (cli.main, lambda at: ["doctor"], doctor, "collect"),
    **{
        f"dcfast {name}": (cli.main, lambda at, name=name: [name, "--out", f"{at}/o"], workflow, "run")
        for name in STAGES
    },
}
"""Name -> its main, words for it, and the function that does its work."""


def _cell(at: Path) -> Path:
    settings = Settings(filter="no_filter")
    task = Cell("tiny", 0, None, settings, str(at / "o"), str(at / "o"))
    (at / "cell.json").write_text(json.dumps(asdict(task)))
    return at / "cell.json"


class LibraryError(Exception):
    """Of a class that dcfast knows nothing of."""


PLANTED: list[tuple[BaseException, str]] = [
    (
        LibraryError("first\x1b[31m line\x07\nsecond line"),
        r"LibraryError: first line\\x07 \(dcfast did not foresee this",
    ),
    (RuntimeError("CUDA error: an illegal memory access"), "RuntimeError: CUDA error: an illegal memory access"),
    (KeyError("uid"), "KeyError: 'uid'"),
    (ValueError("could not broadcast"), "ValueError: could not broadcast"),
    (AssertionError(), r"AssertionError \("),
    (MemoryError(), r"MemoryError \(less at a time needs less memory: fewer --workers"),
    (ModuleNotFoundError("No module named 'tqdm'", name="tqdm"), "No module named 'tqdm' .*`dcfast doctor` says"),
]
FORESEEN: list[tuple[BaseException, str]] = [
    (RunError("a shard is gone; bring it back"), "error: a shard is gone; bring it back\n"),
    (
        OSError(errno.ENOSPC, "No space left", "/full/\x1b[2Jdisk"),
        "error: [Errno 28] No space left: '/full/\\x1b[2Jdisk'\n",
    ),
]


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where tracebacks are written."""
    folder = tmp_path / "tmp"
    folder.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    monkeypatch.delenv("DCFAST_TRACEBACK", raising=False)
    return folder


def _plant(monkeypatch: pytest.MonkeyPatch, module: Any, name: str, error: BaseException) -> None:
    def fail(*args: Any, **options: Any) -> Any:
        raise error

    monkeypatch.setattr(module, name, fail)


@pytest.mark.parametrize("command", COMMANDS)
def test_no_traceback_leaves_a_command(
    command: str, temporary: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    main, words, module, name = COMMANDS[command]
    for error, said in PLANTED:
        _plant(monkeypatch, module, name, error)
        assert main(words(temporary.parent)) == exit_codes.FAILED
        shown = capsys.readouterr().err
        assert re.fullmatch(rf"error: .*{said}.*\n", shown), shown
        found = re.search(r"the traceback is in (\S+)\)\n", shown)
        assert found, shown
        text = Path(found[1]).read_text()
        assert Path(found[1]).parent == temporary
        assert text.startswith("dcfast ")
        assert f"{type(error).__name__}" in text
        assert "in fail\n" in text
    for error, said in FORESEEN:
        _plant(monkeypatch, module, name, error)
        assert main(words(temporary.parent)) == exit_codes.FAILED
        assert capsys.readouterr().err == said
    assert len(list(temporary.iterdir())) == len(PLANTED)
    assert not (temporary.parent / "o").exists()


def test_the_traceback_can_be_printed(
    temporary: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DCFAST_TRACEBACK", "1")
    assert report(RunError("as it is")) == 1
    assert "RunError: as it is\nerror: as it is\n" in capsys.readouterr().err


def test_where_no_file_can_be_written_the_line_says_how_to_see_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("tempfile.tempdir", "/nowhere/at/all")
    assert report(KeyError("x")) == 1
    assert "DCFAST_TRACEBACK=1 prints the traceback" in capsys.readouterr().err


# --- exit codes ---------------------------------------------------------------------------------


@pytest.mark.parametrize("command", COMMANDS)
def test_usage_and_help_have_their_status(command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main, words, _, _ = COMMANDS[command]
    if command == "cell":
        assert main([]) == exit_codes.USAGE
        return
    before = words(tmp_path)[: 1 if command.startswith("dcfast") else 0]
    for option, status in (("--help", exit_codes.DONE), ("--no-such-option", exit_codes.USAGE)):
        with pytest.raises(SystemExit) as stopped:
            main([*words(tmp_path), option])
        assert (stopped.value.code or 0) == status, option
    assert before == [] or f"dcfast {before[0]}" in command


@pytest.mark.parametrize(
    ("main", "words", "status", "said"),
    [
        (workflow.main, ["--workers", "0"], exit_codes.USAGE, "--workers must be at least 1"),
        (workflow.main, ["--scale", "small"], exit_codes.USAGE, "Nothing was done, because no pool was given"),
        (workflow.main, ["--pool", "AT/none"], exit_codes.FAILED, "AT/none"),
        (workflow.main, ["--filter", "basic_fitler"], exit_codes.FAILED, "did you mean 'basic_filter'"),
        (study.main, ["--jobs", "0"], exit_codes.USAGE, "jobs must be at least 1"),
        (train.main, ["--shards", "AT/s", "--log-every", "0"], exit_codes.USAGE, "--log-every must be at least 1"),
        (train.main, ["--shards", "AT/none"], exit_codes.FAILED, "AT/none"),
        (evaluate.main, ["--model", "dcfast-tiny", "--evalsets", "AT/none"], exit_codes.FAILED, "AT/none"),
        (resharder.main, ["-i", "AT/none", "-s", "AT/s.npy"], exit_codes.FAILED, "AT/none"),
        (refresh.main, ["AT/o", "AT/none"], exit_codes.FAILED, "AT/none"),
        (acquire.main, ["--urls", "AT/none", "--connections", "0"], exit_codes.USAGE, "--connections must be 1 to"),
        (acquire.main, ["--urls", "AT/none"], exit_codes.FAILED, "AT/none: no such file or directory"),
        (acquire.main, [], exit_codes.USAGE, "expected one of --scale and --urls"),
    ],
)
def test_one_table_of_exit_codes(
    main: Callable[[list[str]], int],
    words: list[str],
    status: int,
    said: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = [word.replace("AT", str(tmp_path)) for word in words]
    out = [] if main is refresh.main else ["-o" if main is resharder.main else "--out", str(tmp_path / "o")]
    assert main([*words, *out]) == status
    assert said.replace("AT", str(tmp_path)) in capsys.readouterr().err
    assert not (tmp_path / "o").exists(), "a failed command leaves no empty directory"


def test_the_table_is_in_the_docs(repo_root: Path) -> None:
    text = (repo_root / "docs/architecture.md").read_text(encoding="utf-8")
    for code, meaning in exit_codes.MEANINGS.items():
        assert f"| {code} | {meaning} |" in text


# --- before main --------------------------------------------------------------------------------

MODULES = {
    "dcfast": "dcfast.cli",
    "dcfast.run": "dcfast.run.workflow",
    "dcfast.study": "dcfast.study.command",
    "dcfast.train": "dcfast.train.session",
    "dcfast.evaluate": "dcfast.evaluate.evaluation",
    "dcfast.resharder": "dcfast.resharding.cli",
    "dcfast.pool_refresh": "dcfast.index.refresh",
    "dcfast.doctor": "dcfast.doctor.command",
}
"""What ``python -m`` starts -> a module that it imports on its way."""
PLANT = """
import os, signal, sys
class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == os.environ["PLANTED"]:
            if os.environ["HOW"] == "signal":
                os.kill(os.getpid(), signal.SIGINT)
            else:
                raise ImportError("libbroken.so.1: cannot open shared object file")
sys.meta_path.insert(0, Finder())
"""
SCRIPT = "import sys\nfrom dcfast.cli import main\nsys.exit(main(['doctor']))\n"


def _started(tmp_path: Path, words: list[str], planted: str, how: str) -> subprocess.CompletedProcess[str]:
    (tmp_path / "sitecustomize.py").write_text(PLANT)
    paths = os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**os.environ, "PYTHONPATH": paths, "PLANTED": planted, "HOW": how, "TMPDIR": str(tmp_path)}
    command = [sys.executable, *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=100, env=environment, check=False)


@pytest.mark.parametrize("module", [*MODULES, "script"])
def test_ctrl_c_while_it_imports_is_silent(module: str, tmp_path: Path) -> None:
    (tmp_path / "dcfast").write_text(SCRIPT)
    words = [str(tmp_path / "dcfast")] if module == "script" else ["-m", module]
    done = _started(tmp_path, words, MODULES.get(module, "dcfast.doctor.command"), "signal")
    assert (done.returncode, done.stdout, done.stderr) == (exit_codes.INTERRUPTED, "", "")


def test_ctrl_c_is_heard_before_anything_is_loaded() -> None:
    """Python loads slowly: until the handler stands, dcfast asks for nothing but three small files of its own."""
    code = """
import os, sys
import _signal
sys.argv = ["dcfast"]
loaded = set(sys.modules)
_signal.signal = lambda number, handler: print(sorted(set(sys.modules) - loaded)) or os._exit(0)
sys.path.insert(0, os.environ["PACKAGE"])
import dcfast
"""
    environment = {**os.environ, "PACKAGE": str(Path(cli.__file__).parents[1])}
    command = [sys.executable, "-S", "-u", "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, env=environment, check=True)
    ours = ["dcfast", "dcfast.process", "dcfast.process.exit_codes", "dcfast.process.starting"]
    assert done.stdout == f"{['__future__', *ours]}\n"


@pytest.mark.parametrize("module", [*MODULES, "script"])
def test_a_library_that_cannot_be_imported_is_one_line(module: str, tmp_path: Path) -> None:
    (tmp_path / "dcfast").write_text(SCRIPT)
    words = [str(tmp_path / "dcfast")] if module == "script" else ["-m", module]
    done = _started(tmp_path, words, MODULES.get(module, "dcfast.doctor.command"), "error")
    assert done.returncode == exit_codes.FAILED
    assert done.stderr.startswith("error: ImportError: libbroken.so.1: cannot open shared object file (`dcfast doctor`")
    assert done.stderr.count("\n") == 1


def test_who_imports_dcfast_keeps_its_own_handlers() -> None:
    code = "import signal, sys; before = signal.getsignal(2), sys.excepthook; import dcfast.run; "
    code += "print((signal.getsignal(2), sys.excepthook) == before)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=100, check=True)
    assert done.stdout == "True\n"


def test_output_that_nobody_reads_is_no_error(tmp_path: Path) -> None:
    words = f"'{sys.executable}' -m dcfast.doctor --json | true; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", words], capture_output=True, text=True, timeout=100, check=False)
    assert done.stderr == ""
    assert done.returncode in (exit_codes.DONE, exit_codes.FAILED)
