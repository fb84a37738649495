"""Write a model in another format or with smaller numbers, and compare the two."""

from __future__ import annotations

import argparse
import json
import os
import secrets
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy

from minillm.cli import writing
from minillm.cli.main import FAILED, OK, tell
from minillm.formats.block_encoding import encode
from minillm.formats.deferred import Blocks
from minillm.quantities import number, size

if TYPE_CHECKING:
    from minillm.models.opening import Model

PLAIN = ("f32", "bf16", "f16")
BLOCKS = ("q8_0", "q6_k", "q5_k", "q5_1", "q5_0", "q4_k", "q4_1", "q4_0")
FORMATS = {"hf": PLAIN, "gguf": PLAIN + BLOCKS}  # and the dtypes that each holds


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="IN", help="model folder, .gguf file or pulled name")
    parser.add_argument("out", metavar="OUT", help="folder or .gguf file that is not there yet")
    parser.add_argument("--to", choices=FORMATS, help="format (gguf if OUT ends so, else hf)")
    parser.add_argument(
        "--dtype", choices=FORMATS["gguf"], default="f32", help="numbers of the weights (f32)"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(arguments: argparse.Namespace) -> int:
    from minillm import kernels
    from minillm.formats.hf import TOLERANCE
    from minillm.models.folder import load_model
    from minillm.models.opening import find, open_model

    out, dtype = Path(arguments.out), arguments.dtype
    target = arguments.to or ("gguf" if out.suffix == ".gguf" else "hf")
    require_held("convert", out, target, dtype)
    opened = open_model(find(arguments.model))
    writing.tell_of_loss(opened, dtype)
    model = load_model(opened.path)
    # the same numbers are to give the same logits: not as blocks, which round activations
    provider: kernels.Provider = "reference" if dtype == "f32" else "auto"
    with kernels.use(provider):
        before = writing.reference_logits(model)
    if target == "gguf":
        writing.write_gguf(out, opened, model, dtype)
    else:
        write_folder("convert", out, opened, model, dtype)
    del model
    with kernels.use(provider):
        difference = writing.largest_difference(out, before)
    written = {"path": str(out), "bytes": writing.bytes_of(open_model(out))}
    found = {
        "in": {"path": str(opened.path), "bytes": writing.bytes_of(opened)},
        "out": written | {"to": target, "dtype": dtype},
        "largest_logit": float(numpy.abs(before).max()),
        "largest_logit_difference": difference,
    }
    print(json.dumps(found) if arguments.json else _table(found))
    if not difference <= (TOLERANCE if dtype == "f32" else numpy.inf):
        tell(f"minillm: convert: {out} does not give the logits of {opened.path}")
        return FAILED
    return OK


def require_held(command: str, out: Path, target: str, dtype: str) -> None:
    """ValueError unless `target` holds `dtype` and there is room for `out`."""
    if dtype not in FORMATS[target]:
        raise ValueError(
            f"{command}: {target} does not hold {dtype}, one of {', '.join(FORMATS[target])} is "
            "needed; --to gguf holds it"
        )
    if not (target == "hf" and out.is_dir() and not any(out.iterdir())):
        writing.require_place(command, out)


def write_folder(command: str, out: Path, opened: Model, model: Any, dtype: str) -> None:
    """Write the whole folder aside, then give it its name."""
    from minillm.formats.files import name_target
    from minillm.models.folder import save_model

    _round(command, model, dtype)
    aside = out.with_name(f"{out.name}.{secrets.token_hex(4)}.tmp")
    try:
        save_model(aside, model, writing.tokenizer_of(opened), dtype=dtype)
        if out.exists():
            out.rmdir()
        os.replace(aside, out)
    except BaseException as error:
        shutil.rmtree(aside, ignore_errors=True)
        name_target(error, aside, out)
        raise


def _round(command: str, model: Any, dtype: str) -> None:
    """Give the weights the values they will have in the file, so that the logits stored fit."""
    kind = dtype.upper()
    for name, parameter in model.named_parameters() if dtype != "f32" else ():
        try:
            raw = numpy.concatenate(list(encode(kind, parameter.data)))
        except ValueError as error:
            raise ValueError(f"{command}: {name}: {error}") from error
        Blocks(raw.view(numpy.uint8), kind, parameter.shape).decode(parameter.data)


def _table(found: dict[str, Any]) -> str:
    source, written = found["in"], found["out"]
    share = written["bytes"] / source["bytes"]
    return (
        f"in    {size(source['bytes']):>8}  {source['path']}\n"
        f"out   {size(written['bytes']):>8}  {written['path']}, {written['to']} {written['dtype']},"
        f" {share:.0%} of the size\n"
        f"largest logit difference on the reference prompt: "
        f"{number(found['largest_logit_difference'])}"
        f" (the largest logit is {number(found['largest_logit'])})"
    )
