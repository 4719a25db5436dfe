"""What ``dcfast doctor`` looks at of the GPU: driver and cards, the CUDA library, torch, Triton, DALI."""

from __future__ import annotations

import importlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from dcfast.doctor.checks import Row, describe, importable, version_of
from dcfast.errors import last_line
from dcfast.storage.lines import split_lines

_DRIVER = "with an NVIDIA card: apt-get install -y nvidia-driver"
_RELOAD = "nvidia-smi must answer; restart, or reload the driver: modprobe -r nvidia_uvm nvidia && modprobe nvidia"
_BUILD = "in a checkout: apt-get install -y nvidia-cuda-toolkit && pip install . -C cmake.define.DCFAST_CUDA=ON"
_ONE_DALI = "pip uninstall -y nvidia-dali-cuda120 nvidia-dali-cuda130 && pip install 'dcfast[dali-cuda13]'"


def gpu(deep: bool) -> Iterator[Row]:
    """Driver and cards, the CUDA library, torch's view of CUDA, Triton, DALI."""
    driver = _driver_row()
    has_driver = driver.status == "ok"
    yield driver
    yield _cuda_library_row(has_driver)
    yield _torch_row(has_driver, deep)
    yield _triton_row(has_driver, deep)
    yield _dali_row(deep)


def _driver_row() -> Row:
    program = shutil.which("nvidia-smi")
    if program is None:
        if Path("/proc/driver/nvidia/version").exists():
            return Row("driver", "ok", "the NVIDIA driver is loaded (no nvidia-smi to name the cards)")
        fix = f"without a card everything runs on the CPU, with the same answers; {_DRIVER}"
        return Row("driver", "missing", "no NVIDIA driver", fix)
    query = [program, "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(query, capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return Row("driver", "broken", describe(error), _RELOAD)
    cards = [line.strip() for line in split_lines(done.stdout) if line.strip()]
    if done.returncode or not cards:
        answer = " ".join((done.stdout + " " + done.stderr).split()) or f"exit status {done.returncode}"
        return Row("driver", "broken", f"nvidia-smi: {answer}", _RELOAD)
    return Row("driver", "ok", "; ".join(cards))


def _cuda_library_row(has_driver: bool) -> Row:
    name = "CUDA library"
    if not importable("dcfast._cuda"):
        fix = _BUILD
        return Row(name, "missing", "not in this build", fix)
    try:
        module = importlib.import_module("dcfast._cuda")
        version = int(module.build_version)
        kernels = "with" if module.select_built else "without"
        built = f"built with CUDA {version // 1000}.{version % 1000 // 10}, {kernels} fused similarity kernels"
    except Exception as error:  # a library that does not load is the finding
        return Row(name, "broken", describe(error), _BUILD)
    try:
        devices = module.devices()
        for index in range(len(devices)):
            module.self_test(index)
    except RuntimeError as error:
        if has_driver:
            return Row(
                name, "broken", f"{built}; {describe(error)}", f"the driver must be as new as that CUDA; {_DRIVER}"
            )
        return Row(name, "missing", f"{built}; no card to run on", _DRIVER)
    return Row(name, "ok", f"{built}; self test passed on {len(devices)} card(s)")


def _torch_row(has_driver: bool, deep: bool) -> Row:
    name = "torch with CUDA"
    version = version_of("torch")
    if version is None:
        return Row(name, "missing", "torch is not installed", "pip install torch")
    fix = "with an NVIDIA card and its driver: pip install --force-reinstall torch torchvision"
    if not deep:
        usable = has_driver and "+cpu" not in version
        reason = "" if usable else (" (a build for the CPU)" if "+cpu" in version else " (no driver)")
        return Row(name, "info" if usable else "missing", version + reason, "" if usable else fix)
    code = (
        "import torch\n"
        "card = torch.cuda.is_available()\n"
        "x = torch.arange(1009.0, device='cuda' if card else 'cpu')\n"
        "assert x.sum().item() == 508536\n"
        "print(torch.cuda.get_device_name() if card else 'CPU alone')"
    )
    passed, answer = _in_a_process(code)
    if not passed:
        return Row(name, "broken", f"{version}: {answer}", "pip install --force-reinstall torch")
    works = answer != "CPU alone"
    return Row(name, "ok" if works else "missing", f"{version}: {answer}", "" if works else fix)


def _triton_row(has_driver: bool, deep: bool) -> Row:
    version = version_of("triton")
    if version is None or not importable("triton"):
        return Row("Triton", "missing", "not installed", "pip install 'dcfast[kernels]'")
    fix = "with an NVIDIA card they run by themselves; on the CPU, slowly, by: export TRITON_INTERPRET=1"
    if not deep:
        if has_driver or os.environ.get("TRITON_INTERPRET") == "1":
            return Row("Triton", "info", f"{version} (not tried)")
        return Row("Triton", "missing", f"{version}; no card to run on", fix)
    try:
        usable, reason = importlib.import_module("dcfast.kernels").available()
    except Exception as error:  # Triton or torch may fail in many ways at import
        return Row("Triton", "broken", f"{version}: {describe(error)}", "pip install --force-reinstall torch triton")
    return Row("Triton", "ok" if usable else "missing", f"{version}: {reason}", "" if usable else fix)


def _dali_row(deep: bool) -> Row:
    installed = [(n, v) for n in ("nvidia-dali-cuda130", "nvidia-dali-cuda120") if (v := version_of(n)) is not None]
    if not installed:
        fix = "decodes on the CPU too; after the driver's CUDA dali-cuda12, or: pip install 'dcfast[dali-cuda13]'"
        return Row("DALI", "missing", "not installed", fix)
    text = ", ".join(f"{name} {version}" for name, version in installed)
    if len(installed) > 1:
        return Row("DALI", "broken", f"{text}: two builds share one folder", _ONE_DALI)
    if not deep:
        return Row("DALI", "info", f"{text} (not tried)")
    code = (
        "import numpy as np\n"
        "from nvidia.dali import fn, pipeline_def\n"
        "@pipeline_def(batch_size=2, num_threads=1, device_id=None)\n"
        "def double():\n"
        "    return fn.external_source(source=lambda: [np.full(3, 7, np.uint8)] * 2, batch=True) * 2\n"
        "pipeline = double()\n"
        "pipeline.build()\n"
        "(out,) = pipeline.run()\n"
        "assert (np.array(out.at(1)) == 14).all()\n"
        "print('a CPU pipeline runs')"
    )
    passed, answer = _in_a_process(code)
    if not passed:
        return Row("DALI", "broken", f"{text}: {answer}", f"pip install --force-reinstall {installed[0][0]}")
    return Row("DALI", "ok", f"{text}: {answer}")


def _in_a_process(code: str, timeout_s: float = 180) -> tuple[bool, str]:
    """Runs code in a fresh interpreter (a library that dies must not take the doctor along): success, last line."""
    try:
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, timeout=timeout_s, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return False, describe(error)
    line = last_line(done.stdout if done.returncode == 0 else done.stderr)
    return done.returncode == 0, line or f"exit status {done.returncode}"
