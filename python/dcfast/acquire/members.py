"""The bytes of an answer to the member of a shard: hashed, decoded, its faces blurred, resized, encoded."""

from __future__ import annotations

import hashlib
import math
import threading
from contextlib import nullcontext

import numpy as np
from numpy.typing import NDArray

from dcfast.acquire.causes import CAUSES, SUCCESS, FetchError
from dcfast.acquire.options import ImageOptions
from dcfast.acquire.rows import Row
from dcfast.acquire.spool import Fetched
from dcfast.acquire.web import Answer
from dcfast.images.costs import BadImage
from dcfast.images.exif import exif_json
from dcfast.images.resize import Resized, ResizeError, ResizeOptions, pixels_of, resize_image
from dcfast.storage.records import replaced

_BEYOND = 0.5
"""Of the image, that a box may reach beyond its border; more, and it is no fraction."""
_LARGE_PIXELS = 1 << 23
_one_large = threading.Lock()
"""Held while a larger image is decoded: one at a time in a worker, of 2 to 16 bytes a pixel."""
UNDECODABLE = "Image decoding error"
"""What img2dataset says."""


def make_member(row: Row, answer: Answer, options: ImageOptions) -> tuple[Fetched, bytes]:
    """What became of a row whose bytes came, and its image, empty where there is none. For any thread."""
    sha256 = hashlib.sha256(answer.data).hexdigest()
    got = Fetched(
        number=row.number,
        status=SUCCESS,
        final_url=row.url if answer.final_url == row.url else answer.final_url,  # one text, not two
        http_status=answer.http_status,
        size=len(answer.data),
        sha256=sha256,
    )
    try:
        if options.verify_sha256 and row.sha256 and row.sha256.lower() != sha256:
            raise FetchError("hash_mismatch", "hash mismatch")
        made = _resized(row, answer.data, options)
    except FetchError as error:
        status = CAUSES[error.cause].status
        return replaced(got, status=status, cause=error.cause, message=error.message, sha256=None), b""
    whole = replaced(
        got,
        width=made.width,
        height=made.height,
        original_width=made.original_width,
        original_height=made.original_height,
        exif=exif_json(answer.data),
    )
    return whole, made.data


def _resized(row: Row, data: bytes, options: ImageOptions) -> Resized:
    boxes = face_boxes(row.boxes) if options.blur else None
    how = ResizeOptions(
        size=options.image_size,
        mode=options.resize_mode,
        only_if_bigger=not options.enlarge,
        encode_format=options.encode_format,
        quality=options.encoder_quality,
        how=options.resize,
        min_size=options.min_image_size,
        max_aspect=options.max_aspect_ratio or math.inf,
        max_pixels=options.max_pixels,
    )
    try:
        with nullcontext() if 0 < pixels_of(data) <= _LARGE_PIXELS else _one_large:
            return resize_image(data, how, boxes)
    except ResizeError as error:
        raise FetchError("by_rule", str(error)) from None
    except BadImage as error:
        if error.status == "too_large":
            raise FetchError("too_many_pixels", str(error)) from None
        raise FetchError("undecodable", UNDECODABLE) from None


def face_boxes(given: list[list[float]] | None) -> NDArray[np.float64] | None:
    """(b, 4) f64 of a list's boxes, None for none. FetchError (bad_boxes): an image would stay unblurred."""
    if not given:
        return None
    try:
        boxes = np.array(given, np.float64)
    except (ValueError, TypeError) as error:
        raise FetchError("bad_boxes", f"face_bboxes: {error}"[:200]) from None
    if boxes.ndim != 2 or boxes.shape[1] != 4 or not np.isfinite(boxes).all():
        raise FetchError("bad_boxes", "face_bboxes: expected lists of four numbers of 0 to 1")
    if (boxes < -_BEYOND).any() or (boxes > 1 + _BEYOND).any() or (boxes[:, :2] >= boxes[:, 2:]).any():
        raise FetchError("bad_boxes", "face_bboxes: expected corners x0 < x1, y0 < y1 as fractions of the image")
    # a face that the border cuts may be told beyond it; img2dataset cuts it as well
    boxes = boxes.clip(0.0, 1.0)
    return boxes[(boxes[:, :2] < boxes[:, 2:]).all(axis=1)]
