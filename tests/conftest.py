"""What all tests share: the place of the real data, and Hypothesis seeded the same everywhere.

DCFAST_TEST_SEED=N (or `random`) draws other examples; DCFAST_TEST_EXAMPLES=N draws N times as many. The seed is
printed in pytest's header; one number repeats a run, in any order and with any number of workers.
"""

from __future__ import annotations

import gc
import os
import random
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest
from dcfast.process.signals import POSTPONED

REPO_ROOT = Path(__file__).resolve().parent.parent
HELPERS = REPO_ROOT / "tests/helpers"


def _seed() -> int:
    given = os.environ.get("DCFAST_TEST_SEED") or "0"
    if given == "random":
        given = str(random.SystemRandom().randrange(2**32))
        os.environ["DCFAST_TEST_SEED"] = given  # the workers of xdist inherit it
    return int(given)


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    # a script that starts tests in the background has them ignore Ctrl-C, and their processes inherit that
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    multiplier = float(os.environ.get("DCFAST_TEST_EXAMPLES") or "1")
    hypothesis.settings.register_profile(
        "dcfast",
        max_examples=max(1, round(50 * multiplier)),
        deadline=None,  # a shared machine stalls now and then
        database=None,  # nothing remembered: the seed alone decides
        print_blob=True,
        suppress_health_check=[hypothesis.HealthCheck.too_slow],
    )
    if not config.getoption("--hypothesis-profile"):
        hypothesis.settings.load_profile("dcfast")
    if config.getoption("--hypothesis-seed") is None:
        # each test starts from the seed anew, whichever tests ran before it
        config.option.hypothesis_seed = str(_seed())


def pytest_collection_finish() -> None:
    # six hundred thousand objects of six thousand tests, which every full collection would look through
    gc.collect()
    gc.freeze()


def pytest_report_header(config: pytest.Config) -> str:
    seed = config.getoption("--hypothesis-seed")
    return f"hypothesis seed: {seed} (repeat with DCFAST_TEST_SEED={seed})"


@pytest.fixture(scope="session")
def repo_root() -> Path:
    """The root of the checkout the tests lie in."""
    return REPO_ROOT


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real data with known truth; tests that ask for it are skipped where there is none."""
    place = Path(os.environ.get("DCFAST_REAL_DATA") or REPO_ROOT.parent / "shared" / "data")
    if not (place / "pool").is_dir():
        pytest.skip(f"no real data at {place}: set DCFAST_REAL_DATA")
    return place


@pytest.fixture(autouse=True)
def no_foreign_handlers() -> None:
    """Before each test: Ray leaves a handler of SIGTERM to whoever comes after it, and somebody's is left alone."""
    for number in POSTPONED:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)


@pytest.fixture(scope="session")
def ray_nodes() -> Iterator[None]:
    """A Ray cluster of two nodes on this machine."""
    import ray
    from ray.cluster_utils import Cluster

    path = os.pathsep.join([str(HELPERS), *sys.path])
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = path  # the workers of both nodes import the pieces of this folder
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    cluster.add_node(num_cpus=1, num_gpus=1)  # a GPU by name: none has to be there
    ray.init(address=cluster.address, log_to_driver=False, logging_level=40)
    cluster.wait_for_nodes()
    yield
    ray.shutdown()
    cluster.shutdown()
    if before is None:
        del os.environ["PYTHONPATH"]
    else:
        os.environ["PYTHONPATH"] = before
