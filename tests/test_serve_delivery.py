"""How pieces come from the engine's thread into the event loop: soon, whole and in few wakings."""

import asyncio
import threading
import time

import pytest

from small_server import httpx  # noqa: F401  # the extra `serve`, or skipped

from minillm.serve import delivery  # isort: skip
from minillm.serve.follow import Follow  # isort: skip
from minillm.serve.worker import Worker  # isort: skip


def delivered(*sends):
    """What a request is given, a list for each waking: `sends` are (piece, at_once), in turn from a
    thread, the next once the event loop has nothing more to do at once."""

    async def run():
        loop, follow, found = asyncio.get_running_loop(), Follow(Worker(), None, [], "m"), []
        way = delivery.Delivery(loop)

        async def follow_it():
            async for pieces in follow.pieces(time.monotonic() + 600):
                found.append(pieces)

        task = asyncio.ensure_future(follow_it())
        for piece, at_once in sends:
            given = (follow, None if piece is None else [piece])
            thread = threading.Thread(target=way.send, args=([given], at_once))
            thread.start()
            await asyncio.to_thread(thread.join)
            for _ in range(10):
                await asyncio.sleep(0)
        await task
        return found

    return asyncio.run(run())


@pytest.fixture
def patient(monkeypatch):
    monkeypatch.setattr(delivery, "PACE", 3600)


def test_what_comes_soon_after_waits_and_keeps_its_order(patient):
    sends = [("a", False), ("b", False), ("c", False), ("d", True), ("e", False), (None, True)]
    assert delivered(*sends) == [["a"], ["b", "c", "d"], ["e"]]


def test_nothing_waits_longer_than_the_pace(monkeypatch):
    monkeypatch.setattr(delivery, "PACE", 0.001)

    async def run():
        follow, seen = Follow(Worker(), None, [], "m"), []
        way = delivery.Delivery(asyncio.get_running_loop())
        pieces = follow.pieces(time.monotonic() + 60)
        for piece in "abc":
            way.send([(follow, [piece])], at_once=False)
            seen.append(await anext(pieces))
        await pieces.aclose()
        return seen

    assert asyncio.run(run()) == [["a"], ["b"], ["c"]]


def test_after_a_pause_the_next_comes_at_once(monkeypatch):
    async def run():
        follow = Follow(Worker(), None, [], "m")
        way = delivery.Delivery(asyncio.get_running_loop())
        pieces = follow.pieces(time.monotonic() + 60)
        monkeypatch.setattr(delivery, "PACE", 0)
        way.send([(follow, ["a"])], at_once=False)
        await anext(pieces)
        for _ in range(10):  # the look that finds nothing
            await asyncio.sleep(0)
        monkeypatch.setattr(delivery, "PACE", 3600)
        way.send([(follow, ["b"])], at_once=False)
        found = await anext(pieces)
        await pieces.aclose()
        return found

    assert asyncio.run(run()) == ["b"]
