"""Images from a server on this machine into shards: dcfast acquire beside img2dataset, each client on one core.

The server is another process on the other core. Both clients have one process, DataComp's options, and 64 requests at
once; img2dataset comes from an environment of its own. The images are cut from large photographs of this machine.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from bench import harness
from bench.bars import IMG2DATASET, Value
from bench.harness import Absent, Side, Timed, WrongAnswerError
from bench.web_images import make_web_images

HELPERS = harness.REPO_ROOT / "tests/helpers"
PHOTOGRAPHS = ("/usr/share/backgrounds", "/usr/share/wallpapers")
DISTINCT = 1000
CLIENT = """
import json, resource, sys, time
words = json.loads(sys.argv[1])
began = time.perf_counter()
{run}
usage = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
seconds = time.perf_counter() - began
print(json.dumps([seconds, sum(u.ru_utime + u.ru_stime for u in usage)]))
"""
OURS = CLIENT.format(
    run="""
from dcfast.acquire import AcquireOptions, ImageOptions, WebOptions, acquire_pool
acquire_pool(
    AcquireOptions(words["out"], urls=words["urls"], workers=1, quiet=True),
    WebOptions(allow_private=["127.0.0.1"], host_rate=0, host_connections=64, connections=64),
    ImageOptions(resize=words["resize"]),
)
"""
)
THEIRS = CLIENT.format(
    run="""
from img2dataset import download
download(
    url_list=words["urls"], output_folder=words["out"] + "/shards", thread_count=64, processes_count=1,
    input_format="parquet", url_col="url", caption_col="text", save_additional_columns=["uid"], image_size=512,
    resize_mode="keep_ratio_largest", resize_only_if_bigger=True, output_format="webdataset", oom_shard_count=8,
)
"""
)


def _client(python: str, code: str, words: dict[str, Any], core: int, cpu: dict[str, float], provider: str) -> Timed:
    """Runs a client on a core of its own; its own seconds, and the CPU seconds of it and its processes."""
    environment = {**os.environ, "NO_ALBUMENTATIONS_UPDATE": "1", "WANDB_MODE": "disabled", "OMP_NUM_THREADS": "1"}
    if python != sys.executable:
        environment.pop("PYTHONPATH", None)
    done = subprocess.run(
        [python, "-c", code, json.dumps(words)],
        env=environment,
        capture_output=True,
        text=True,
        preexec_fn=lambda: os.sched_setaffinity(0, [core]),
    )
    if done.returncode != 0:
        raise WrongAnswerError(f"{provider}: {done.stderr[-1500:]}")
    seconds, cpu[provider] = json.loads(done.stdout.strip().splitlines()[-1])
    return Timed(seconds, Path(words["out"]) / "shards")


def _check(provider: str, rows: int) -> Callable[[Path], None]:
    def check(shards: Path) -> None:
        images = 0
        for path in sorted(shards.glob("*.tar")):
            with tarfile.open(path) as tar:
                images += sum(name.endswith(".jpg") for name in tar.getnames())
        harness.require_equal(provider, "images in the shards", images, rows)

    return check


def write_list(path: Path, urls: Sequence[str], rows: int) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = {
        "uid": [f"{n:032x}" for n in range(rows)],
        "url": [f"{urls[n % len(urls)]}?row={n}" for n in range(rows)],
        "text": [f"an image, number {n}" for n in range(rows)],
    }
    pq.write_table(pa.table(columns), path)


def main(argv: Sequence[str] | None = None) -> dict[str, Value]:
    options = harness.parse_options("bench_acquire", argv, __doc__)
    bench = harness.Bench("bench_acquire", options)
    rows, distinct = (60, 20) if options.quick else (20_000, 1000)
    with harness.WorkDir(options) as work:
        images = work / "images"
        images.mkdir()
        for number, data in enumerate(make_web_images(_photographs(work), distinct)):
            (images / f"{number}.jpg").write_bytes(data)
        sys.path.append(str(HELPERS))
        from image_server import image_server

        cores = os.sched_getaffinity(0)
        os.sched_setaffinity(0, sorted(cores)[-1:])  # the server's processes have it from this one
        try:
            with image_server(images) as server:
                write_list(work / "urls.parquet", server.urls, rows)
                _compare(bench, work, rows, min(cores))
        finally:
            os.sched_setaffinity(0, cores)
    return bench.finish()


def _photographs(work: Path) -> list[Path]:
    """Folders with photographs; where this machine has none, one with a drawn picture as large."""
    found = [Path(place) for place in PHOTOGRAPHS if Path(place).is_dir()]
    if found:
        return found
    from PIL import Image

    Image.effect_mandelbrot((2400, 1600), (-1.5, -1.0, 0.5, 1.0), 100).convert("RGB").save(work / "drawn.jpg")
    return [work]


def _compare(bench: harness.Bench, work: Path, rows: int, core: int) -> None:
    cpu: dict[str, float] = {}

    def side(provider: str, python: str, code: str, resize: str) -> Side:
        out = work / f"out-{resize}"
        words = {"out": str(out), "urls": str(work / "urls.parquet"), "resize": resize}
        return Side(
            provider,
            partial(_client, python, code, words, core, cpu, provider),
            _check(provider, rows),
            lambda: shutil.rmtree(out, ignore_errors=True),
            once=not bench.options.quick,
        )

    peer = bench.options.img2dataset_python
    sides = [
        side("dcfast", sys.executable, OURS, "scaled"),
        side("dcfast, exact", sys.executable, OURS, "exact"),
        side(IMG2DATASET, peer, THEIRS, "theirs") if peer else Absent(IMG2DATASET, "pass --img2dataset-python PATH"),
    ]
    bench.compare("acquire", sides, shape=f"{rows} JPEGs, median 0.8 megapixels, one core", rounds=1)
    for row in bench.rows:
        if row["op"] == "acquire" and row["provider"] in cpu:
            row["cpu_s"] = round(cpu[row["provider"]], 2)
            rate = rows / row["median_s"]
            print(f"  {row['provider']:<34} {rate:8.0f} images/s, {1e3 * row['cpu_s'] / rows:.2f} ms of CPU an image")


if __name__ == "__main__":
    main()
    sys.exit(0)
