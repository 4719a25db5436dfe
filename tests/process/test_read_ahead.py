"""A bounded read-ahead: order, bounds, errors in their place, and no thread that is left."""

from __future__ import annotations

import gc
import subprocess
import sys
import threading
import weakref
from collections.abc import Iterator
from typing import Any

import pytest
from dcfast.process.read_ahead import read_ahead


def threads_left() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("dcfast-ahead")]


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    yield
    assert threads_left() == []


@pytest.mark.parametrize("count", [0, 1, 2, 3, 100])
@pytest.mark.parametrize(("threads", "ahead"), [(1, 0), (1, 1), (3, 0), (3, 2), (2, 7), (0, 0)])
def test_results_come_in_order(count: int, threads: int, ahead: int) -> None:
    found = list(read_ahead(lambda i: i * i, range(count), threads=threads, ahead=ahead))
    assert found == [i * i for i in range(count)]


def test_none_is_an_item_and_a_result() -> None:
    assert list(read_ahead(lambda item: item, [None, 0, None], threads=1, ahead=1)) == [None, 0, None]


@pytest.mark.parametrize("ahead", [0, 1, 4])
def test_no_more_is_begun_than_is_ahead(ahead: int) -> None:
    taken: list[int] = []

    def endless() -> Iterator[int]:
        i = 0
        while True:
            taken.append(i)
            yield i
            i += 1

    results = read_ahead(lambda i: i, endless(), threads=2, ahead=ahead)
    for n in range(5):
        assert next(results) == n
        assert len(taken) == n + ahead + 1
    results.close()


def test_work_goes_on_while_a_result_is_in_use() -> None:
    done = threading.Semaphore(0)

    def work(i: int) -> int:
        done.release()
        return i

    results = read_ahead(work, range(3), threads=1, ahead=2)
    assert next(results) == 0
    for _ in range(3):
        assert done.acquire(timeout=30)
    assert list(results) == [1, 2]


def test_bytes_are_bounded_and_a_larger_one_comes_alone() -> None:
    sizes = [3, 3, 3, 50, 1, 1]
    begun: list[int] = []
    results = read_ahead(lambda i: i, taken(begun, 6), threads=1, ahead=5, size=sizes.__getitem__, memory_bytes=6)
    assert next(results) == 0
    assert begun == [0, 1, 2], "the third is looked at, but does not fit"
    assert next(results) == 1
    assert begun == [0, 1, 2, 3]
    assert next(results) == 2
    assert begun == [0, 1, 2, 3], "the large one waits until nothing else is held"
    assert next(results) == 3
    assert begun == [0, 1, 2, 3, 4], "nothing goes beside it"
    assert list(results) == [4, 5]


def taken(begun: list[int], count: int) -> Iterator[int]:
    for i in range(count):
        begun.append(i)
        yield i


class OddError(Exception):
    pass


@pytest.mark.parametrize("at", [0, 1, 5, 9])
@pytest.mark.parametrize("where", ["work", "items"])
def test_an_error_comes_as_it_is_and_in_its_place(where: str, at: int) -> None:
    error = OddError(at)
    begun: list[int] = []

    def work(i: int) -> int:
        begun.append(i)
        if where == "work" and i == at:
            raise error
        return i

    def items() -> Iterator[int]:
        for i in range(10):
            if where == "items" and i == at:
                raise error
            yield i

    found: list[int] = []
    with pytest.raises(OddError) as caught:
        found.extend(read_ahead(work, items(), threads=1, ahead=3))
    assert caught.value is error
    assert found == list(range(at))
    assert max(begun, default=-1) <= at + 3


def test_after_an_error_nothing_more_is_begun() -> None:
    begun: list[int] = []

    def work(i: int) -> int:
        begun.append(i)
        if i == 0:
            raise OddError
        return i

    with pytest.raises(OddError):
        list(read_ahead(work, range(1000), threads=1, ahead=100))
    assert len(begun) <= 101
    assert threads_left() == []


def test_a_consumer_that_stops_early() -> None:
    release, begun = threading.Event(), []

    def work(i: int) -> int:
        begun.append(i)
        if i > 0:
            release.wait(30)
        return i

    results = read_ahead(work, range(100), threads=2, ahead=50)
    assert next(results) == 0
    threading.Timer(0.2, release.set).start()
    results.close()  # waits for the calls under way
    assert threads_left() == []
    assert len(begun) <= 4, "what was not begun is not begun any more"
    assert list(results) == []


def test_a_generator_that_is_not_begun_or_dropped() -> None:
    results = read_ahead(lambda i: i, range(3), threads=1, ahead=1)
    results.close()
    results = read_ahead(lambda i: i, range(3), threads=1, ahead=1)
    assert next(results) == 0
    del results
    assert threads_left() == []


def test_the_result_in_use_is_the_callers_alone() -> None:
    class Result:
        pass

    results = read_ahead(lambda i: Result(), range(3), threads=1, ahead=0)
    held = weakref.ref(next(results))
    gc.collect()
    assert held() is None


def test_a_stop_is_not_put_off() -> None:
    def items() -> Iterator[int]:
        yield 0
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        next(read_ahead(lambda i: i, items(), threads=1, ahead=3))


def test_an_argument_that_makes_no_sense() -> None:
    with pytest.raises(ValueError, match="ahead must be at least 0; got -1"):
        next(read_ahead(lambda i: i, [1], threads=1, ahead=-1))


def test_items_are_taken_in_the_callers_thread() -> None:
    names: list[Any] = []

    def items() -> Iterator[int]:
        for i in range(4):
            names.append(threading.current_thread())
            yield i

    assert list(read_ahead(lambda i: i, items(), threads=2, ahead=2)) == [0, 1, 2, 3]
    assert set(names) == {threading.current_thread()}


def test_an_iteration_that_is_left_open_as_python_ends_says_nothing() -> None:
    # kept by a module of Python's own, it is dropped when the names of that module are gone
    code = "import queue; from dcfast.process.read_ahead import read_ahead; "
    code += "queue.left = read_ahead(str, range(9), threads=1, ahead=2); print(next(queue.left))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "0\n", "")
