"""What a batch is: a pure function of (settings, step, micro-batch).

The order says the positions, the source the bytes, the counter the crop windows. A sample that cannot be used is
replaced by the next of its block, and the replacement is recorded.
"""

from __future__ import annotations

import threading
from collections import Counter
from dataclasses import dataclass, field
from typing import NoReturn

import numpy as np
import numpy.typing as npt

from dcfast.access.order import Order, Placement
from dcfast.errors import CorruptDataError
from dcfast.train.batch import Batch, BatchSpec, Encoded, Room
from dcfast.train.caption_tokens import CaptionTokens
from dcfast.train.dali import plain_jpeg
from dcfast.train.pixels import Crops, PixelWriter
from dcfast.train.replaced import Replacement
from dcfast.train.source import OpenSource, RawSamples, source_weights
from dcfast.train.windows import crop_windows
from dcfast.uids.sets import UID_DTYPE, uid_format

_Int64Array = npt.NDArray[np.int64]

MAX_ATTEMPTS = 1024  # positions tried in place of one sample before the source counts as unusable
_NAMED_EXTS = 12
_MOST_SIDE = 1 << 30
"""Of a picture, in pixels, for which a window is drawn before it is opened: headers say what they like."""


class BatchMaker:
    """Makes batches of one rank, in any number of threads at once. Memory: ``CaptionTokens``, and one chunk a thread.

    Attributes:
        ended: set by whoever wants no batches any more: ``make`` then raises LoaderEnded, as soon as it can.
    """

    def __init__(self, spec: BatchSpec) -> None:
        self.spec: BatchSpec = spec
        settings = spec.settings
        self.ended: threading.Event = threading.Event()
        self._order = Order(
            [s.count for s in spec.sources],
            seed=settings.seed,
            weights=source_weights(settings, spec.sources) if settings.resample else None,
            resample=settings.resample,
            block=settings.block,
            window=settings.window,
        )
        self._lock = threading.Lock()  # the order keeps its last windows
        self._sources = [OpenSource(files) for files in spec.sources]
        self._captions = CaptionTokens(spec.recipe.model)
        self._pixels = PixelWriter(settings.decoder, self.ended)

    def slots(self, micro: int) -> _Int64Array:
        """The slots of the global batch that this rank makes in a micro-batch."""
        n = self.spec.micro_batch
        return (micro * self.spec.world_size + self.spec.rank) * n + np.arange(n)

    def planned(self, step: int, slots: _Int64Array) -> Placement:
        """Where the samples of some slots of a step lie, before anything is read."""
        with self._lock:
            return self._order.placement(step * self.spec.recipe.global_batch + slots)

    def room(self, n: int, *, pinned: bool = False) -> Room:
        """Memory for n samples."""
        return Room.of(n, self.spec.image_size, self._captions.context, pinned=pinned)

    def make(
        self, step: int, micro: int = 0, first: int = 0, last: int | None = None, room: Room | None = None
    ) -> Batch:
        """Micro-batch ``micro`` of a step, or its samples first .. last - 1.

        Args:
            room: of the whole micro-batch, whose part is written to; None for memory of its own.
        """
        slots = self.slots(micro)[first:last]
        placement, n = self.planned(step, slots), len(slots)
        own = self.room(n) if room is None else room.part(first, first + n)
        chunk = _Chunk(step, slots, own.images.numpy(), own.tokens.numpy(), placement.positions())
        attempt = np.zeros(n, np.int64)
        todo = np.arange(n)
        while len(todo):
            todo = self._try(chunk, todo)
            attempt[todo] += 1
            if len(todo) and int(attempt.max()) > min(MAX_ATTEMPTS, int(placement.size[todo].max())):
                self._refuse(chunk.replaced)
            chunk.positions = placement.positions(attempt)
        images, left = own.images, None
        if chunk.encoded:
            left = Encoded.of(chunk.encoded)
            images = images[np.setdiff1d(np.arange(n), left.indices)]
        chunk.replaced.sort(key=lambda record: record.slot)  # stable: attempts of one slot stay in order
        return Batch(
            step, images.permute(0, 3, 1, 2), own.tokens, chunk.uids, chunk.windows, chunk.positions, chunk.replaced,
            left, by_pillow=chunk.by_pillow, room=room,
        )  # fmt: skip

    def _try(self, chunk: _Chunk, todo: _Int64Array) -> _Int64Array:
        """Some samples of a chunk, source by source, in the order of the shards; those that cannot be used."""
        owner = self._order.source_of(chunk.positions[todo])
        failed: list[int] = []
        for number in np.unique(owner).tolist():
            source = self._sources[number]
            at = todo[owner == number]
            rows = source.rows(chunk.positions[at] - self._order.source_begin(number))
            by_row = np.argsort(rows, kind="stable")  # neighbours are read together
            at, rows = at[by_row], rows[by_row]
            sizes = np.minimum(source.reader.picture_sizes(rows), _MOST_SIDE).astype(np.int32)
            g = chunk.step * self.spec.recipe.global_batch + chunk.slots[at]
            known = np.maximum(sizes, 1)
            windows = self._windows(g, known[:, 0], known[:, 1])
            chunk.uids[at] = source.reader.uids(rows)
            done = 0
            for raw in source.read(rows, g):
                part = slice(done, done + len(raw))
                crops = Crops(self._windows, g[part], sizes[part], windows[part])
                failed += self._write(chunk, raw, crops, at[part])
                done += len(raw)
        return np.array(failed, np.int64)

    def _write(self, chunk: _Chunk, raw: RawSamples, crops: Crops, at: _Int64Array) -> list[int]:
        """Captions and pictures of samples, to the rows ``at`` of a chunk; the rows of those that cannot be used."""
        reasons = self._captions.write(raw, chunk.tokens, at)
        for i in np.flatnonzero(raw.pictures.size < 0).tolist():
            reasons.setdefault(i, "no picture")
        good = np.ones(len(raw), bool)
        good[list(reasons)] = False
        chosen = np.flatnonzero(good)
        if self.spec.settings.decoder == "dali":
            chosen = self._set_aside(chunk, raw, crops, at, chosen)
        reasons |= self._pixels.write(raw, chosen, crops, chunk.pixels, at[chosen], chunk.by_pillow)
        chunk.windows[at] = crops.windows
        failed = []
        for i, reason in reasons.items():
            row = int(at[i])
            failed.append(row)
            [uid] = uid_format(chunk.uids[row : row + 1], as_list=True, threads=1)
            slot, position = int(chunk.slots[row]), int(chunk.positions[row])
            chunk.replaced.append(Replacement(step=chunk.step, slot=slot, position=position, uid=uid, reason=reason))
        return failed

    @staticmethod
    def _set_aside(chunk: _Chunk, raw: RawSamples, crops: Crops, at: _Int64Array, chosen: _Int64Array) -> _Int64Array:
        """Keeps the pictures that DALI takes as they are; gives the others."""
        others = []
        for i in chosen.tolist():
            picture = raw.picture(i)
            if picture is not None and plain_jpeg(picture) == tuple(crops.sizes[i].tolist()):
                chunk.encoded[int(at[i])] = bytes(picture)
            else:
                others.append(i)
        return np.array(others, np.int64)

    def _windows(self, g: npt.ArrayLike, width: npt.ArrayLike, height: npt.ArrayLike) -> npt.NDArray[np.int32]:
        return crop_windows(self.spec.settings.seed, g, width, height, (self.spec.recipe.crop_scale, 1.0))

    def _refuse(self, replaced: list[Replacement]) -> NoReturn:
        last = replaced[-1]
        names = ", ".join(s.name for s in self.spec.sources)
        [(reason, count)] = Counter(record.reason for record in replaced).most_common(1)
        exts = sorted({ext for source in self._sources for ext in source.reader.exts})
        raise CorruptDataError(
            f"step {last.step}: no usable sample was found in place of {last.uid}: {len(replaced)} positions "
            f"were tried, {count} of them said: {reason}. Look at the samples of {names}, whose members are "
            f"{', '.join(exts[:_NAMED_EXTS])}"
        )


@dataclass
class _Chunk:
    """n samples of a step that are being made; see ``Batch``. ``pixels`` and ``tokens`` are its room."""

    step: int
    slots: _Int64Array
    pixels: npt.NDArray[np.uint8]
    tokens: _Int64Array
    positions: _Int64Array
    uids: npt.NDArray[np.void] = field(init=False)
    windows: npt.NDArray[np.int32] = field(init=False)
    replaced: list[Replacement] = field(default_factory=list)
    encoded: dict[int, bytes] = field(default_factory=dict)
    by_pillow: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self.uids = np.zeros(len(self.slots), UID_DTYPE)
        self.windows = np.zeros((len(self.slots), 4), np.int32)
