"""The switches of a run: providers, precision, threads; seeds and devices."""

import os
import subprocess
import sys
import threading
from types import SimpleNamespace

import numpy as np
import pytest

from minillm import kernels, manual_seed, ops
from minillm.arrays import (
    default_generator,
    new_generator,
    scatter_add,
    to_device,
    to_numpy,
    xp_of,
)

needs_extension = pytest.mark.skipif(
    kernels.cpu is None, reason="the C++ extension is not installed"
)


def start(mode, code):
    done = subprocess.run(
        [sys.executable, "-c", code], check=False, capture_output=True, text=True, encoding="utf-8",
        env={**os.environ, "MINILLM_KERNELS": mode},
    )  # fmt: skip
    return done.returncode, done.stdout.strip(), done.stderr.strip().splitlines()[-1:]


class TestModes:
    absent = "import sys; sys.modules['minillm._cpu'] = None; import minillm.kernels as k; "

    def test_off_means_off(self):
        code = "import minillm.kernels as k; print(k.cpu, k.active_cpu, k.threads())"
        assert start("off", code) == (0, "None None 1", [])

    @pytest.mark.parametrize("mode", ["auto", "", "off"])
    def test_a_missing_extension_is_no_error(self, mode):
        assert start(mode, self.absent + "print(k.cpu)") == (0, "None", [])

    def test_unless_it_is_required(self):
        code, _, error = start("require", self.absent)
        assert code == 1
        assert error == [
            "ImportError: MINILLM_KERNELS=require: the C++ extension minillm._cpu is not "
            "installed; install a C++17 compiler and reinstall, or unset MINILLM_KERNELS"
        ]

    def test_an_unknown_mode_is_refused(self):
        code, _, error = start("fast", "import minillm.kernels")
        assert code == 1
        assert error == [
            "ImportError: MINILLM_KERNELS: 'fast' is not known, one of auto, off, require needed"
        ]

    @needs_extension
    def test_without_the_switch_the_extension_serves(self):
        code = "import minillm.kernels as k; print(k.cpu is not None, k.active_cpu is k.cpu)"
        assert start("require", code) == (0, "True True", [])


class TestProviders:
    def test_the_reference_serves_inside_the_block_only(self):
        before = kernels.library(np)
        with kernels.use("reference"):
            assert kernels.library(np) is None
            with kernels.use("auto"):
                assert kernels.library(np) is kernels.cpu
            assert kernels.library(np) is None
        assert kernels.library(np) is before
        with pytest.raises(KeyError), kernels.use("reference"):
            raise KeyError
        assert kernels.library(np) is before

    @needs_extension
    def test_an_op_asks_the_library_that_is_in_use(self, monkeypatch):
        calls = []
        shim = ops.softmax._kernel_forward
        monkeypatch.setitem(
            ops.softmax._libraries,
            kernels.cpu,
            (lambda *args: calls.append(1) or shim(*args), ops.softmax._kernel_backward),
        )
        x = np.ones((2, 3), np.float32)
        with kernels.use("reference"):
            ops.softmax(x)
        assert calls == []
        with kernels.use("auto"):
            ops.softmax(x)
        assert calls == [1]

    def test_an_unknown_provider_is_refused(self):
        with pytest.raises(ValueError, match="'gpu' is not a provider"), kernels.use("gpu"):
            pass


class TestPrecision:
    def test_bfloat16_where_there_is_none_is_said_once_and_runs_in_float32(self):
        with kernels.use("reference"):
            assert not kernels.has_bf16()
            warned = pytest.warns(RuntimeWarning, match="running in float32")
            with warned, kernels.precision("bf16"):
                assert kernels.active_precision == "f32"
            assert len(warned) == 1
        assert kernels.active_precision == "f32"

    def test_what_the_library_of_a_gpu_can_is_not_what_the_processor_can(self, monkeypatch):
        def library(able):
            runtime = SimpleNamespace(has_bf16=lambda: able, set_bf16=lambda wanted: None)
            return SimpleNamespace(runtime=runtime)

        for name, able in (("cpu", False), ("cuda", True)):
            monkeypatch.setattr(kernels, name, library(able))
            monkeypatch.setattr(kernels, f"active_{name}", library(able))
        assert not kernels.has_bf16() and kernels.has_bf16("cuda:1")
        with pytest.warns(RuntimeWarning, match="on this machine"), kernels.precision("bf16"):
            assert kernels.active_precision == "f32"
        with kernels.precision("bf16", "cuda"):
            assert kernels.active_precision == "bf16"
        monkeypatch.setattr(kernels, "default_device", "cuda")
        with kernels.precision("bf16"):
            assert kernels.active_precision == "bf16"

    def test_an_unknown_precision_is_refused(self):
        with pytest.raises(ValueError, match="'f16' is not known"), kernels.precision("f16"):
            pass


class TestThreads:
    @needs_extension
    def test_their_number_is_what_was_asked_for(self):
        before = kernels.threads()
        try:
            for count in (1, 3):
                kernels.set_threads(count)
                assert kernels.threads() == count
        finally:
            kernels.set_threads(before)

    @pytest.mark.parametrize("count", [0, -1])
    def test_less_than_one_is_refused(self, count):
        with pytest.raises(ValueError, match=f"threads: {count} asked for, at least 1"):
            kernels.set_threads(count)

    def test_more_than_a_machine_has_is_refused(self):
        with pytest.raises(ValueError, match=r"threads: 10{20} asked for, at most 4096"):
            kernels.set_threads(10**20)

    def test_several_python_threads_may_compute_at_once(self):
        rng = np.random.default_rng(0)
        a, b = (rng.standard_normal((150, 150)).astype(np.float32) for _ in range(2))
        right, wrong = ops.matmul(a, b).data, []

        def work():
            for _ in range(20):
                if not np.array_equal(ops.matmul(a, b).data, right):
                    wrong.append(1)

        workers = [threading.Thread(target=work) for _ in range(4)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        assert wrong == []


class TestArrays:
    def test_a_stream_is_a_function_of_its_seeds(self):
        draws = {
            seeds: new_generator(*seeds).random(3).tolist()
            for seeds in ((0,), (1,), (0, 1), (2, 1), (0, 0, 1), (2**70,))
        }
        assert len({tuple(draw) for draw in draws.values()}) == len(draws)
        assert new_generator(0, 1).random(3).tolist() == draws[0, 1]
        with pytest.raises(ValueError):
            new_generator(-1)

    def test_manual_seed_restarts_the_default_stream(self):
        manual_seed(5)
        first = default_generator.random(3).tolist()
        default_generator.integers(10, dtype=np.int32)
        manual_seed(5)
        assert default_generator.random(3).tolist() == first
        assert new_generator(5).random(3).tolist() == first

    def test_repeated_indices_all_count(self):
        target = np.zeros((3, 2))
        scatter_add(np, target, np.array([1, 2, 1]), np.array([[1, 2], [3, 4], [5, 6]]))
        assert target.tolist() == [[0, 0], [6, 8], [3, 4]]

    def test_arrays_on_the_host_stay_where_they_are(self):
        x = np.ones(2)
        assert to_numpy(x) is to_device(x, "cpu") is x
        assert xp_of(1.0, x) is xp_of() is np
        with pytest.raises(ValueError, match="'tpu' is not known"):
            to_device(x, "tpu")


@pytest.mark.parametrize("name", ["MINILLM_KERNELS", "MINILLM_ISA"])
def test_the_command_line_tells_a_wrong_variable_in_one_line(name):
    if name == "MINILLM_ISA" and kernels.cpu is None:
        pytest.skip("the extension is not built")
    done = subprocess.run(
        [sys.executable, "-m", "minillm", "doctor"],
        env=os.environ | {name: "nonsense"},
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr.startswith(f"minillm: {name}: ") and done.stderr.count("\n") == 1
