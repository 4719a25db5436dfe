"""Rows take turns by host: limits hold, a slow host holds up its own rows alone, and none is lost."""

from __future__ import annotations

import asyncio
import time
from collections import Counter

from dcfast.acquire.turns import Turns


async def _drain(turns: Turns, seconds: float = 0.0) -> list[tuple[int, str]]:
    """The rows in the order in which they come, each done after some time."""
    found = []

    async def work(host: str) -> None:
        await asyncio.sleep(seconds)
        turns.done(host, failed=False)

    tasks = []
    while (turn := await turns.next()) is not None:
        found.append(turn)
        tasks.append(asyncio.create_task(work(turn[1])))
    await asyncio.gather(*tasks)
    return found


def test_hosts_take_turns() -> None:
    async def rows() -> list[tuple[int, str]]:
        turns = Turns(2, 0.0, 0)
        for row in range(12):
            turns.add(row, "abc"[row // 4])
        return await _drain(turns)

    found = asyncio.run(rows())
    assert sorted(row for row, _ in found) == list(range(12))
    assert [host for _, host in found[:3]] == ["a", "b", "c"]
    for host in "abc":
        assert [row for row, its in found if its == host] == sorted(row for row, its in found if its == host)


def test_no_host_gets_more_than_its_connections() -> None:
    async def most() -> int:
        turns, active, highest = Turns(3, 0.0, 0), Counter[str](), 0

        async def work(host: str) -> None:
            await asyncio.sleep(0.001)
            active[host] -= 1
            turns.done(host, failed=False)

        for row in range(40):
            turns.add(row, "ab"[row % 2])
        tasks = []
        while (turn := await turns.next()) is not None:
            active[turn[1]] += 1
            highest = max(highest, *active.values())
            tasks.append(asyncio.create_task(work(turn[1])))
        await asyncio.gather(*tasks)
        return highest

    assert asyncio.run(most()) == 3


def test_a_host_is_asked_at_its_rate_and_others_are_not_held_up() -> None:
    async def times() -> list[tuple[float, str]]:
        turns = Turns(8, 50.0, 0)
        for row in range(6):
            turns.add(row, "slow")
        for row in range(6, 12):
            turns.add(row, f"host{row}")
        began, found = time.monotonic(), []
        while (turn := await turns.next()) is not None:
            found.append((time.monotonic() - began, turn[1]))
            turns.done(turn[1], failed=False)
        return found

    found = asyncio.run(times())
    slow = [when for when, host in found if host == "slow"]
    assert len(found) == 12
    assert slow[-1] >= 5 / 50.0 - 0.01
    assert max(when for when, host in found if host != "slow") < slow[-1]


def test_a_row_that_is_put_off_comes_again_and_a_paused_host_waits() -> None:
    async def order() -> list[int]:
        turns, found, again = Turns(1, 0.0, 0), [], True
        turns.add(0, "a")
        turns.add(1, "a")
        turns.add(2, "b")
        turns.pause("b", 0.05)
        while (turn := await turns.next()) is not None:
            found.append(turn[0])
            if turn[0] == 0 and again:
                again = False
                turns.again(0, "a", 0.02)
            turns.done(turn[1], failed=False)
        return found

    assert asyncio.run(order()) == [0, 1, 0, 2]


def test_a_host_that_fails_in_a_row_is_down_and_one_success_makes_it_well() -> None:
    turns = Turns(1, 0.0, 3)

    async def results() -> list[bool]:
        for row in range(9):
            turns.add(row, "a")
        found = []
        for failed in (True, True, False, True, True, True):
            await turns.next()
            turns.done("a", failed=failed)
            found.append(turns.is_down("a"))
        return found

    assert asyncio.run(results()) == [False, False, False, False, False, True]
    assert turns.slowest() == [("a", 3)]


def test_a_row_that_moves_to_another_host_waits_for_its_turn_and_holds_none() -> None:
    """Each of two hosts leads to the other, which is full of rows that wait for the first."""

    async def order() -> list[tuple[int, str]]:
        turns, found = Turns(1, 0.0, 0), []
        for row in range(6):
            turns.add(row, "ab"[row % 2])
        while (turn := await asyncio.wait_for(turns.next(), 5)) is not None:
            row, host = turn
            if turn not in found and (row, "ab"[1 - "ab".index(host)]) not in found:
                turns.moved(row, "ab"[1 - "ab".index(host)])
            found.append(turn)
            turns.done(host, failed=False)
        return found

    found = asyncio.run(order())
    assert len(found) == 12
    assert set(found) == {(row, host) for row in range(6) for host in "ab"}
    assert found.index((0, "b")) < found.index((1, "b")), "what has begun comes before what has not"


def test_requests_beyond_a_turn_count_for_the_rate() -> None:
    async def seconds() -> float:
        turns, began = Turns(8, 20.0, 0), time.monotonic()
        turns.add(0, "a")
        await turns.next()
        turns.asked("a")
        turns.asked("a")
        turns.done("a", failed=False)
        turns.add(1, "a")
        await turns.next()
        return time.monotonic() - began

    assert asyncio.run(seconds()) >= 3 / 20.0 - 0.01
