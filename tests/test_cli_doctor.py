"""`minillm doctor`: green where all providers agree with the reference, red where one does not."""

import importlib.util
import io
import json
import subprocess
import sys
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest

import stand_in_cupy
from minillm import kernels
from minillm.cli.doctor import _product_rate
from minillm.ops import registry
from small_runs import command, environment, minillm


def softmax(x, out):
    """The softmax of a library: rows of x to rows of out."""
    weights = np.exp(x.astype(np.float64) - x.max(-1, keepdims=True))
    out[...] = weights / weights.sum(-1, keepdims=True)


def library(**functions):
    """A library as the extension is one, that exports `functions`."""
    found = ModuleType("library")
    found.runtime = SimpleNamespace(
        isa=lambda: "plain",
        available_isas=lambda: ["plain"],
        threads=lambda: 1,
        set_threads=lambda count: None,
        set_bf16=lambda wanted: None,
        peak_f32=lambda: 100.0,
        peak_bf16=lambda: 0.0,
        peak_read=lambda size: 30.0 if size > 1e8 else 300.0,
        peak_copy=lambda size: 20.0 if size > 1e8 else 200.0,
    )
    for name, function in functions.items():
        setattr(found, name, function)
    return found


@pytest.fixture
def doctor(capsys, monkeypatch):
    """Runs the doctor on some ops with a library for the extension: exit code, lines."""

    def examine(lib=None, cases=2, ops=tuple(registry)):
        monkeypatch.setattr(kernels, "cpu", lib)
        monkeypatch.setattr("minillm.ops.registry", {name: registry[name] for name in ops})
        code = minillm("doctor", "--cases", cases)
        captured = capsys.readouterr()
        assert captured.err == ""
        return code, captured.out.splitlines()

    return examine


def line_of(lines, op):
    return next(line for line in lines if line.split()[:1] == [op])


def test_green_names_every_op_and_what_is_installed(doctor):
    code, lines = doctor()
    assert code == 0
    assert lines[-1].startswith("all providers agree with the float64 reference (")
    for name in registry:
        assert "reference 0." in line_of(lines, name)
    words = {line.split()[0] for line in lines if line}
    assert {"minillm", "python", "numpy", "safetensors", "tqdm", "cupy", "extension"} <= words
    assert "NumPy serves every op" in line_of(lines, "extension")


@pytest.mark.skipif(kernels.cpu is None, reason="the extension is not built")
def test_green_with_the_extension(doctor):
    code, lines = doctor(kernels.cpu)
    assert code == 0, lines
    for name, op in registry.items():
        assert ("cpu 0." in line_of(lines, name)) == any(op.kernels(kernels.cpu))


def test_a_library_that_is_right_is_shown(doctor):
    code, lines = doctor(library(softmax_forward=softmax))
    assert code == 0
    assert "cpu 0." in line_of(lines, "softmax")
    assert "cpu" not in line_of(lines, "gelu")


def test_the_speed_of_the_machine_is_shown(doctor, monkeypatch):
    monkeypatch.setattr("minillm.cli.doctor._product_rate", lambda precision: 80.0)
    lib = library(softmax_forward=softmax)
    _, lines = doctor(lib, ops=("softmax",))
    peak = "peak f32     100 GFLOP/s on 1 thread, 100 on 1; a product of 1024 square reaches 80%"
    assert peak in lines
    assert "memory       30 GB/s read, 20 copied (256 MB)" in lines
    assert "cache        300 GB/s read, 200 copied (1 MB)" in lines
    assert not any(line.startswith("peak bf16") for line in lines)
    lib.runtime.peak_bf16 = lambda: 1000.0
    _, lines = doctor(lib, ops=("softmax",))
    assert any(line.startswith("peak bf16    1,000 GFLOP/s on 1 thread") for line in lines)
    assert not any("peak" in line for line in doctor(None, ops=("softmax",))[1])


def test_the_rate_of_a_product_is_its_flop_by_its_time(monkeypatch):
    ticks = iter([0.0, 0.0, 1.0, 3.0, 9.0])  # begins, is asked, two ends of one product, stops
    monkeypatch.setattr("minillm.cli.doctor.time.perf_counter", lambda: next(ticks))
    monkeypatch.setattr("minillm.cli.doctor.PRODUCT", 100)
    assert _product_rate("f32") == pytest.approx(2 * 100**3 / 2 / 1e9)


def slightly_off(x, out):
    softmax(x, out)
    out *= 1.0001


def not_fully_written(x, out):
    softmax(x[:-1], out[:-1])


def outside_its_buffer(x, out):
    softmax(x, out)
    np.lib.stride_tricks.as_strided(out, (out.size + 1,), (4,), writeable=True)[-1] = 0


def different_each_time(x, out, calls=[]):  # noqa: B006 - remembers
    softmax(x, out)
    calls.append(1)
    out *= 1 + 1e-7 * len(calls)


def raising(x, out):
    raise TypeError("no such kernel")


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (slightly_off, "softmax: forward of cpu, result 0: off by"),
        (not_fully_written, "softmax: forward of cpu, result 0: off by"),
        (outside_its_buffer, "wrote outside its output buffer"),
        (different_each_time, "softmax: the same forward twice gave different bits"),
        (raising, "softmax: cpu raised TypeError('no such kernel')"),
    ],
)
def test_a_kernel_that_is_wrong_turns_it_red_and_is_named(doctor, wrong, words):
    code, lines = doctor(library(softmax_forward=wrong), cases=6, ops=("gelu", "softmax"))
    assert code == 1
    assert "cpu WRONG" in line_of(lines, "softmax")
    assert any(words in line for line in lines[-2:])
    assert sum("WRONG" in line for line in lines) == 1


@pytest.mark.skipif(kernels.cpu is None, reason="the extension is not built")
def test_one_wrong_kernel_of_the_extension_turns_it_red(doctor):
    broken = library(**{name: value for name, value in vars(kernels.cpu).items() if name[0] != "_"})
    broken.runtime = kernels.cpu.runtime

    def rms_norm_forward(*arrays):
        kernels_rms(*arrays)
        for array in arrays:
            if isinstance(array, np.ndarray) and array.flags.writeable and array.ndim == 2:
                array *= np.float32(1.001)

    kernels_rms = broken.rms_norm_forward
    broken.rms_norm_forward = rms_norm_forward
    code, lines = doctor(broken, cases=4, ops=("layer_norm", "rms_norm"))
    assert code == 1
    assert "cpu WRONG" in line_of(lines, "rms_norm")


def test_a_claim_that_serves_nothing_turns_it_red(doctor, monkeypatch):
    op = registry["softmax"]
    monkeypatch.setattr(op, "_kernel_forward", lambda lib, xp, x: NotImplemented)
    code, lines = doctor(library(softmax_forward=softmax), ops=("softmax",))
    assert code == 1
    assert lines[-1].strip() == "softmax: cpu claims it, but serves no case"


def test_a_wrong_gradient_turns_it_red(doctor, monkeypatch):
    op = registry["gelu"]
    right = op.backward

    def backward(xp, grad, saved, **params):
        return tuple(found * 1.001 for found in right(xp, grad, saved, **params))

    monkeypatch.setattr(op, "backward", backward)
    code, lines = doctor(cases=4, ops=("gelu", "silu"))
    assert code == 1
    assert "gradient WRONG" in line_of(lines, "gelu")
    assert lines[-1].startswith("  gelu: gradient 0 gives ")


def test_json_holds_the_same(capsys, monkeypatch):
    monkeypatch.setattr(kernels, "cpu", library(softmax_forward=slightly_off))
    monkeypatch.setattr("minillm.ops.registry", {n: registry[n] for n in ("gelu", "softmax")})
    assert minillm("doctor", "--cases", 6, "--json") == 1
    found = json.loads(capsys.readouterr().out)
    assert found["ops"]["softmax"]["cpu"] is None
    assert 0 < found["ops"]["gelu"]["reference"] < 1
    assert found["failures"][0].startswith("softmax: forward of cpu, result 0: off by")
    assert {"minillm", "numpy", "extension", "memory"} <= found["environment"].keys()


def test_no_cases_prove_nothing(capsys):
    assert minillm("doctor", "--cases", 0) == 2
    assert capsys.readouterr().err == "minillm: cases: 0, 1 or more is needed\n"


@pytest.mark.parametrize("encoding", ["ascii", "cp1252"])
def test_any_console_encoding(encoding):
    done = subprocess.run(
        command("doctor", "--cases", 1),
        capture_output=True,
        env=environment(PYTHONIOENCODING=encoding),
        check=False,
    )
    assert done.returncode == 0, done.stdout
    assert done.stderr == b""


def test_a_processor_with_any_name(monkeypatch):
    out = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr("minillm.machine.cpu_name", lambda: "Процессор™")
    monkeypatch.setattr("minillm.ops.registry", {"relu": registry["relu"]})
    assert minillm("doctor", "--cases", 1) == 0
    assert b"\\u041f\\u0440" in out.buffer.getvalue()


@pytest.mark.parametrize("words", [("doctor", "--cases", "1"), ("train", "--help")])
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_reader_that_has_enough(words, unbuffered):
    with subprocess.Popen(
        command(*words),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(PYTHONUNBUFFERED=unbuffered),
    ) as run:
        run.stdout.close()
        said = run.stderr.read()
        assert (run.wait(60), said) == (0, b"")


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs /dev/full")
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_full_disk_is_told(unbuffered):
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            command("doctor", "--cases", 1),
            stdout=full,
            stderr=subprocess.PIPE,
            env=environment(PYTHONUNBUFFERED=unbuffered),
            check=False,
        )
    assert (done.returncode, done.stderr) == (
        2,
        b"minillm: doctor: no space left on device, more room is needed\n",
    )


def rows(doctor):
    return [line for line in doctor(ops=("softmax",))[1] if line.startswith("cu")]


def test_without_cupy_there_is_one_quiet_line(doctor, monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr(
        "importlib.util.find_spec", lambda name: None if name == "cupy" else found(name)
    )
    monkeypatch.setattr("minillm.machine.cuda_driver", lambda: None)
    assert rows(doctor) == ["cupy         not installed"]
    monkeypatch.setattr("minillm.machine.cuda_driver", lambda: 13000)
    assert rows(doctor) == [
        "cupy         not installed; the driver of NVIDIA here runs the extra cuda13"
    ]


@pytest.fixture
def gpus(monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name == "cupy" or found(name))
    monkeypatch.setattr("minillm.cli.doctor._version", lambda name: "14.2.0")
    monkeypatch.setattr("minillm.testing.devices", [])  # to be what it was after the test
    with stand_in_cupy.installed():
        yield stand_in_cupy.machine


def test_a_row_for_each_gpu(doctor, gpus, monkeypatch):
    monkeypatch.setattr("minillm.devices.time.perf_counter", lambda: 0.0)
    assert rows(doctor) == ["cupy         14.2.0"] + [
        f"cuda:{number}       Stand-in, 80.0 GB of 80.0 GB free, compute 9.0; CuPy serves every "
        "op; a kernel was compiled and run in 0.00 s"
        for number in (0, 1)
    ]


def test_definitions_are_checked_on_a_gpu(doctor, gpus):
    code, lines = doctor()
    assert code == 0, lines
    for name in registry:
        assert " cupy 0." in line_of(lines, name)


@pytest.mark.parametrize(
    ("facts", "told"),
    [
        ({"gpus": 0}, "cuda         the driver for CUDA 13.0 finds no GPU (cudaErrorNoDevice: "),
        ({"driver": 0}, "cuda         CuPy is installed for CUDA 13.2, but no driver of NVIDIA"),
        ({"gpus": 1, "compiler": "no NVRTC"}, "no kernel can be compiled and run on 'cuda:0' (no"),
        ({"gpus": 1, "wrong": True}, "'cuda:0' computes wrong numbers, a sound GPU is needed"),
    ],
)
def test_what_is_wrong_with_a_gpu_stands_in_its_row(doctor, gpus, facts, told):
    for name, value in facts.items():
        setattr(gpus, name, value)
    lines = rows(doctor)
    assert len(lines) == 2
    assert told in lines[1]
