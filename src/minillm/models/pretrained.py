"""What whole models share: coming from files or the hub by one call, and going back."""

from __future__ import annotations

import os
from typing import Any, Self

from minillm import nn


class Pretrained(nn.Module):
    """A module that is a whole model of a family."""

    config: Any

    @classmethod
    def from_pretrained(cls, path: str | os.PathLike[str]) -> Self:
        """The model of a folder, a .gguf file or a name, which is fetched from the hub if need be.

        In evaluation mode. TypeError if it is of another family; else errors as in `load_model`
        and, where the hub does not give it, `hub.pull`.
        """
        from minillm.models.folder import load_model

        model = load_model(path, pull=True)
        if not isinstance(model, cls):
            raise TypeError(
                f"from_pretrained: {path} is {type(model).__name__}, {cls.__name__} was asked for"
            )
        return model

    def save_pretrained(self, folder: str | os.PathLike[str], tokenizer: Any = None) -> None:
        """Write the model, and its tokenizer if one is given, in Hugging Face layout."""
        from minillm.models.folder import save_model

        save_model(folder, self, tokenizer)
