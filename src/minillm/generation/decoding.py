"""Token by token: the one loop that generates."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy

from minillm import kernels
from minillm.arrays import new_generator
from minillm.generation.cache import Cache
from minillm.generation.encoder_decoder import end_ids, target_ids
from minillm.generation.sampling import Sampler
from minillm.tensor import no_grad
from minillm.tokenizers import Tokenizer

PREFILL_CHUNK = 512


def generate_ids(
    model: Any,
    prompt: Sequence[int],
    sampler: Sampler,
    generator: numpy.random.Generator,
    *,
    vocab_size: int | None = None,
    use_cache: bool = True,
    on_slide: Callable[[int], None] | None = None,
) -> Iterator[int]:
    """Ids that follow `prompt`, without end; those from `vocab_size` on are never drawn.

    When the model's context is full, the last half of it is read again as the new beginning;
    `on_slide` is told how many positions were kept. ValueError for a prompt that is empty or longer
    than the context, IndexError for an id the model does not have.
    """
    context = model.config.context
    window = [int(i) for i in prompt]
    if not 1 <= len(window) <= context:
        raise ValueError(
            f"generate: a prompt of {len(window)} tokens, 1 to {context} (the model's context) "
            "are needed"
        )
    arena, cache = kernels.Arena(), Cache(model.config.n_layer)
    unread = window
    while True:
        if len(window) > context:
            window = window[-max(1, context // 2) :]
            cache.clear()
            unread = window
            if on_slide is not None:
                on_slide(len(window))
        with arena.step(), no_grad():
            logits = _read(model, unread, cache) if use_cache else _read(model, window, None)
        unread = [sampler.pick(logits[:vocab_size], generator)]
        yield unread[0]
        window = window + unread


def _read(model: Any, ids: Sequence[int], cache: Cache | None) -> numpy.ndarray:
    """Logits (V,) after the last of `ids`."""
    whole = cache is None or getattr(model, "reads_whole", False)
    step = len(ids) if whole else PREFILL_CHUNK
    for start in range(0, len(ids), step):
        chunk = numpy.asarray(ids[start : start + step], numpy.int64)[None]
        logits = model.next_logits(chunk, cache)
    return logits.numpy()[0]


def prompt_ids(tokenizer: Tokenizer, text: str) -> tuple[list[int], list[int]]:
    """The control tokens that the tokenizer puts before a text, such as <s>, and those of the text.

    What it would put behind it is left out: the text goes on.
    """
    bare, whole = tokenizer.encode(text), tokenizer.encode(text, add_special_tokens=True)
    fits = (k for k in range(len(whole) + 1) if whole[k : k + len(bare)] == bare)
    return whole[: next(fits)] if bare else [], bare


def first_ids(tokenizer: Tokenizer, prompt: str) -> list[int]:
    """What a decoder reads before it writes; for an empty prompt what stands before every text."""
    before, ids = prompt_ids(tokenizer, prompt)
    start = tokenizer.role_ids.get("bos", tokenizer.eos_id)
    return before + ids if ids or start is None else [start]


def stream(
    model: Any,
    tokenizer: Tokenizer,
    prompt: str,
    *,
    max_tokens: int = 200,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    seed: int = 0,
    use_cache: bool = True,
    on_slide: Callable[[int], None] | None = None,
) -> Iterator[str]:
    """Pieces of text that follow `prompt`, whole characters each; ends at a token that ends texts.

    An encoder-decoder reads the prompt as its source and gives the text of the target. The same
    model, prompt, settings and seed give the same text. ValueError for max_tokens below 0, or a
    prompt the tokenizer or the model cannot take.
    """
    if max_tokens < 0:
        raise ValueError(f"max-tokens: {max_tokens}, 0 or more is needed")
    model.eval()
    if model.config.kind == "encoder":
        raise ValueError(
            "generate: the model is an encoder, which writes no text, a decoder is needed (minillm "
            "predict fills its masks, minillm embed gives vectors)"
        )
    sampler, generator = Sampler(temperature, top_k, top_p), new_generator(seed)
    size, ends = tokenizer.vocab_size, {tokenizer.eos_id, *end_ids(model.config)}
    if model.config.kind == "encoder-decoder":
        source = numpy.array([tokenizer.encode(prompt, add_special_tokens=True)], numpy.int64)
        generated = target_ids(
            model, source, sampler, generator, vocab_size=size, use_cache=use_cache
        )
    else:
        ids = first_ids(tokenizer, prompt)
        generated = generate_ids(
            model, ids, sampler, generator, vocab_size=size, use_cache=use_cache, on_slide=on_slide
        )
    decoder = tokenizer.stream()
    for _ in range(max_tokens):
        token = next(generated)
        if token in ends:
            break
        yield decoder.push(token)
    yield decoder.flush()


def generate(model: Any, tokenizer: Tokenizer, prompt: str, **options: Any) -> str:
    """The text that follows `prompt`; options as for `stream`."""
    return "".join(stream(model, tokenizer, prompt, **options))
