"""``acquire_pool``: metadata, then images, into a pool that a run takes as it is."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path

from dcfast.acquire.files import OUTCOMES, has_images, marked_files
from dcfast.acquire.foreign import UNTOLD, foreign_shard, own_shard
from dcfast.acquire.lists import FOLDER as LISTS
from dcfast.acquire.lists import take_lists
from dcfast.acquire.memory import load_arrow
from dcfast.acquire.options import AcquireOptions, ImageOptions, WebOptions
from dcfast.acquire.plan import Plan, ShardRows, check_hashes, has_statistics, plan_of, shard_numbers
from dcfast.acquire.proxies import proxies
from dcfast.acquire.retry import ROUNDS, Round, plan_round, read_rounds, retried_causes
from dcfast.acquire.shard import STATE, fetch_shard, spool_path, subset_file, web_file
from dcfast.acquire.stats import ShardStats
from dcfast.acquire.summary import ACQUIRED, AcquireSummary, Sum
from dcfast.acquire.watching import RowProgress, SilentRows
from dcfast.engine import Engine, Piece, open_engine
from dcfast.engine.piece import read_marker
from dcfast.errors import RunError
from dcfast.index.pool import POOL_FILE, PoolFile, list_parquet
from dcfast.process.libraries import require_library
from dcfast.process.options import check_options
from dcfast.storage.atomic import remove_leftovers, write_json
from dcfast.storage.hashing import sha256_file
from dcfast.storage.lock import locked
from dcfast.storage.paths import LOCK_NAME, absolute, make_directory, not_left_empty
from dcfast.storage.records import Record, plain, read_record
from dcfast.storage.whole_folder import mend_folders
from dcfast.uids import load_subset

SETTINGS = f"{STATE}/settings.json"
SHARDS_AT_ONCE = 4096
"""That are planned at a time: pieces of work are objects, and a pool of 12.8 billion has 1.3 million of them."""
_LIBRARIES = ("aiohttp", "aiodns", "protego", "cv2", "exifread")
HOW = "pip install 'dcfast[acquire]'"


class _Identity(Record):
    """What makes an acquisition what it is."""

    lists: str
    subset: str | None
    image: dict[str, object]


def acquire_pool(
    options: AcquireOptions,
    web: WebOptions | None = None,
    image: ImageOptions | None = None,
    say: Callable[[str], None] = lambda line: None,
    chosen_by: str = "",
) -> AcquireSummary | None:
    """Makes a pool of a scale of DataComp, or of lists of URLs.

    Args:
        web: how images are asked for.   image: what is made of them.   say: is given a line when something is known.
        chosen_by: what the subset was chosen by, for those who read of it.
    Returns:
        what became of all rows, also in ``POOL/acquired.json``; None where only metadata was asked for.
    Raises:
        RunError: the pool is of other lists or options, or another tool's.   PoolError: a list lacks what it needs.
        HubError: the metadata cannot be had.   ValueError: options.   OSError: the disk.
        MissingDependencyError: see ``dcfast[acquire]``.
    After a kill at any moment the same call goes on; the bytes of tars and sidecars depend on the servers' answers
    alone. Memory: 250 MB a worker, and the pixels of one image of more than 8 megapixels (2 to 16 bytes each); 300
    bytes a list; 8 bytes a row of earlier ``--retry`` while another is planned.

    Example::

        summary = acquire_pool(AcquireOptions(out="new", urls="list.parquet"), WebOptions(contact="me@example.org"))
        lines = summary.lines  # a table of causes among them
    """
    load_arrow()  # where this process fetches, too
    web, image = web or WebOptions(), image or ImageOptions()
    for values in (options, web, image):
        check_options(values)
    _check(options, image)
    out = Path(absolute(options.out))
    busy = f"--out {out}: another acquisition is at work there; wait for it, or choose another"
    with not_left_empty(out), locked(make_directory(out, "--out") / LOCK_NAME, busy):
        remove_leftovers(out, below=False)
        for folder in (LISTS, "shards", OUTCOMES, STATE):  # a run may be at work in another folder of the pool
            mend_folders(out / folder)
            remove_leftovers(out / folder)
        metadata = take_lists(options, out, say, is_begun=(out / SETTINGS).exists())
        plan = plan_of(metadata, list_parquet(metadata), options.shard_size)
        if plan.uid_from != "json":
            write_json(out / POOL_FILE, plain(PoolFile(plan.uid_from)))
        if image.verify_sha256:
            check_hashes(metadata, [file.name for file in plan.files])
        if not options.images:
            say(f"{plan.rows:,} rows in {len(plan.files):,} lists: {plan.num_shards:,} shards")
            return None
        _claim(out, _identity(options, plan, image))
        web_file(out, web.divided(min(options.workers, plan.num_shards)))  # no more can be at work
        subset_file(out, None if options.subset is None else absolute(options.subset))
        return _Acquisition(options, image, out, metadata, plan, say).do(chosen_by)


def _check(options: AcquireOptions, image: ImageOptions) -> None:
    """What can be said before any work."""
    if (options.scale is None) == (options.urls is None):
        raise ValueError("expected one of --scale and --urls: a scale of DataComp, or lists of your own")
    if options.images:
        for name in _LIBRARIES:
            require_library(name, "dcfast acquire", HOW)
        proxies()  # one that cannot be asked
    if options.subset is not None:
        load_subset(options.subset)  # SubsetError before hours of work
    image.check()
    if options.retry is not None:
        retried_causes(options.retry)
    if options.npz and options.scale is None:
        raise ValueError("--npz is of DataComp's scales; give --scale")


def _identity(options: AcquireOptions, plan: Plan, image: ImageOptions) -> _Identity:
    subset = None if options.subset is None else sha256_file(options.subset)
    return _Identity(plan.digest, subset, image.identity)


def _claim(out: Path, identity: _Identity) -> None:
    """Makes the directory this acquisition's; RunError where it is another's."""
    path = out / SETTINGS
    if not path.exists() or not _is_begun(out):  # of a call that was refused: it would refuse the right one
        write_json(path, plain(identity))
        return
    before = read_record(path, _Identity, advice="remove it to begin anew")
    if before == identity:
        return
    changed = [name for name in ("lists", "subset") if getattr(before, name) != getattr(identity, name)]
    changed += [
        f"--{name.replace('_', '-')}"
        for name in dict.fromkeys([*identity.image, *before.image])
        if before.image.get(name) != identity.image.get(name)
    ]
    raise RunError(
        f"--out {out} was begun otherwise: {', '.join(changed)} differ; shards of both would be mixed. Choose another "
        "--out, or give what it was begun with"
    )


def _is_begun(out: Path) -> bool:
    """Whether a shard of a pool was begun here."""
    return any((out / name).exists() for name in (f"{STATE}/shards", f"{STATE}/spool", ROUNDS))


class _Acquisition:
    """The images of a pool, at work."""

    def __init__(
        self,
        options: AcquireOptions,
        image: ImageOptions,
        out: Path,
        metadata: Path,
        plan: Plan,
        say: Callable[[str], None],
    ) -> None:
        self._options, self._image, self._out = options, image, out
        self._metadata, self._plan, self._say = metadata, plan, say
        self._sum = Sum()
        self._rounds = read_rounds(out)
        self._progress: RowProgress

    def do(self, chosen_by: str) -> AcquireSummary:
        """All of it: the lists' shards, rounds that were begun, and one that is asked for."""
        options, out, plan = self._options, self._out, self._plan
        rounds = self._rounds
        self._refuse_strangers(rounds)
        with open_engine(options.engine, options.workers, options.ray_address) as engine:
            self._fetch(engine, "acquire/shards", plan.shards(), plan.rows, is_retry=False)
            was_open = False
            for number, one in enumerate(rounds, 1):
                was_open = self._fetch_round(engine, number, one) or was_open
            if options.retry is not None and not was_open:
                self._retry(engine, rounds)
        summary = self._sum.summary(plan.rows, self._image.resize, chosen_by)
        write_json(out / ACQUIRED, plain(summary))
        shutil.rmtree(out / STATE / "live", ignore_errors=True)
        return summary

    def _refuse_strangers(self, rounds: Sequence[Round]) -> None:
        """RunError where shards lie in the pool that no shard of ours may replace."""
        end = max([self._plan.num_shards, *(one.shard + 1 for a_round in rounds for one in a_round.shards())])
        numbers = shard_numbers(self._out)
        if numbers and numbers[-1] >= end:
            raise RunError(
                f"{self._out / 'shards'} holds shard {numbers[-1]:08d}, and these lists have {end:,}: another tool "
                "filled it, or it is of other lists. Choose another --out"
            )
        is_begun = _is_begun(self._out)
        if not is_begun and (mine := own_shard(self._out, numbers)) is not None:
            raise RunError(
                f"{mine} was made by an acquisition whose state is gone: bring {self._out / STATE} back, without which "
                "all would be fetched anew, over images that may be gone from the web; or choose another --out"
            )
        if numbers and not is_begun and not has_statistics(self._out):
            raise RunError(
                f"{self._out / 'shards'} holds {len(numbers):,} shards that no acquisition made (they have no "
                "*_stats.json): they would be written over. Choose another --out"
            )

    def _retry(self, engine: Engine, rounds: list[Round]) -> None:
        causes = retried_causes(self._options.retry or ())
        shards = (self._plan.rows_of(self._metadata, one, self._options.subset) for one in self._plan.shards())
        found = plan_round(self._out, causes, shards, rounds, self._plan.shard_size)
        if found is None:
            untold = self._sum.causes[UNTOLD]
            others = f"; of {untold:,} the tool that made their shards does not say why they failed" if untold else ""
            self._say(f"no row is left that failed by {', '.join(causes)}{others}")
            return
        write_json(self._out / ROUNDS, plain([*rounds, found]))
        self._say(f"{found.rows:,} rows are fetched again, into shards from {found.first_shard:08d} on")
        self._fetch_round(engine, len(rounds) + 1, found)

    def _fetch_round(self, engine: Engine, number: int, one: Round) -> bool:
        self._sum.causes -= Counter(one.before)
        return self._fetch(engine, f"acquire/retry-{number}", one.shards(), one.rows, is_retry=True)

    def _fetch(self, engine: Engine, title: str, shards: Iterator[ShardRows], rows: int, *, is_retry: bool) -> bool:
        """Fetches what is not there of some shards; returns whether anything was to be done."""
        kind = SilentRows if self._options.quiet else RowProgress
        was_open = False
        self._progress = kind(title, out=self._out, total=rows)
        with self._progress:
            while part := list(islice(shards, SHARDS_AT_ONCE)):
                waiting = [one for one in part if not self._is_there(one, is_retry=is_retry)]
                self._tell_of_rounds(waiting)
                pieces = [self._piece(one, is_retry=is_retry) for one in waiting]
                was_open = was_open or bool(waiting)
                self._progress.pieces += len(pieces)
                for number, stats in engine.map(str(self._out), pieces):
                    self._took(waiting[number], stats, is_retry=is_retry)
        return was_open

    def _tell_of_rounds(self, waiting: Sequence[ShardRows]) -> None:
        """Says what shards that are made anew will lack."""
        rounds = [one for one in self._rounds if any(shard.shard < one.first_shard for shard in waiting)]
        if rounds:
            first = rounds[0].first_shard
            anew = sum(one.shard < rounds[-1].first_shard for one in waiting)
            self._say(
                f"shards made anew: {anew:,}; their rows that --retry had fetched again stay in its shards, from "
                f"{first:08d} on, and are left out of these"
            )

    def _is_there(self, one: ShardRows, *, is_retry: bool) -> bool:
        """Whether a shard is whole: by its marker, or since another tool made it as it would be made here."""
        done = read_marker(self._out, self._piece(one, is_retry=is_retry))
        if done is not None and has_images(self._out, one.shard, self._image.output_format, done.successes):
            self._took(one, done, is_retry=is_retry)
            return True
        theirs = None if is_retry else foreign_shard(self._out, self._plan.rows_of(self._metadata, one), self._image)
        if theirs is None:
            return False
        self._sum.add_foreign(theirs)
        self._progress.ended_shard(one.count, one.count, theirs.successes)
        return True

    def _took(self, one: ShardRows, stats: ShardStats, *, is_retry: bool) -> None:
        self._sum.add(stats, is_retry=is_retry)
        self._progress.ended_shard(one.count, stats.rows, stats.successes)
        spool_path(self._out, one.shard).unlink(missing_ok=True)

    def _piece(self, one: ShardRows, *, is_retry: bool) -> Piece[ShardStats]:
        """The work of a shard. Its rows of a retry stand below the pool, with keys of their own."""
        table = one.name if is_retry else str((self._metadata / one.name).relative_to(self._out))
        # no input by its path and time: what lists and subset are is the claim's, and a pool that was moved, or a list
        # that was touched, would have its images fetched anew, over those that the web has no longer
        form = self._image.output_format
        made = fetch_shard.piece(
            "acquire/shards",
            f"{one.shard:08d}",
            outputs=[str(path.relative_to(self._out)) for path in marked_files(self._out, one.shard, form)],
            weight=one.count,
        )
        return made(
            shard=one.shard,
            table=table,
            first=one.first,
            count=one.count,
            has_keys=is_retry,
            shard_size=self._plan.shard_size,
            uid_from="json" if is_retry else self._plan.uid_from,
            of_subset=self._options.subset is not None and not is_retry,
            image=self._image.identity,
        )
