"""CuPy without a GPU: its arrays and functions over NumPy's memory, and no more than it has.

What CuPy refuses is refused here: arrays of NumPy as operands, a silent way back to the host,
functions and arguments that it does not know. Sums without axes have zero dimensions, an index past
the end wraps around unseen, and what would make the host wait for the device is counted.
"""

from __future__ import annotations

import importlib
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy

import stand_in_streams as streams
from minillm import devices, kernels
from minillm.arrays import add_pairwise
from minillm.ops.activation import normal_cdf
from stand_in_streams import CUDARuntimeError

# Parameters of functions as CuPy 14 has them; of a ufunc its inputs.
SIGNATURES = {
    "arange": "start stop step dtype",
    "asarray": "a dtype order copy blocking",
    "ascontiguousarray": "a dtype",
    "broadcast_to": "array shape",
    "clip": "a a_min a_max out",
    "concatenate": "tup axis out dtype casting",
    "empty": "shape dtype order",
    "empty_like": "prototype dtype order subok shape",
    "expand_dims": "a axis",
    "full": "shape fill_value dtype order",
    "matmul": "x1 x2 out dtype casting",
    "max": "a axis out keepdims",
    "may_share_memory": "a b max_work",
    "mean": "a axis dtype out keepdims",
    "repeat": "a repeats axis",
    "ones": "shape dtype order",
    "stack": "tup axis out dtype casting",
    "sum": "a axis dtype out keepdims",
    "take": "a indices axis out",
    "take_along_axis": "a indices axis",
    "unpackbits": "a axis bitorder",
    "where": "condition x y",
    "zeros": "shape dtype order",
    "zeros_like": "a dtype order subok shape",
}
UFUNCS = (
    "abs add copysign divide exp isfinite isnan log log1p maximum multiply negative power rint "
    "sqrt square subtract tanh"
).split()
RUNTIME = (
    "driverGetVersion getDevice getDeviceCount getDeviceProperties memGetInfo runtimeGetVersion"
).split()
CONSTANTS = "inf nan pi newaxis int8 float32 float64 int32 int64 uint8 uint32 uint64 bool_".split()
METHODS = (
    "all any argmax argmin argsort astype clip copy cumsum dot fill max mean min nonzero prod "
    "ravel repeat reshape round sort squeeze std sum swapaxes take transpose var view"
).split()
WAITING = "get item tolist tobytes __bool__ __float__ __int__ __index__".split()
OPERATORS = (
    "add sub mul truediv floordiv mod pow matmul and or xor lshift rshift lt le gt ge eq ne"
).split()


class Count:
    """How often the host waited for the device, or sent it an array, and why; work of graphs."""

    def __init__(self) -> None:
        self.waits: list[str] = []
        self.uploads: list[str] = []
        self.launches = streams.launches
        self.launches.clear()

    def wait(self, why: str) -> None:
        streams.refuse(why)
        self.waits.append(why)


class OutOfMemoryError(MemoryError):
    def __init__(self, size: int, total: int, limit: int = 0) -> None:
        told = f"Out of memory allocating {size:,} bytes (allocated so far: {total:,} bytes"
        super().__init__(told + (f", limit set to: {limit:,} bytes)." if limit else ")."))


class Machine:
    """GPUs, the driver, the CUDA of CuPy, bytes of each GPU; what a test may change."""

    def __init__(self) -> None:
        self.gpus, self.driver, self.cuda, self.bytes = 2, 13000, 13020, 80_000_000_000
        self.broken = ""  # why GPUs cannot be used, as CUDA says it
        self.compiler = ""  # why nothing can be compiled, as CuPy says it
        self.wrong = False  # whether kernels give wrong numbers
        self.held, self.pooled, self.limits = ([0] * self.gpus for _ in range(3))

    def take(self, number: int, size: int) -> None:
        limit = self.limits[number]
        if self.held[number] + size > min(limit or self.bytes, self.bytes):
            raise OutOfMemoryError(size, self.held[number], limit)
        self.held[number] += size
        self.pooled[number] = max(self.pooled[number], self.held[number])

    def give(self, number: int, size: int) -> None:
        self.held[number] -= size

    def require(self, number: int = 0) -> None:
        if not self.driver:
            raise CUDARuntimeError(
                35,
                "cudaErrorInsufficientDriver: CUDA driver version is insufficient for CUDA runtime "
                "version",
            )
        if self.driver // 1000 < self.cuda // 1000:
            raise CUDARuntimeError(35, "cudaErrorInsufficientDriver: CUDA driver version is ...")
        if not self.gpus:
            raise CUDARuntimeError(100, "cudaErrorNoDevice: no CUDA-capable device is detected")
        if not 0 <= number < self.gpus:
            raise CUDARuntimeError(101, "cudaErrorInvalidDevice: invalid device ordinal")
        if self.broken:
            raise CUDARuntimeError(46, self.broken)


chance = numpy.random.default_rng(0)
count = Count()
machine = Machine()


class _Thread(threading.local):
    current = 0


_thread = _Thread()


class Device:
    """A GPU by its number."""

    def __init__(self, number: int) -> None:
        self.id = number

    def use(self) -> None:
        machine.require(self.id)
        _thread.current = self.id

    def synchronize(self) -> None:
        count.wait("synchronize")

    def __enter__(self) -> Device:
        self._before = _thread.current
        self.use()
        return self

    def __exit__(self, *_: Any) -> None:
        _thread.current = self._before


class Flags:
    """Those that CuPy has."""

    def __init__(self, flags: Any) -> None:
        self.c_contiguous, self.f_contiguous = flags.c_contiguous, flags.f_contiguous
        self.owndata = flags.owndata


class ndarray:
    """An array on the device."""

    __array_ufunc__ = None
    __hash__ = None  # type: ignore[assignment]
    __slots__ = ("__weakref__", "_array", "_base", "_memory", "_number")

    def __init__(self, array: numpy.ndarray, base: ndarray | None = None) -> None:
        self._array, self._base = array, base
        self._number = _thread.current if base is None else base._number
        self._memory = (
            None if base is not None else (streams.allocator() or allocators[-1])(array.nbytes)
        )

    shape = property(lambda self: self._array.shape)
    ndim = property(lambda self: self._array.ndim)
    size = property(lambda self: self._array.size)
    dtype = property(lambda self: self._array.dtype)
    itemsize = property(lambda self: self._array.itemsize)
    nbytes = property(lambda self: self._array.nbytes)
    strides = property(lambda self: self._array.strides)
    flags = property(lambda self: Flags(self._array.flags))
    base = property(lambda self: self._base)
    device = property(lambda self: Device(self._number))
    T = property(lambda self: device(self._array.T, self))

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        return dict(self._array.__array_interface__) | {"stream": streams.current().ptr or 1}

    def __array__(self, *_: Any, **__: Any) -> numpy.ndarray:
        raise TypeError("Implicit conversion to a NumPy array is not allowed")

    def __len__(self) -> int:
        return len(self._array)

    def __iter__(self) -> Iterator[ndarray]:
        return (self[place] for place in range(len(self)))

    def __getitem__(self, index: Any) -> ndarray:
        return made(lambda: self._array[self._index(index)], self)

    def set(self, arr: numpy.ndarray, stream: Any = None) -> None:
        if arr.dtype != self.dtype or arr.shape != self.shape:
            raise ValueError("Shape or dtype mismatch")
        if (stream or streams.current()).recording is not None:
            raise RuntimeError("the current stream is capturing, so H2D transfers are disallowed")
        count.uploads.append("set")
        (stream or streams.current()).ask(lambda: self._array.__setitem__(..., arr))

    def __setitem__(self, index: Any, value: Any) -> None:
        if isinstance(value, numpy.ndarray) and value.ndim:
            raise ValueError("non-scalar numpy.ndarray cannot be used for fill")
        if isinstance(value, numpy.ndarray):
            value = value.item()
        value = host(value)
        done(lambda: self._array.__setitem__(self._index(index), value))

    def _index(self, index: Any) -> Any:
        """What NumPy makes of it; a mask makes the host wait, other indices wrap around."""
        parts = index if isinstance(index, tuple) else (index,)
        found, axis = [], 0
        for part in parts:
            if isinstance(part, numpy.ndarray | list):
                _upload("an index")
                part = ndarray(numpy.asarray(part))
            if isinstance(part, ndarray):
                array = part._array
                if array.dtype == bool:
                    count.wait("a mask as an index")
                    axis += array.ndim
                else:
                    array = array % max(1, self.shape[axis])
                    axis += 1
                found.append(array)
                continue
            found.append(part)
            axis += part is not None
        return tuple(found) if isinstance(index, tuple) else found[0]


def host(value: Any) -> Any:
    """An argument as NumPy takes it: TypeError for an array that is not on the device."""
    if isinstance(value, ndarray):
        if value._number != _thread.current:
            raise ValueError(
                f"Array device must be same as the current device: array device = {value._number} "
                f"while current = {_thread.current}"
            )
        return value._array
    if isinstance(value, numpy.ndarray):
        raise TypeError("Unsupported type <class 'numpy.ndarray'>")
    if isinstance(value, list | tuple):
        return type(value)(host(part) for part in value)
    return value


def device(value: Any, source: ndarray | None = None) -> Any:
    """A result of NumPy as CuPy gives it: numbers are arrays as well."""
    if isinstance(value, tuple):
        return tuple(device(part, source) for part in value)
    if isinstance(value, numpy.ndarray):
        return ndarray(value, source if value.base is not None else None)
    return ndarray(numpy.asarray(value)) if isinstance(value, numpy.generic) else value


def made(run: Callable[[], Any], source: ndarray | None = None) -> Any:
    """The result of run(); where the stream is captured, also what a graph does again."""
    tape = streams.recording()
    if tape is None:
        return device(run(), source)
    with numpy.errstate(all="ignore"):
        found = run()  # for its shape: what it computes is garbage
    if not isinstance(found, numpy.ndarray | numpy.generic):
        return found  # the host knows it, as that memory is shared
    shows = source is not None and isinstance(found, numpy.ndarray)
    if shows and numpy.may_share_memory(found, source._array):  # type: ignore[union-attr]
        return ndarray(found, source)
    out = ndarray(numpy.array(found))
    memory = out._array
    tape.make(out, memory)
    tape.add(lambda: memory.__setitem__(..., run()))
    return out


def done(run: Callable[[], Any]) -> None:
    """run() changes arrays: now, or whenever a graph that is captured is launched."""
    tape = streams.recording()
    if tape is None:
        run()
    else:
        tape.add(run)


def _upload(why: str) -> None:
    """CuPy copies nothing from the host to a stream that is captured."""
    if streams.recording() is not None:
        raise RuntimeError("the current stream is capturing, so H2D transfers are disallowed")
    count.uploads.append(why)


def _method(name: str) -> Any:
    def call(self: ndarray, *args: Any, **params: Any) -> Any:
        if name == "nonzero":
            count.wait(name)
        changes = name == "view" and args and numpy.dtype(args[0]).itemsize != self.itemsize
        if changes and not self._array.flags.c_contiguous:
            raise ValueError(
                "To change to a dtype of a different size, the array must be C-contiguous"
            )
        params = {key: host(value) for key, value in params.items()}
        given = [host(value) for value in args]
        if name in ("fill", "sort"):
            return done(lambda: getattr(self._array, name)(*given, **params))
        return made(lambda: getattr(self._array, name)(*given, **params), self)

    return call


def _waiting(name: str) -> Any:
    def call(self: ndarray, *args: Any) -> Any:
        count.wait(name)
        return self._array.copy() if name == "get" else getattr(self._array, name)(*args)

    return call


def _operator(name: str) -> Any:
    def call(self: ndarray, *others: Any) -> Any:
        if others and isinstance(others[0], list | tuple):
            return NotImplemented
        given = [host(value) for value in others]
        return made(lambda: getattr(self._array, name)(*given), self)

    return call


def _in_place(name: str) -> Any:
    def call(self: ndarray, other: Any) -> ndarray:
        given = host(other)
        done(lambda: getattr(self._array, name)(given))
        return self

    return call


for _name in METHODS:
    setattr(ndarray, _name, _method(_name))
for _name in WAITING:
    setattr(ndarray, _name, _waiting(_name))
for _name in OPERATORS:
    setattr(ndarray, f"__{_name}__", _operator(f"__{_name}__"))
    if _name not in ("lt", "le", "gt", "ge", "eq", "ne"):
        setattr(ndarray, f"__r{_name}__", _operator(f"__r{_name}__"))
        setattr(ndarray, f"__i{_name}__", _in_place(f"__i{_name}__"))
for _name in ("neg", "pos", "abs", "invert"):
    setattr(ndarray, f"__{_name}__", _operator(f"__{_name}__"))


def _function(name: str, known: list[str]) -> Any:
    def call(*args: Any, **params: Any) -> Any:
        if len(args) > len(known):
            raise TypeError(f"{name}() takes {len(known)} arguments, {len(args)} were given")
        for key in params:
            if key not in known:
                raise TypeError(f"{name}() got an unexpected keyword argument {key!r}")
        if name == "matmul" and streams.recording() is not None:
            raise NotImplementedError(
                "calling cuBLAS API during stream capture is currently unsupported"
            )
        if name in ("asarray", "ascontiguousarray") and not isinstance(args[0], ndarray):
            args = (_sent(name, args[0]), *args[1:])
        given = params.pop("out", None)
        params = {key: host(value) for key, value in params.items()}
        if given is not None:
            params["out"] = host(given)
        inputs = [host(value) for value in args]
        like = name in ("asarray", "ascontiguousarray")
        if like and getattr(numpy, name)(*inputs, **params) is args[0]._array:
            return args[0]
        if given is not None:
            done(lambda: getattr(numpy, name)(*inputs, **params))
            return given
        source = args[0] if args and isinstance(args[0], ndarray) else None
        shows = source if streams.recording() is not None else None
        if name in ("take", "take_along_axis"):
            return made(lambda: _taken(name, *inputs, **params))
        return made(lambda: getattr(numpy, name)(*inputs, **params), shows)

    return call


def _taken(name: str, a: Any, indices: Any, axis: int) -> Any:
    """An index past the end wraps around."""
    return getattr(numpy, name)(a, indices % a.shape[axis], axis)


def _sent(name: str, value: Any) -> ndarray:
    """What the host gives to the current stream, in an array of its own; a number is an argument
    of a kernel that fills it."""
    if isinstance(value, numpy.ndarray) and value.ndim:
        _upload(name)
    elif isinstance(value, numpy.ndarray):
        count.uploads.append(name)
    copy, stream = numpy.array(value), streams.current()
    if not stream.ptr:
        return ndarray(copy)
    sent = ndarray(numpy.empty_like(copy))
    streams.scribble(sent._array)
    (done if stream.recording else stream.ask)(lambda: sent._array.__setitem__(..., copy))
    return sent


def module() -> ModuleType:
    """The module `cupy`."""
    made = ModuleType("cupy")
    for name, parameters in SIGNATURES.items():
        setattr(made, name, _function(name, parameters.split()))
    for name in UFUNCS:
        known = ["x1", "x2"][: getattr(numpy, name).nin]
        setattr(made, name, _function(name, [*known, "out", "dtype", "casting"]))
    for name in CONSTANTS:
        setattr(made, name, getattr(numpy, name))
    made.ndarray = ndarray  # type: ignore[attr-defined]
    made.__version__ = "14.2.0"  # type: ignore[attr-defined]
    made.cuda = _cuda()  # type: ignore[attr-defined]
    made.RawKernel = RawKernel  # type: ignore[attr-defined]
    made.get_default_memory_pool = lambda: pool  # type: ignore[attr-defined]
    return made


def _cuda() -> ModuleType:
    """The module `cupy.cuda`."""
    made, runtime = ModuleType("cupy.cuda"), ModuleType("cupy.cuda.runtime")
    for name in RUNTIME:
        setattr(runtime, name, globals()[f"_{name}"])
    runtime.CUDARuntimeError = CUDARuntimeError  # type: ignore[attr-defined]
    memory = ModuleType("cupy.cuda.memory")
    memory.OutOfMemoryError = OutOfMemoryError  # type: ignore[attr-defined]
    made.Device, made.runtime, made.memory = Device, runtime, memory  # type: ignore[attr-defined]
    for name in ("Stream", "Event", "Graph", "MemoryPool", "using_allocator"):
        setattr(made, name, getattr(streams, name))
    made.get_allocator = lambda: streams.allocator() or allocators[-1]  # type: ignore[attr-defined]
    made.set_allocator = _set_allocator  # type: ignore[attr-defined]
    made.alloc_pinned_memory = streams.alloc_pinned_memory  # type: ignore[attr-defined]
    made.get_current_stream = streams.current  # type: ignore[attr-defined]
    return made


def _driverGetVersion() -> int:
    return machine.driver


def _runtimeGetVersion() -> int:
    return machine.cuda


def _getDevice() -> int:
    machine.require(_thread.current)
    return _thread.current


def _getDeviceCount() -> int:
    machine.require()
    return machine.gpus


def _getDeviceProperties(device: int) -> dict[str, Any]:
    machine.require(device)
    return {"name": b"Stand-in", "major": 9, "minor": 0, "totalGlobalMem": machine.bytes}


def _memGetInfo() -> tuple[int, int]:
    machine.require(_thread.current)
    return max(0, machine.bytes - machine.pooled[_thread.current]), machine.bytes


class RawKernel:
    """A kernel from its source: those that are known in Python."""

    def __init__(self, code: str, name: str) -> None:
        if f"__global__ void {name}(" not in code:
            raise RuntimeError(f"CUDA_ERROR_NOT_FOUND: {name}")
        self.run = KERNELS[name]

    def __call__(self, grid: tuple[int, ...], block: tuple[int, ...], args: Any) -> None:
        if machine.compiler:
            raise RuntimeError(machine.compiler)
        given = [host(value) for value in args]
        done(lambda: self.run(*given))


def _probe(x: numpy.ndarray, y: numpy.ndarray) -> None:
    y[:] = 2 * x + (0 if machine.wrong else 1)


KERNELS = {"minillm_probe": _probe}


class Pool:
    """The memory pool, of the current device."""

    def malloc(self, size: int) -> streams.Chunk:
        return streams.Chunk(machine, _thread.current, size)

    def used_bytes(self) -> int:
        return machine.held[_thread.current]

    def total_bytes(self) -> int:
        return machine.pooled[_thread.current]

    def free_all_blocks(self) -> None:
        machine.pooled[_thread.current] = machine.held[_thread.current]

    def set_limit(self, *, size: int | None = None, fraction: float | None = None) -> None:
        machine.limits[_thread.current] = size or 0

    def get_limit(self) -> int:
        return machine.limits[_thread.current]


pool = Pool()
allocators = [pool.malloc]  # the last one is that of all arrays


def _set_allocator(allocator: Any) -> None:
    allocators[-1] = allocator


def scatter_add(target: ndarray, index: Any, values: Any) -> None:
    """In another order each time, as atomic additions are made."""
    given, places = host(values), numpy.arange(target.size).reshape(target.shape)
    places = places[target._index(index)].reshape(-1)
    order = chance.permutation(places.size)
    parts = numpy.broadcast_to(given, numpy.shape(given)).reshape(-1)[order]
    done(lambda: numpy.add.at(target._array.reshape(-1), places[order], parts))


def let_numpy_add_alike(monkeypatch: Any) -> None:
    """Values of one place are added on the host in the order of a GPU too: bits can be compared."""

    def scatter_add_alike(xp: ModuleType, *given: Any) -> None:
        add_pairwise(xp, numpy.add.at if xp is numpy else scatter_add, *given)

    for home in (importlib.import_module(f"minillm.ops.{name}") for name in ("linear", "shape")):
        monkeypatch.setattr(home, "scatter_add", scatter_add_alike)


def ndtr(x: ndarray) -> ndarray:
    """Phi(x), by minillm's own definition: bits can be compared."""
    return made(lambda: normal_cdf(numpy, x._array))


def modules() -> dict[str, ModuleType]:
    """By their names, those that are imported of CuPy."""
    made = {"cupy": module()}
    for name in ("cupyx", "cupyx.scipy", "cupyx.scipy.special"):
        made[name] = ModuleType(name)
    made["cupyx"].scatter_add = scatter_add  # type: ignore[attr-defined]
    made["cupyx.scipy.special"].ndtr = ndtr  # type: ignore[attr-defined]
    return made


@contextmanager
def installed(library: ModuleType | None = None) -> Iterator[Count]:
    """Inside the block CuPy can be imported and `library` serves its arrays; gives what is counted.

    An extension for a real GPU would take their addresses for its own.
    """
    global count, machine
    former = kernels.cuda, kernels.active_cuda
    kernels.cuda = kernels.active_cuda = library
    count, machine, _thread.current = Count(), Machine(), 0
    allocators.append(pool.malloc)
    devices._probed.clear()
    made = modules()
    before = {name: sys.modules.get(name) for name in made}
    sys.modules.update(made)
    try:
        yield count
    finally:
        kernels.cuda, kernels.active_cuda = former
        allocators.pop()
        if library is not None:
            library.runtime.ask_for_room(None, False)
        for name, found in before.items():
            if found is None:
                del sys.modules[name]
            else:
                sys.modules[name] = found


def folder(place: Path) -> str:
    """A folder for the path of another process, in which CuPy can be imported then."""
    here = str(Path(__file__).parent)
    (place / "cupy.py").write_text(
        f"import sys\nsys.path.append({here!r})\nimport stand_in_cupy\n"
        "sys.modules.update(stand_in_cupy.modules())\n"
        "stand_in_cupy.kernels.cuda = stand_in_cupy.kernels.active_cuda = None\n",
        encoding="utf-8",
    )
    known = place / "cupy_cuda13x-14.2.0.dist-info"
    known.mkdir()
    facts = "Metadata-Version: 2.1\nName: cupy-cuda13x\nVersion: 14.2.0\n"
    (known / "METADATA").write_text(facts, encoding="utf-8")
    (known / "top_level.txt").write_text("cupy\n", encoding="utf-8")
    return str(place)
