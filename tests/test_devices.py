"""GPUs by name: each thing that can be wrong with one is told in one line with its cure."""

import importlib.metadata
import sys
import threading
from contextlib import suppress
from types import SimpleNamespace

import numpy as np
import pytest

import minillm
import stand_in_cupy
from minillm import Tensor, devices, kernels, machine
from minillm.arrays import device_of, to_device, to_numpy, xp_of
from minillm.formats import hf
from minillm.generation.memory import SMALL, side_by_side, text_bytes
from minillm.generation.options import Options
from minillm.generation.prefixes import load_reading, save_reading
from minillm.generation.reading import Reader
from minillm.models import adapter
from minillm.models.folder import load_model, save_weights
from minillm.nn import Linear
from small_gpt2 import small


@pytest.fixture
def gpus():
    """The machine of the stand-in, with two GPUs."""
    with stand_in_cupy.installed(), kernels.use("reference"):
        yield stand_in_cupy.machine


@pytest.mark.parametrize(
    ("name", "number"), [("cpu", None), ("cuda", 0), ("cuda:0", 0), ("cuda:13", 13)]
)
def test_devices_have_the_names_of_pytorch(name, number):
    assert devices.number_of(name) == number


def test_arrays_of_two_gpus_do_not_meet(gpus):
    """A kernel would read one's memory on the other, which costs the process all it has there."""
    one, two = (to_device(np.ones((2, 2), np.float32), name) for name in ("cuda", "cuda:1"))
    assert Tensor(one).device == "cuda:0"  # though the other one is the current device
    told = "arrays lie on cuda:0 and cuda:1, one device is needed"
    for operation in (minillm.ops.matmul, minillm.ops.linear):
        with pytest.raises(ValueError, match=told):
            operation(Tensor(one), Tensor(two))
    assert xp_of(one, np.ones(2), one) is sys.modules["cupy"]


@pytest.mark.parametrize("name", ["", "tpu", "cuda:", "cuda:-1", "cuda:a", "cuda:1.5", "cpu:0"])
def test_any_other_name_is_refused(name):
    with pytest.raises(ValueError, match=f"^device: '{name}' is not known, 'cpu' or 'cuda' is"):
        devices.number_of(name)


class TestWhereArraysLie:
    def test_each_gpu_has_its_own(self, gpus):
        one, two = (to_device(np.arange(3.0), name) for name in ("cuda", "cuda:1"))
        assert (device_of(one), device_of(two)) == ("cuda:0", "cuda:1")
        assert to_device(one, "cuda:0") is one
        moved = to_device(one, "cuda:1")
        assert device_of(moved) == "cuda:1"
        assert to_numpy(moved).tolist() == [0, 1, 2]

    def test_results_lie_beside_their_operands_whatever_was_current(self, gpus):
        layer, other = Linear(3, 2).to("cuda:1"), Linear(3, 2).to("cuda:0")
        for used in (layer, other, layer):
            y = used(Tensor(np.ones((1, 3), np.float32)))
            y.sum().backward()
            assert (
                device_of(y.data) == device_of(used.weight.data) == device_of(used.bias.grad.data)
            )

    @pytest.mark.parametrize("dtype", ["float32", "bf16", "int8"])
    def test_a_text_goes_on_there_and_so_does_its_copy(self, gpus, dtype):
        def places(reading):
            return {device_of(array) for array in reading.cache.to_arrays().values()} - {"cpu"}

        reader = Reader(small().to("cuda:1"), cache_dtype=dtype)
        reading = reader.begin()
        devices.use(0)
        reader.read([(reading, [1, 2])])
        devices.use(0)
        twin = reading.fork()
        assert places(reading) == places(twin) == {"cuda:1"}
        reader.read([(twin, [3])])
        assert places(twin) == {"cuda:1"}

    def test_another_thread_computes_there_too(self, gpus):
        layer = Linear(3, 2).to("cuda:1")
        found = []
        x = np.ones((1, 3), np.float32)
        thread = threading.Thread(target=lambda: found.append(device_of(layer(Tensor(x)).data)))
        thread.start()
        thread.join()
        assert found == ["cuda:1"]

    def test_the_library_of_an_array_is_on_its_gpu(self, gpus):
        array = to_device(np.ones(2), "cuda:1")
        devices.use(0)
        assert xp_of(array).cuda.runtime.getDevice() == 1

    def test_what_lies_where_is_told_as_in_pytorch(self, gpus):
        layer = Linear(2, 2)
        assert layer.device == layer.weight.device == "cpu"
        assert layer.to("cuda:1").device == Tensor(layer.weight).device == "cuda:1"

    def test_adapters_lie_beside_their_layers(self, gpus, tmp_path):
        model = small().to("cuda:1")
        lora = adapter.Lora(2)
        adapter.attach(model, lora)
        assert {parameter.device for parameter in model.parameters()} == {"cuda:1"}
        adapter.save(tmp_path, model, lora, "base", None)
        for device in ("cuda:1", "cpu"):
            again = small().to(device)
            adapter.load(again, tmp_path)
            assert {parameter.device for parameter in again.parameters()} == {device}

    def test_a_request_is_measured_by_the_memory_of_the_models_gpu(self, gpus):
        config = small().config
        prompt = SimpleNamespace(ids=[1], limit=7)
        each = text_bytes(config, 7, "float32")
        rows = SMALL // each + 1
        options = Options.of(n=rows, temperature=1.0)
        gpus.bytes = 5 * each
        assert side_by_side(config, prompt, options, "cuda") == 5
        assert side_by_side(config, prompt, options) > 5


class TestDefault:
    @pytest.fixture
    def model(self, tmp_path):
        save_weights(tmp_path, small())
        hf.write_json(tmp_path / "config.json", small().config.to_hf())
        return tmp_path

    def test_models_are_loaded_there(self, gpus, model):
        def place(**options):
            return device_of(load_model(model, **options).wte.weight.data)

        assert place(device="cuda:1") == "cuda:1"
        minillm.set_default_device("cuda")
        try:
            assert place() == "cuda:0"
            assert place(device="cpu") == "cpu"
        finally:
            minillm.set_default_device("cpu")
        assert minillm.get_default_device() == "cpu"

    def test_a_model_that_does_not_fit_there_is_refused(self, gpus, model):
        gpus.bytes = 2000
        with pytest.raises(ValueError, match=r"of memory of cuda:1 for .* 2.0 kB are free"):
            load_model(model, device="cuda:1")

    def test_one_that_cannot_be_used_is_refused(self, gpus):
        with pytest.raises(RuntimeError, match="'cuda:7' is not there"):
            minillm.set_default_device("cuda:7")
        assert minillm.get_default_device() == "cpu"


WRONG = [
    (
        {"driver": 0},
        "device: CuPy is installed for CUDA 13.2, but no driver of NVIDIA; a GPU and its driver "
        "are needed",
    ),
    (
        {"driver": 12040},
        "device: the driver is for CUDA 12.4, CuPy for CUDA 13.2; a driver for CUDA 13, or the "
        "extra cuda12, is needed",
    ),
    (
        {"driver": 11080, "cuda": 12090},
        "device: the driver is for CUDA 11.8, CuPy for CUDA 12.9; a driver for CUDA 12 is needed",
    ),
    (
        {"gpus": 0},
        "device: the driver for CUDA 13.0 finds no GPU (cudaErrorNoDevice: no CUDA-capable device "
        "is detected), one is needed; CUDA_VISIBLE_DEVICES may hide it",
    ),
    (
        {"broken": "cudaErrorDevicesUnavailable: CUDA-capable device(s) is/are busy"},
        "device: the driver for CUDA 13.0 finds no GPU (cudaErrorDevicesUnavailable: CUDA-capable "
        "device(s) is/are busy), one is needed; CUDA_VISIBLE_DEVICES may hide it",
    ),
]


@pytest.mark.parametrize(("facts", "line"), WRONG)
def test_what_is_wrong_is_told_with_its_cure(gpus, facts, line):
    for name, value in facts.items():
        setattr(gpus, name, value)
    with pytest.raises(RuntimeError) as caught:
        to_device(np.ones(3), "cuda")
    assert str(caught.value) == line


@pytest.mark.parametrize(
    ("there", "line"),
    [
        (1, "'cuda:2' is not there, this machine has 1 GPU, cuda:0 can be used"),
        (2, "'cuda:2' is not there, this machine has 2 GPUs, cuda:0, cuda:1 can be used"),
    ],
)
def test_a_number_that_does_not_exist(gpus, there, line):
    gpus.gpus = there
    with pytest.raises(RuntimeError) as caught:
        Linear(2, 2).to("cuda:2")
    assert str(caught.value) == f"device: {line}"


@pytest.fixture
def without(monkeypatch):
    """A machine where importing CuPy fails in some way, with some driver."""

    def arrange(error, driver, packages=(), device="cuda"):
        class Finder:
            @staticmethod
            def find_spec(name, path=None, target=None):
                if name == "cupy":
                    raise error

        def version(name):
            if name not in packages:
                raise importlib.metadata.PackageNotFoundError(name)
            return "14.2.0"

        monkeypatch.delitem(sys.modules, "cupy", raising=False)
        monkeypatch.setattr(sys, "meta_path", [Finder, *sys.meta_path])
        monkeypatch.setattr(importlib.metadata, "version", version)
        monkeypatch.setattr(machine, "cuda_driver", lambda: driver)
        with pytest.raises(RuntimeError) as caught:
            devices.require(device)
        return str(caught.value)

    return arrange


MISSING = ModuleNotFoundError("No module named 'cupy'", name="cupy")


@pytest.mark.parametrize(
    ("driver", "cure"),
    [
        (None, "the extra cuda12 or cuda13 that matches your driver (none of NVIDIA was found)"),
        (11080, "the extra cuda12 and a driver for it (that here is for CUDA 11.8)"),
        (12040, "the extra cuda12 (the driver is for CUDA 12.4)"),
        (13000, "the extra cuda13 (the driver is for CUDA 13.0)"),
    ],
)
def test_without_cupy_the_extra_is_that_of_the_driver(without, driver, cure):
    line = f"needs CuPy, which is not installed; install {cure}"
    assert without(MISSING, driver) == f"device: 'cuda' {line}"
    assert without(MISSING, driver, device="cuda:7") == f"device: 'cuda:7' {line}"


def test_a_cupy_that_lacks_its_libraries(without):
    error = ImportError(
        "\n=====\nFailed to import CuPy.\n\nOriginal error:\n  ImportError: libcudart.so.12: "
        "cannot open shared object file\n=====\n"
    )
    assert without(error, 13000) == (
        "device: CuPy cannot be imported (ImportError: libcudart.so.12: cannot open shared object "
        "file), a whole one is needed; install the extra cuda13 (the driver is for CUDA 13.0)"
    )


def test_two_of_them_in_one_folder(without):
    assert without(MISSING, 13000, ("cupy-cuda12x", "cupy-cuda13x")) == (
        "device: cupy-cuda12x and cupy-cuda13x are installed into one folder, one alone is needed; "
        "pip uninstall cupy-cuda12x cupy-cuda13x, then install the extra cuda13 (the driver is for "
        "CUDA 13.0)"
    )


def test_a_machine_without_a_driver_has_none(monkeypatch):
    def missing(name):
        raise OSError(f"{name}: cannot open shared object file")

    monkeypatch.setattr(machine.ctypes, "CDLL", missing)
    assert machine.cuda_driver() is None


@pytest.mark.parametrize("dtype", ["float32", "bf16", "int8"])
def test_what_was_read_is_saved_and_goes_on_elsewhere(gpus, tmp_path, dtype):
    model = small()
    reader = Reader(model, cache_dtype=dtype)
    reading = reader.begin()
    reader.read([(reading, [1, 2, 3])])
    wanted = reader.read([(reading.fork(), [4])])[0]
    for device in ("cuda:1", "cpu"):
        save_reading(tmp_path / "text", reading, reader)
        model.to(device)
        reading = load_reading(tmp_path / "text", reader)
        assert {device_of(part) for part in reading.cache.to_arrays().values() if part.ndim} == {
            device
        }
        assert np.array_equal(reader.read([(reading.fork(), [4])])[0], wanted)


def test_a_kernel_is_compiled_and_run(gpus):
    assert devices.probe(1) >= 0
    gpus.compiler = "Failure finding libnvrtc.so.13:\n no such file"
    with pytest.raises(RuntimeError) as caught:
        devices.probe(0)
    assert str(caught.value) == (
        "device: no kernel can be compiled and run on 'cuda:0' (Failure finding libnvrtc.so.13: no "
        "such file), compiler and libraries of CUDA 13 are needed; install its toolkit, or: "
        "pip install 'cupy-cuda13x[ctk]'"
    )
    with pytest.raises(RuntimeError, match="no kernel can be compiled"):
        minillm.set_default_device("cuda")
    gpus.compiler, gpus.wrong = "", True
    with pytest.raises(RuntimeError, match="'cuda:0' computes wrong numbers, a sound GPU is"):
        devices.probe(0)


def test_cupy_itself_without_a_gpu_is_told_in_one_line():
    cupy = pytest.importorskip("cupy", reason="CuPy is not installed")
    with suppress(cupy.cuda.runtime.CUDARuntimeError):
        pytest.skip(f"{cupy.cuda.runtime.getDeviceCount()} GPUs are here")
    told = (
        r"CuPy is installed for CUDA [\d.]+, but no driver of NVIDIA; a GPU and its driver .*",
        r"the driver is for CUDA [\d.]+, CuPy for .*",
        r"the driver for CUDA [\d.]+ finds no GPU .*",
    )
    with pytest.raises(RuntimeError, match=f"^device: ({'|'.join(told)})$"):
        to_device(np.ones(3), "cuda")
