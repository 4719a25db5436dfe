"""Triton kernels of dcfast (installed as ``dcfast.kernels``).

Importing this package needs neither Triton nor a GPU; ``available()`` says whether kernels can run.
"""

from __future__ import annotations

import importlib.util
import os

__all__ = ["available"]


def available() -> tuple[bool, str]:
    """Whether Triton kernels can run here, and why or why not.

    Returns:
        (True, "gpu") with a CUDA device, (True, "interpreter") under ``TRITON_INTERPRET=1``, else (False, reason).
    """
    if importlib.util.find_spec("triton") is None:
        return False, "triton is not installed: pip install triton"
    if os.environ.get("TRITON_INTERPRET") == "1":
        return True, "interpreter"
    if importlib.util.find_spec("torch") is None:
        return False, "torch is not installed: pip install torch"
    import torch

    if torch.cuda.is_available():
        return True, "gpu"
    return False, "no CUDA device; TRITON_INTERPRET=1 runs the kernels on the CPU, slowly"
