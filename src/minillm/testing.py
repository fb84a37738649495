"""One rule that tells a right provider from a wrong one, shared by tests, bench and doctor.

One unit is the error that rounding every array which crosses an op's boundary (inputs, saved,
upstream gradient, result) once to the working precision causes, measured in float64; an input that
the op lets its kernels round more coarsely (`Op.rounds`), to that precision. A provider may
be at most 8 * max(1, sqrt(n / 256)) units from the float64 reference, n the most elements that a
reduction can meet: the larger of rows and columns of any array (all elements for a scalar result).
A result in whole numbers is compared with what the definition has before `xp.rint`: rounding takes
up to a half more. Nothing is tolerated per op, shape or dtype.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType, ModuleType
from typing import Any

import numpy

from minillm import kernels
from minillm.arrays import new_generator
from minillm.op import Op

EPS = {"float32": 2.0**-23, "bf16": 2.0**-8}
GUARD = 64  # bytes before and after every buffer under test
SENTINEL = 0xA5
DRAWS = 8  # roundings whose worst error makes the unit
ROUNDINGS = (-0.5, -0.25, 0.25, 0.5)


class Draw:
    """Random sizes, choices and values for an op's sampler. Subclasses choose differently."""

    sizes: Sequence[int] = (0, 1, 2, 3, 5, 17, 64, 65)

    def __init__(self, seed: int) -> None:
        self.rng = new_generator(seed)

    def choice(self, options: Sequence[Any]) -> Any:
        return options[int(self.rng.integers(len(options)))]

    def size(self, name: str, low: int = 0) -> int:
        """A length for the axis called `name` (B T C H D V, N for any other)."""
        return self.choice([length for length in self.sizes if length >= low])

    def boolean(self) -> bool:
        return self.choice((False, True))

    def shape(self, dims: int | None = None, low: int = 0) -> tuple[int, ...]:
        dims = self.choice((0, 1, 2, 3)) if dims is None else dims
        return tuple(self.size(name, low) for name in ("B", "T", "C")[3 - dims :])

    def normal(self, *shape: int) -> numpy.ndarray:
        return numpy.asarray(self.rng.standard_normal(shape))

    def positive(self, *shape: int) -> numpy.ndarray:
        return numpy.asarray(0.1 + self.rng.random(shape))

    def distinct(self, *shape: int) -> numpy.ndarray:
        """Values 0.1 apart, none within 0.05 of a multiple of 0.1: away from ties and kinks."""
        count = math.prod(shape)
        return numpy.asarray((self.rng.permutation(count) - count // 2 + 0.5).reshape(shape) / 10)

    def integers(self, high: int, *shape: int) -> numpy.ndarray:
        return numpy.asarray(self.rng.integers(0, high, shape))

    def mask(self, *shape: int) -> numpy.ndarray:
        return numpy.asarray(self.rng.random(shape) < 0.7)

    cos = staticmethod(numpy.cos)
    sin = staticmethod(numpy.sin)


class Guarded:
    """An array library whose `empty` surrounds the buffer with sentinels and fills in garbage."""

    def __init__(self, xp: Any = numpy) -> None:
        self._xp = xp
        self._buffers: list[tuple[Any, int]] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._xp, name)

    def empty(self, shape: Any, dtype: Any = numpy.float64) -> Any:
        dtype = numpy.dtype(dtype)
        shape = (shape,) if isinstance(shape, int) else tuple(shape)
        size = math.prod(shape) * dtype.itemsize
        raw = self._xp.full(size + 2 * GUARD, SENTINEL, numpy.uint8)
        self._buffers.append((raw, size))
        inner = raw[GUARD : GUARD + size].view(dtype).reshape(shape)
        if dtype.kind == "f":
            inner[...] = math.nan
        return inner

    def check(self) -> None:
        for raw, size in self._buffers:
            if (raw[:GUARD] != SENTINEL).any() or (raw[GUARD + size :] != SENTINEL).any():
                raise AssertionError("wrote outside its output buffer")


class Unrounded:
    """NumPy, but that nothing is rounded to whole numbers."""

    def __getattr__(self, name: str) -> Any:
        return getattr(numpy, name)

    @staticmethod
    def rint(x: numpy.ndarray) -> numpy.ndarray:
        return x


@dataclass(frozen=True)
class Device:
    """Where arrays are not NumPy's: a library for them, and `put`, which brings an array there.

    Without a library (None) it is the definitions that are run there.
    """

    name: str
    lib: ModuleType | None
    xp: Any
    put: Callable[[numpy.ndarray], Any]

    def sent(self, value: Any) -> Any:
        """The same there: arrays, and those in tuples and lists."""
        if isinstance(value, tuple | list):
            return type(value)(map(self.sent, value))
        return self.put(value) if isinstance(value, numpy.ndarray) else value

    def fetched(self, value: Any) -> Any:
        if isinstance(value, tuple | list):
            return type(value)(map(self.fetched, value))
        return value.get() if isinstance(value, self.xp.ndarray) else value


devices: list[Device] = []
"""Those whose libraries are under test as well; the suite and the benchmark add what they find."""


@dataclass
class Provider:
    """One way to serve an op: the reference in working precision, or a library's shims."""

    name: str
    op: Op
    lib: ModuleType | None = None
    served: int = field(default=0)
    device: Device | None = None
    exact: bool = False  # results in whole numbers are what they are before rounding

    def forward(self, arrays: Sequence[Any], params: dict[str, Any]) -> tuple[Any, Any]:
        return self._run(0, self.op.forward, arrays, params)

    def backward(
        self, grad: Any, saved: Any, params: dict[str, Any], totals: Sequence[Any] = ()
    ) -> Sequence[Any]:
        return self._run(1, self.op.backward, (grad, saved), params, totals)

    def _run(
        self,
        place: int,
        reference: Any,
        arguments: Any,
        params: dict[str, Any],
        totals: Sequence[Any] = (),
    ) -> Any:
        shim = self.op.kernels(self.lib)[place]
        more = (totals,) if place and self.op.accumulates else ()
        if self.lib is None and self.device is not None:
            shim, more = (lambda _, xp, *given, **params: reference(xp, *given, **params)), ()
        if shim is not None:
            run = self._on_host if self.device is None else self._on_device
            out = run(shim, (*arguments, *more), params)
            if out is not NotImplemented:
                self.served += 1
                return out
        return reference(Unrounded() if self.exact else numpy, *arguments, **params)

    def _on_host(self, shim: Any, arguments: Sequence[Any], params: dict[str, Any]) -> Any:
        guarded = Guarded()
        out = shim(self.lib, guarded, *arguments, **params)
        guarded.check()
        return out

    def _on_device(self, shim: Any, arguments: Sequence[Any], params: dict[str, Any]) -> Any:
        """The shim on copies there; what it changed in place is changed here."""
        assert self.device is not None
        guarded = Guarded(self.device.xp)
        sent = self.device.sent(tuple(arguments))
        out = shim(self.lib, guarded, *sent, **params)
        guarded.check()
        if out is NotImplemented:
            return out
        pairs = list(_pairs(arguments, sent))
        for here, there in pairs:
            if here.flags.writeable:
                here[...] = there.get()
            elif here.tobytes() != there.get().tobytes():
                raise AssertionError(f"{self.op.name}: {self.name} wrote into a read-only input")
        known = {id(there): here for here, there in pairs}
        return tuple(known.get(id(part), self.device.fetched(part)) for part in out)


def _pairs(here: Any, there: Any) -> Iterator[tuple[numpy.ndarray, Any]]:
    """Every array with its counterpart on a device."""
    if isinstance(here, numpy.ndarray):
        yield here, there
    elif isinstance(here, tuple | list):
        for one, other in zip(here, there):
            yield from _pairs(one, other)


def providers(op: Op) -> list[Provider]:
    """The reference, and every loaded library that claims the op; those of `devices` last."""
    found = [Provider("reference", op)]
    if kernels.cpu is not None and any(op.kernels(kernels.cpu)):
        found.append(Provider("cpu", op, kernels.cpu))
    for device in devices:
        if device.lib is None or any(op.kernels(device.lib)):
            found.append(Provider(device.name, op, device.lib, device=device))
    return found


def is_float(value: object) -> bool:
    return isinstance(value, numpy.ndarray | numpy.generic) and value.dtype.kind == "f"


def cast(arrays: Sequence[Any], dtype: str) -> list[Any]:
    return [numpy.asarray(a, dtype) if is_float(a) else a for a in arrays]


def outputs(
    op: Op, provider: Provider, arrays: Sequence[Any], params: dict[str, Any]
) -> tuple[list[Any], Any]:
    """What forward produces as a list (the written inputs for an update rule), and saved."""
    if op.mutates:
        mutated = op.mutated(len(arrays))
        arrays = [
            a.astype(numpy.float64 if provider.exact else a.dtype) if place in mutated else a
            for place, a in enumerate(arrays)
        ]
        provider.forward(arrays, params)
        return [arrays[place] for place in mutated], None
    out, saved = provider.forward(arrays, params)
    return [out], saved


def perturbed(
    arrays: Sequence[Any],
    rng: numpy.random.Generator,
    eps: float,
    rounds: Mapping[int, float] = MappingProxyType({}),
) -> list[Any]:
    """Every float moved up or down, by a quarter or half of a unit in the last place.

    Two sizes, because errors of one size cancel too often where there are only two numbers. The
    unit is `eps`, or what `rounds` gives an array's place if that is more.
    """
    return [
        numpy.asarray(
            a * (1 + rng.choice(ROUNDINGS, numpy.shape(a)) * max(eps, rounds.get(place, 0.0)))
        )
        if is_float(a)
        else a
        for place, a in enumerate(arrays)
    ]


def budget(arrays: Sequence[Any], results: Sequence[Any]) -> float:
    """Units a provider may be off."""
    longest = 1
    for array in (*arrays, *results):
        if numpy.ndim(array):
            width = array.shape[-1] or 1
            longest = max(longest, width, array.size // width)
    if any(numpy.ndim(result) == 0 for result in results):
        longest = max(longest, *(numpy.size(array) for array in arrays))
    return 8 * max(1.0, math.sqrt(longest / 256))


def distance(a: Any, b: Any) -> float:
    """Largest difference; infinities and NaN must stand at the same places (else inf)."""
    a, b = numpy.asarray(a, numpy.float64), numpy.asarray(b, numpy.float64)
    if a.shape != b.shape:
        raise AssertionError(f"shape {a.shape} given, {b.shape} is needed")
    wild = ~(numpy.isfinite(a) & numpy.isfinite(b))
    if not numpy.array_equal(a[wild], b[wild], equal_nan=True):
        return math.inf
    return float(numpy.abs(a[~wild] - b[~wild]).max(initial=0.0))


@dataclass
class Reference:
    """The float64 truth of one case and its units."""

    op: Op
    arrays: list[Any]
    params: dict[str, Any]
    grads_upstream: numpy.ndarray | None
    outs: list[Any]
    grads: list[Any]
    out_units: list[float]
    grad_units: list[float]
    budget: float
    eps: float


def reference(
    op: Op,
    arrays: Sequence[Any],
    params: dict[str, Any],
    seed: int = 0,
    eps: float = EPS["float32"],
    upstream: numpy.ndarray | None = None,
) -> Reference:
    """Compute the truth for float32 `arrays` in float64, and the units by rounding the boundary.

    `upstream` is the gradient that backward starts from; drawn from `seed` if left out.
    """
    rng = new_generator(seed)
    exact = cast(arrays, "float64")
    written = op.mutated(len(exact)) if op.mutates else []
    whole = any(exact[place].dtype.kind in "iu" for place in written)
    truth = Provider("truth", op, exact=whole)
    outs, saved = outputs(op, truth, exact, params)
    grads: list[Any] = []
    if op.backward is not None:
        if upstream is None:
            upstream = rng.standard_normal(outs[0].shape)
        upstream = upstream.astype("float32").astype("float64")
        grads = list(op.backward(numpy, upstream, saved, **params))
    out_units = [0.5 * eps * _largest(out) for out in outs]
    grad_units = [0.5 * eps * _largest(grad) for grad in grads]
    for _ in range(DRAWS):
        shaken, shaken_saved = outputs(op, truth, perturbed(exact, rng, eps, op.rounds), params)
        _widen(out_units, shaken, outs, eps)
        if upstream is not None:
            assert op.backward is not None
            again = op.backward(
                numpy,
                *perturbed([upstream], rng, eps),
                tuple(perturbed(shaken_saved, rng, eps)),
                **params,
            )
            _widen(grad_units, list(again), grads, eps)
    allowed = budget(arrays, outs)
    return Reference(
        op, list(arrays), params, upstream, outs, grads, out_units, grad_units, allowed, eps
    )


def _largest(array: Any) -> float:
    if array is None:
        return 0.0
    finite = numpy.abs(array[numpy.isfinite(array)]) if numpy.ndim(array) else numpy.abs(array)
    return float(numpy.max(finite, initial=0.0))


def _widen(units: list[float], shaken: list[Any], exact: list[Any], eps: float) -> None:
    for place, (a, b) in enumerate(zip(shaken, exact)):
        if b is not None:
            error = distance(a, b)
            if math.isfinite(error):
                units[place] = max(units[place], error + 0.5 * eps * _largest(b))


def check_case(
    truth: Reference,
    forward: Provider,
    backward: Provider | None = None,
    lay: Callable[[Any], Any] = lambda array: array,
) -> float:
    """Run float32 through `forward` and `backward`; the worst share of the budget that was used.

    Raises AssertionError if the budget is exceeded or the contract of providers is broken: inputs
    unwritten, outputs fully written inside their buffers, dtype kept, the same bits twice.
    """
    op, params = truth.op, truth.params
    arrays = [lay(a) if hasattr(a, "shape") else a for a in cast(truth.arrays, "float32")]
    before = [_bytes(a) for a in arrays]
    outs, saved = outputs(op, forward, arrays, params)
    again, _ = outputs(op, forward, arrays, params)
    written = op.mutated(len(arrays)) if op.mutates else []
    types = [arrays[place].dtype for place in written] or None
    worst = _compare(op, "forward", forward, truth, outs, truth.outs, truth.out_units, types)
    _same_bits(op, "forward", outs, again)
    if truth.grads_upstream is not None and backward is not None:
        upstream = lay(truth.grads_upstream.astype("float32"))
        kept = [_bytes(a) for a in (upstream, *saved)]
        grads = list(backward.backward(upstream, saved, params))
        twice = list(backward.backward(upstream, saved, params))
        worst = max(
            worst,
            _compare(op, "backward", backward, truth, grads, truth.grads, truth.grad_units),
        )
        _same_bits(op, "backward", grads, twice)
        if op.accumulates:
            worst = max(worst, _check_totals(truth, backward, upstream, saved))
        if kept != [_bytes(a) for a in (upstream, *saved)]:
            raise AssertionError(f"{op.name}: backward of {backward.name} wrote into its inputs")
    if before != [_bytes(a) for a in arrays]:
        raise AssertionError(f"{op.name}: {forward.name} wrote into its inputs")
    return worst


def _check_totals(truth: Reference, provider: Provider, upstream: Any, saved: Any) -> float:
    """Let backward add to random totals, to all or all but one of those it could add to."""
    op, exact, units = truth.op, list(truth.grads), list(truth.grad_units)
    rng = new_generator(len(saved), *(a.size for a in truth.arrays if hasattr(a, "size")))
    guarded, given = Guarded(), [None] * len(truth.arrays)
    offered = [place for place in op.accumulates if exact[place] is not None]
    left_out = int(rng.integers(len(offered) + 1)) if len(offered) > 1 else 1
    for place in offered[:left_out] + offered[left_out + 1 :]:
        size = _largest(exact[place])
        start = (size * rng.standard_normal(exact[place].shape)).astype("float32")
        given[place] = start
        exact[place] = exact[place] + start
        units[place] += 0.5 * truth.eps * (_largest(start) + _largest(exact[place]))
    runs = []
    for _ in range(2):
        totals = [
            None if start is None else guarded.empty(start.shape, "float32") for start in given
        ]
        for total, start in zip(totals, given):
            if total is not None:
                total[...] = start
        grads = list(provider.backward(upstream, saved, truth.params, totals))
        for place, total in enumerate(totals):
            if total is not None and grads[place] is not total:
                if total.tobytes() != given[place].tobytes():
                    raise AssertionError(
                        f"{op.name}: {provider.name} changed total {place} without returning it"
                    )
                grads[place] = grads[place] + total
        guarded.check()
        runs.append(grads)
    _same_bits(op, "backward onto totals", *runs)
    return _compare(op, "backward onto totals", provider, truth, runs[0], exact, units)


def _bytes(value: Any) -> Any:
    return value.tobytes() if hasattr(value, "tobytes") else None


def _same_bits(op: Op, what: str, first: list[Any], second: list[Any]) -> None:
    if [_bytes(a) for a in first] != [_bytes(a) for a in second]:
        raise AssertionError(f"{op.name}: the same {what} twice gave different bits")


def _compare(
    op: Op,
    what: str,
    provider: Provider,
    truth: Reference,
    got: list[Any],
    exact: list[Any],
    units: list[float],
    types: Sequence[Any] | None = None,
) -> float:
    """The worst share of the budget; `types` are those of the results, float32 unless given."""
    worst = 0.0
    if len(got) != len(exact):
        raise AssertionError(f"{op.name}: {what} gave {len(got)} results, {len(exact)} are needed")
    for place, (value, right, unit) in enumerate(zip(got, exact, units)):
        label = f"{op.name}: {what} of {provider.name}, result {place}"
        if (value is None) != (right is None):
            raise AssertionError(f"{label}: None against a gradient")
        if right is None:
            continue
        wanted = numpy.dtype("float32") if types is None else types[place]
        if value.dtype != wanted:
            raise AssertionError(f"{label}: dtype {value.dtype}, {wanted} is needed")
        error = distance(value, right)
        if wanted.kind in "iu":
            error = max(0.0, error - 0.5)
        if error > truth.budget * unit:
            raise AssertionError(
                f"{label}: off by {error:.3g} = {error / unit if unit else math.inf:.3g} units, "
                f"{truth.budget:.3g} allowed; params {truth.params}, "
                f"shapes {[getattr(a, 'shape', a) for a in truth.arrays]}"
            )
        if unit:
            worst = max(worst, error / (truth.budget * unit))
    return worst


def check_gradient(op: Op, arrays: Sequence[Any], params: dict[str, Any], seed: int = 0) -> float:
    """Compare the reference gradient with central differences in float64; the relative error.

    Along a random direction for each input that takes a gradient, fourth order, with the best of
    three steps: what bends strongly needs a short one. Raises AssertionError above 1e-6, or if a
    floating input that is not `constant` gets none.
    """
    assert op.backward is not None
    rng = new_generator(seed)
    exact = cast(arrays, "float64")
    out, saved = op.forward(numpy, *exact, **params)
    upstream = rng.standard_normal(numpy.shape(out))
    grads = op.backward(numpy, upstream, saved, **params)
    noise = 2.0**-50 * float(numpy.abs(out * upstream).sum())  # that no difference can resolve
    worst = 0.0
    for place, array in enumerate(exact):
        if not is_float(array) or place in op.constant:
            continue
        grad = grads[place]
        if grad is None or grad.shape != array.shape:
            raise AssertionError(f"{op.name}: gradient {place} is missing or of the wrong shape")
        direction = rng.standard_normal(array.shape)
        claimed = float((grad * direction).sum())
        largest = float(numpy.abs(grad * direction).max(initial=0.0))
        best = math.inf
        for step in (1e-4, 1e-5, 1e-6):
            slope = _slope(op, exact, params, place, step * direction, upstream) / step
            error = max(0.0, abs(slope - claimed) - noise / step)
            best = min(best, error / max(abs(slope), largest, 1e-3))
            if best <= 1e-6:
                break
        else:
            raise AssertionError(
                f"{op.name}: gradient {place} gives {claimed:.9g} along a direction, finite "
                f"differences {slope:.9g}; params {params}"
            )
        worst = max(worst, best)
    return worst


def _slope(
    op: Op, arrays: list[Any], params: dict[str, Any], place: int, step: Any, upstream: Any
) -> float:
    """Change of the result, times `upstream`, for `step` at one input; error of fourth order."""
    total = 0.0
    for factor, weight in ((1, 8), (-1, -8), (2, -1), (-2, 1)):
        moved = list(arrays)
        moved[place] = numpy.asarray(arrays[place] + factor * step)
        total += weight * float((op.forward(numpy, *moved, **params)[0] * upstream).sum())
    return total / 12


def sampled(op: Op, seed: int) -> tuple[list[Any], dict[str, Any]]:
    """A random case of `op` with values that are exact in float32."""
    arrays, params = op.sample(Draw(seed))
    return cast(arrays, "float32"), params
