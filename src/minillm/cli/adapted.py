"""Models with an adapter beside them, for the commands that run one."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any


def add_adapter(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--adapter", metavar="DIR", help="LoRA adapter made by finetune or peft, used beside MODEL"
    )


def load(model: str, adapter: str | None) -> tuple[Any, Any]:
    """Model and tokenizer, the adapter's chat template going before that of the model."""
    from minillm import tokenizers
    from minillm.models import folder

    found, tokenizer = folder.load(model)
    if adapter is not None:
        from minillm.models import adapter as adapters

        adapters.load(found, adapter, folder.logits_of(found))
        if (Path(adapter) / "tokenizer.json").is_file():
            own = tokenizers.load(Path(adapter))
            tokenizer.chat_template = own.chat_template or tokenizer.chat_template
    return found, tokenizer
