"""The gradient of one batch on a GPU: by its operations one by one, or by a graph of them all.

A graph does what was captured, with the same kernels in the same order and so the same bits; the
host only starts it. A batch whose shapes are new is computed step by step; the second time it is
captured as well. What cannot be captured is told, once, and all batches are computed step by step.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from types import ModuleType
from typing import Any

import numpy

from minillm import device_memory, devices, kernels
from minillm.arrays import Array, default_generator, placing
from minillm.nn.module import Parameter
from minillm.nn.parameter import lying
from minillm.tensor import Tensor, of
from minillm.training.capture import Capture, Check, Knobs, Refused, Unseen, check_again
from minillm.training.staging import Part, Staging, arrays_of, layout, mapped, views

KEPT = 16  # graphs, the last used
OUT_OF_MEMORY = 2  # status of the CUDA runtime
KNOWN = 256  # shapes of batches that were seen
Scale = Callable[[numpy.dtype], Array]  # the gradient's scale, in the dtype of a loss
Run = Callable[[Any, Scale], Array]  # the loss of a batch; its gradient is left in the model


class _Staged:
    """Decides for a batch that is not captured: its arrays are on the GPU already (`Placing`)."""

    def __init__(self, batch: Any, part: Part) -> None:
        self._there = {id(here): there for here, there in zip(arrays_of(batch), part.arrays)}
        self.seeds: set[int] = set()

    def check(self, check: Callable[..., None], arrays: Sequence[Any], params: Any) -> None:
        check(*arrays, **params)

    def place(self, xp: ModuleType, array: numpy.ndarray) -> Array:
        there = self._there.get(id(array))
        return xp.asarray(array) if there is None else there

    def seed(self, generator: numpy.random.Generator, drawn: int) -> int:
        self.seeds.add(drawn)
        return drawn

    def vouch(self, array: Array) -> None:
        """The ids of this batch are on the host, where they are checked."""


class _Graph:
    """What was captured of a batch, and where it finds and leaves arrays."""

    def __init__(self, raw: Array, knobs: Knobs) -> None:
        self.raw, self.knobs = raw, knobs
        self.graph: Any = None
        self.loss: Array = None
        self.checks: list[Check] = []
        self.weights: list[Array] = []
        self.before: list[Array | None] = []  # gradients it adds to
        self.after: list[Array | None] = []

    def reads_others(self, weights: Sequence[Parameter]) -> bool:
        """Whether weights lie no longer where they did."""
        return any(lying(one) is not array for one, array in zip(weights, self.weights))

    def launch(self, batch: Any, part: Part, scale: float) -> None:
        check_again(self.checks, arrays_of(batch))
        self.raw[...] = part.raw
        self.knobs.turn(scale)
        try:
            self.graph.launch()
        except self.knobs.cupy.cuda.runtime.CUDARuntimeError as error:
            if error.status != OUT_OF_MEMORY:  # of kernels: it is taken when a graph is launched
                raise
            raise MemoryError(f"no memory for what a graph takes: {error}") from None


class Gradients:
    """Finds gradients of `trained` parameters on a GPU, beside others that are `frozen`.

    Memory that graphs work in is a pool's own, taken of the common one, and so bounded and counted
    with it.
    """

    def __init__(
        self, device: str, trained: Sequence[Parameter], frozen: Sequence[Parameter] = ()
    ) -> None:
        self.device, self.cupy = device, devices.use(devices.number_of(device) or 0)
        self.trained, self.weights = trained, [*trained, *frozen]
        self.staging = Staging(self.cupy)
        self._off = not kernels.graphs
        self._notice = "no CUDA graphs: MINILLM_GRAPHS is off" if self._off else None
        self._capturing = self.cupy.cuda.Stream(non_blocking=True)  # the default one cannot be
        self._pool = self.cupy.cuda.MemoryPool(self._common_memory())
        self.forget()

    def __del__(self) -> None:
        with suppress(Exception):  # of an interpreter that ends, or of what was never made
            self.forget()

    @property
    def graphs(self) -> int:
        """How many are kept."""
        return len(self._graphs)

    def forget(self) -> None:
        """Let go of all graphs and their memory."""
        with self.cupy.cuda.Device(self.staging.number):
            if getattr(self, "_graphs", None):
                self.cupy.cuda.get_current_stream().synchronize()  # one of them may be at work
            self._graphs: OrderedDict[Any, _Graph] = OrderedDict()
            self._known: OrderedDict[Any, int] = OrderedDict()  # seeds that a batch draws
            self._constants: dict[Any, Array] = {}
            # Where gradients are left.
            self._lasting: list[Array | None] = [None] * len(self.trained)
            self._pool.free_all_blocks()  # CuPy's pools keep it even when they are dropped (14.2)

    def turn_off(self, why: str) -> None:
        """Compute batch by batch without graphs from now on."""
        self.forget()
        self._off, self._notice = True, f"no CUDA graphs: {why}"

    def told(self) -> str | None:
        """Why there are no graphs, the first time that it is asked for."""
        notice, self._notice = self._notice, None
        return notice

    def _common_memory(self) -> Callable[[int], Any]:
        """Gives memory of the common pool that the stream of the steps may use."""
        cupy, computing = self.cupy, self.cupy.cuda.get_current_stream()

        def malloc(size: int) -> Any:
            with computing:  # what it gave back; another stream would take more of the GPU
                return cupy.get_default_memory_pool().malloc(size)

        return malloc

    @contextmanager
    def lending(self) -> Iterator[None]:
        """Inside the block arrays are taken of the memory of graphs, which none of them needs now.

        One that lives on after it would be written over: all graphs are given up then.
        """
        if not self._graphs:
            yield
            return
        pool, used = self._pool, self._pool.used_bytes()
        with self.cupy.cuda.using_allocator(self._own_memory):
            yield
        if self._graphs and pool.used_bytes() != used:
            self.turn_off("something is kept in their memory")

    def _own_memory(self, size: int) -> Any:
        with self._capturing:  # a pool gives what a stream gave back to that stream alone
            try:
                return self._pool.malloc(size)
            except MemoryError:
                device_memory.release(self.device)
            return self._pool.malloc(size)

    def find(self, run: Run, batch: Any, part: Part, scale: float) -> Array:
        """The loss of a batch; its gradient times `scale`, as `run` finds it, is added to that of
        the parameters."""
        if self._off:
            if self._pool.total_bytes():  # of gradients that were still there, for one
                self._pool.free_all_blocks()
            return self._eagerly(run, batch, part, scale)[0]
        key = self._key(batch)
        graph = self._graphs.get(key)
        if graph is not None and graph.reads_others(self.weights):
            self.forget()
            graph = None
        if graph is not None and self._adds_to(graph):
            self._graphs.move_to_end(key)
            return self._launched(graph, batch, part, scale)
        seeds = self._known.get(key)
        if seeds is None or graph is not None or not self._can_add():
            loss, self._known[key] = self._eagerly(run, batch, part, scale)
            if len(self._known) > KNOWN:
                self._known.popitem(last=False)
            return loss
        graph = self._try_to_capture(run, batch, seeds)
        if graph is None:
            return self._eagerly(run, batch, part, scale)[0]
        self._keep(key, graph)
        return self._launched(graph, batch, part, scale)

    def _key(self, batch: Any) -> Any:
        """What decides which kernels a batch takes, but for what the model is otherwise."""
        shapes = mapped(batch, lambda a: (a.dtype.str, a.shape), lambda part: type(part).__name__)
        first = all(parameter.grad is None for parameter in self.trained)
        learn = tuple(parameter.requires_grad for parameter in self.trained)
        return first, learn, shapes, kernels.active_precision, kernels.active_cuda is None

    def _adds_to(self, graph: _Graph) -> bool:
        """Whether the gradients so far lie where it adds to them."""
        grads = (_data(parameter.grad) for parameter in self.trained)
        return all(grad is before for grad, before in zip(grads, graph.before))

    def _can_add(self) -> bool:
        """Whether the gradients so far, if any, lie where they will the next time."""
        grads = (_data(parameter.grad) for parameter in self.trained)
        return all(grad is None or grad is last for grad, last in zip(grads, self._lasting))

    def _eagerly(self, run: Run, batch: Any, part: Part, scale: float) -> tuple[Array, int]:
        """The loss, and how many seeds were drawn."""
        staged = _Staged(batch, part)
        with placing(staged):
            loss = run(batch, lambda dtype: numpy.asarray(scale, dtype))
        return loss, len(staged.seeds)

    def _launched(self, graph: _Graph, batch: Any, part: Part, scale: float) -> Array:
        graph.launch(batch, part, scale)
        for parameter, grad in zip(self.trained, graph.after):
            parameter.grad = None if grad is None else of(grad)
        return graph.loss.copy()  # the next batch may be computed by the same graph

    def _keep(self, key: Any, graph: _Graph) -> None:
        self._graphs[key] = graph
        if len(self._graphs) > KEPT:
            self.cupy.cuda.get_current_stream().synchronize()
            self._graphs.popitem(last=False)

    def _try_to_capture(self, run: Run, batch: Any, seeds: int) -> _Graph | None:
        """None, and all graphs are given up, where that cannot be; nothing has changed then."""
        grads = [parameter.grad for parameter in self.trained]
        state = default_generator.bit_generator.state
        try:
            return self._captured(run, batch, seeds)
        except Exception as error:  # of this program, CuPy or CUDA: each tells what is not captured
            why = " ".join(str(error).split()) or type(error).__name__
            for parameter, grad in zip(self.trained, grads):
                parameter.grad = grad
        finally:
            default_generator.bit_generator.state = state
        self.turn_off(why)
        return None

    def _captured(self, run: Run, batch: Any, seeds: int) -> _Graph:
        cupy, arrays = self.cupy, arrays_of(batch)
        graph = _Graph(cupy.zeros(layout(arrays)[1], numpy.uint8), Knobs(cupy, seeds))
        there = views(graph.raw, arrays)
        graph.weights = [lying(parameter) for parameter in self.weights]
        graph.before = [_data(parameter.grad) for parameter in self.trained]
        capture = Capture(arrays, there, graph.knobs, self._constant)
        rest = iter(there)
        given = mapped(batch, lambda _: next(rest), lambda _: Unseen())
        stream = self._capturing
        with stream, cupy.cuda.using_allocator(self._pool.malloc):
            if graph.raw.__cuda_array_interface__.get("stream") != stream.ptr:
                raise Refused(  # kernels would run on another stream, at once
                    "CuPy does not name its stream, CUPY_CUDA_ARRAY_INTERFACE_EXPORT_VERSION=3 does"
                )
            stream.begin_capture()
            try:
                with placing(capture):
                    graph.loss = run(given, graph.knobs.scale)
                capture.require_only_seeds()
                graph.after = [self._left(place) for place in range(len(self.trained))]
            except BaseException:
                with suppress(Exception):  # of a capture that is spoilt
                    stream.end_capture()
                raise
            graph.graph = stream.end_capture()
        graph.checks = capture.checks
        cupy.cuda.get_current_stream().wait_event(self.staging.copying.record())  # the constants
        return graph

    def _left(self, place: int) -> Array | None:
        """The gradient of a parameter, if any, where all graphs leave it."""
        grad, last = _data(self.trained[place].grad), self._lasting[place]
        if grad is None:
            return None
        if last is None:
            self._lasting[place] = last = grad
        elif grad is not last:
            last[...] = grad
        return last

    def _constant(self, array: numpy.ndarray) -> Array:
        """On the GPU: what no value of a batch can have decided."""
        key = array.dtype.str, array.shape, array.tobytes()
        if key not in self._constants:
            common = self.cupy.get_default_memory_pool().malloc
            with self.staging.copying, self.cupy.cuda.using_allocator(common):
                self._constants[key] = self.cupy.asarray(array)
        return self._constants[key]


def _data(grad: Tensor | None) -> Array | None:
    return None if grad is None else grad.data
