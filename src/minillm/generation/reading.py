"""Reading token ids: the one place that runs a model to generate."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy

from minillm import kernels, nn
from minillm.generation.compact_cache import DTYPES, new_cache
from minillm.generation.token_step import token_step
from minillm.quantities import counted
from minillm.tensor import no_grad, of

CHUNK = 256  # tokens of a prompt that are read at a time, from its multiples on


class Reading:
    """One text on its way: the ids read so far, and what the model keeps of them.

    A Reader begins it. `memory` is what an encoder made of the source.
    """

    def __init__(self, cache: Any, memory: Any = None) -> None:
        self.ids: list[int] = []
        self.cache = cache
        self.memory = memory

    @property
    def length(self) -> int:
        return len(self.ids)

    @property
    def nbytes(self) -> int:
        return 0 if self.cache is None else self.cache.nbytes

    def rewind(self, length: int) -> None:
        """Forget all but the first `length` ids; ValueError if there are fewer.

        RuntimeError where the cache cannot go back so far; nothing has changed then.
        """
        if not 0 <= length <= self.length:
            raise ValueError(
                f"rewind: {length} of {counted(self.length, 'id')}, 0 to {self.length} is needed"
            )
        if self.cache is not None:
            self.cache.rewind(length)
        del self.ids[length:]

    def fork(self) -> Reading:
        """An independent copy; what an encoder gave is shared."""
        twin = Reading(None if self.cache is None else self.cache.fork(), self.memory)
        twin.ids = self.ids.copy()
        return twin


class Reader:
    """Gives a model ids and returns logits. The model is put into evaluation mode.

    A text enters in chunks of `chunk` tokens that begin at its multiples, each text by itself, so
    that a row's logits have the same bits whatever is read beside it. With use_cache=False
    everything is computed anew each time; `cache_dtype` "bf16" or "int8" keeps keys and values in a
    half or a quarter of the bytes, rounded. A `context` takes the place of the model's, which is at
    least as large. ValueError for an encoder, which writes nothing.
    """

    def __init__(
        self,
        model: Any,
        *,
        use_cache: bool = True,
        cache_dtype: str = "float32",
        chunk: int = CHUNK,
        context: int | None = None,
    ) -> None:
        self.kind = model.config.kind
        if self.kind == "encoder":
            raise ValueError(
                "generate: the model is an encoder, which writes no text, a decoder is needed "
                "(minillm predict fills its masks, minillm embed gives vectors)"
            )
        if cache_dtype not in DTYPES:
            raise ValueError(f"cache-dtype: {cache_dtype!r}, one of {', '.join(DTYPES)} is needed")
        self.model = model.eval()
        self.use_cache, self.cache_dtype, self.chunk = use_cache, cache_dtype, chunk
        self.context: int | None = model.config.context if context is None else context
        decodes = self.kind == "encoder-decoder"
        self.start_ids = [int(model.config.decoder_start_token_id)] if decodes else []
        self._arena = kernels.Arena()
        plain = use_cache and cache_dtype == "float32"
        self._step = token_step(model) if plain else None

    @property
    def compiled(self) -> bool:
        """Whether tokens go through the compiled step."""
        return self._step is not None

    def new_cache(self) -> Any:
        """An empty one of the kind that this Reader keeps; None if it keeps none."""
        return new_cache(self.model.config, self.cache_dtype) if self.use_cache else None

    def begin(self, source: Sequence[int] | None = None) -> Reading:
        """A new text. An encoder-decoder encodes its `source` ids here; a decoder has none.

        The first ids an encoder-decoder reads are `start_ids`.
        """
        cache = self.new_cache()
        if self.kind == "decoder":
            if source is not None:
                raise ValueError("generate: a source was given, this model has no encoder")
            return Reading(cache)
        if source is None or not len(source):
            raise ValueError("generate: a source of 0 tokens, at least 1 is needed")
        with self._arena.step(), no_grad():
            memory = self.model.encode(numpy.asarray([source], numpy.int64), None)
        return Reading(cache, memory)

    def read(
        self,
        batch: Sequence[tuple[Reading, Sequence[int]]],
        *,
        every: bool = False,
        features: bool = False,
    ) -> list[numpy.ndarray]:
        """Append ids, one or more, to each text of the batch.

        Returns float32 logits for each: (V,) after the last id, or (n, V) after each of its n ids
        with `every`. With `features` what the model's head reads, (C,) or (n, C), in their place;
        `logits` makes logits of it. ValueError for no ids or more than the context holds,
        IndexError for an id the model does not have; no text has changed then.
        """
        for reading, ids in batch:
            self._check(reading, ids)
        results: list[numpy.ndarray] = []
        together: list[tuple[Reading, Sequence[int]]] = []
        for reading, ids in batch:
            alone = self._step is None or features or len(ids) >= kernels.MANY_ROWS
            if alone or sum(len(new) for _, new in together) + len(ids) >= kernels.MANY_ROWS:
                results += self._read_together(together, every)
                together = []
            if alone:
                results.append(self._read_alone(reading, ids, every, features))
            else:
                together.append((reading, ids))
        return results + self._read_together(together, every)

    def _read_together(
        self, batch: Sequence[tuple[Reading, Sequence[int]]], every: bool
    ) -> list[numpy.ndarray]:
        """The short pieces of several texts, by one call of the compiled step."""
        if not batch or self._step is None:
            return []
        texts = [(r.cache, r.length, ids) for r, ids in batch if r.cache is not None]
        with self._arena.step():
            logits = self._step.read(texts, every=every)
        for reading, ids in batch:
            reading.ids.extend(ids)
        if not every:
            return list(logits)
        return numpy.split(logits, numpy.cumsum([len(ids) for _, ids in batch])[:-1])

    def _read_alone(
        self, reading: Reading, ids: Sequence[int], every: bool, features: bool
    ) -> numpy.ndarray:
        before = reading.length
        try:
            logits = self._read(reading, list(ids), every, features)
        except BaseException:
            if reading.cache is not None:
                reading.cache.rewind(before)
            raise
        reading.ids.extend(ids)
        return logits

    def _check(self, reading: Reading, ids: Sequence[int]) -> None:
        size = self.model.config.vocab_size
        if self.kind == "encoder-decoder":
            size = self.model.config.target_size
        if not len(ids):
            raise ValueError("generate: 0 tokens to read, at least 1 is needed")
        if self.context is not None and reading.length + len(ids) > self.context:
            raise ValueError(
                f"generate: {counted(reading.length + len(ids), 'token')}, the model's context is "
                f"{self.context:,}"
            )
        for id in ids:
            if not 0 <= id < size:
                raise IndexError(f"generate: id {id}, 0 <= id < {size} is needed")

    def logits(self, features: numpy.ndarray) -> numpy.ndarray:
        """Logits (n, V) for what the head reads (n, C)."""
        head: Any = self.model.head
        with self._arena.step(), no_grad():
            x = of(features)
            return (nn.linear(x, head) if self.kind == "decoder" else head(x)).numpy()

    def _read(self, reading: Reading, ids: list[int], every: bool, features: bool) -> numpy.ndarray:
        start = reading.length
        if reading.cache is None:
            logits = self._chunk(reading, reading.ids + ids, every, features)
            return logits[start:] if every else logits
        if getattr(self.model, "reads_whole", False):
            borders = [start + len(ids)]
        else:
            first = start // self.chunk * self.chunk + self.chunk
            borders = [*range(first, start + len(ids), self.chunk), start + len(ids)]
        found = []
        for end in borders:
            chunk = ids[start - reading.length : end - reading.length]
            found.append(self._chunk(reading, chunk, every, features, end == borders[-1]))
            start = end
        return numpy.concatenate(found) if every else found[-1]

    def _chunk(
        self, reading: Reading, ids: list[int], every: bool, features: bool, last: bool = True
    ) -> numpy.ndarray:
        """What `read` gives; for a chunk that is not the last it may be anything."""
        with self._arena.step(), no_grad():
            if features:
                source = (reading.memory, None) if self.kind == "encoder-decoder" else ()
                read = self.model.features_of if source else self.model.features
                x = read(numpy.asarray([ids], numpy.int64), *source, reading.cache).numpy()[0]
                return x if every else x[-1]
            if self._step is not None and reading.cache is not None:
                text = reading.cache, reading.cache.length, ids
                logits = self._step.read([text], every=every, last=last)
                return logits if every or not last else logits[0]
            row = numpy.asarray([ids], numpy.int64)
            if self.kind == "encoder-decoder":
                logits = self.model.decode(row, reading.memory, None, reading.cache).numpy()[0]
                return logits if every else logits[-1]
            read = self.model if every else self.model.next_logits
            return read(row, reading.cache).numpy()[0]
