"""What cannot be an image, told by its type or its first bytes, before the rest of it is read."""

from __future__ import annotations

from dcfast.acquire.causes import FetchError

_NO_IMAGES = ("audio/", "video/", "font/", "message/", "multipart/")
_NO_IMAGE = frozenset(
    (
        "text/html",
        "text/css",
        "text/javascript",
        "text/csv",
        "text/calendar",
        "application/json",
        "application/javascript",
        "application/xhtml+xml",
        "application/pdf",
        "application/zip",
        "application/gzip",
        "application/x-shockwave-flash",
        "application/vnd.apple.mpegurl",
        "application/x-mpegurl",
        "application/ogg",
        "image/svg+xml",
    )
)
_STARTS = (
    b"\xff\xd8\xff",  # JPEG
    b"\x89PNG\r\n\x1a\n",
    b"GIF87a",
    b"GIF89a",
    b"BM",
    b"II*\0",
    b"MM\0*",
    b"II+\0",
    b"MM\0+",
    b"\0\0\0\x0cjP  \r\n\x87\n",  # JPEG 2000
    b"\xff\x4f\xff\x51",
    b"\0\0\1\0",  # icons
    b"P5",
    b"P6",
    b"P4",
)
_BRANDS = (b"avif", b"avis", b"mif1", b"msf1", b"heic", b"heix", b"hevc")


def refuse_type(content_type: str, status: int) -> None:
    """FetchError (not_image) for a ``Content-Type`` that no image has."""
    kind = content_type.partition(";")[0].strip().lower()
    if kind in _NO_IMAGE or kind.startswith(_NO_IMAGES):
        raise FetchError("not_image", f"Content-Type is {kind[:100]}", http_status=status)


def refuse_first_bytes(data: bytes, *, whole: bool = False) -> None:
    """FetchError (not_image) where a body does not begin as a kind of image that is decoded; 16 bytes are enough."""
    if not data:
        raise FetchError("not_image", "no bytes")
    known = (
        data.startswith(_STARTS)
        or (data[:4] == b"RIFF" and data[8:12] == b"WEBP")
        or (data[4:8] == b"ftyp" and data[8:12] in _BRANDS)
    )
    if not known and (whole or len(data) >= 16):
        raise FetchError("not_image", "its first bytes are no image's")
