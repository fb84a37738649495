"""One of several texts."""

from __future__ import annotations

import json
from collections.abc import Sequence

from minillm.generation.constraints.constraint import Constraint, compiled
from minillm.generation.constraints.language import literals
from minillm.tokenizers import Tokenizer


def choices(texts: Sequence[str], tokenizer: Tokenizer) -> Constraint:
    """The text is one of `texts`. ValueError for none, or a lone surrogate, naming the place."""
    if isinstance(texts, str) or not all(isinstance(text, str) for text in texts):
        raise TypeError("choices: a list of str is needed")
    if not texts:
        raise ValueError("choices: none is given, at least one is needed")
    for index, text in enumerate(texts):
        wrong = next((at for at, one in enumerate(text) if 0xD800 <= ord(one) <= 0xDFFF), None)
        if wrong is not None:
            raise ValueError(
                f"choices: lone surrogate U+{ord(text[wrong]):04X} at position {wrong} of choice "
                f"{index}, valid Unicode is needed"
            )
    source = json.dumps(list(texts))
    return compiled(
        "choices", source, tokenizer, lambda: literals(text.encode("utf-8") for text in texts)
    )
