"""Checks a built libdcfast_cuda.so without a GPU: machine code for each architecture, nothing of CUDA to load, and what
the fused kernels are made of: tensor cores fed by TMA, no spilled register. Needs cuobjdump for these, the toolkit's or
Triton's.

Usage: python cmake/check_cuda_library.py build/cuda/libdcfast_cuda.so
"""

from __future__ import annotations

import ctypes
import importlib.util
import re
import shutil
import struct
import subprocess
import sys
from pathlib import Path

FATBIN_MAGIC = 0xBA55ED50
KINDS = {1: "compute", 2: "sm"}  # PTX, machine code
WANTED = {"sm_80", "sm_90", "compute_80"}  # sm_90a counts as 90 in the header
# what every Linux has; no libcudart, libcublas, libtorch, libpython
ALLOWED = ("libc.", "libm.", "libstdc++.", "libgcc_s.", "libdl.", "librt.", "libpthread.", "ld-linux")


def architectures(library: bytes) -> set[str]:
    """The code in all fat binaries of an ELF file, as {"sm_80", "compute_80"}.

    Source: a fat binary is a 16-byte header (magic, version, header size, payload size), then entries that each
    begin (kind u16, version u16, header size u32, payload size u64) and hold the architecture as u32 at byte 28.
    """
    found: set[str] = set()
    magic = struct.pack("<I", FATBIN_MAGIC)
    start = library.find(magic)
    while start >= 0:
        header_size, size = struct.unpack_from("<HQ", library, start + 6)
        at = start + header_size
        end = min(at + size, len(library) - 32)
        while at < end:
            kind, _, entry_header, entry_size = struct.unpack_from("<HHIQ", library, at)
            (architecture,) = struct.unpack_from("<I", library, at + 28)
            if kind not in KINDS or entry_header < 32:
                break
            found.add(f"{KINDS[kind]}_{architecture}")
            at += entry_header + entry_size
        start = library.find(magic, start + 16)
    return found


FUSED = 8
"""Fused kernels: best and above, of bfloat16 and float16, cooperative and ping-pong."""


def cuobjdump() -> str | None:
    """The toolkit's, or the one that comes with Triton."""
    places = ["/usr/local/cuda/bin"]
    triton = importlib.util.find_spec("triton")
    if triton is not None and triton.submodule_search_locations:
        places.append(f"{triton.submodule_search_locations[0]}/backends/nvidia/bin")
    return shutil.which("cuobjdump") or next((t for p in places if (t := shutil.which("cuobjdump", path=p))), None)


def fused_faults(code: str) -> list[str]:
    """What is wrong with the fused kernels of a dump of machine code, as sentences.

    Args:
        code: of ``cuobjdump --dump-sass``: kernels begin with ``Function : NAME``.
    """
    kernels = [part for part in code.split("Function : ")[1:] if "dcfast6select" in part.partition("\n")[0]]
    faults = [] if len(kernels) == FUSED else [f"{len(kernels)} fused kernels, expected {FUSED}"]
    for part in kernels:
        names = part.partition("\n")[0]
        kind = " ".join(re.findall(r"BestEpilogue|AboveEpilogue|Pingpong|Cooperative|bfloat16|half", names))
        counts = {name: len(re.findall(rf"\b{name}\b", part)) for name in ("HGMMA", "UTMALDG", "STL", "LDL")}
        print(f"  {kind}: " + ", ".join(f"{name} {count}" for name, count in counts.items()))
        faults += [f"{kind}: no {name}" for name in ("HGMMA", "UTMALDG") if not counts[name]]
        faults += [f"{kind}: {counts[name]} {name}, registers spill" for name in ("STL", "LDL") if counts[name]]
    return faults


def check_fused(path: Path) -> list[str]:
    """Faults of the fused kernels; none where the library was built without them."""
    if not ctypes.CDLL(str(path.resolve())).dcfast_select_built():
        print("  no fused kernels: built without CUTLASS")
        return []
    tool = cuobjdump()
    if tool is None:
        return ["the machine code cannot be read: install the CUDA toolkit's cuobjdump, or Triton, which brings one"]
    command = [tool, "--dump-sass", "--gpu-architecture", "sm_90a", str(path)]
    return fused_faults(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def main(argv: list[str]) -> int:
    """0 when the library is as it should be, else 1 with the reason on stderr."""
    path = Path(argv[0])
    found = architectures(path.read_bytes())
    print(f"{path}: {path.stat().st_size} bytes, code for {', '.join(sorted(found)) or 'nothing'}")
    if not found >= WANTED:
        print(f"{path}: no code for {', '.join(sorted(WANTED - found))}", file=sys.stderr)
        return 1
    dynamic = subprocess.run(["readelf", "-d", str(path)], check=True, capture_output=True, text=True).stdout
    needed = [line.split("[")[1].rstrip("]") for line in dynamic.splitlines() if "(NEEDED)" in line]
    surplus = [name for name in needed if not name.startswith(ALLOWED)]
    if surplus:
        print(f"{path}: must load without CUDA's libraries, but needs {', '.join(surplus)}", file=sys.stderr)
        return 1
    faults = check_fused(path)
    for fault in faults:
        print(f"{path}: {fault}", file=sys.stderr)
    return 1 if faults else 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
