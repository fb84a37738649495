"""The settings of a model in the metadata of a GGUF file, checked when they are read."""

from __future__ import annotations

from typing import Any

import numpy

Metadata = dict[str, Any]
Content = dict[str, Any]  # of config.json

REQUIRED = object()


class Keys:
    """The metadata of one architecture, checked when they are read."""

    def __init__(self, metadata: Metadata, arch: str) -> None:
        self.metadata, self.arch = metadata, arch

    def refuse_unknown(self, known: tuple[str, ...], neutral: Content) -> None:
        """ValueError for other settings, unless they have their `neutral` value (None: any)."""
        for key, value in self.metadata.items():
            name = key.removeprefix(f"{self.arch}.")
            if name == key or name in known:
                continue
            held = neutral.get(name, REQUIRED)
            plain = isinstance(value, bool | int | float)
            if held is REQUIRED or (held is not None and not (plain and held == value)):
                raise ValueError(f"gguf: {key}={value!r} is not implemented")

    def get(self, name: str, kind: type, default: Any = REQUIRED) -> Any:
        """A setting of a kind, the one value where there is one for each layer."""
        key = f"{self.arch}.{name}"
        if key not in self.metadata:
            if default is REQUIRED:
                raise ValueError(f"gguf: metadata {key} is missing, it is needed")
            return default
        value = self.metadata[key]
        if isinstance(value, numpy.ndarray) and value.size and (value == value[0]).all():
            value = value[0].item()  # one for each layer, all the same
        if kind is float and type(value) in (int, float):
            return float(str(numpy.float32(value)))  # 1e-05 was meant, not 9.999999747378752e-06
        right = type(value) is kind
        if not right:
            raise ValueError(f"gguf: {key} is {value!r}, one {kind.__name__} is needed")
        if kind is int and value < 1:
            raise ValueError(f"gguf: {key} is {value}, a number from 1 is needed")
        return value
