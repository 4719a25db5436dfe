"""What the built-in world is made of: sizes, seed and the rate of every defect (the text of it is docs/world.md)."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import cast

from dcfast.errors import did_you_mean

SPEC_VERSION = 1  # raised when the same spec would render other bytes

_WHOLE_NUMBERS = {  # least, most
    "version": (SPEC_VERSION, SPEC_VERSION),
    "seed": (-math.inf, math.inf),
    "rows": (1, 100_000_000),
    "rows_per_shard": (1, 9_000),  # keys hold 4 digits
    "teacher_pairs": (0, 100_000_000),
    "min_side": (32, 4_096),
    "max_side": (32, 4_096),
}
PICTURE_SOURCES = ("flat", "exact_duplicate", "near_duplicate", "leak_exact", "leak_near")
BREAKAGES = ("truncated", "empty", "garbage", "no_json", "no_caption", "no_uid", "cmyk", "turned")


@dataclass(frozen=True)
class WorldSpec:
    """Sizes and defect rates of a built-in world; equal specs render equal bytes.

    Rates are shares of the pool's metadata rows. Caption defects (mismatched, language, boilerplate), size
    defects (small_picture, extreme_aspect), the picture's source (flat, duplicates, leaks: at most one of them),
    breakage (at most one) and missing are drawn independently, so that they overlap. ``unlisted`` samples and
    repeated uids come on top of the rows.
    Raises ValueError: a rate outside of 0 to 1, rates of one group above 1 together, sizes out of range.
    Example: ``WorldSpec.small(seed=3).num_shards == 3``
    """

    version: int = SPEC_VERSION
    seed: int = 20240
    rows: int = 12_800
    rows_per_shard: int = 1_000
    eval_scale: float = 1.0  # factor on the size of every evaluation set
    teacher_pairs: int = 4_000
    min_side: int = 96  # stored pictures: the longer side, in pixels
    max_side: int = 160

    mismatched: float = 0.40
    language: float = 0.12
    boilerplate: float = 0.08
    small_picture: float = 0.05
    extreme_aspect: float = 0.03
    flat: float = 0.004
    exact_duplicate: float = 0.03
    near_duplicate: float = 0.08
    leak_exact: float = 0.008
    leak_near: float = 0.016
    truncated: float = 0.006
    empty: float = 0.003
    garbage: float = 0.003
    no_json: float = 0.002
    no_caption: float = 0.002
    no_uid: float = 0.001
    cmyk: float = 0.001
    turned: float = 0.001
    missing: float = 0.04
    unlisted: float = 0.004
    repeated_uid: float = 0.001
    face_box: float = 0.02

    def __post_init__(self) -> None:
        for name, value in self.to_json().items():
            if name in _WHOLE_NUMBERS:
                _check_whole_number(name, value)
            elif name != "eval_scale" and not 0.0 <= value <= 1.0:
                raise ValueError(f"WorldSpec: {name} must be a rate between 0 and 1; got {value!r}")
        if self.max_side < self.min_side:
            raise ValueError(f"WorldSpec: max_side must be at least min_side ({self.min_side}); got {self.max_side}")
        if not 0 < self.eval_scale <= 1_000:
            raise ValueError(f"WorldSpec: eval_scale must be positive, and at most 1,000; got {self.eval_scale!r}")
        for group in (PICTURE_SOURCES, BREAKAGES):
            total = sum(rate for _, rate in self.rates(group))
            if total > 1.0:
                raise ValueError(f"WorldSpec: {' + '.join(group)} must be at most 1; got {total:.3f}")

    @classmethod
    def small(cls, **changes: float) -> WorldSpec:
        """A world of 300 rows in three shards with small evaluation sets, for tests: about two seconds."""
        return cls.from_json({"rows": 300, "rows_per_shard": 100, "eval_scale": 0.1, "teacher_pairs": 100, **changes})

    @property
    def num_shards(self) -> int:
        """Shards of the pool; the last may be shorter."""
        return -(-self.rows // self.rows_per_shard)

    def rates(self, names: Sequence[str]) -> list[tuple[str, float]]:
        """Some defects, of which a row has one at most, with their rates."""
        return [(name, getattr(self, name)) for name in names]

    def to_json(self) -> dict[str, float]:
        """All fields and the version, as plain JSON values."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, float]) -> WorldSpec:
        """The inverse of :meth:`to_json`; unknown names and other versions are refused with ValueError."""
        unknown = sorted(set(value) - {field.name for field in fields(cls)})
        if unknown:
            hint = did_you_mean(unknown[0], (field.name for field in fields(cls)))
            raise ValueError(
                f"WorldSpec: unknown setting {unknown[0]!r}{hint or '; docs/world.md has those there are'}"
            )
        # numbers stay as they are written: 1 is not made 1.0; which are whole, __post_init__ looks
        return replace(cls(), **cast("Mapping[str, int]", value))

    def __str__(self) -> str:
        return json.dumps(self.to_json(), sort_keys=True)


def _check_whole_number(name: str, value: float) -> None:
    least, most = _WHOLE_NUMBERS[name]
    if not isinstance(value, int) or isinstance(value, bool):
        raise ValueError(f"WorldSpec: {name} must be a whole number; got {value!r}")
    if name == "version" and value != SPEC_VERSION:
        raise ValueError(f"WorldSpec: version must be {SPEC_VERSION}; got {value!r}; render the world again")
    if value < least:
        raise ValueError(f"WorldSpec: {name} must be at least {least}; got {value!r}")
    if value > most:
        raise ValueError(f"WorldSpec: {name} must be at most {most}; got {value!r}")
