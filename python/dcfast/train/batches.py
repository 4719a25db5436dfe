"""Batches, made ahead of the training by worker processes: the same for any number of them.

A batch is a pure function of (settings, step, micro-batch): the order says the positions, the source the bytes, the
counter the crop windows. torch's DataLoader hands the batch numbers to its workers and gives the batches back in
order. A sample that cannot be used is replaced by the next of its block, and the replacement is recorded.
"""

from __future__ import annotations

import ctypes
import signal
import sys
import time
import warnings
from collections import Counter
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, NamedTuple, NoReturn, TypeVar

import numpy as np
import numpy.typing as npt

from dcfast._core import system as core_system
from dcfast.access.order import Order, Placement
from dcfast.errors import CorruptDataError
from dcfast.images.costs import BadImage
from dcfast.models.captions import read_caption
from dcfast.models.clip import load_tokenizer
from dcfast.process.read_ahead import read_ahead
from dcfast.process.signals import POSTPONED
from dcfast.train.batch import Batch, BatchSpec, Encoded
from dcfast.train.dali import DaliDecoder, plain_jpeg
from dcfast.train.decode import Decoder, open_decoder
from dcfast.train.failures import Failure
from dcfast.train.feed import Feed
from dcfast.train.replaced import Replacement
from dcfast.train.source import OpenSource, RawSample, source_weights
from dcfast.train.windows import crop_windows
from dcfast.uids.sets import UID_DTYPE, uid_format

if TYPE_CHECKING:
    import torch

T = TypeVar("T")

MAX_ATTEMPTS = 1024  # positions tried in place of one sample before the source counts as unusable
_CACHED_CAPTIONS = 1 << 16
_REMEMBERED_CHARACTERS = 2048
"""Of a caption whose tokens are kept; with longer ones, strangers could fill the memory."""
_NAMED_EXTS = 12
CHUNK = 256
"""Samples that a worker makes at a time: a large micro-batch is put together from several workers' chunks."""
_PREFETCHED_BYTES = 64 << 20  # of pixels a worker makes ahead, at most
_LAST_CHUNK_SECONDS = 2.0
"""How long the workers of a training that ends may take for the chunk they are at; then they are killed."""
_REAP_SECONDS = 0.2


class BadSample(Exception):  # noqa: N818  (it never leaves the loader)
    """A sample cannot be used, whatever its image; the text says why."""


class BatchMaker:
    """Makes batches of one rank. Memory: one micro-batch, and the tokens of at most 65,536 captions."""

    def __init__(self, spec: BatchSpec) -> None:
        self.spec: BatchSpec = spec
        settings = spec.settings
        self._order = Order(
            [s.count for s in spec.sources],
            seed=settings.seed,
            weights=source_weights(settings, spec.sources) if settings.resample else None,
            resample=settings.resample,
            block=settings.block,
            window=settings.window,
        )
        self._sources = [OpenSource(files) for files in spec.sources]
        self._tokenizer = load_tokenizer(spec.recipe.model)
        self._decoder: Decoder = open_decoder(settings.decoder)
        self._tokens: dict[str, torch.Tensor] = {}

    def slots(self, micro: int) -> npt.NDArray[np.int64]:
        """The slots of the global batch that this rank makes in a micro-batch."""
        n = self.spec.micro_batch
        return (micro * self.spec.world_size + self.spec.rank) * n + np.arange(n)

    def planned(self, step: int, slots: npt.NDArray[np.int64]) -> Placement:
        """Where the samples of some slots of a step lie, before anything is read."""
        return self._order.placement(step * self.spec.recipe.global_batch + slots)

    def make(self, step: int, micro: int = 0, first: int = 0, last: int | None = None) -> Batch:
        """Micro-batch ``micro`` of a step, or its samples first .. last - 1."""
        import torch

        slots = self.slots(micro)[first:last]
        placement = self.planned(step, slots)
        n, size = len(slots), self.spec.image_size
        pixels = np.empty((n, size, size, 3), np.uint8)
        windows = np.zeros((n, 4), np.int32)
        uids = np.zeros(n, UID_DTYPE)
        captions = [""] * n
        attempt = np.zeros(n, np.int64)
        replaced: list[Replacement] = []
        encoded: dict[int, bytes] = {}
        todo = np.arange(n)
        positions = placement.positions()
        while len(todo):
            failed = []
            for i, raw, uid, crop in self._read(step, slots, positions, todo):
                try:
                    captions[i] = _caption(raw)
                    if raw.picture is None:
                        raise BadSample("no picture")
                    if self.spec.settings.decoder == "dali" and plain_jpeg(raw.picture) == crop.size:
                        encoded[i] = bytes(raw.picture)
                    else:
                        pixels[i] = self._decoder(raw.picture, crop, size)
                    windows[i], uids[i] = crop.last, uid
                except (BadSample, BadImage) as error:
                    failed.append(i)
                    [text] = uid_format(np.array([uid], UID_DTYPE), as_list=True, threads=1)
                    slot, position = int(slots[i]), int(positions[i])
                    replaced.append(Replacement(step=step, slot=slot, position=position, uid=text, reason=str(error)))
            todo = np.array(failed, np.int64)
            attempt[todo] += 1
            if len(todo) and int(attempt.max()) > min(MAX_ATTEMPTS, int(placement.size[todo].max())):
                self._refuse(replaced)
            positions = placement.positions(attempt)
        if encoded:
            pixels = np.delete(pixels, sorted(encoded), axis=0)
        images = torch.from_numpy(pixels).permute(0, 3, 1, 2)
        replaced.sort(key=lambda record: record.slot)  # stable: attempts of one slot stay in order
        left = Encoded.of(encoded) if encoded else None
        return Batch(step, images, self._tokenized(captions), uids, windows, positions, replaced, left)

    def _read(
        self, step: int, slots: npt.NDArray[np.int64], positions: npt.NDArray[np.int64], todo: npt.NDArray[np.int64]
    ) -> Iterator[_Candidate]:
        """Some samples of a batch, source by source, in the order of the shards."""
        owner = self._order.source_of(positions[todo])
        for number in sorted(set(owner.tolist())):
            source = self._sources[number]
            at = todo[owner == number]
            rows = source.rows(positions[at] - self._order.source_begin(number))
            by_row = np.argsort(rows, kind="stable")  # neighbours are read together
            at, rows = at[by_row], rows[by_row]
            sizes = source.reader.picture_sizes(rows).astype(np.int64)
            uids = source.reader.uids(rows)
            g = step * self.spec.recipe.global_batch + slots[at]
            known = np.maximum(sizes, 1)
            windows = self._windows(g, known[:, 0], known[:, 1])
            for k, raw in enumerate(source.read(rows, g)):
                crop = _Crop(self._windows, int(g[k]), tuple(sizes[k].tolist()), tuple(windows[k].tolist()))
                yield _Candidate(int(at[k]), raw, uids[k], crop)

    def _windows(self, g: npt.ArrayLike, width: npt.ArrayLike, height: npt.ArrayLike) -> npt.NDArray[np.int32]:
        return crop_windows(self.spec.settings.seed, g, width, height, (self.spec.recipe.crop_scale, 1.0))

    def _tokenized(self, captions: list[str]) -> torch.Tensor:
        import torch

        unknown = sorted({c for c in captions if c not in self._tokens})
        if unknown:
            if len(self._tokens) + len(unknown) > _CACHED_CAPTIONS:
                self._tokens.clear()
                unknown = sorted(set(captions))
            # captions come back some ten times in a training: their tokens are kept
            self._tokens.update(zip(unknown, self._tokenizer(unknown), strict=True))
        tokens = torch.stack([self._tokens[c] for c in captions])
        for caption in unknown:
            if len(caption) > _REMEMBERED_CHARACTERS:
                del self._tokens[caption]
        return tokens

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
class _Crop:
    """The window of sample number ``g``; drawn anew where the header was wrong about the size.

    Attributes:
        size: width and height by the header.   last: the window: left, top, width, height.
    """

    draw: Callable[[list[int], list[int], list[int]], npt.NDArray[np.int32]]
    g: int
    size: tuple[int, ...]
    last: tuple[int, ...]

    def __call__(self, width: int, height: int) -> tuple[int, ...]:
        if (width, height) != self.size:
            self.last = tuple(self.draw([self.g], [width], [height])[0].tolist())
        return self.last


class _Candidate(NamedTuple):
    """A sample that is tried.

    Attributes:
        row: of the batch.
    """

    row: int
    raw: RawSample
    uid: np.void
    crop: _Crop


def _caption(raw: RawSample) -> str:
    if raw.caption is None:
        raise BadSample(raw.lacking)
    try:
        return read_caption(raw.caption, "strict")
    except UnicodeDecodeError:
        raise BadSample("the caption is not UTF-8") from None


class _Chunks:
    """The dataset that torch's DataLoader sees: chunk i, counted from the first step on."""

    def __init__(self, spec: BatchSpec, first_step: int, last_step: int) -> None:
        self._spec, self._first = spec, first_step
        self.per_batch = -(-spec.micro_batch // CHUNK)
        self._count = (last_step - first_step) * spec.settings.accumulation * self.per_batch
        self._maker: BatchMaker | None = None

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, i: int) -> Batch | Failure:
        from torch.utils.data import get_worker_info

        try:
            return self.make(i)
        except Exception as error:
            if get_worker_info() is None:
                raise
            return Failure.of(error)

    def make(self, i: int) -> Batch:
        if self._maker is None:  # in the worker: open files are not shared between processes
            self._maker = BatchMaker(self._spec)
        number, chunk = divmod(i, self.per_batch)
        step, micro = divmod(number, self._spec.settings.accumulation)
        return self._maker.make(self._first + step, micro, chunk * CHUNK, (chunk + 1) * CHUNK)


def _decoded(
    chunks: Iterator[Batch | Failure], remade: _Chunks, decoder: DaliDecoder
) -> Generator[Batch | Failure, None, None]:
    """The chunks with all their pixels, each decoded while the one before it is in use; ``remade``: by Pillow alone."""

    def finish(numbered: tuple[int, Batch | Failure]) -> Batch | Failure:
        i, chunk = numbered
        return chunk if isinstance(chunk, Failure) else decoder.finish(chunk, partial(remade.make, i))

    return read_ahead(finish, enumerate(chunks), threads=1, ahead=1, name="dcfast-dali")


def _identity(chunk: T) -> T:
    return chunk


def _start_worker(_: int) -> None:
    import torch

    pr_set_pdeathsig = 1
    ctypes.CDLL(None, use_errno=True).prctl(pr_set_pdeathsig, signal.SIGKILL)  # never outlive a killed training
    for number in (signal.SIGINT, *POSTPONED):  # the training ends its workers, when it has saved
        signal.signal(number, signal.SIG_IGN)
    core_system.guard_maps()  # torch has a handler of its own in its workers, which ends them
    torch.set_num_threads(1)
    sys.excepthook = _of_thread


def _of_thread(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    # a thread of multiprocessing hands batches over: a training that is gone is no news, and its own end says why
    if not issubclass(kind, (OSError, EOFError)):
        sys.__excepthook__(kind, error, trace)


def iterate_batches(spec: BatchSpec, first_step: int, last_step: int, workers: int, device: str = "cpu") -> Feed:
    """The micro-batches of steps first .. last - 1, in order, made ahead by ``workers`` processes (0: in a thread).

    Args:
        device: of the training, ``cpu`` or ``cuda:K``: DALI decodes there, and leaves the pictures there.
    Raises, as a batch is asked for:
        RunError: a worker died.   CorruptDataError: no usable sample was found.   Whatever else a worker raised, as
            if it had been raised here.
    Memory: for each worker up to 64 MiB of pixels made ahead, in shared memory, but at least one chunk.
    """
    import torch
    from torch.utils.data import DataLoader

    chunks = _Chunks(spec, first_step, last_step)
    chunk_bytes = 3 * spec.image_size**2 * min(CHUNK, spec.micro_batch)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # more workers than cores: the caller asked for them
        loader: DataLoader[Batch | Failure] = DataLoader(
            chunks,  # type: ignore[arg-type]
            batch_size=None,
            shuffle=False,
            num_workers=workers,
            collate_fn=_identity,
            worker_init_fn=_start_worker if workers else None,
            prefetch_factor=max(1, min(4, _PREFETCHED_BYTES // chunk_bytes)) if workers else None,
            pin_memory=device != "cpu",
            # whatever the caller's way of starting processes: workers must be children of this one, to end with it
            multiprocessing_context="fork" if workers else None,
            generator=torch.Generator(),  # the loader draws a number as it begins: not from the training's own stream
        )
        loading = iter(loader)  # in this thread: workers die with the thread that forked them
    made: Iterator[Batch | Failure] = loading
    if spec.settings.decoder == "dali":
        remade = _Chunks(spec.decoded_by("pil"), first_step, last_step)
        made = _decoded(loading, remade, DaliDecoder(spec.image_size, device=device, threads=workers))
    return Feed(made, chunks.per_batch, partial(_end_workers, loading))


def _end_workers(loading: object) -> None:
    """Ends the workers of a loader now: as Python ends, torch would leave it; and torch would wait for each in turn."""
    deadline = time.monotonic() + _LAST_CHUNK_SECONDS
    for worker in getattr(loading, "_workers", ()):
        worker.terminate = worker.kill  # it hears no SIGTERM, and may wait for a disk that does not answer
        worker.join = partial(_join_until, worker.join, deadline)
    getattr(loading, "_shutdown_workers", lambda: None)()


def _join_until(join: Callable[[float], None], deadline: float, timeout: float | None = None) -> None:
    join(max(_REAP_SECONDS, deadline - time.monotonic()))
