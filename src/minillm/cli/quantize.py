"""Write a model as a GGUF file of fewer bits, and show what that costs and gains."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy

from minillm.cli import writing
from minillm.cli.convert import FORMATS
from minillm.cli.damage import named
from minillm.cli.machine_flags import add_machine, settle
from minillm.cli.main import OK, tell
from minillm.cli.meter import meter
from minillm.cli.score import add_windows, tell_windows
from minillm.quantities import counted, number, size

TYPES = [dtype for dtype in FORMATS["gguf"] if dtype != "f32"]


class Side(NamedTuple):
    """A model before or after: where, its bytes, and its score if one is asked for."""

    path: Path
    bytes: int
    score: Any


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("model", metavar="IN", help="model folder, .gguf file or pulled name")
    add("out", metavar="OUT", help=".gguf file that is not there yet")
    add("--type", required=True, choices=TYPES, help="numbers of the matrices")
    add("--evaluate", metavar="FILE", help="text in UTF-8: perplexity and speed before and after")
    add_windows(parser)
    add_machine(parser)
    add("--json", action="store_true", help="print one JSON object")


def run(arguments: argparse.Namespace) -> int:
    from minillm.models.folder import load_model
    from minillm.models.gguf_metadata import to_metadata
    from minillm.models.opening import find, open_model

    out = Path(arguments.out)
    settle(arguments)
    _require_sense(arguments, out)
    text = _text(arguments)
    opened = open_model(find(arguments.model))
    to_metadata(opened.config.to_hf())  # refuses here what GGUF cannot hold
    writing.tell_of_loss(opened, arguments.type)
    model = load_model(opened.path)
    logits = writing.reference_logits(model)
    before = Side(opened.path, writing.bytes_of(opened), _scored(model, opened, text, arguments))
    with _removed_on_failure(out):
        numbers = writing.write_gguf(out, opened, model, arguments.type)
        del model
        difference = writing.largest_difference(out, logits)
        written = open_model(out)
        model = load_model(out)
        score = _scored(model, written, text, arguments, said=True)
        after = Side(out, writing.bytes_of(written), score)
        speeds = _speeds(opened, written, model, text)
    found = _as_json(before, after, speeds) | {
        "numbers": numbers,
        "largest_logit": float(numpy.abs(logits).max()),
        "largest_logit_difference": difference,
    }
    print(json.dumps(found) if arguments.json else _table(found, arguments.type))
    return OK


def _require_sense(arguments: argparse.Namespace, out: Path) -> None:
    """ValueError for what could only fail after a long time."""
    if out.suffix != ".gguf":
        raise ValueError(f"quantize: {out} is to hold GGUF, a name that ends in .gguf is needed")
    writing.require_place("quantize", out)
    if arguments.evaluate is None:
        for name in ("context", "stride"):
            if getattr(arguments, name) is not None:
                raise ValueError(f"{name}: no text to evaluate on, --evaluate is needed")


def _text(arguments: argparse.Namespace) -> str | None:
    from minillm.cli.texts import read_file

    if arguments.evaluate is None:
        return None
    return read_file("quantize", arguments.evaluate)


def _scored(
    model: Any, opened: Any, text: str | None, arguments: argparse.Namespace, said: bool = False
) -> Any:
    """What the model makes of the text, None without one; `said`: how it is read is known."""
    from minillm.generation.scoring import score
    from minillm.models.folder import load_tokenizer

    if text is None:
        return None
    tokenizer = load_tokenizer(opened.path, opened.metadata)
    windows = {"context": arguments.context, "stride": arguments.stride}
    with named("quantize", str(opened.path)), meter("tokens") as progress:
        found = score(model, tokenizer, text, **windows, progress=progress, command="quantize")
    if not said:
        tell_windows(found, model, arguments)
    return found


def _speeds(opened: Any, written: Any, model: Any, text: str | None) -> list[Any]:
    """Those of both models, None for each without a text; `model` is the one that was written."""
    from minillm import device_memory, kernels
    from minillm.models.folder import load_model, load_tokenizer
    from minillm.quant import speeds

    if text is None:
        return [None, None]
    device = kernels.get_default_device()
    free, needed = device_memory.free(device), opened.running_bytes(device)
    if free is not None and needed > free:
        tell(
            f"minillm: note: no speeds, as {opened.path} takes {size(needed)} of "
            f"memory beside the new model and {size(free)} are free"
        )
        return [None, None]
    tokenizer = load_tokenizer(written.path, written.metadata)
    with named("quantize", str(opened.path)), meter("tokens") as progress:
        return speeds([load_model(opened.path), model], tokenizer, text, progress=progress)


@contextmanager
def _removed_on_failure(out: Path) -> Iterator[None]:
    """Leave nothing at `out`, where nothing was, if the block does not come to its end."""
    try:
        yield
    except BaseException:
        out.unlink(missing_ok=True)
        raise


def _as_json(before: Side, after: Side, speeds: list[Any]) -> dict[str, Any]:
    from minillm.quant import compare

    found: dict[str, Any] = {}
    for name, side, speed in (("in", before, speeds[0]), ("out", after, speeds[1])):
        found[name] = {"path": str(side.path), "bytes": side.bytes}
        if side.score is not None:
            found[name] |= {
                "perplexity": side.score.perplexity,
                "perplexity_error": side.score.perplexity_error,
                "bits_per_byte": side.score.bits_per_byte,
                "decoded_tokens_per_s": speed and speed.decoded,
                "read_tokens_per_s": speed and speed.read,
            }
    if before.score is not None:
        ratio, error = compare(before.score, after.score)
        found |= {"scored": before.score.scored, "windows": before.score.windows}
        found |= {"perplexity_ratio": ratio, "perplexity_ratio_error": error}
    return found


ROWS = {  # key: (title, decimals)
    "perplexity": ("perplexity", 3),
    "perplexity_error": ("  standard error", 3),
    "bits_per_byte": ("bits per byte", 4),
    "decoded_tokens_per_s": ("tokens/s decoded", 1),
    "read_tokens_per_s": ("tokens/s read", 0),
}


def _table(found: dict[str, Any], dtype: str) -> str:
    before, after = found["in"], found["out"]
    lines = [
        f"{'':<18}{'before':>12}{dtype:>12}",
        f"{'size':<18}{size(before['bytes']):>12}{size(after['bytes']):>12}"
        f"{after['bytes'] / before['bytes']:>10.0%}",
    ]
    for key, (title, decimals) in ROWS.items():
        a, b = before.get(key), after.get(key)
        if a is not None and b is not None:
            line = f"{title:<18}{a:>12,.{decimals}f}{b:>12,.{decimals}f}"
            lines.append(line if key.endswith("error") else f"{line}{b / a:>10.1%}")
    if "perplexity_ratio" in found:
        error = found["perplexity_ratio_error"]
        around = "" if error is None else f" +- {error:.2%}"
        lines.append(
            f"perplexity changes by {found['perplexity_ratio'] - 1:+.2%}{around}, on "
            f"{counted(found['scored'], 'token')}"
        )
    held = ", ".join(f"{kind} {count / sum(found['numbers'].values()):.1%}"
                     for kind, count in found["numbers"].items())  # fmt: skip
    lines.append(f"numbers held as {held}")
    lines.append(
        f"largest logit difference on the reference prompt: "
        f"{number(found['largest_logit_difference'])} (the largest logit is "
        f"{number(found['largest_logit'])})"
    )
    return "\n".join(lines)
