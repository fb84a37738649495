"""Texts out of models: the functions that people call."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy

from minillm.generation.completions import Completion, Piece
from minillm.generation.engine import Engine
from minillm.generation.options import Options
from minillm.generation.reading import Reader
from minillm.generation.sampling import Sampler, Seen
from minillm.generation.writing import Row
from minillm.quantities import counted
from minillm.tokenizers import Tokenizer


def generate_ids(
    model: Any,
    prompt: Sequence[int],
    sampler: Sampler,
    generator: numpy.random.Generator,
    *,
    source: Sequence[int] | None = None,
    vocab_size: int | None = None,
    use_cache: bool = True,
    overflow: str = "error",
    on_slide: Callable[[int], None] | None = None,
) -> Iterator[int]:
    """Ids that follow `prompt`, without end; those from `vocab_size` on are never drawn.

    An encoder-decoder is given its `source` ids, and the prompt continues what its target begins
    with. When the model's context is full, this is a ValueError; with overflow="slide" the last
    half of it is read again as the new beginning, and `on_slide` is told how many positions were
    kept. ValueError for a prompt that is empty or longer than the context, IndexError for an id the
    model does not have.
    """
    if overflow not in ("error", "slide"):
        raise ValueError(f"overflow: {overflow!r}, error or slide is needed")
    reader = Reader(model, use_cache=use_cache)
    ids = [*reader.start_ids, *(int(i) for i in prompt)]
    context = reader.context
    if not ids or (context is not None and len(ids) > context):
        most = "1 or more" if context is None else f"1 to {context:,} (the model's context)"
        raise ValueError(f"generate: a prompt of {counted(len(ids), 'token')}, {most} are needed")
    row = Row(
        reader.begin(source),
        ids,
        sampler,
        generator,
        context=context,
        whole=not use_cache or getattr(model, "reads_whole", False),
        slides=overflow == "slide",
        vocab_size=vocab_size,
        seen=Seen(ids) if sampler.needs_seen else None,
    )
    while True:
        while row.unread:
            (logits,) = reader.read([(row.reading, row.due())])
            if row.slid is not None and on_slide is not None:
                on_slide(row.slid)
            row.slid = None
        yield row.draw(logits)


def complete(
    model: Any,
    tokenizer: Tokenizer,
    prompts: str | Sequence[str | Sequence[int]],
    **options: Any,
) -> list[Completion]:
    """The texts that follow one or several prompts, n for each; options as in `Options`.

    Prompts of any lengths are read and written side by side; each text is the one that its prompt
    alone would have got. A list of ids in the place of a text is a prompt too. An encoder-decoder
    reads the prompt as its source and gives the text of the target. The same model, prompt, options
    and seed give the same text. ValueError or TypeError, before anything is written, for options or
    prompts that cannot be followed.
    """
    given: Any = [prompts] if isinstance(prompts, str) else prompts
    given = list(given) if isinstance(given, Iterable) else [given]
    for prompt in given:
        if not isinstance(prompt, Iterable):
            raise TypeError(
                f"complete: {prompt!r} is no prompt, a text, or a list of texts or of id lists, is "
                "needed"
            )
    return Engine(model, tokenizer).complete(given, Options.of(**options))


def stream_pieces(
    model: Any,
    tokenizer: Tokenizer,
    prompt: str | Sequence[int],
    *,
    on_notice: Callable[[str], None] | None = None,
    **options: Any,
) -> Iterator[Piece]:
    """What is added, token by token, to the n texts that follow `prompt`; as `complete`.

    `on_notice` is told what is done about a context that is full, and which options change nothing.
    ValueError also for best_of, which has nothing to show before the end.
    """
    asked = Options.of(**options)
    if asked.best_of is not None:
        raise ValueError(
            f"best-of: {asked.best_of} texts are compared at their end, they cannot be streamed; "
            "complete is needed"
        )
    engine = Engine(model, tokenizer)
    return engine.pieces(engine.submit(prompt, asked, on_notice=on_notice))


def stream(
    model: Any,
    tokenizer: Tokenizer,
    prompt: str | Sequence[int],
    *,
    on_notice: Callable[[str], None] | None = None,
    **options: Any,
) -> Iterator[str]:
    """Pieces of the text that follows `prompt`, whole characters each; as `stream_pieces`.

    ValueError for n above 1.
    """
    if options.get("n", 1) != 1:
        raise ValueError(f"n: {options['n']} texts in one stream, 1 is needed; or stream_pieces")
    pieces = stream_pieces(model, tokenizer, prompt, on_notice=on_notice, **options)
    return (piece.text for piece in pieces)


def generate(model: Any, tokenizer: Tokenizer, prompt: str | Sequence[int], **options: Any) -> str:
    """The text that follows `prompt`; options as for `stream`."""
    return "".join(stream(model, tokenizer, prompt, **options))
