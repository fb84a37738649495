"""Streams, captures and memory pools of CuPy without a GPU: what they refuse and what they risk.

The null stream does at once what it is asked for; another one only when somebody waits for it, as
late as that may be. A stream that is captured does nothing: work is kept and done whenever the
graph is launched. What a graph computes is garbage before each launch, as is all that other graphs
of its pool gave back: a graph that reads what it did not write shows.
"""

from __future__ import annotations

import itertools
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

import numpy

from minillm import kernels


class CUDARuntimeError(RuntimeError):
    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


class _Thread(threading.local):
    def __init__(self) -> None:
        self.streams: list[Stream] = []
        self.allocator: Callable[[int], Any] | None = None


_thread = _Thread()
_numbers = itertools.count(2)  # 1 names the null stream too
launches: list[int] = []  # of graphs, how much work each did


def current() -> Stream:
    return _thread.streams[-1] if _thread.streams else Stream.null


def recording() -> Recording | None:
    """What is kept of the current stream, where that is captured."""
    return current().recording


def refuse(what: str) -> None:
    """A capture does not outlive what makes the host wait."""
    tape = recording()
    if tape is not None:
        tape.spoilt = True
        raise CUDARuntimeError(
            900, f"cudaErrorStreamCaptureUnsupported: operation not permitted ({what})"
        )


class Event:
    def __init__(
        self, block: bool = False, disable_timing: bool = False, interprocess: bool = False
    ) -> None:
        self._stream: Stream | None = None
        self._place = 0

    def record(self, stream: Stream | None = None) -> None:
        self._stream = stream or current()
        self._place = self._stream.asked

    @property
    def done(self) -> bool:
        return self._stream is None or self._stream.done_count >= self._place

    def reach(self) -> None:
        if self._stream is not None:
            self._stream.work(self._place)

    def synchronize(self) -> None:
        from stand_in_cupy import count

        refuse("waiting for an event")
        count.waits.append("an event")
        self.reach()


class Stream:
    null: Stream

    def __init__(self, null: bool = False, non_blocking: bool = False) -> None:
        self.ptr = 0 if null else next(_numbers)
        self.non_blocking = non_blocking
        self.recording: Recording | None = None
        self.asked = self.done_count = 0
        self.waited: list[Event] = []  # for which it has
        self._queue: list[Callable[[], None]] = []

    def __enter__(self) -> Stream:
        _thread.streams.append(self)
        return self

    def __exit__(self, *_: Any) -> None:
        _thread.streams.pop()

    def ask(self, work: Callable[[], None]) -> None:
        if not self.ptr:
            work()
            return
        self._queue.append(work)
        self.asked += 1

    def work(self, place: int) -> None:
        """Do what was asked for, up to this place."""
        while self.done_count < place:
            self._queue.pop(0)()
            self.done_count += 1

    def record(self, event: Event | None = None) -> Event:
        event = event or Event()
        event.record(self)
        return event

    def wait_event(self, event: Event) -> None:
        self.waited.append(event)
        event.reach()

    def synchronize(self) -> None:
        from stand_in_cupy import count

        refuse("waiting for a stream")
        count.waits.append("a stream")
        self.work(self.asked)

    def begin_capture(self, mode: int | None = None) -> None:
        if not self.ptr:
            raise RuntimeError("cannot capture on the default (legacy) stream")
        if not self.non_blocking:  # CUDA would refuse the null stream meanwhile
            raise CUDARuntimeError(906, "cudaErrorStreamCaptureImplicit: dependency on the default")
        self.recording = Recording()

    def end_capture(self) -> Graph:
        tape, self.recording = self.recording, None
        assert tape is not None
        tape.end()
        if tape.spoilt:
            raise CUDARuntimeError(
                901, "cudaErrorStreamCaptureInvalidated: operation failed due to a previous error"
            )
        return Graph(tape)


Stream.null = Stream(null=True)


class Recording:
    """What a stream was asked for, with all arrays that were made meanwhile."""

    def __init__(self) -> None:
        library = kernels.active_cuda
        self._device = None if library is None else library.on_host
        if self._device is not None:
            self._device.begin_capture()
        self._work: list[Callable[[], None]] = []
        self._made: list[tuple[weakref.ref[Any], numpy.ndarray]] = []
        self.pool: MemoryPool | None = None
        self.spoilt = False

    def add(self, work: Callable[[], None]) -> None:
        if self._device is not None:
            self._work.append(self._device.cut().run)
        self._work.append(work)

    def make(self, array: Any, memory: numpy.ndarray) -> None:
        self._made.append((weakref.ref(array), memory))
        self.pool = getattr(array._memory, "pool", None)
        if self.pool is not None:
            self.pool.recordings.add(self)
        scribble(memory)

    def end(self) -> None:
        if self._device is not None:
            self._work.append(self._device.end_capture().run)

    def spoil_memory(self, own: bool) -> None:
        for array, memory in self._made:
            if own or array() is None:
                scribble(memory)

    def run(self) -> None:
        if self.pool is None:
            if any(array() is None for array, _ in self._made):
                raise AssertionError("a graph uses memory that was given back to the common pool")
        else:
            if not self.pool.total_bytes():
                raise AssertionError("a graph uses memory of a pool that was given back")
            for other in list(self.pool.recordings):
                other.spoil_memory(other is self)
        with numpy.errstate(all="ignore"):
            for work in self._work:
                work()
        launches.append(len(self._work))


def scribble(memory: numpy.ndarray) -> None:
    """Fill with what nobody would compute."""
    kind = memory.dtype.kind
    if kind == "f":
        memory.fill(numpy.nan)
    elif kind in "iu":
        memory.fill(numpy.iinfo(memory.dtype).max // 3)
    else:
        memory.fill(True)


class Graph:
    def __init__(self, tape: Recording) -> None:
        self._tape = tape

    def launch(self, stream: Stream | None = None) -> None:
        (stream or current()).ask(self._tape.run)

    def upload(self, stream: Stream | None = None) -> None:
        pass


class Chunk:
    """Memory that was taken of a GPU, given back with this object."""

    def __init__(self, machine: Any, number: int, size: int) -> None:
        self._of = machine, number, 0
        machine.take(number, size)
        self._of = machine, number, size

    def __del__(self) -> None:
        machine, number, size = self._of
        machine.give(number, size)


class MemoryPool:
    """A pool of its own on top of another allocator. What a stream gave back only that stream is
    given again. What it does not free is lost with it, as in CuPy from 14.1 on."""

    lost: ClassVar[list[list[Any]]] = []  # what pools hold, also those that are gone

    def __init__(self, allocator: Callable[[int], Any] | None = None) -> None:
        self._allocator = allocator
        self._chunks: list[Any] = []
        self.lost.append(self._chunks)
        self.used: dict[int, int] = {}  # by the number of a stream
        self.total: dict[int, int] = {}
        self.recordings: weakref.WeakSet[Recording] = weakref.WeakSet()

    def malloc(self, size: int) -> Pooled:
        stream = current().ptr
        used, total = self.used.get(stream, 0) + size, self.total.get(stream, 0)
        if used > total:
            assert self._allocator is not None
            self._chunks.append(self._allocator(used - total))
            self.total[stream] = used
        self.used[stream] = used
        return Pooled(self, stream, size)

    def used_bytes(self) -> int:
        return sum(self.used.values())

    def total_bytes(self) -> int:
        return sum(self.total.values())

    def free_all_blocks(self) -> None:
        if not self.used_bytes():
            self._chunks.clear()
            self.total.clear()


class Pooled:
    """Memory of such a pool, given back with this object."""

    def __init__(self, pool: MemoryPool, stream: int, size: int) -> None:
        self.pool, self._of = pool, (stream, size)

    def __del__(self) -> None:
        stream, size = self._of
        self.pool.used[stream] -= size


@contextmanager
def using_allocator(allocator: Callable[[int], Any]) -> Iterator[None]:
    before, _thread.allocator = _thread.allocator, allocator
    try:
        yield
    finally:
        _thread.allocator = before


def allocator() -> Callable[[int], Any] | None:
    """What arrays are taken from; None for the common pool."""
    return _thread.allocator


def alloc_pinned_memory(size: int) -> bytearray:
    return bytearray(size)
