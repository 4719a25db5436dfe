"""Checks and times losses and similarity on one GPU with one command: ``python bench/gpu.py --out DIR --limit 470``.

Stages: environment, correctness of the losses (beside float64; hard cases) and of similarity (float64, to the bit),
timing of both (beside their peers), compute-sanitizer where there is one. Each writes its rows to DIR/gpu.jsonl before
the next begins, and begins only if there is time left; the tables are printed last. Needs torch with CUDA and Triton;
of this checkout only Python files (nothing has to be installed), and build/cuda/libdcfast_cuda.so of ``make cuda`` for
the fused kernels, where dcfast was not built with them.
Peers that are not installed can be given as a directory of wheels (--wheels). Tile sizes that were measured are kept
in DIR/tune.

Exit status: 0; 1 for any wrong answer, whatever the timings; 3 where there is no CUDA device. --dry-run goes through
everything with tiny sizes on the CPU, the kernels in Triton's interpreter: its times mean nothing.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

REPO_ROOT = Path(__file__).resolve().parent.parent
if __package__ in (None, ""):
    sys.path[0] = str(REPO_ROOT)

if TYPE_CHECKING:
    from bench.gpu_device import Run


def make_importable() -> None:
    """The package as it lies in the checkout, where it is not installed: its Python files, without the C++ core."""
    if importlib.util.find_spec("dcfast") is None:
        sys.path.insert(1, str(REPO_ROOT / "python"))
    if importlib.util.find_spec("dcfast.kernels") is None:
        folder = REPO_ROOT / "kernels"
        spec = importlib.util.spec_from_file_location(
            "dcfast.kernels", folder / "__init__.py", submodule_search_locations=[str(folder)]
        )
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules["dcfast.kernels"] = module
        spec.loader.exec_module(module)


def parse_options(argv: Sequence[str] | None) -> argparse.Namespace:
    """What can be chosen."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--out", default="runs/gpu", metavar="DIR", help="directory of gpu.jsonl (default runs/gpu)")
    add("--limit", type=float, default=470, metavar="S", help="seconds for all of it (default 470)")
    add("--wheels", metavar="DIR", help="wheels of peers that are not installed (open_clip_torch, inf_cl, ...)")
    add("--dry-run", action="store_true", help="tiny sizes on the CPU: a test of this script, not of the speed")
    add("--sanitize", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    if options.limit <= 0:
        parser.error(f"--limit must be positive, got {options.limit:g}")
    return options


def set_environment(options: argparse.Namespace) -> None:
    """Before torch and Triton are imported."""
    if options.dry_run:
        os.environ |= {"TRITON_INTERPRET": "1", "DCFAST_LOSS_BACKEND": "triton", "CUDA_VISIBLE_DEVICES": ""}
    else:
        os.environ.pop("TRITON_INTERPRET", None)
        os.environ.setdefault("DCFAST_TUNE_DIR", str(Path(options.out).resolve() / "tune"))


def why_not() -> str:
    """What keeps this machine from running the bench; empty if nothing."""
    if importlib.util.find_spec("torch") is None:
        return "torch is not installed"
    if importlib.util.find_spec("triton") is None:
        return "triton is not installed"
    import torch

    if not torch.cuda.is_available():
        return f"torch {torch.__version__} sees no CUDA device"
    return ""


def sanitizer(run: Run) -> None:
    """One tiny step under compute-sanitizer: no access outside of an array."""
    from bench.gpu_checks import claim

    tool = shutil.which("compute-sanitizer")
    if tool is None:
        run.add("check", "compute-sanitizer", note="absent: no compute-sanitizer on the path")
        return
    command = [tool, "--error-exitcode", "9", sys.executable, str(Path(__file__)), "--sanitize", "--out", str(run.out)]
    # each array by itself: inside of the pool of torch's allocator an access beyond the end of one would not be seen
    alone = {**os.environ, "PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
    left = max(run.clock.left(), 1)
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=left, check=False, env=alone)
    except subprocess.TimeoutExpired:
        run.skipped.append("compute-sanitizer")
        run.add("check", "compute-sanitizer", note="stopped: no time left")
        return
    # another status than 9 is the tool's own trouble on this machine
    found = done.returncode == 9
    claim(run, "compute-sanitizer", not found, done.stdout[-500:] if done.returncode else "")


def tiny_step() -> int:
    """What compute-sanitizer looks at."""
    import torch

    from bench import gpu_losses

    batch = gpu_losses.make_batch(257, 40, torch.bfloat16, torch.device("cuda"))
    return 0 if gpu_losses.step(gpu_losses.dcfast_clip(), batch).finite() else 1


def stages(options: argparse.Namespace) -> list[tuple[str, float, Callable[[Run], None]]]:
    """(name, seconds it needs at least, function)."""
    from bench import gpu_checks, gpu_device, gpu_similarity, gpu_similarity_timing, gpu_timing

    return [
        ("environment", 10, gpu_device.environment),
        ("correctness", 30, gpu_checks.correctness),
        ("similarity", 30, gpu_similarity.correctness),
        ("similarity timing", 60, gpu_similarity_timing.timing),
        ("timing", 30, lambda run: gpu_timing.timing(run, options.unpacked)),
        ("sanitizer", 30, sanitizer),
    ]


def main(argv: Sequence[str] | None = None) -> int:
    """Runs all stages; the exit status."""
    options = parse_options(argv)
    set_environment(options)
    reason = "" if options.dry_run else why_not()
    if reason:
        print(f"bench/gpu.py needs a CUDA device: {reason}. --dry-run goes through it on the CPU.", file=sys.stderr)
        return 3
    make_importable()
    if options.sanitize:
        return tiny_step()
    from bench import gpu_losses, gpu_similarity_timing, gpu_timing
    from bench.gpu_device import Clock, Device, Run

    out = Path(options.out)
    out.mkdir(parents=True, exist_ok=True)
    run = Run(Device(options.dry_run), Clock(options.limit), out)
    options.unpacked = gpu_losses.unpack_wheels(options.wheels, out)
    for name, needs_s, stage in stages(options):
        if run.clock.left() < (0 if options.dry_run else needs_s):
            run.skipped.append(name)
            run.add("stage", name, note="skipped: no time left")
            if name in ("correctness", "similarity"):
                run.fail(f"{name}: no time left to check")
            continue
        print(f"{name} ({run.clock.spent():.0f} s of {options.limit:.0f})", flush=True)
        try:
            stage(run)
        except Exception as error:  # the rows of this and of other stages are worth keeping
            run.fail(f"{name}: {type(error).__name__}: {error}")
            run.add("stage", name, checked=False, note=f"{type(error).__name__}: {error}"[:500])
        run.write()
    gpu_timing.print_table(run)
    gpu_similarity_timing.print_table(run)
    if run.skipped:
        print(f"no time left for: {', '.join(run.skipped)}")
    print(f"{len(run.failures)} wrong answers; {len(run.rows)} rows in {out / 'gpu.jsonl'}; {run.clock.spent():.0f} s")
    for failure in run.failures:
        print(f"  WRONG: {failure}")
    return 1 if run.failures else 0


if __name__ == "__main__":
    sys.exit(main())
