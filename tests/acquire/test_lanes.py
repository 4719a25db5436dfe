"""Room for bodies: many small ones, few large ones, and the time that is waited is given back."""

from __future__ import annotations

import asyncio

from dcfast.acquire.memory import LANES, Lanes


def test_few_large_bodies_are_held_and_all_come_to_their_turn() -> None:
    """Bodies that all grow step by step to the largest: none holds what another needs for ever."""

    async def most() -> list[int]:
        lanes, held, highest = Lanes(), [0] * len(LANES), [0] * len(LANES)

        async def body() -> None:
            async with lanes.taken() as lane, asyncio.timeout(1000) as deadline:
                for place, (limit, _) in enumerate(LANES):
                    await lane.grow(limit, deadline)
                    await lane.grow(limit + 1, deadline)
                    held[place] += 1
                    highest[place] = max(highest[place], held[place])
                    await asyncio.sleep(0)
                for place in range(len(LANES)):
                    held[place] -= 1

        async with asyncio.timeout(20):
            await asyncio.gather(*(body() for _ in range(100)))
        return highest

    assert asyncio.run(most()) == [bodies for _, bodies in LANES]


def test_small_bodies_wait_for_nothing() -> None:
    async def all_at_once() -> int:
        lanes, held = Lanes(), 0

        async def body() -> None:
            nonlocal held
            async with lanes.taken() as lane, asyncio.timeout(10) as deadline:
                await lane.grow(LANES[0][0], deadline)
                held += 1
                while held < 500:
                    await asyncio.sleep(0)

        await asyncio.gather(*(body() for _ in range(500)))
        return held

    assert asyncio.run(all_at_once()) == 500


def test_the_time_that_is_waited_is_given_to_the_deadline() -> None:
    async def times() -> tuple[bool, bool]:
        lanes, largest, loop = Lanes(), LANES[-1][0] + 1, asyncio.get_running_loop()

        async def holder() -> None:
            async with lanes.taken() as lane, asyncio.timeout(10) as deadline:
                await lane.grow(largest, deadline)
                await asyncio.sleep(0.2)

        async def waiter() -> tuple[bool, bool]:
            async with lanes.taken() as lane, asyncio.timeout(0.1) as deadline:
                before = deadline.when() or 0.0
                await lane.grow(largest, deadline)
                return loop.time() > before, (deadline.when() or 0.0) > loop.time()

        first = asyncio.create_task(holder())
        await asyncio.sleep(0.01)
        found = await waiter()
        await first
        return found

    assert asyncio.run(times()) == (True, True)
