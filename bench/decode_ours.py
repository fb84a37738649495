"""A minillm model at the far end of a line, through `generation.Reader`."""

from __future__ import annotations

from typing import Any

from bench.line import serve
from minillm import kernels
from minillm.generation.reading import Reader
from minillm.models.folder import load, load_model


class Ours:
    def __init__(self, options: dict[str, Any]) -> None:
        kernels.set_threads(options["threads"])
        self.precision = kernels.precision(options["precision"])
        self.precision.__enter__()  # to the end of the process
        opened = load if options["vocabulary"] else load_model
        model: Any = opened(options["path"])
        self.reader = Reader(model[0] if options["vocabulary"] else model)
        self.reading = self.reader.begin()

    def read(self, ids: list[int], anew: bool) -> Any:
        if anew:
            self.reading = self.reader.begin()
        return self.reader.read([(self.reading, ids)])[0]


if __name__ == "__main__":
    serve(Ours)
