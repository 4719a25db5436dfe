"""Compiles the kernels with no GPU and reads their machine code: tensor cores used, no registers spilled.

    python -m dcfast.kernels.check_machine_code          # the default configurations
    python -m dcfast.kernels.check_machine_code --all    # every candidate of the tuner

Prints one line a kernel and exits with 1 where one spills, or multiplies without the tensor cores of its target: wgmma
(HGMMA) on sm_90, mma (HMMA) on sm_80. Needs the tools that come with Triton.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
import triton
from dcfast.kernels import clip_kernels, siglip_kernels, similarity, similarity_kernels, tuning
from dcfast.kernels.tuning import Config
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

TARGETS = {90: "HGMMA", 80: "HMMA"}
_TYPES = {torch.bfloat16: "bf16", torch.float16: "fp16", torch.float32: "fp32"}
_INTEGERS = (
    *("M", "N", "D", "stride_i", "stride_t", "stride_a", "stride_b", "stride_o", "rows_n", "cols_n"),
    *("first", "nbm", "nbn", "chunks", "per", "stride_r", "stride_c", "capacity"),
)
_ALIGNED = ("D", "stride_i", "stride_t", "stride_a", "stride_b", "stride_o", "stride_r", "stride_c")
_FLOATS = ("row_weight", "col_weight", "unit")
_FEATURES = {"image": ("bm", "bk"), "text": ("bn", "bk"), "a": ("bm", "bk"), "b": ("bn", "bk")}
_SELECT_FEATURES = {"rows": ("bm", "bk"), "cols": ("bn", "bk")}
_SELECT = ("select_best", "select_above")
_POINTERS = {"flag": "*i32", "off": "*fp64", "place": "*i32", "keys": "*i32", "count": "*i64"}


@dataclass(frozen=True)
class Build:
    """One kernel for one target."""

    kernel: str
    target: int
    dtype: torch.dtype
    precision: str
    config: Config
    flagged: bool = False
    even_depth: bool = True

    def __str__(self) -> str:
        c = self.config
        marks = "".join(f" {m}" for m in ("flatten", "sub") if getattr(c, m))
        marks += (" flagged" if self.flagged else "") + ("" if self.even_depth else " ragged depth")
        return (
            f"{self.kernel} sm_{self.target} {_TYPES[self.dtype]} {self.precision} "
            f"{c.bm}x{c.bn}x{c.bk} warps {c.warps} stages {c.stages}{marks}"
        )


@dataclass(frozen=True)
class Report:
    """What was counted in the machine code."""

    registers: int
    shared_bytes: int
    counts: dict[str, int]


def builds(every: bool = False) -> Iterator[Build]:
    """What a GPU would run: the default configurations of both targets, or all that the tuner may choose."""
    for target in TARGETS:
        capability = (target // 10, target % 10)
        for kernel in tuning.KERNELS:
            cases = [(torch.bfloat16, "ieee")]
            if every:
                cases += [(torch.float16, "ieee"), (torch.float32, "tf32"), (torch.float32, "ieee")]
            for dtype, precision in cases:
                configs = tuning.candidates(kernel, capability, dtype, precision)
                for config in configs if every else configs[:1]:
                    yield Build(kernel, target, dtype, precision, config)
                if kernel == "clip_grad_dots":  # the rare path runs with these tiles
                    yield Build(kernel, target, dtype, precision, configs[0], flagged=True)
        for kernel in _SELECT:
            for dtype in (torch.bfloat16, torch.float16) if every else (torch.bfloat16,):
                yield Build(kernel, target, dtype, "ieee", similarity.HOPPER if target >= 90 else similarity.AMPERE)
        if every:
            for kernel in ("clip_sweep", "clip_grad"):
                yield Build(kernel, target, torch.bfloat16, "ieee", tuning.SMALL)
            yield Build(
                "clip_sweep", target, torch.bfloat16, "ieee",
                tuning.candidates("clip_sweep", capability, torch.bfloat16, "ieee")[0], even_depth=False,
            )  # fmt: skip


def _source(build: Build) -> ASTSource:
    module = siglip_kernels if build.kernel == "siglip_tile" else clip_kernels
    names, features = _INTEGERS, _FEATURES
    if build.kernel in _SELECT:
        module, features = similarity_kernels, _SELECT_FEATURES
        names = tuple(name for name in _INTEGERS if name != "first")  # here the best scores
    function, c, tma = getattr(module, build.kernel.removesuffix("_dots")), build.config, build.target >= 90
    width = _TYPES[build.dtype]
    constants: dict[str, object] = {
        "BM": c.bm, "BN": c.bn, "BK": c.bk, "W": c.row_warps, "GROUP": c.group, "PROGRAMS": 132, "FLATTEN": c.flatten,
        "SUB": c.sub, "FLAGGED": build.flagged, "DOTS": build.kernel == "clip_grad_dots", "GRAD": True, "TMA": tma,
        "EVEN_K": build.even_depth, "PREC": build.precision, "UPCAST": False,
    }  # fmt: skip
    signature: dict[str, str] = {}
    for name in function.arg_names:
        if name in constants:
            signature[name] = "constexpr"
        elif name in names:
            signature[name] = "i32"
        elif name in _FLOATS:
            signature[name] = "fp32"
        elif name in features or name == "out":
            sizes = features.get(name, ("bm", "bn"))
            block = [getattr(c, size) for size in sizes]
            if name == "out" and c.sub:
                block[1] //= 2
            signature[name] = f"tensordesc<{width}[{block[0]},{block[1]}]>" if tma else f"*{width}"
        else:
            signature[name] = _POINTERS.get(name, "*fp32")
    aligned = [["tt.divisibility", 16]]
    attributes = {
        (i,): aligned for i, (name, kind) in enumerate(signature.items()) if kind.startswith("*") or name in _ALIGNED
    }
    used = {name: value for name, value in constants.items() if name in signature}
    return ASTSource(fn=function, signature=signature, constexprs=used, attrs=attributes)


def report(build: Build) -> Report:
    """Compiles one kernel and counts instructions in its machine code. Takes seconds."""
    options = {"num_warps": build.config.warps, "num_stages": build.config.stages}
    if build.flagged or build.kernel == "clip_online":
        options["enable_fp_fusion"] = False
    compiled = triton.compile(_source(build), target=GPUTarget("cuda", build.target, 32), options=options)
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as f:
        f.write(compiled.asm["cubin"])
        f.flush()
        usage, code = (
            subprocess.run([tool, option, f.name], capture_output=True, text=True, check=True).stdout
            for option in ("--dump-resource-usage", "--dump-sass")
        )
    registers = re.search(r"REG:(\d+)", usage)
    if registers is None:
        raise RuntimeError(f"{build}: cuobjdump gave no resource usage: {usage[:200]!r}")
    names = ("HGMMA", "HMMA", "UTMALDG", "UTMASTG", "LDGSTS", "MUFU.EX2", "SHFL", "STL", "LDL", "RED", "ATOM")
    counts = {name: len(re.findall(rf"\b{re.escape(name)}\b", code)) for name in names}
    return Report(int(registers[1]), compiled.metadata.shared, counts)


def problems(build: Build, result: Report) -> list[str]:
    """What is wrong with a kernel's machine code; empty if nothing."""
    out = []
    counts = result.counts
    if counts["STL"] or counts["LDL"]:
        out.append(f"spills registers: {counts['STL']} stores, {counts['LDL']} loads of local memory")
    instruction = TARGETS[build.target]
    if (build.dtype != torch.float32 or build.precision != "ieee") and not counts[instruction]:
        out.append(f"multiplies without {instruction}")
    if build.target >= 90 and not counts["UTMALDG"]:
        out.append("loads tiles without TMA")
    if build.target < 90 and not counts["LDGSTS"]:
        out.append("loads tiles without asynchronous copies")
    # a list of pairs is filled by atomics, and sorted by who asked for it
    if (counts["RED"] or counts["ATOM"]) and build.kernel != "select_above":
        out.append("has atomics: results would depend on the order of programs")
    most = 232448 if build.target >= 90 else 166912
    if result.shared_bytes > most:
        out.append(f"needs {result.shared_bytes} bytes of shared memory, the target has {most}")
    return out


def main() -> int:
    """Checks and prints; 1 where something is wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--all", action="store_true", help="every configuration that the tuner may choose")
    options = parser.parse_args()
    if os.environ.get("TRITON_INTERPRET") == "1":
        parser.error("TRITON_INTERPRET=1 is set: nothing is compiled under it")
    wrong = 0
    for build in builds(options.all):
        result = report(build)
        wrong_here = problems(build, result)
        wrong += bool(wrong_here)
        counted = " ".join(f"{name} {count}" for name, count in result.counts.items() if count)
        print(f"{build}: {result.registers} registers, {result.shared_bytes} bytes shared, {counted}", flush=True)
        for problem in wrong_here:
            print(f"  WRONG: {problem}", flush=True)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
