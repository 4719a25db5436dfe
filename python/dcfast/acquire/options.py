"""How images are asked for, and what an acquisition is asked for."""

from __future__ import annotations

import os
import re
from dataclasses import asdict, dataclass, replace
from ipaddress import ip_address

from dcfast import __version__
from dcfast.images.costs import MAX_PIXELS
from dcfast.process.options import option
from dcfast.storage.paths import path_argument

ACQUIRED_SCALES = ("small", "medium", "large", "xlarge", "datacomp_1b")
AGENT = "dcfast"
DIRECTIVES = ("noai", "noimageai", "noindex", "noimageindex")
"""Of ``X-Robots-Tag``, those that forbid the use of an image, as img2dataset has them."""
RESIZE_MODES = ("no", "border", "keep_ratio", "keep_ratio_largest", "center_crop")
ENCODE_FORMATS = ("jpg", "png", "webp")
OUTPUT_FORMATS = ("webdataset", "files", "parquet")
QUALITY, COMPRESSION, MOST_COMPRESSION = 95, 6, 9
_SERVER = re.compile(r"(?:\[([0-9a-fA-F:.]+)\]|([^:]+)):(\d{1,5})")
_CONTACT = re.compile(r"[\x21-\x7e][\x20-\x7e]{0,199}")


def contact_of(text: str) -> str:
    """A contact for the user agent. ValueError: what a header cannot hold."""
    if text and not _CONTACT.fullmatch(text):
        raise ValueError(f"--contact takes a mail address or a URL, in ASCII; got {text!r}")
    return text


def networks_of(words: list[str]) -> list[str]:
    """Networks that may be asked. ValueError: one is none."""
    from dcfast.acquire.addresses import Allowed

    Allowed(words)
    return list(words)


def nameservers_of(words: list[str]) -> list[str]:
    """Addresses of name servers. ValueError: one is none."""
    for word in words:
        match = _SERVER.fullmatch(word)
        try:
            ip_address((match and (match[1] or match[2])) or word.strip("[]"))
        except ValueError as error:
            raise ValueError(f"--nameservers takes ADDRESS or ADDRESS:PORT, 9.9.9.9:53 say; {error}") from None
        if match and not 1 <= int(match[3]) <= 65_535:
            raise ValueError(f"--nameservers {word}: its port must be 1 to 65535")
    return list(words)


@dataclass(frozen=True)
class WebOptions:
    """How URLs are asked for: what changes no byte of an image that is got.

    Example: ``WebOptions(contact="me@example.org").user_agent.endswith("(+me@example.org)")``
    """

    timeout: float = option(10.0, "deadline of a request, redirects and body included", metavar="S", least=0.1)
    min_rate: int = option(2048, "bytes a second that a body must bring, looked at every 5 seconds", least=0)
    max_bytes: int = option(16 << 20, "of an image's file, also when it comes compressed", least=1024)
    retries: int = option(2, "attempts after the first, where another may help", least=0, most=100)
    backoff: float = option(1.0, "pause before the second attempt; doubled for each further", metavar="S", least=0)
    max_wait: float = option(60.0, "longest pause, also where a server asks for more", metavar="S", least=0)
    connections: int = option(128, "requests at once in a worker", least=1, most=4096)
    host_connections: int = option(8, "requests at once to a host, of all workers together", least=1)
    host_rate: float = option(50.0, "requests a second to a host, of all workers together; 0 for no limit", least=0)
    host_failures: int = option(
        10, "failed connections in a row until a host is given up for a shard; 0 for never", least=0
    )
    contact: str = option(
        "",
        "mail address or URL for the user agent, by which webmasters can reach you",
        metavar="WHO",
        parse=contact_of,
    )
    robots: bool = option(True, "do not read robots.txt", flags=("--no-robots",))
    opt_outs: list[str] | None = option(
        None,
        "directives of X-Robots-Tag that forbid an image's use; none for none",
        metavar="NAME",
        usual=" ".join(DIRECTIVES),
        gather=lambda words: [] if words == ["none"] else list(words),
    )
    nameservers: list[str] | None = option(
        None,
        "resolvers to ask, ADDRESS or ADDRESS:PORT",
        metavar="ADDRESS",
        usual="the system's",
        gather=nameservers_of,
    )
    allow_private: list[str] | None = option(
        None,
        "private networks or addresses that may be asked, or any: for servers of your own, never for a stranger's list",
        metavar="NETWORK",
        gather=networks_of,
    )
    verify_tls: bool = option(True, "take certificates that cannot be verified", flags=("--no-verify-tls",))

    @property
    def user_agent(self) -> str:
        """What servers are told."""
        return f"{AGENT}/{__version__}" + (f" (+{self.contact})" if self.contact else "")

    @property
    def directives(self) -> tuple[str, ...]:
        """Of ``X-Robots-Tag``, those that forbid an image's use."""
        return DIRECTIVES if self.opt_outs is None else tuple(self.opt_outs)

    def divided(self, workers: int) -> WebOptions:
        """The share of one of so many workers in the limits of a host."""
        return replace(
            self,
            host_connections=max(1, self.host_connections // workers),
            host_rate=self.host_rate / workers,
        )


@dataclass(frozen=True)
class ImageOptions:
    """What is made of the bytes of an image: all of it is part of what a pool is.

    Example: ``ImageOptions(image_size=256, blur=False)``
    """

    image_size: int = option(512, "pixels of a side, see --resize-mode", least=1, most=65_500)
    resize_mode: str = option("keep_ratio_largest", "as img2dataset's", choices=RESIZE_MODES)
    enlarge: bool = option(False, "also enlarge images that are smaller")
    output_format: str = option(
        "webdataset",
        "of a shard, as img2dataset has them: a tar, which a run takes; a folder of files; or a parquet file with the "
        "images in a column",
        choices=OUTPUT_FORMATS,
    )
    encode_format: str = option("jpg", "of the members", choices=ENCODE_FORMATS)
    quality: int | None = option(
        None,
        "of jpg and webp; of png its compression, 0 to 9",
        least=0,
        most=100,
        usual=f"{QUALITY}, of png {COMPRESSION}",
    )
    resize: str = option(
        "scaled",
        "scaled: JPEGs are decoded at a fraction of their size where that is enough; exact: pixel for pixel what "
        "DataComp's version of img2dataset made",
        choices=("scaled", "exact"),
    )
    blur: bool = option(True, "leave faces as they are", flags=("--no-blur",))
    min_image_size: int = option(0, "pixels of the shorter side that an image must have", least=0)
    max_aspect_ratio: float = option(0.0, "of longer to shorter side; 0 for no limit", least=0)
    max_pixels: int = option(
        MAX_PIXELS,
        "of an image as it came; kinds that take long to decode have bounds of their own",
        least=1,
        most=MAX_PIXELS,
    )
    verify_sha256: bool = option(False, "refuse an image whose SHA-256 is not the list's; else drift is written down")

    @property
    def encoder_quality(self) -> int:
        """``quality``, or what is usual of the format."""
        usual = COMPRESSION if self.encode_format == "png" else QUALITY
        return usual if self.quality is None else self.quality

    @property
    def identity(self) -> dict[str, object]:
        """What tells these options from others. Those that came later are left out where they are as usual, so that a
        pool that was begun without them is gone on with."""
        usual = ImageOptions()
        later = ("output_format", "max_pixels")
        return {
            name: value for name, value in asdict(self).items() if name not in later or value != getattr(usual, name)
        }

    def check(self) -> None:
        """ValueError: options that do not go together."""
        if self.encode_format == "png" and self.encoder_quality > MOST_COMPRESSION:
            raise ValueError(
                f"--quality of png must be its compression, 0 to {MOST_COMPRESSION}; got {self.quality}: give another"
            )


@dataclass(frozen=True)
class AcquireOptions:
    """What is acquired, and where to.

    Example: ``AcquireOptions(out="pool", scale="small")``
    """

    out: str = option("", "the pool that is made", metavar="POOL", parse=path_argument, required=True)
    scale: str | None = option(None, "of DataComp: its metadata comes from the hub", choices=ACQUIRED_SCALES)
    urls: str | None = option(
        None,
        "instead of a scale: a parquet file, or a folder of them, with URLs and captions",
        metavar="FILE",
        parse=path_argument,
    )
    url_column: str = option("", "of --urls", usual="url or URL")
    caption_column: str = option("", "of --urls", usual="text, caption or TEXT")
    subset: str | None = option(
        None,
        "subset file: the images of these uids alone, under the keys of the full pool",
        metavar="FILE",
        parse=path_argument,
    )
    npz: bool = option(False, "the embeddings too, 25 times the size of the metadata")
    images: bool = option(True, "metadata alone", flags=("--no-images",))
    update_lock: bool = option(False, "take the newest revision from the hub, and write it into the lock file")
    shard_size: int = option(10_000, "rows of a shard", least=1, most=1_000_000)
    retry: list[str] | None = option(
        None,
        "fetch again the rows that failed, into new shards: causes (docs/acquire.md), or later for all that may be "
        "there on another day",
        metavar="CAUSE",
        gather=list,
    )
    workers: int = option(
        2 * (os.cpu_count() or 1), "shards at work at once, a process each", least=1, usual="twice the number of cores"
    )
    engine: str = option("local", "processes of this machine, or a cluster of Ray", choices=("local", "ray"))
    ray_address: str | None = option(
        None, "of a running Ray cluster", metavar="ADDRESS", usual="$RAY_ADDRESS, else a local one"
    )
    quiet: bool = option(False, "no progress")
