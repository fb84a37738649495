"""The arena: NumPy's memory inside a step, before and after it, in other threads, after a fork."""

import contextvars
import ctypes
import gc
import itertools
import os
import signal
import subprocess
import sys
import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy._core.multiarray import get_handler_name

from minillm import kernels
from minillm.arrays import new_generator
from minillm.generation.decoding import generate_ids
from minillm.generation.sampling import Sampler
from minillm.models import GPT2, GPT2Config

pytestmark = pytest.mark.skipif(
    kernels.cpu is None, reason="the C++ extension is not installed: there is no arena"
)
needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
linux_only = pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="other systems do not take pages back"
)
LEAST, PAGE, CHUNK = 64 << 10, 4096, 2 << 20
NAME = "minillm_arena"


@pytest.fixture
def arena():
    gc.collect()
    before = stats()["in_use"]
    yield kernels.Arena()
    gc.collect()
    assert stats()["in_use"] == before
    assert get_handler_name() == "default_allocator"


def stats():
    return kernels.cpu.runtime.arena_stats()


def whole_pages(nbytes):
    return -(-nbytes // PAGE) * PAGE


def array(arena, nbytes, fill=7):
    with arena.step():
        return np.full(nbytes, fill, np.uint8)


def most_resident():
    """The peak of this process in bytes."""
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10


def in_thread(act):
    """What `act()` returns or raises in another thread."""
    found = []

    def run():
        try:
            found.append(act())
        except BaseException as error:
            found.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if isinstance(found[0], BaseException):
        raise found[0]
    return found[0]


def in_child(act):
    """Exit code of a forked child that runs `act`; negative if it had to be killed."""
    child = os.fork()
    if child == 0:
        signal.alarm(5)
        code = 1
        try:
            act()
            code = 0
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def printed(code, *arguments):
    """What a process of its own prints, which must end well and complain of nothing."""
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], check=False, capture_output=True,
        encoding="utf-8", env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


class TestScope:
    def test_only_the_inside_is_changed(self, arena):
        assert get_handler_name() == "default_allocator"
        with arena.step():
            assert get_handler_name() == NAME
            assert in_thread(get_handler_name) == "default_allocator"
            assert contextvars.Context().run(get_handler_name) == "default_allocator"
            inside = np.ones(LEAST, np.uint8)
        assert get_handler_name() == "default_allocator"
        assert get_handler_name(inside) == NAME
        assert get_handler_name(np.ones(LEAST, np.uint8)) == "default_allocator"

    def test_an_exception_ends_it(self, arena):
        with pytest.raises(ZeroDivisionError), arena.step():
            assert get_handler_name() == NAME
            raise ZeroDivisionError
        assert get_handler_name() == "default_allocator"

    def test_nested_steps_restore_what_was_before_each(self, arena):
        other = kernels.Arena()
        with arena.step():
            with other.step(), arena.step():
                assert get_handler_name() == NAME
            assert get_handler_name() == NAME
        assert get_handler_name() == "default_allocator"

    def test_two_threads_inside_at_once(self, arena):
        barrier = threading.Barrier(2)

        def work():
            with arena.step():
                barrier.wait(10)
                kept = np.ones(LEAST)
                barrier.wait(10)
            return get_handler_name(kept), get_handler_name()

        threads = []
        one = threading.Thread(target=lambda: threads.append(work()))
        one.start()
        threads.append(work())
        one.join()
        assert threads == [(NAME, "default_allocator")] * 2

    def test_small_arrays_are_numpys_own(self, arena):
        before = stats()
        with arena.step():
            small = np.ones(LEAST - 1, np.uint8)
            assert stats() == before
            large = np.ones(LEAST, np.uint8)
            assert stats()["in_use"] == before["in_use"] + LEAST
        assert small.sum() + large.sum() == 2 * LEAST - 1

    def test_large_arrays_are_aligned(self, arena):
        with arena.step():
            arrays = [np.empty(LEAST + 1000 * n, np.uint8) for n in range(50)]
        assert {one.ctypes.data % 64 for one in arrays} == {0}


class TestLife:
    def test_an_array_outlives_step_trim_and_arena(self, arena):
        kept = array(arena, 3 * CHUNK)
        kernels.cpu.runtime.arena_trim()
        own = kernels.Arena()
        other = array(own, CHUNK, 9)
        del own
        assert (kept == 7).all() and (other == 9).all()

    def test_it_may_be_freed_in_another_thread(self, arena):
        before, arrays = stats()["in_use"], [array(arena, CHUNK)]
        in_thread(arrays.clear)
        assert stats()["in_use"] == before

    def test_it_may_come_from_another_thread(self, arena):
        before, made = stats()["in_use"], in_thread(lambda: array(arena, CHUNK))
        assert (made == 7).all()
        del made
        assert stats()["in_use"] == before

    @needs_fork
    def test_a_forked_child_has_its_own(self, arena):
        kept, dropped = array(arena, CHUNK), [array(arena, CHUNK)]

        def child():
            dropped.clear()
            kernels.cpu.runtime.arena_trim()
            new = [array(arena, CHUNK, n) for n in range(4)]
            assert all((one == n).all() for n, one in enumerate(new))
            assert (kept == 7).all()
            kept[:] = 1

        assert in_child(child) == 0
        assert (kept == 7).all() and (dropped[0] == 7).all()

    def test_the_interpreter_may_end_first(self):
        code = (
            "import numpy, minillm.kernels as k; a = k.Arena(); s = a.step(); s.__enter__(); "
            "x = numpy.ones(10**6); numpy.kept = x[1:]; print(x.sum())"
        )
        assert printed(code) == "1000000.0\n"


class TestContents:
    def test_zeros_are_zero_where_others_were(self, arena):
        used = array(arena, 5 * CHUNK, 255)
        place = used.ctypes.data
        del used
        with arena.step():
            zeros = np.zeros(5 * CHUNK, np.uint8)
        assert zeros.ctypes.data == place
        assert not zeros.any()

    @pytest.mark.parametrize("new", [10, LEAST // 2, LEAST, 3 * LEAST, 5 * CHUNK])
    @pytest.mark.parametrize("old", [1, LEAST - 1, LEAST, 2 * CHUNK])
    def test_resizing_keeps_what_fits(self, arena, old, new):
        with arena.step():
            changed = (np.arange(old) % 251).astype(np.uint8)
            changed.resize(new, refcheck=False)
        expected = np.zeros(new, np.uint8)
        expected[: min(old, new)] = (np.arange(min(old, new)) % 251).astype(np.uint8)
        assert np.array_equal(changed, expected)

    def test_resizing_outside_and_in_another_thread(self, arena):
        changed = array(arena, CHUNK)
        changed.resize(100, refcheck=False)
        in_thread(lambda: changed.resize(2 * CHUNK, refcheck=False))
        assert (changed[:100] == 7).all() and not changed[100:].any()
        assert get_handler_name(changed) == NAME

    def test_more_than_there_is_is_a_memory_error(self, arena):
        with arena.step(), pytest.raises(MemoryError):
            np.empty(1 << 60, np.uint8)
        with arena.step(), pytest.raises(MemoryError):
            np.zeros(1 << 60, np.uint8)

    @linux_only
    def test_what_is_refused_costs_no_memory(self, arena):
        before = most_resident()
        try:
            with arena.step():
                np.empty(1 << 42, np.uint8)
        except MemoryError:
            assert most_resident() - before < 64 << 20
        else:
            pytest.skip("this system grants 4 TB")


sizes = st.one_of(
    st.integers(1, 3 * LEAST),
    st.integers(1, 3 * CHUNK),
    st.sampled_from([LEAST - 1, LEAST, LEAST + 1, CHUNK - 1, CHUNK, CHUNK + 1]),
)
acts = st.lists(
    st.one_of(
        st.tuples(st.sampled_from(["empty", "zeros"]), sizes),
        st.tuples(st.just("resize"), sizes, st.integers(0, 99)),
        st.tuples(st.just("free"), st.integers(0, 99)),
        st.tuples(st.sampled_from(["free in a thread", "end step", "trim"])),
    ),
    max_size=40,
)


class Canaries:
    """Arrays that are filled with their number from end to end, and must stay so."""

    def __init__(self, arena):
        self.arena, self.arrays, self.made = arena, {}, 0

    def act(self, kind, *given):
        number = list(self.arrays)[given[-1] % len(self.arrays)] if self.arrays and given else None
        if kind in ("empty", "zeros"):
            self.made += 1
            with self.arena.step():
                new = getattr(np, kind)(given[0], np.uint8)
            assert kind == "empty" or not new.any()
            new[:] = self.made % 256
            self.arrays[self.made] = new
        elif kind == "resize" and number is not None:
            changed, before = self.arrays[number], self.arrays[number].size
            changed.resize(given[0], refcheck=False)
            assert not changed[before:].any()
            changed[before:] = number % 256
        elif kind == "free" and number is not None:
            del self.arrays[number]
        elif kind == "free in a thread":
            in_thread(lambda: self.arrays.pop(next(iter(self.arrays), None), None) is None)
        elif kind == "end step":
            with self.arena.step():
                pass
        elif kind == "trim":
            kernels.cpu.runtime.arena_trim()

    def check(self):
        for number, one in self.arrays.items():
            assert (one == number % 256).all()
        spans = sorted((one.ctypes.data, one.nbytes) for one in self.arrays.values())
        assert all(a + size <= b for (a, size), (b, _) in itertools.pairwise(spans))


@settings(max_examples=60)
@given(acts)
def test_no_array_touches_another(acts):
    before = stats()["in_use"]
    canaries = Canaries(kernels.Arena())
    for act in acts:
        canaries.act(*act)
    canaries.check()
    large = [one.nbytes for one in canaries.arrays.values() if one.nbytes >= LEAST]
    shrunk = [one.nbytes for one in canaries.arrays.values() if LEAST / 2 < one.nbytes < LEAST]
    held = stats()["in_use"] - before
    assert sum(map(whole_pages, large)) <= held <= 2 * sum(map(whole_pages, large + shrunk))
    del canaries
    assert stats()["in_use"] == before


class TestKept:
    def test_a_second_step_takes_nothing_new(self, arena):
        def step():
            with arena.step():
                return np.ones(4 * CHUNK, np.uint8).ctypes.data

        place, held = step(), stats()
        assert held["kept"] >= 4 * CHUNK
        assert [step() for _ in range(20)] == [place] * 20
        assert stats() == held

    def test_other_sizes_use_the_same_memory(self, arena):
        with arena.step():
            parts = [np.ones(CHUNK, np.uint8) for _ in range(16)]
            parts.clear()
            held = stats()
            np.ones(15 * CHUNK, np.uint8)
            np.ones(7 * CHUNK + 12345, np.uint8)
            assert stats() == held

    @pytest.mark.parametrize("chunks", [1, 20, 60, 99])
    def test_what_was_used_is_used_again_before_what_never_was(self, arena, chunks):
        with arena.step():
            first, wall = np.empty(100 * CHUNK, np.uint8), np.empty(CHUNK, np.uint8)
            del first
            held = stats()["peak"]
            again = np.empty(chunks * CHUNK, np.uint8)
            assert stats()["peak"] == held
        del wall, again

    @linux_only
    def test_what_steps_do_not_use_is_returned(self, arena):
        begin = stats()
        array(arena, 32 * CHUNK)
        for _ in range(10):
            array(arena, 2 * CHUNK)
        assert stats()["kept"] <= begin["kept"] + 3 * CHUNK
        assert stats()["peak"] >= 32 * CHUNK

    @linux_only
    def test_steps_of_a_run_within_a_run_return_nothing(self, arena):
        array(arena, 32 * CHUNK)
        inner = kernels.Arena()
        for _ in range(10):
            array(inner, CHUNK)
        del inner
        assert stats()["kept"] >= 32 * CHUNK

    @linux_only
    def test_the_end_of_the_last_run_returns_all(self):
        gc.collect()
        one, other = kernels.Arena(), kernels.Arena()
        array(one, 8 * CHUNK)
        del one
        assert stats()["kept"] >= 8 * CHUNK
        del other
        assert stats()["kept"] < CHUNK

    @linux_only
    def test_an_array_that_outlives_all_runs_is_returned_when_it_goes(self):
        gc.collect()
        run = kernels.Arena()
        outlives = array(run, 8 * CHUNK)
        del run
        del outlives
        assert stats()["kept"] < CHUNK

    def test_trim_returns_all_but_arrays(self, arena):
        kept = array(arena, CHUNK)
        array(arena, 8 * CHUNK)
        resident = resident_bytes()
        kernels.cpu.runtime.arena_trim()
        assert (kept == 7).all()
        if resident is not None:
            assert resident - resident_bytes() >= 7 * CHUNK
            assert stats()["kept"] <= 2 * CHUNK

    @linux_only
    def test_peak_begins_with_a_run(self):
        gc.collect()
        first = kernels.Arena()
        array(first, 20 * CHUNK)
        assert stats()["peak"] >= 20 * CHUNK
        del first
        assert stats()["peak"] >= 20 * CHUNK
        second = kernels.Arena()
        array(second, 2 * CHUNK)
        assert stats()["peak"] < 20 * CHUNK


def resident_bytes():
    if not sys.platform.startswith("linux"):
        return None
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


class RawHandler:
    """The functions that NumPy calls, called without the interpreter's lock."""

    def __init__(self, arena):
        former = arena._run.begin_step()
        capsule = arena._run.begin_step()
        arena._run.end_step(capsule)
        arena._run.end_step(former)
        pointer = ctypes.pythonapi.PyCapsule_GetPointer
        pointer.restype, pointer.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
        address = pointer(capsule, b"mem_handler")
        functions = (ctypes.c_void_p * 5).from_address(address + 128)
        word, void = ctypes.c_size_t, ctypes.c_void_p
        self.malloc = ctypes.CFUNCTYPE(void, void, word)(functions[1])
        self.free = ctypes.CFUNCTYPE(None, void, void, word)(functions[4])

    def use(self, seed, rounds):
        """Allocate, write at both ends, look and free, in an order that `seed` gives."""
        choose, held = np.random.default_rng(seed), []
        for _ in range(rounds):
            size = int(choose.integers(LEAST, 8 * LEAST))
            block, mark = self.malloc(None, size), bytes([seed, len(held)])
            ctypes.memmove(block, mark, 2)
            ctypes.memmove(block + size - 2, mark, 2)
            held.append((block, size, mark))
            while len(held) > int(choose.integers(0, 20)):
                block, size, mark = held.pop(int(choose.integers(len(held))))
                assert ctypes.string_at(block, 2) == ctypes.string_at(block + size - 2, 2) == mark
                self.free(None, block, size)
        for block, size, _ in held:
            self.free(None, block, size)
        return True


class TestThreads:
    def test_without_the_interpreters_lock(self, arena):
        raw, done = RawHandler(arena), []
        threads = [
            threading.Thread(target=lambda n=n: done.append(raw.use(n, 1000))) for n in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert done == [True] * 4

    @needs_fork
    def test_a_fork_in_the_midst_of_it(self):
        gc.collect()
        raw, stop = RawHandler(kernels.Arena()), threading.Event()

        def hammer():
            while not stop.is_set():  # without a run each block comes from the system, slowly
                raw.free(None, raw.malloc(None, LEAST), LEAST)

        threads = [threading.Thread(target=hammer) for _ in range(2)]
        for thread in threads:
            thread.start()
        try:
            codes = [in_child(lambda: raw.use(1, 5)) for _ in range(10)]
        finally:
            stop.set()
            for thread in threads:
                thread.join()
        assert codes == [0] * 10


class TestUse:
    def test_between_two_tokens_the_caller_is_outside(self):
        model = GPT2(GPT2Config(vocab_size=9, n_positions=8, n_embd=8, n_layer=1, n_head=1))
        ids = generate_ids(model, [1], Sampler(), new_generator(0), overflow="slide")
        for _ in range(12):
            next(ids)
            assert get_handler_name() == "default_allocator"

    @linux_only
    def test_warm_steps_take_no_pages(self, tmp_path):
        code = (
            "import pathlib, resource, sys; from small_runs import trainer\n"
            "run = trainer(pathlib.Path(sys.argv[1]), width=64, context=64, batch=16)\n"
            "faults = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_minflt\n"
            "for _ in range(3): run.step(0.1)\n"
            "run.evaluate(); before = faults()\n"
            "for _ in range(4): run.step(0.1)\n"
            "run.evaluate(); print(faults() - before)\n"
        )
        assert int(printed(code, str(tmp_path))) < 100

    @linux_only
    def test_working_memory_of_just_below_a_huge_page_is_given_back(self):
        code = (
            "import numpy as np; from minillm import kernels, ops\n"
            "from minillm.machine import memory\n"
            "def update(side):\n"
            "    ops.muon.compute(*(np.ones((side, side), np.float32) for _ in range(3)), lr=0.1,\n"
            "        momentum=0.9, nesterov=True, weight_decay=0.0, ns_steps=1, eps=1e-7,\n"
            "        adjust_lr_fn='original')\n"
            "arena = kernels.Arena(); kernels.set_threads(1)\n"
            "def steps(count):\n"
            "    for _ in range(count):\n"
            "        with arena.step(): update(720); update(760)\n"
            "    return memory().rss_mb\n"
            "before = steps(5); print(round(steps(20) - before))\n"
        )
        assert int(printed(code)) < 32  # MB; 8 leaked in each step would be 160


def test_without_the_extension_nothing_happens(monkeypatch):
    monkeypatch.setattr(kernels, "cpu", None)
    with kernels.Arena().step():
        assert get_handler_name() == "default_allocator"
