"""JPEGs of a batch decoded, cut and resized at once by NVIDIA DALI: on the GPU, or in threads of this process.

Workers read ahead and hand over encoded bytes with the crop windows; the pixels are made here, one batch ahead of the
training. DALI gets plain JPEGs only: one picture of another kind ends its pipeline, and what it makes of odd colour
spaces or of files that are cut off is not what Pillow makes of them. All others go through Pillow in the workers, and
a batch that DALI refuses is made anew by Pillow, so that the same samples are used whoever decodes.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from importlib import import_module
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from dcfast.errors import MissingDependencyError, first_line
from dcfast.images import costs
from dcfast.images.costs import BadImage, pixel_parts
from dcfast.train.batch import Encoded
from dcfast.train.replaced import Refusal

if TYPE_CHECKING:
    import torch

    from dcfast.train.batch import Batch

_LOG = logging.getLogger(__name__)
_TAIL = 64  # bytes at the end of a file in which the end-of-image marker must lie
_RGB_IDS = b"RGB"


def plain_jpeg(data: memoryview) -> tuple[int, int] | None:
    """(width, height) of a JPEG that every decoder reads alike; None for all others.

    Baseline, extended or progressive Huffman frames of 8 bits, grey or Y'CbCr, that end in an end-of-image marker, of a
    size and a number of scans that are read.
    """
    frame = _frame(bytes(data[: 1 << 20]))
    if frame is None or bytes(data[-_TAIL:]).rfind(b"\xff\xd9") < 0:
        return None
    height, width, components = int.from_bytes(frame[1:3], "big"), int.from_bytes(frame[3:5], "big"), frame[5]
    ids = frame[6:15:3]
    if frame[0] != 8 or components not in (1, 3) or not width or not height or ids == _RGB_IDS:
        return None
    try:
        pixel_parts(bytes(data))
    except BadImage:
        return None
    return None if width * height > costs.MAX_PIXELS else (width, height)


def _frame(head: bytes) -> bytes | None:
    """The payload of the one frame header before the scan; None where there is none, or an Adobe segment, before the
    frame header or behind it, says that the colours are RGB."""
    if head[:2] != b"\xff\xd8":
        return None
    at, frame = 2, None
    while at + 4 <= len(head) and head[at] == 0xFF:
        marker, length = head[at + 1], int.from_bytes(head[at + 2 : at + 4], "big")
        if marker == 0xFF:  # fill bytes
            at = len(head) - len(head[at:].lstrip(b"\xff")) - 1
            continue
        payload = head[at + 4 : at + 2 + length]
        if marker in (0xC0, 0xC1, 0xC2):
            if frame is not None or len(payload) < 9 or len(payload) < 6 + 3 * payload[5]:
                return None
            frame = payload
        if marker == 0xEE and payload[:5] == b"Adobe" and payload[11:12] == b"\0":
            return None
        if 0xC3 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            return None  # lossless, hierarchical or arithmetic
        if marker == 0xDA:  # the scan
            return frame
        if marker == 0xD9 or length < 2:
            return None
        at += 2 + length
    return None


def require_dali() -> None:
    """MissingDependencyError that says how to get DALI, where it is not there."""
    try:
        _dali("")
    except ImportError as error:
        raise MissingDependencyError(
            f"the decoder 'dali' needs NVIDIA DALI ({error}): pip install 'dcfast[dali-cuda13]' (or dali-cuda12, after "
            "the driver's CUDA; both decode without a GPU too), or take another decoder"
        ) from None


class DaliDecoder:
    """Finishes batches. One for each rank, in the process that trains.

    Args:
        size: side of the pictures a model takes, pixels.
        device: ``cpu``, or ``cuda:K``: the decoded batch is there.
        threads: of DALI.
    Memory: the pixels of one batch, and one picture a thread at its full size.
    """

    def __init__(self, size: int, *, device: str = "cpu", threads: int = 1) -> None:
        require_dali()
        self.device = device
        self.redone: int = 0
        self._size, self._threads = size, max(1, threads)
        self._pipeline: Any = None  # of DALI, see ``_dali``
        self._room = 0

    def finish(self, batch: Batch, remake: Callable[[], Batch]) -> Batch:
        """The batch with all its pixels.

        Args:
            remake: makes the same batch by Pillow; called where DALI refuses it, of which the log tells, and
                ``refused`` of the batch.
        Raises:
            RuntimeError: there is no pipeline to be had, or no memory for it: nothing that a picture is to blame for.
        """
        import torch

        encoded = batch.encoded
        if encoded is None:
            return batch
        if self._pipeline is None or len(encoded.indices) > self._room:
            self._room = max(len(encoded.indices), self._room)
            self._pipeline = _build(self._size, self._room, self.device, self._threads)
        try:
            decoded = self._decode(encoded, batch.windows[encoded.indices])
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            self._pipeline = None  # an error leaves it unusable
            self.redone += 1
            reason = first_line(error)
            if self.redone & (self.redone - 1) == 0:  # the 1st, 2nd, 4th, 8th, ...
                _LOG.warning("DALI refused %d batches so far; Pillow decodes them, slower: %s", self.redone, reason)
            again = remake()
            refused = [Refusal(samples=len(encoded.indices), reason=reason, step=batch.step)]
            return replace(again, images=again.images.to(self.device), encoded=None, refused=refused)
        n = len(batch.uids)
        images = torch.empty((n, self._size, self._size, 3), dtype=torch.uint8, device=self.device)
        by_pillow = np.setdiff1d(np.arange(n), encoded.indices)
        images[torch.from_numpy(encoded.indices)] = decoded
        images[torch.from_numpy(by_pillow)] = batch.images.to(self.device).permute(0, 2, 3, 1)
        return replace(batch, images=images.permute(0, 3, 1, 2), encoded=None)

    def _decode(self, encoded: Encoded, windows: npt.NDArray[np.int32]) -> torch.Tensor:
        """(k, size, size, 3) uint8."""
        import torch

        pictures = encoded.pictures()
        self._pipeline.feed_input("encoded", pictures)
        self._pipeline.feed_input("anchor", list(windows[:, :2]))
        self._pipeline.feed_input("shape", list(windows[:, 2:]))
        (images,) = self._pipeline.run()
        out = torch.empty((len(pictures), self._size, self._size, 3), dtype=torch.uint8, device=self.device)
        _dali(".plugin.pytorch").feed_ndarray(images.as_tensor(), out)  # a copy: DALI uses its own again
        return out


def _dali(module: str) -> Any:
    """A module of DALI, untyped: its stubs come and go with its versions."""
    return import_module(f"nvidia.dali{module}")


def _build(size: int, room: int, device: str, threads: int) -> Any:
    fn, types = _dali(".fn"), _dali(".types")
    on_gpu = device != "cpu"
    device_id = int(device.partition(":")[2] or 0) if on_gpu else None
    pipeline = _dali(".pipeline").Pipeline(
        batch_size=room, num_threads=threads, device_id=device_id, prefetch_queue_depth=1
    )
    with pipeline:
        encoded = fn.external_source(name="encoded", dtype=types.UINT8, ndim=1)
        anchor = fn.external_source(name="anchor", dtype=types.INT32, ndim=1)
        shape = fn.external_source(name="shape", dtype=types.INT32, ndim=1)
        cut = fn.decoders.image_slice(
            encoded,
            anchor,
            shape,
            device="mixed" if on_gpu else "cpu",
            axis_names="WH",
            normalized_anchor=False,
            normalized_shape=False,
            adjust_orientation=False,  # open_clip's transform does not turn pictures either
            jpeg_fancy_upsampling=True,  # as libjpeg does it
            output_type=types.RGB,
        )
        resized = fn.resize(cut, size=[size, size], interp_type=types.INTERP_CUBIC, antialias=True, dtype=types.UINT8)
        pipeline.set_outputs(resized)
    pipeline.build()
    return pipeline
