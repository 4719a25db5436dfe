"""Runs a compiler and fails where it says that a kernel is slow: CMake's compiler launcher for the fused kernels.

ptxas only mentions what costs them most of their speed: registers that spill to memory, and wgmma that is serialised
(C7510) or has lost its registers (C7508).
Usage: python cmake/refuse_slow_code.py nvcc ARGUMENTS
"""

from __future__ import annotations

import re
import subprocess
import sys

SLOW = re.compile(r"C7510|C7508|wgmma.*serialized|setmaxnreg.*ignored|[Rr]egisters are spilled")


def main(command: list[str]) -> int:
    """The compiler's status, or 1 for slow code."""
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    sys.stderr.write(done.stdout)
    found = [line for line in done.stdout.splitlines() if SLOW.search(line)]
    if done.returncode == 0 and found:
        print(f"refused, {len(found)} warnings of slow machine code, the first: {found[0]}", file=sys.stderr)
        return 1
    return done.returncode


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
