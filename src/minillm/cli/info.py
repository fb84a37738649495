"""Say what a model is, from the headers of its files: sizes, memory, tokenizer, checks."""

from __future__ import annotations

import argparse
import json
from typing import Any

from minillm.cli.main import OK
from minillm.quantities import count, counted, size


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="PATH", help="folder, .gguf file or pulled name")
    parser.add_argument("--json", action="store_true", help="print a JSON object")


def run(arguments: argparse.Namespace) -> int:
    from minillm.models.describing import describe

    found = describe(arguments.model)
    if arguments.json:
        print(json.dumps(found, ensure_ascii=False))
        return OK
    for name, text in lines(found):
        print(f"{name:<12}{text}")
    return OK


def lines(found: dict[str, Any]) -> list[tuple[str, str]]:
    """The same for people."""
    architecture = f" ({found['architecture']})" if found["architecture"] else ""
    heads = counted(found["heads"], "head")
    if found["kv_heads"] != found["heads"]:
        heads += f" ({found['kv_heads']} of keys and values)"
    files = found["files"][0] if len(found["files"]) == 1 else f"{len(found['files'])} files"
    stored = ", ".join(f"{count(n)} in {dtype}" for dtype, n in found["dtypes"].items())
    context = "unbounded" if found["context"] is None else f"{found['context']:,} tokens"
    return [
        ("model", f"{found['family']}{architecture}, {found['kind']}"),
        ("parameters", f"{count(found['parameters'])} ({found['parameters']:,})"),
        ("shape", f"{counted(found['layers'], 'layer')}, width {found['width']}, {heads}"),
        ("context", context),
        ("vocabulary", f"{found['vocab_size']:,} embeddings"),
        ("tokenizer", _tokenizer(found["tokenizer"])),
        ("file", f"{files}, {size(found['file_bytes'])}: {stored}"),
        ("to run", _to_run(found["memory"], found["context"])),
        ("to tune", _to_tune(found["memory"])),
        ("checks", _checks(found["checks"])),
    ]


def _tokenizer(found: dict[str, Any] | None) -> str:
    if found is None:
        return "none"
    return found.get("error") or f"{found['kind']}, {found['vocab_size']:,} tokens"


def _to_run(memory: dict[str, Any], context: int | None) -> str:
    text = f"{size(memory['run'])} of memory"
    if memory["run"] < memory["float32"]:
        text += f" with blocks as they are ({size(memory['float32'])} in float32)"
    else:
        text += " in float32"
    if memory["per_token"]:
        text += f", and {size(memory['per_token'])} for each token of context"
        if context is not None:
            text += f" ({size(memory['per_token'] * context)} for all)"
    return text + _fits(memory["run"], memory["free"])


def _to_tune(memory: dict[str, Any]) -> str:
    tokens = f"with AdamW and {memory['tune_tokens']:,} tokens a step"
    return f"about {size(memory['tune'])}, {tokens}{_fits(memory['tune'], memory['free'])}"


def _fits(needed: int, free: int | None) -> str:
    if free is None or needed <= free:
        return ""
    return f"; only {size(free)} are free"


def _checks(found: dict[str, bool]) -> str:
    words = {"digest": "digest of all content", "reference_logits": "reference logits"}
    held = [words[name] for name, there in found.items() if there]
    return f"{' and '.join(held)} stored, compared when it is loaded" if held else "none stored"
