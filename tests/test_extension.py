"""The C++ extension as a library: blocks and edges, threads, forks, environment, errors."""

import math
import os
import subprocess
import sys
import threading

import numpy as np
import pytest

from minillm import kernels, testing
from minillm.arrays import new_generator
from minillm.ops import loss, registry

# With MINILLM_KERNELS=require the import of minillm.kernels above has failed already.
pytestmark = pytest.mark.skipif(
    kernels.cpu is None, reason="the C++ extension is not installed: there is nothing to test"
)
cpu = kernels.cpu
ISAS = [] if cpu is None else cpu.runtime.available_isas()


@pytest.fixture(autouse=True)
def settings_restored():
    threads, isa = cpu.runtime.threads(), cpu.runtime.isa()
    yield
    cpu.runtime.set_threads(threads)
    cpu.runtime.set_isa(isa)


def normal(*shape, seed=0):
    return new_generator(seed).standard_normal(shape, dtype=np.float32)


def product(a, b):
    out = np.empty((*a.shape[:-1], b.shape[-1]), np.float32)
    cpu.matmul_forward(a, b, out)
    return out


# Blocks: cases larger than one block of every loop, with a ragged rest.


def matrices(m, k, n, a_transposed=False, b_transposed=False):
    a = normal(k, m).T if a_transposed else normal(m, k)
    b = normal(n, k, seed=1).T if b_transposed else normal(k, n, seed=1)
    return "matmul", [a, b], {}


def attention(length, keys, width, **params):
    q, k, v = normal(1, 4, length, width), normal(1, 2, keys, width), normal(1, 2, keys, width)
    mask = new_generator(3).random((1, 1, length, keys)) < 0.9
    return "scaled_dot_product_attention", [q, k, v, mask], params


def loss_of_layer(rows, classes, width):
    target = new_generator(4).integers(0, classes, rows)
    target[::7] = -100
    case = [normal(rows, width), normal(classes, width) / 4, target]
    return "linear_cross_entropy", case, {"label_smoothing": 0.1}


LARGE = {
    "a tall linear layer": lambda: ("linear", [normal(700, 90), normal(70, 90), normal(70)], {}),
    "several slices of depth": lambda: matrices(70, 1100, 75),
    "both operands transposed": lambda: matrices(131, 530, 97, True, True),
    "several widths of panels": lambda: matrices(60, 530, 2100, b_transposed=True),
    "a row times a matrix": lambda: matrices(1, 700, 333),
    "a row times a transposed matrix": lambda: matrices(1, 700, 333, b_transposed=True),
    "a matrix times a column": lambda: matrices(333, 700, 1),
    "a batch that broadcasts": lambda: ("matmul", [normal(3, 1, 40, 50), normal(2, 50, 60)], {}),
    "blocks of keys and of queries": lambda: attention(150, 300, 24, causal=True, offset=150),
    "packed heads": lambda: (
        "packed_attention",
        [normal(2, 150, 8 * 24)],
        {"heads": 4, "kv_heads": 2},
    ),
    "few queries": lambda: attention(1, 300, 20),
    "tiles of logits": lambda: loss_of_layer(560, 2300, 8),
    "long rows": lambda: ("softmax", [normal(3, 40_000)], {}),
    "many rows": lambda: ("layer_norm", [normal(700, 48), normal(48), normal(48)], {}),
}


@pytest.mark.parametrize("case", LARGE.values(), ids=LARGE.keys())
def test_large_cases_agree_on_every_instruction_set(case):
    name, arrays, params = case()
    op = registry[name]
    truth = testing.reference(op, arrays, params)
    provider = testing.providers(op)[-1]
    for isa in ISAS:
        cpu.runtime.set_isa(isa)
        testing.check_case(truth, provider, provider)
    assert provider.served == (6 if op.accumulates else 4) * len(ISAS)


@pytest.mark.parametrize("case", LARGE.values(), ids=LARGE.keys())
def test_large_cases_give_the_same_bits_on_any_number_of_threads(case):
    name, arrays, params = case()
    provider = testing.providers(registry[name])[-1]
    bits = []
    for count in (1, 2, 5):
        cpu.runtime.set_threads(count)
        outs, saved = testing.outputs(registry[name], provider, arrays, params)
        grads = provider.backward(np.ones_like(outs[0]), saved, params)
        bits.append([a.tobytes() for a in (*outs, *grads) if a is not None])
    assert bits[0] == bits[1] == bits[2]


def test_logits_kept_for_the_backward_pass_change_no_bit(monkeypatch):
    rows, classes = 560, 2300
    name, arrays, params = loss_of_layer(rows, classes, 8)
    bits, kept = [], []
    for limit in (0, rows * 2100, rows * classes):
        monkeypatch.setattr(loss, "KEPT_ELEMENTS", limit)
        out, saved = registry[name].compute(*arrays, **params)
        grads = registry[name].run_backward(np.ones_like(out), saved, params)
        bits.append([a.tobytes() for a in (out, *grads[:2])])
        kept.append(saved[-1].shape)
    assert kept == [(0, rows), (2048, rows), (classes, rows)]
    assert bits[0] == bits[1] == bits[2]


@pytest.mark.parametrize("name", ["layer_norm", "rms_norm"])
def test_a_norm_adds_to_the_stream_what_it_would_give_alone(name):
    """To the bit: recomputed or not, branches meet in the same sum."""
    op, total = registry[name], normal(50, 47, seed=3)
    for isa in ISAS:
        cpu.runtime.set_isa(isa)
        _, saved = op.compute(normal(50, 47), normal(47, seed=1))
        grad, onto = normal(50, 47, seed=2), total.copy()
        alone = op.run_backward(grad, saved, {})[0]
        assert op.run_backward(grad, saved, {}, [onto, None])[0] is onto
        assert np.array_equal(onto, alone + total)


# Elementary functions, against the standard library in double precision.


def ulps(values, exact):
    return np.abs(values - exact) / np.spacing(np.abs(exact).astype(np.float32))


@pytest.mark.parametrize("isa", ISAS)
def test_exp_is_within_three_ulp(isa):
    cpu.runtime.set_isa(isa)
    x = np.linspace(-87, 0, 20_001).astype(np.float32)
    rows = np.stack([x, np.zeros_like(x)], axis=1)
    out = np.empty_like(rows)
    cpu.softmax_forward(rows, out)  # both elements are divided by the same sum
    powers = out[:, 0].astype(np.float64) / out[:, 1]
    assert ulps(powers, np.exp(x.astype(np.float64))).max() < 3


EXACT = {
    "gelu_erf": lambda x: x * 0.5 * math.erfc(-x / math.sqrt(2)),
    "gelu_tanh": lambda x: x / (1 + math.exp(-2 * math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
    "silu": lambda x: x / (1 + math.exp(-x)),
}


def activation(name, x):
    out = np.empty_like(x)
    if name == "silu":
        cpu.silu_forward(x, out)
    else:
        cpu.gelu_forward(x, name == "gelu_tanh", out)
    return out


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("name", EXACT)
def test_activations_keep_relative_accuracy_in_both_tails(name, isa):
    cpu.runtime.set_isa(isa)
    x = np.linspace(-8, 12, 20_001).astype(np.float32)
    exact = np.array([EXACT[name](float(value)) for value in x])
    out = activation(name, x)
    assert ulps(out, exact)[np.abs(x) < 1].max() < 8
    nonzero = exact != 0
    assert (np.abs(out - exact)[nonzero] / np.abs(exact)[nonzero]).max() < 2e-5


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("name", EXACT)
def test_activations_of_huge_values_are_limits(name, isa):
    cpu.runtime.set_isa(isa)
    x = np.array([-np.inf, -3e38, -1e4, 1e4, 3e38, np.inf, np.nan], np.float32)
    out = activation(name, x)
    assert np.array_equal(out[:3], [0, 0, 0])
    assert np.array_equal(out[3:6], x[3:6])
    assert np.isnan(out[6])


@pytest.mark.parametrize("threads", [1, 3])
def test_kernels_take_denormals_for_zero_and_leave_numpy_alone(threads):
    cpu.runtime.set_threads(threads)
    x = np.full(200_000, 1e-39, np.float32)
    out = np.full_like(x, 7)
    cpu.dropout_forward(x, 0.0, 0, out)
    assert not out.any()
    assert (x * np.float32(0.5) > 0).all()


# Threads and processes.


def test_python_threads_share_the_pool_and_get_their_own_results():
    cpu.runtime.set_threads(3)
    operands = [(normal(150, 160, seed=i), normal(160, 170, seed=i)) for i in range(4)]
    expected = [product(a, b).tobytes() for a, b in operands]
    wrong = []

    def work(place):
        for _ in range(25):
            if product(*operands[place]).tobytes() != expected[place]:
                wrong.append(place)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_other_python_threads_run_during_a_kernel():
    cpu.runtime.set_threads(1)
    a, b = normal(1500, 1500), normal(1500, 1500)
    gate, ran = threading.Lock(), []

    def wait_for_the_gate():
        with gate:
            ran.append(True)

    interval = sys.getswitchinterval()
    gate.acquire()
    other = threading.Thread(target=wait_for_the_gate)
    other.start()
    sys.setswitchinterval(60)  # only a thread that gives up the lock lets another one run
    try:
        gate.release()
        product(a, b)
        assert ran
    finally:
        sys.setswitchinterval(interval)
        other.join()


def native_threads():
    """Threads of this process, 0 where the system does not tell."""
    return len(os.listdir("/proc/self/task")) if os.path.isdir("/proc/self/task") else 0


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_computes_with_its_own_threads():
    cpu.runtime.set_threads(3)
    a, b = normal(200, 300), normal(300, 200)
    expected = product(a, b).tobytes()  # the parent's threads exist by now
    receiver, sender = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            same = product(a, b).tobytes() == expected
            os.write(sender, f"{same} {native_threads()}".encode())
        finally:
            os._exit(0)
    os.close(sender)
    with open(receiver, encoding="ascii") as pipe:
        assert pipe.read() == f"True {3 if native_threads() else 0}"
    os.waitpid(child, 0)
    assert product(a, b).tobytes() == expected


def in_new_interpreter(code, **environment):
    return subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "MINILLM_KERNELS": "auto", **environment},
        capture_output=True,
        encoding="utf-8",
        check=False,
    )


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("threads", [1, 3])
def test_peaks_are_measured_on_every_instruction_set(isa, threads):
    runtime = cpu.runtime
    runtime.set_isa(isa)
    runtime.set_threads(threads)
    assert runtime.peak_f32(1e-4) > 0
    assert (runtime.peak_bf16(1e-4) > 0) == (isa == "amx")
    assert runtime.peak_read(1 << 16, 1e-4) > 0
    assert runtime.peak_copy(1 << 16, 1e-4) > 0


STATE = "from minillm import _cpu; print(_cpu.runtime.threads(), _cpu.runtime.isa())"


def test_environment_sets_threads_and_instruction_set():
    for isa in ISAS:
        run = in_new_interpreter(STATE, MINILLM_THREADS="7", MINILLM_ISA=isa)
        assert run.stdout.split() == ["7", isa], run.stderr
    default = in_new_interpreter(STATE, MINILLM_THREADS="", MINILLM_ISA="").stdout.split()
    assert int(default[0]) >= 1
    assert default[1] == ISAS[-1]


@pytest.mark.parametrize(
    ("name", "value"),
    [("THREADS", "0"), ("THREADS", "two"), ("THREADS", "2.5"), ("THREADS", "-1"), ("ISA", "mmx")],
)
def test_bad_environment_fails_the_import_with_one_line(name, value):
    run = in_new_interpreter(STATE, **{f"MINILLM_{name}": value})
    assert run.returncode == 1
    last = run.stderr.strip().splitlines()[-1]
    assert last.startswith(f"ImportError: MINILLM_{name}: ")
    assert repr(value) in last


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system has no affinity")
def test_threads_follow_the_cores_the_process_may_use():
    code = "import os; os.sched_setaffinity(0, [min(os.sched_getaffinity(0))]); " + STATE
    assert in_new_interpreter(code, MINILLM_THREADS="").stdout.split()[0] == "1"


# What callers may get wrong.

A, B, OUT = np.ones((2, 3), np.float32), np.ones((3, 4), np.float32), np.ones((2, 4), np.float32)
C = np.ones((3, 3), np.float32)
MISALIGNED = np.zeros(25, np.uint8)[1:].view(np.float32).reshape(2, 3)
READ_ONLY = np.ones((2, 3), np.float32)
READ_ONLY.flags.writeable = False


def row(count):
    return np.ones(count, np.float32)


def ids(*values):
    return np.array(values, np.int64)


MISTAKES = {
    "not an array": (TypeError, "list", lambda: cpu.matmul_forward([1.0], B, OUT)),
    "missing": (ValueError, "None", lambda: cpu.softmax_forward(None, A)),
    "dtype": (ValueError, "float32", lambda: cpu.softmax_forward(A.astype("float64"), A)),
    "byte order": (ValueError, "float32", lambda: cpu.softmax_forward(A.astype(">f4"), A)),
    "axes": (ValueError, "1 axes, 2", lambda: cpu.softmax_forward(A[0], A)),
    "shape": (ValueError, r"\(2, 2\), \(2, 3\)", lambda: cpu.softmax_forward(A, A[:, :2].copy())),
    "inner sizes": (
        ValueError,
        r"\(2, 3\) and b \(2, 4\)",
        lambda: cpu.matmul_forward(A, OUT, OUT),
    ),
    "batches": (ValueError, "broadcast", lambda: cpu.matmul_forward(A, np.stack([B, B]), OUT)),
    "layout": (ValueError, "contiguous", lambda: cpu.softmax_forward(A, B[:, :2].T)),
    "alignment": (ValueError, "aligned", lambda: cpu.softmax_forward(A, MISALIGNED)),
    "read-only output": (ValueError, "read-only", lambda: cpu.softmax_forward(A, READ_ONLY)),
    "elements": (ValueError, "3 elements, 2", lambda: cpu.silu_forward(row(2), row(3))),
    "probability": (ValueError, "p is 1.5", lambda: cpu.dropout_forward(A, 1.5, 0, A)),
    "parameters": (
        ValueError,
        "3 arrays, param, grad, m and v",
        lambda: cpu.adamw_forward([A] * 3, 1, 0, 0, 0, 0, 1, 1),
    ),
    "step": (ValueError, "step is 0", lambda: cpu.adamw_forward([A] * 4, 1, 0, 0, 0, 0, 0, 1)),
    "id too large": (
        IndexError,
        r"ids\[1\] is 3",
        lambda: cpu.embedding_backward(A, ids(0, 3), C, False),
    ),
    "negative id": (
        IndexError,
        r"ids\[0\] is -1",
        lambda: cpu.embedding_backward(A, ids(-1, 0), C, False),
    ),
    "target": (
        IndexError,
        r"target\[1\] is 3",
        lambda: cpu.cross_entropy_forward(A, ids(-100, 3), -100, 0.0, row(2), row(2)),
    ),
    "packed heads": (
        ValueError,
        r"qkv has shape \(1, 2, 3\) and out \(1, 1, 2\) for 2 heads",
        lambda: cpu.packed_attention_forward(
            C[None, :2], True, 1.0, OUT[None, :1, :2], C[None, :2]
        ),
    ),
    "threads": (ValueError, "0 threads", lambda: cpu.runtime.set_threads(0)),
    "instruction set": (ValueError, "'mmx'", lambda: cpu.runtime.set_isa("mmx")),
    "no time": (ValueError, "more than 0", lambda: cpu.runtime.peak_f32(0.0)),
    "no memory": (ValueError, "256 bytes a thread", lambda: cpu.runtime.peak_read(-1)),
}


@pytest.mark.parametrize("kind", MISTAKES)
def test_mistakes_are_exceptions_that_state_the_fact(kind):
    exception, text, call = MISTAKES[kind]
    with pytest.raises(exception, match=text):
        call()
