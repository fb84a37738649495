"""Whether what is asked for fits into memory, from sizes alone: before anything is computed."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from minillm import device_memory, devices, machine
from minillm.generation.options import MAX_TOKENS, Options
from minillm.generation.prompts import Prompt
from minillm.generation.tickets import Ticket
from minillm.models.sizes import sizes_of
from minillm.quantities import counted, size

SMALL = 1 << 26  # bytes for which the system is not asked what is free
BEAM_CLASS = 20  # bytes of a beam for each id: its logit, log-probability and sum
# Bytes of a Completion: of its own, of a token, of its log-probability, of each likely one
TEXT, TOKEN, LOGPROB, LIKELY = 400, 45, 160, 110


def text_bytes(config: Any, length: int, dtype: str) -> int:
    """Of the keys and values of `length` tokens, each kept as `dtype` says; 0 for a model that does
    not tell its sizes."""
    if not hasattr(config, "to_hf"):
        return 0
    sizes = sizes_of(config.to_hf())
    windows = None if dtype == "float32" else getattr(config, "windows", None)
    positions = [min(length, window or length) for window in windows or [None] * config.n_layer]
    vector = {"float32": 4 * sizes.head_size, "bf16": 2 * sizes.head_size}
    return 2 * sum(positions) * sizes.kv_heads * vector.get(dtype, sizes.head_size + 4)


def longest(config: Any, prompt: Prompt) -> int:
    """Positions of a text that is written to its end."""
    limit = min(prompt.limit, MAX_TOKENS) if config.context is None else prompt.limit
    length = len(prompt.ids) + max(0, limit - 1)
    return length if config.context is None else min(length, config.context)


def side_by_side(config: Any, prompt: Prompt, o: Options, device: str = devices.CPU) -> int:
    """How many texts of a request the memory of the model's device holds at once, 1 or more.

    ValueError where it does not hold what has to be there at once: one text, all beams of a search,
    or all candidates of a contrastive one.
    """
    limit = min(prompt.limit, MAX_TOKENS) if config.context is None else prompt.limit
    length = longest(config, prompt)
    classes = getattr(config, "target_size", config.vocab_size)
    each = text_bytes(config, length, o.cache_dtype) if o.use_cache else 0
    name, many, of = "max-tokens", 1, "keys and values"
    if o.beams > 1:  # as many as there are different texts, but for the last token
        name, many = "beams", min(o.beams, classes ** min(max(0, limit - 1), 64))
        each, of = each + BEAM_CLASS * classes, "keys, values and logits"
    elif o.contrastive:
        name, many = "top-k", min(o.top_k, classes)
    if many * each < SMALL and o.rows * each < SMALL:
        return sys.maxsize
    free = device_memory.free(device)
    if free is None or not each:
        return sys.maxsize
    if many * each > free:
        raise ValueError(
            f"{name}: {counted(many, 'text')} of up to {counted(length, 'token')} at once: "
            f"{size(many * each)} of {of} are needed, {size(free)} are free; lower "
            f"{'max-tokens' if many == 1 else f'{name} or max-tokens'}"
            f"{', or cache-dtype int8' * (o.cache_dtype == 'float32' and o.use_cache)}"
        )
    return max(1, free // each)


def require_list(tickets: Sequence[Ticket]) -> None:
    """ValueError for texts that memory does not hold all together once they are written."""
    needed = texts = longest = 0
    for ticket in tickets:
        o = ticket.options
        tokens = ticket.prompt.limit + len(ticket.prompt.ids) * o.echo
        token = TOKEN if o.logprobs is None else TOKEN + LOGPROB + LIKELY * o.logprobs
        rows = o.n if o.beams > 1 else o.rows
        needed += rows * (TEXT + tokens * token)
        texts, longest = texts + rows, max(longest, tokens)
    if needed < SMALL:
        return
    free = machine.available_memory()
    if free is not None and needed > free:
        o = tickets[0].options
        name = "best-of" if o.best_of is not None else "n" if o.n > 1 else "generate"
        lower = name if name != "generate" else "the number of prompts" if texts > 1 else "logprobs"
        raise ValueError(
            f"{name}: {counted(texts, 'text')} of up to {counted(longest, 'token')} to be kept: "
            f"{size(needed)} are needed, {size(free)} are free; lower {lower} or max-tokens"
        )
