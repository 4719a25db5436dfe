"""fastText model files of any shape, with random numbers in them: what its own library reads, too."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

MAGIC, VERSION = 793712314, 12


@dataclass
class MadeModel:
    """A supervised model with hierarchical softmax.

    Attributes:
        words: of the dictionary; labels: (text, how often it was seen).
        kept: (bucket, row behind the words') of n-grams; None: every bucket has a row.
        dsub: of a product quantiser; 0: rows are floats.
    """

    words: list[bytes]
    labels: list[tuple[bytes, int]]
    dim: int = 5
    bucket: int = 97
    minn: int = 2
    maxn: int = 4
    word_ngrams: int = 1
    loss: int = 1
    dsub: int = 0
    norms: bool = True
    kept: list[tuple[int, int]] | None = None
    seed: int = 1
    scale: float = 3.0
    output: npt.NDArray[np.float32] | None = field(default=None)

    def to_bytes(self) -> bytes:
        rng = np.random.default_rng(self.seed)
        args = (self.dim, 5, 5, 1, 5, self.word_ngrams, self.loss, 3, self.bucket, self.minn, self.maxn, 100)
        out = [struct.pack("<ii12id", MAGIC, VERSION, *args, 1e-4)]
        num, labels = len(self.words), len(self.labels)
        pruned = -1 if self.kept is None else len(self.kept)
        out.append(struct.pack("<iiiqq", num + labels, num, labels, 1_000, pruned))
        entries = [(word, 7, 0) for word in self.words] + [(label, count, 1) for label, count in self.labels]
        out += [text + b"\0" + struct.pack("<qb", count, kind) for text, count, kind in entries]
        out += [struct.pack("<ii", *pair) for pair in self.kept or ()]
        behind = self.bucket if self.kept is None else max([row + 1 for _, row in self.kept], default=0)
        out.append(self._input(num + behind, rng))
        output = rng.normal(scale=self.scale, size=(labels, self.dim)) if self.output is None else self.output
        out.append(b"\0" + struct.pack("<qq", labels, self.dim) + np.asarray(output, "<f4").tobytes())
        return b"".join(out)

    def _input(self, rows: int, rng: np.random.Generator) -> bytes:
        if not self.dsub:
            values = rng.normal(scale=self.scale, size=(rows, self.dim)).astype("<f4")
            return b"\0" + struct.pack("<qq", rows, self.dim) + values.tobytes()
        parts = -(-self.dim // self.dsub)
        codes = rng.integers(0, 256, (rows, parts), dtype=np.uint8)
        head = struct.pack("<?qqi", self.norms, rows, self.dim, codes.size) + codes.tobytes()
        last = self.dim - (parts - 1) * self.dsub
        centroids = rng.normal(scale=self.scale, size=256 * self.dim).astype("<f4").tobytes()
        body = struct.pack("<iiii", self.dim, parts, self.dsub, last) + centroids
        if self.norms:
            body += rng.integers(0, 256, rows, dtype=np.uint8).tobytes() + struct.pack("<iiii", 1, 1, 1, 1)
            body += rng.uniform(0.1, 2, 256).astype("<f4").tobytes()
        return b"\1" + head + body
