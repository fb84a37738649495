"""What `convert` and `quantize` share: a model written anew, and compared with what it was."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy

from minillm.cli.main import tell
from minillm.cli.meter import meter

if TYPE_CHECKING:
    from minillm.models.opening import Model

VOCABULARY, NO_VOCABULARY = "tokenizer.ggml.model", ("no_vocab", "none")


def require_place(command: str, out: Path) -> None:
    """ValueError where something is at `out`, FileNotFoundError where it has no folder."""
    if out.exists():
        raise ValueError(f"{command}: {out} is there already, a new name is needed")
    folder = out.absolute().parent
    if not folder.is_dir():
        raise FileNotFoundError(f"{command}: there is no folder {folder}, one is needed")


def tell_of_loss(opened: Model, dtype: str) -> None:
    """Say so where numbers that were rounded to blocks are rounded again."""
    rounded = [kind for kind in opened.dtypes if kind.startswith("Q")]
    if rounded and dtype != "f32":
        tell(
            f"minillm: note: {opened.path} holds {' and '.join(rounded)} numbers already, rounding "
            "them again adds to the loss; begin with the original if you have it"
        )


def reference_logits(model: Any) -> numpy.ndarray:
    """What the model gives for the reference prompt, in float64."""
    from minillm.formats.hf import reference_prompt
    from minillm.models.folder import logits_of

    prompt = reference_prompt(model.config.vocab_size, model.config.context)
    return logits_of(model)(prompt).astype(numpy.float64)


def largest_difference(out: Path, before: numpy.ndarray) -> float:
    """Of the logits of the model that was written to those of the one before it."""
    from minillm.models.folder import load_model

    gc.collect()  # the second model need not find room beside the first
    return float(numpy.abs(reference_logits(load_model(out)) - before).max())


def write_gguf(out: Path, opened: Model, model: Any, dtype: str) -> dict[str, int]:
    """Write the file and say what it could not hold as wanted; how many numbers of each kind."""
    from minillm.models.gguf_export import write_gguf

    if opened.is_gguf:  # the vocabulary, chat template included, as it is
        carried: Any = {k: v for k, v in opened.metadata.items() if k.startswith("tokenizer.")}
    else:
        carried = tokenizer_of(opened)
    with meter("numbers", opened.config.parameter_count) as progress:
        written = write_gguf(out, model, carried, dtype, progress)
    for (wanted, used), matrices in written.replaced.items():
        tell(
            f"minillm: note: {matrices} matri{'x has' if matrices == 1 else 'ces have'} rows that "
            f"are no whole blocks of {wanted}, written as {used}"
        )
    return written.numbers


def tokenizer_of(opened: Model) -> Any:
    """The tokenizer, or None, with a word about it, where the model has none."""
    from minillm.models.folder import load_tokenizer

    try:
        if not opened.is_gguf or opened.metadata.get(VOCABULARY) not in (None, *NO_VOCABULARY):
            return load_tokenizer(opened.path, opened.metadata)
    except FileNotFoundError:
        pass
    tell(f"minillm: note: {opened.path} has no tokenizer, none is written")
    return None


def bytes_of(opened: Model) -> int:
    return sum(path.stat().st_size for path in opened.files)
