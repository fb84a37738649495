"""Merge a LoRA adapter into its base, and compare the logits before and after."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy

from minillm.cli import writing
from minillm.cli.convert import FORMATS, require_held, write_folder
from minillm.cli.main import FAILED, OK, tell


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("base", metavar="BASE", help="model folder, .gguf file or pulled name")
    parser.add_argument("adapter", metavar="ADAPTER", help="folder of the adapter")
    parser.add_argument("out", metavar="OUT", help="folder or .gguf file that is not there yet")
    parser.add_argument(
        "--dtype", choices=FORMATS["gguf"], default="f32", help="numbers of the weights (f32)"
    )
    parser.add_argument(
        "--any-base", action="store_true", help="merge even if the adapter was made for another"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(arguments: argparse.Namespace) -> int:
    from minillm import kernels
    from minillm.formats.hf import TOLERANCE
    from minillm.models import adapter
    from minillm.models.folder import load_model
    from minillm.models.opening import find, open_model

    out, dtype = Path(arguments.out), arguments.dtype
    target = "gguf" if out.suffix == ".gguf" else "hf"
    require_held("merge", out, target, dtype)
    opened = open_model(find(arguments.base))
    writing.tell_of_loss(opened, dtype)
    model = load_model(opened.path)
    if not arguments.any_base:
        _require_base(model, arguments)
    with kernels.use("reference"):  # the same numbers are to give the same logits
        base = writing.reference_logits(model)
        adapter.load(model, arguments.adapter)
        before = writing.reference_logits(model)
        count = adapter.merge(model)
    if target == "gguf":
        writing.write_gguf(out, opened, model, dtype)
    else:
        write_folder("merge", out, opened, model, dtype)
    del model
    with kernels.use("reference"):
        difference = writing.largest_difference(out, before)
    found = {
        "out": str(out),
        "dtype": dtype,
        "layers": count,
        "largest_logit": float(numpy.abs(before).max()),
        "largest_change_by_adapter": float(numpy.abs(before - base).max()),
        "largest_difference_by_merging": difference,
    }
    print(json.dumps(found) if arguments.json else _told(found))
    if not difference <= (
        TOLERANCE * max(1.0, found["largest_logit"]) if dtype == "f32" else numpy.inf
    ):
        tell(f"minillm: merge: {out} does not give the logits of {arguments.base} with the adapter")
        return FAILED
    return OK


def _require_base(model: Any, arguments: argparse.Namespace) -> None:
    from minillm.formats import hf
    from minillm.models import adapter
    from minillm.models.folder import logits_of

    difference = adapter.difference_of_bases(model, arguments.adapter, logits_of(model))
    if difference is not None and difference > hf.TOLERANCE:
        raise ValueError(
            f"merge: the logits of {arguments.base} differ by up to {difference:.3g} from those of "
            f"the base that {arguments.adapter} was made with, the same base is needed; or "
            "--any-base"
        )


def _told(found: dict[str, Any]) -> str:
    return (
        f"{found['out']}: {found['layers']} layers merged, in {found['dtype']}\n"
        f"largest logit                  {found['largest_logit']:.6g}\n"
        f"largest change by the adapter  {found['largest_change_by_adapter']:.3g}\n"
        f"largest difference by merging  {found['largest_difference_by_merging']:.3g}"
    )
