"""
Signatures of encoded images, and their sizes.
"""

from __future__ import annotations

import collections.abc
import typing

import numpy
import numpy.typing

__all__: list[str] = [
    "blur_boxes",
    "decode_grey",
    "encode_webp",
    "flat_quality",
    "format_names",
    "hash_variants",
    "image_signatures",
    "image_signatures_of",
    "image_size",
    "max_blur_side",
    "max_image_bytes",
    "max_image_parts",
    "max_image_pixels",
    "max_scans",
    "phash256_grey",
    "phash_grey",
    "status_names",
]

def blur_boxes(
    pixels: numpy.typing.NDArray[numpy.uint8],
    height: typing.SupportsIndex,
    width: typing.SupportsIndex,
    channels: typing.SupportsIndex,
    boxes: numpy.typing.NDArray[numpy.float64],
) -> numpy.typing.NDArray[numpy.uint8]:
    """
    Bytes of an image with boxes blurred, none where no box reaches over a pixel.
    """

def decode_grey(image: bytes, full: bool) -> tuple[int, numpy.typing.NDArray[numpy.uint8]]:
    """
    (status, grey levels).
    """

def encode_webp(
    pixels: numpy.typing.NDArray[numpy.uint8],
    height: typing.SupportsIndex,
    width: typing.SupportsIndex,
    channels: typing.SupportsIndex,
    quality: typing.SupportsIndex,
) -> bytes:
    """
    A lossy WebP of RGB or RGBA pixels.
    """

def format_names() -> list[str]:
    """
    Names of the numbers in `format`.
    """

def hash_variants(words: numpy.typing.NDArray[numpy.uint64]) -> numpy.typing.NDArray[numpy.uint64]:
    """
    Eight hashes for each, of the image turned and mirrored.
    """

def image_signatures(
    path: bytes | str,
    offsets: numpy.typing.NDArray[numpy.uint64],
    sizes: numpy.typing.NDArray[numpy.uint64],
    threads: typing.SupportsIndex,
    full: bool,
    wide: bool,
) -> tuple[
    numpy.typing.NDArray[numpy.uint8],
    numpy.typing.NDArray[numpy.uint8],
    numpy.typing.NDArray[numpy.uint32],
    numpy.typing.NDArray[numpy.uint32],
    numpy.typing.NDArray[numpy.void],
    numpy.typing.NDArray[numpy.uint64],
    numpy.typing.NDArray[numpy.bool_],
    numpy.typing.NDArray[numpy.uint64],
    numpy.typing.NDArray[numpy.uint8],
]:
    """
    (status, format, width, height, content hash, phash, flat, words, quality) of members of a file.
    """

def image_signatures_of(
    images: collections.abc.Sequence[bytes], threads: typing.SupportsIndex, full: bool, wide: bool
) -> tuple[
    numpy.typing.NDArray[numpy.uint8],
    numpy.typing.NDArray[numpy.uint8],
    numpy.typing.NDArray[numpy.uint32],
    numpy.typing.NDArray[numpy.uint32],
    numpy.typing.NDArray[numpy.void],
    numpy.typing.NDArray[numpy.uint64],
    numpy.typing.NDArray[numpy.bool_],
    numpy.typing.NDArray[numpy.uint64],
    numpy.typing.NDArray[numpy.uint8],
]:
    """
    (status, format, width, height, content hash, phash, flat, words, quality) of encoded images.
    """

def image_size(data: bytes) -> tuple[int, int]:
    """
    (width, height) by the image's header, 0 where unknown.
    """

def max_scans(pixels: typing.SupportsIndex) -> int:
    """
    The scans that a JPEG of this many pixels may have.
    """

def phash256_grey(grey: numpy.typing.NDArray[numpy.uint8]) -> tuple[numpy.typing.NDArray[numpy.uint64], int]:
    """
    (four words of the 256-bit hash, quality) of grey levels.
    """

def phash_grey(grey: numpy.typing.NDArray[numpy.uint8]) -> tuple[int, bool]:
    """
    (perceptual hash, flat) of grey levels.
    """

def status_names() -> list[str]:
    """
    Names of the numbers in `status`.
    """

flat_quality: int = 6
max_blur_side: int = 16383
max_image_bytes: int = 268435456
max_image_parts: int = 65536
max_image_pixels: int = 178956970
