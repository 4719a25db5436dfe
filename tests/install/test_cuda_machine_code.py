"""The gates of the CUDA library: what they refuse of machine code and of a compiler's warnings."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

GOOD = "HGMMA.64x256x16.F32.BF16 R24\n UTMALDG.3D.MULTICAST [UR8]\n"


def script(repo_root: Path, name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, repo_root / "cmake" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def dump(*bodies: str) -> str:
    other = "\tFunction : _Z12fill_squaresPj\n STL [R1], R2\n"
    return other + "".join(f"\tFunction : _ZN6dcfast6select12BestEpilogue{i}\n {b}" for i, b in enumerate(bodies))


@pytest.mark.parametrize(
    ("bodies", "says"),
    [
        ([GOOD] * 8, []),
        ([GOOD] * 7, ["7 fused kernels, expected 8"]),
        ([GOOD] * 7 + ["HMMA.16816.F32 R4\n UTMALDG.3D [UR8]\n"], ["BestEpilogue: no HGMMA"]),
        ([GOOD] * 7 + ["HGMMA.64x256x16 R24\n LDGSTS R1\n"], ["BestEpilogue: no UTMALDG"]),
        ([GOOD] * 7 + [GOOD + "STL.64 [R1+0x8], R2\n LDL R2\n"], ["1 STL, registers spill", "1 LDL, registers spill"]),
    ],
)
def test_fused_kernels(repo_root: Path, bodies: list[str], says: list[str]) -> None:
    found = script(repo_root, "check_cuda_library").fused_faults(dump(*bodies))
    assert len(found) == len(says)
    assert all(part in fault for part, fault in zip(says, found, strict=True))


@pytest.mark.parametrize(
    ("prints", "exits", "status"),
    [
        ("ptxas info    : Used 168 registers", 0, 0),
        ("ptxas info    : (C7510) Potential Performance Loss: wgmma.mma_async instructions are serialized", 0, 1),
        ("ptxas warning : (C7508) setmaxnreg ignored to maintain minimum register requirement", 0, 1),
        ("ptxas warning : Registers are spilled to local memory in function 'f', 8 bytes spill stores", 0, 1),
        ("error: no such file", 2, 2),
    ],
)
def test_slow_code_is_refused(repo_root: Path, prints: str, exits: int, status: int) -> None:
    compiler = f"import sys; print({prints!r}, file=sys.stderr); sys.exit({exits})"
    command = [sys.executable, str(repo_root / "cmake/refuse_slow_code.py"), sys.executable, "-c", compiler]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == status
    assert prints in done.stderr
