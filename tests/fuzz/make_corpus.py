"""Seeds for the fuzz targets, made by tarfile and by our own writers: ``python make_corpus.py DIRECTORY``."""

from __future__ import annotations

import io
import json
import struct
import sys
import tarfile
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "helpers"))

from language_models import MadeModel

UID = "00112233445566778899aabbccddeeff"
PICTURES = {
    "gif": b"GIF89a" + struct.pack("<HH", 3, 2) + b"\0\0\0;",
    "png": b"\x89PNG\r\n\x1a\n" + struct.pack(">I4sII", 13, b"IHDR", 7, 9) + bytes(9),
    "jpg": b"\xff\xd8\xff\xe0\x00\x04\x01\x02\xff\xc2\x00\x0b\x08\x00\x05\x00\x06\x01\x01\x11\x00\xff\xd9",
    "bmp": b"BM" + bytes(12) + struct.pack("<Iii", 40, 3, -2),
    "webp": b"RIFF\x12\0\0\0WEBPVP8L\x06\0\0\0\x2f\x02\x40\x01\x00",
    "tif": b"MM\0*\0\0\0\x08\0\x02" + struct.pack(">HHIHHHHII", 256, 3, 1, 9, 0, 257, 4, 1, 8),
}
JSONS = [
    json.dumps({"uid": UID, "caption": "a cat", "width": 3}),
    '{"caption": "\\u00e9\\ud83d\\ude00", "uid": "' + UID.upper() + '"}',
    '{"u\\u0069d": "' + UID + '", "x": [1, 2.5e3, NaN, -Infinity, {"uid": 1}]}',
    '\ufeff{"uid": null, "lone": "\\ud800", "big": ' + "9" * 40 + "}",
    '{"uid": "x"}',
    '{"uid": "' + UID[5:] + '", "uid": "7"}',
    "[]",
]
_MORE_JSONS = ["[" * 150, '{"a": 1, "a": 2}', '"\\ud83d\\ude00"', "1e999", "[NaN, true, null]"]


def tar_bytes(format: int, members: list[tarfile.TarInfo], data: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=format) as tar:
        for member in members:
            payload = data.get(member.name, b"")
            member.size = len(payload)
            tar.addfile(member, io.BytesIO(payload))
    return out.getvalue()


def sample(i: int, ext: str, prefix: str = "") -> dict[str, bytes]:
    return {
        f"{prefix}{i:05d}.{ext}": PICTURES[ext],
        f"{prefix}{i:05d}.json": JSONS[i % len(JSONS)].encode("utf-8", "surrogatepass"),
        f"{prefix}{i:05d}.txt": b"a caption",
    }


def tars() -> dict[str, bytes]:
    made = {}
    for name, format in (("ustar", tarfile.USTAR_FORMAT), ("gnu", tarfile.GNU_FORMAT), ("pax", tarfile.PAX_FORMAT)):
        data = {k: v for i, ext in enumerate(PICTURES) for k, v in sample(i, ext).items()}
        made[name] = tar_bytes(format, [tarfile.TarInfo(n) for n in data], data)
        long = {k: v for i in range(2) for k, v in sample(i, "gif", "d" * 60 + "/" + "n" * 90).items()}
        made[f"{name}-long"] = tar_bytes(format, [tarfile.TarInfo(n) for n in long], long)
    kinds = []
    for i, kind in enumerate((tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE)):
        info = tarfile.TarInfo(f"odd{i}")
        info.type, info.linkname = kind, "elsewhere/" * 12
        kinds.append(info)
    made["kinds"] = tar_bytes(tarfile.GNU_FORMAT, kinds, {})
    extended = tarfile.TarInfo("plain.jpg")
    extended.pax_headers = {"path": "dir/name.jpg", "size": "5", "GNU.sparse.name": "sparse.bin", "comment": "x" * 600}
    made["pax-headers"] = tar_bytes(tarfile.PAX_FORMAT, [extended], {"plain.jpg": b"12345"})
    made["cut"] = made["pax"][:2000]
    return made


def segments() -> dict[str, bytes]:
    import tempfile

    from dcfast.index.build import write_segment

    made = {}
    with tempfile.TemporaryDirectory() as folder:
        paths = []
        for name, content in tars().items():
            path = Path(folder) / f"{name}.tar"
            path.write_bytes(content)
            paths.append((str(path), path.name))
        for label, chosen in (("none", []), ("one", paths[:1]), ("long", paths[1:2]), ("all", paths)):
            write_segment(chosen, Path(folder) / "index", sync=False)
            made[label] = (Path(folder) / "index").read_bytes()
    # the last byte chooses which checks are made to pass (tests/fuzz/fuzz_segment.cpp)
    return {
        f"{label}-{choice}": content + bytes([choice]) for label, content in made.items() for choice in (0, 1, 3, 7)
    }


def texts() -> dict[str, bytes]:
    made = {f"json-{i}": b"\0" + text.encode("utf-8", "surrogatepass") for i, text in enumerate(JSONS)}
    made |= {f"image-{ext}": b"\1" + content for ext, content in PICTURES.items()}
    made |= {"uid": b"\2" + UID.encode() * 2, "uid-bad": b"\2" + UID.replace("7", "g").encode()}
    for dtype in ("u8,u8", "u8,u8,u8"):
        for count in (0, 3):
            out = io.BytesIO()
            np.save(out, np.zeros(count, dtype), allow_pickle=False)
            made[f"npy-{dtype.count(',')}-{count}"] = b"\3" + out.getvalue()
    return made


def models() -> dict[str, bytes]:
    words, labels = [b"</s>", b"dogs", b"a"], [(b"__label__en", 9), (b"__label__de", 5), (b"__label__fr", 2)]
    pruned = [(5, 1), (60, 0), (96, 2)]
    made = {}
    for maxn in (0, 3):
        for name, change in (("dense", {}), ("quantised", {"dsub": 2}), ("pruned", {"dsub": 2, "kept": pruned})):
            made[f"{name}-{maxn}"] = MadeModel(words, labels, dim=3, maxn=maxn, **change).to_bytes()
            made[f"{name}-{maxn}-one"] = MadeModel(
                [], labels[:1], dim=1, maxn=maxn, loss=1 + maxn // 3, **change
            ).to_bytes()
    return made


def filters() -> dict[str, bytes]:
    texts = [
        "no_filter",
        "basic_filter & clip_score(l14, 0.3)",
        '~(laion2b | text_based) & uids("a/b.npy")',
        "clip_score(b32, threshold=0.28)",
        "image_based_intersect_clip_score(l14, 0.3)",
        "random(0.5, seed=7) | random(1)",
        "contaminated",
        "((oracle))",
        '"with space.npy" | uids("x.npy")',
        "teacher_pairs & ~contaminated",
        'words >= 5 & ~column("a b") != -2.5e3 | column(x) == "text"',
        r"""matches(r"^\d+", column=url) | matches('a\\.b')""",
        'score("s.parquet", fraction=0.3) & score("s", threshold=1, column=other)',
        'python("f.py:g", text, "a b", least=3, name=word)',
    ]
    return {f"filter-{i}": text.encode() for i, text in enumerate(texts)}


def arrays() -> dict[str, bytes]:
    made = {}
    for name, array in (("f2", np.ones((3, 4), "<f2")), ("i8", np.arange(5)), ("u8", np.zeros(0, "<u8"))):
        out = io.BytesIO()
        np.save(out, array, allow_pickle=False)
        made[f"member-{name}"], made[f"file-{name}"] = b"\0" + out.getvalue(), b"\x60" + out.getvalue()
        for label, save in (("npz", np.savez), ("deflated", np.savez_compressed)):
            out = io.BytesIO()
            save(out, a=array, b=array[:1])
            made[f"{label}-{name}"] = b"\xff" + out.getvalue()
    return made


def parquets() -> dict[str, bytes]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.table(
        {"uid": [UID, None, "x"], "text": ["a cat", "b", None], "width": [1, 2, 3], "score": [0.5, None, 1.0]}
    )
    made = {}
    for codec in ("none", "snappy", "zstd", "gzip", "brotli", "lz4"):
        for label, dictionary in (("plain", False), ("dictionary", True)):
            out = io.BytesIO()
            pq.write_table(table, out, compression=codec, use_dictionary=dictionary, row_group_size=2)
            made[f"{codec}-{label}"] = out.getvalue()
    return made


def crops() -> dict[str, bytes]:
    from PIL import Image

    y, x = np.mgrid[:19, :27]
    image = Image.fromarray(np.stack([9 * x, 12 * y, (x * y) % 251], axis=-1).astype(np.uint8))
    kinds: dict[str, tuple[str, dict[str, int]]] = {
        "plain": ("RGB", {}),
        "full": ("RGB", {"subsampling": 0, "quality": 95}),
        "half": ("RGB", {"subsampling": 1, "quality": 30}),
        "restarts": ("RGB", {"restart_marker_blocks": 2}),
        "progressive": ("RGB", {"progressive": 1}),
        "grey": ("L", {"optimize": 1}),
        "inks": ("CMYK", {}),
    }
    made = {}
    for name, (mode, options) in kinds.items():
        out = io.BytesIO()
        image.convert(mode).save(out, "JPEG", **options)
        # window, side, whether reduced and in which order (tests/fuzz/fuzz_crop.cpp)
        made[f"{name}-whole"] = bytes((0, 0, 255, 255, 9, 0)) + out.getvalue()
        made[f"{name}-part"] = bytes((40, 30, 200, 100, 2, 3)) + out.getvalue()
    made["tall"] = bytes((100, 0, 20, 255, 6, 0)) + made["plain-whole"][6:]
    return made


def main(directory: Path) -> None:
    domains = {
        "tar": tars(),
        "segment": segments(),
        "text": texts(),
        "model": models(),
        "crop": crops(),
        "filter": filters(),
        "json": {f"json-{i}": text.encode("utf-8", "surrogatepass") for i, text in enumerate(JSONS + _MORE_JSONS)},
        "arrays": arrays(),
        "parquet": parquets(),
    }
    for domain, made in domains.items():
        (directory / domain).mkdir(parents=True, exist_ok=True)
        for name, content in made.items():
            (directory / domain / name).write_bytes(content)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
