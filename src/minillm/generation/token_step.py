"""The token step of a decoder in one call: what its forward does, recorded once, replayed in C++.

A model that does anything for which there is no step has no plan and is read operation by
operation.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy

from minillm import kernels
from minillm.arrays import Array, is_array, to_numpy, xp_of
from minillm.generation.cache import Cache
from minillm.generation.recording import POSITION, Recorder, Row, Unplanned
from minillm.models.pretrained import Pretrained
from minillm.nn import DeferredParameter
from minillm.tensor import Tensor

IN_PLACE = ("activate", "add", "multiply", "rotate")  # may write over an operand that ends there


class TokenStep:
    """The compiled plan of a model. Unplanned if there is none.

    It keeps the arrays of the weights: changed in place they count, also when that widened blocks;
    another array in the place of one does not. On a GPU everything but the ids and the logits
    stays there, and each call is waited for once.
    """

    def __init__(self, model: Any) -> None:
        if not isinstance(model, Pretrained):
            raise Unplanned("what is no model of a family cannot be recorded")
        self._there = [p.data for p in model.parameters() if type(p) is not DeferredParameter][:1]
        self._xp = xp_of(*self._there)
        library = kernels.library(self._xp)
        if library is None or not hasattr(library.runtime, "Plan"):
            raise Unplanned("the extension is not in use")
        if not hasattr(library, "linear_forward"):
            raise Unplanned("a library without matrix products has no step")
        if model.config.kind != "decoder":
            raise Unplanned("a decoder that attends to a source has no step")
        if model.config.context <= POSITION:
            raise Unplanned("a context of one token has no second one to record")
        self._runtime, self._model = library.runtime, model
        self._rotary = getattr(model, "rotary", None)
        self._angles: tuple[Array | None, Array | None] = (None, None)
        self._record()

    def _record(self) -> None:
        record = Recorder(self._model)
        self._embeddings = record.inputs
        self.shapes: list[tuple[int, int, int]] = []  # of each layer's heads, keys and values
        self.classes = record.result.width
        self._compile(record)  # which has the numbers of vectors read, and them no more deferred
        self._blocks = [p for p in self._model.parameters() if type(p) is DeferredParameter]

    def _compile(self, record: Recorder) -> None:
        last_use, last_attention = {}, -1
        for place, step in enumerate(record.steps):
            for row in step.inputs:
                if row is not None:
                    last_use[row.value] = place
            last_attention = place if step.name == "attend" else last_attention
        widths = [record.widths[value] for value in range(len(record.inputs))]
        slots = {value: value for value in range(len(record.inputs))}  # of the values alive
        free: dict[int, list[int]] = {}
        calls: list[tuple[str, Row, tuple[Row | None, ...], dict[str, Any]]] = []

        def release(place: int) -> None:
            for value in [value for value in slots if last_use.get(value, -1) == place]:
                free.setdefault(widths[slots[value]], []).append(slots.pop(value))

        result = record.result
        if not record.steps or record.steps[-1].out != result:
            raise Unplanned("a result that the last step does not give has no step")
        for place, step in enumerate(record.steps):
            rows = tuple(row and row._replace(value=slots[row.value]) for row in step.inputs)
            if step.name in IN_PLACE:
                release(place)
            width, room = step.out.width, free.get(step.out.width)
            if not room or step.out == result:
                widths.append(width)
            slots[step.out.value] = room.pop() if room and step.out != result else len(widths) - 1
            calls.append((step.name, Row(slots[step.out.value], 0, width), rows, step.settings))
            release(place)
            if place == last_attention:
                calls.append(("select", result, (), {"slots": sorted(slots.values())}))
        self._plan = self._runtime.Plan(widths)
        for name, out, rows, settings in calls:
            self._call(name, out, rows, settings)

    def _call(self, name: str, out: Row, rows: tuple[Any, ...], settings: dict[str, Any]) -> None:
        given = {key: _array(value) for key, value in settings.items()}
        if name == "select":
            self._plan.select(**given)
            return
        if name == "attend":
            heads = given["kv_heads"]
            _, k, v = rows
            self.shapes.append((heads, k.width // heads, v.width // heads))
        getattr(self._plan, name)(out, *rows, **given)

    def read(
        self, texts: Sequence[tuple[Cache, int, Sequence[int]]], *, every: bool, last: bool = True
    ) -> Array:
        """Logits (n, V) of tokens: of all with `every`, else of each text's last, or of none.

        A text is its cache, the number of tokens in it, and the new ids.
        """
        if any(type(parameter) is not DeferredParameter for parameter in self._blocks):
            self._record()
        xp_of(*self._there)  # this thread may have another GPU as its current one
        counts = [len(ids) for _, _, ids in texts]
        ids = numpy.array([id for _, _, new in texts for id in new], numpy.int64)
        positions = numpy.concatenate(
            [numpy.arange(start, start + len(new)) for _, start, new in texts]
        )
        keys = [self._keys(cache, start + len(new)) for cache, start, new in texts]
        if every:
            wanted = list(range(len(ids)))
        else:
            wanted = (numpy.cumsum(counts) - 1).tolist() if last else []
        out = self._xp.empty((len(wanted), self.classes), numpy.float32)
        cos, sin = self._tables(int(positions.max()) + 1)
        self._plan.run(
            [look_up(positions if placed else ids) for look_up, placed in self._embeddings],
            positions,
            numpy.repeat(numpy.arange(len(texts)), counts),
            keys,
            cos,
            sin,
            wanted,
            out,
        )
        for (cache, start, new), _ in zip(texts, keys):
            cache.fill(start + len(new))
        return to_numpy(out)

    def _keys(self, cache: Cache, end: int) -> Any:
        cache.reserve(end, self.shapes, self._xp)
        if cache.bound is None:
            cache.bound = self._runtime.Keys(cache.buffers)
        return cache.bound

    def _tables(self, end: int) -> tuple[Array | None, Array | None]:
        """cos and sin of at least the first `end` positions."""
        if self._rotary is not None and (self._angles[0] is None or len(self._angles[0]) < end):
            like = self._xp.zeros(1, numpy.float32)
            self._angles = self._rotary.angles(0, max(256, 2 * end), like)
        return self._angles


def _array(value: Any) -> Any:
    """A parameter as its float32 numbers in a row; anything else as it is."""
    if not isinstance(value, Tensor):
        return value
    if value.dtype != numpy.float32 or not is_array(value.data):
        raise Unplanned(f"weights of {value.dtype} have no step")
    if not value.data.flags.c_contiguous:
        raise Unplanned("weights that do not lie in a row have no step")
    return value.data


def token_step(model: Any) -> TokenStep | None:
    """The compiled plan of a model, None if it has none."""
    try:
        return TokenStep(model)
    except Unplanned:
        return None
