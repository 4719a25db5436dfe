"""Bodies that hurt: pictures that are bombs, compressed zeros, and a certificate that nobody signed."""

from __future__ import annotations

import datetime
import gzip
import io
import ipaddress
import struct
import zlib
from functools import cache
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from drawn_pictures import drawing, encode
from PIL import Image

_MIB = 1 << 20
_ADLER = 65521
JPEG_MAGIC = b"\xff\xd8\xff\xe0\x00\x10JFIF\x00"


@cache
def picture(kind: str = "JPEG", seed: int = 7, width: int = 160, height: int = 120) -> bytes:
    """A small drawing as a file of Pillow's format ``kind``."""
    return encode(drawing(seed, width, height), kind)


def _zeros(begin: bytes, size: int) -> bytes:
    """A raw deflate stream of some bytes and then zeros, made in no time: a mebibyte's stream is repeated."""
    first, unit = (zlib.compressobj(9, zlib.DEFLATED, -15) for _ in range(2))
    head = first.compress(begin + bytes(size % _MIB)) + first.flush(zlib.Z_FULL_FLUSH)
    block = unit.compress(bytes(_MIB)) + unit.flush(zlib.Z_FULL_FLUSH)
    return head + block * (size // _MIB) + b"\x03\x00"


def _zlib_zeros(begin: bytes, size: int) -> bytes:
    low, high = zlib.adler32(begin) & 0xFFFF, zlib.adler32(begin) >> 16
    return b"\x78\xda" + _zeros(begin, size) + struct.pack("!2H", (high + low * size) % _ADLER, low)


@cache
def gzip_bomb(size: int = 1 << 30) -> bytes:
    """What begins like a JPEG and goes on with ``size`` zeros, as a gzip stream of a thousandth, without a checksum."""
    return b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\xff" + _zeros(JPEG_MAGIC, size) + bytes(8)


@cache
def gzip_zeros(size: int = 15 << 20) -> bytes:
    """What begins like a JPEG and goes on with ``size`` zeros, as a whole gzip stream of one packet or two."""
    return gzip.compress(JPEG_MAGIC + bytes(size), mtime=0)


@cache
def deflate_bomb(size: int = 1 << 30) -> bytes:
    """The same as a zlib stream, which is whole."""
    return _zlib_zeros(JPEG_MAGIC, size)


@cache
def png_bomb(side: int = 50_000) -> bytes:
    """A whole PNG of side x side black pixels of one bit."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack("!I", len(data)) + kind + data + struct.pack("!I", zlib.crc32(kind + data))

    head = struct.pack("!2I5B", side, side, 1, 0, 0, 0, 0)
    data = _zlib_zeros(b"", side * (1 + (side + 7) // 8))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


@cache
def many_scans(count: int = 3000) -> bytes:
    """A progressive JPEG of 4 megapixels with ``count`` more scans of 36 bytes, each a pass over all of it."""
    buffer = io.BytesIO()
    Image.new("L", (2000, 2000), 128).save(buffer, "JPEG", progressive=True, quality=50)
    jpeg = buffer.getvalue()
    scan = jpeg.rfind(b"\xff\xc4", 0, jpeg.rfind(b"\xff\xda"))
    return jpeg[:-2] + jpeg[scan:-2] * count + b"\xff\xd9"


def write_certificate(path: Path, *names: str) -> None:
    """A key and a certificate for names and addresses, signed by itself: good for clients that are told to trust it."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "hostile web")])
    addresses = [x509.IPAddress(ipaddress.ip_address(address)) for address in ("127.0.0.1", "::1")]
    today = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(today - datetime.timedelta(days=1))
        .not_valid_after(today + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([*map(x509.DNSName, names), *addresses]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path.write_bytes(private + certificate.public_bytes(serialization.Encoding.PEM))
