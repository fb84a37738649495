"""llama.cpp at the far end of a line: its C interface, as llama-cpp-python gives it."""

from __future__ import annotations

import ctypes
from typing import Any

import llama_cpp
import numpy

from bench.line import serve


class LlamaCpp:
    """The library's defaults, but for threads, the context and the size of a batch."""

    def __init__(self, options: dict[str, Any]) -> None:
        threads, context = options["threads"], options["context"]
        self.model = llama_cpp.Llama(
            options["path"],
            n_ctx=context,
            n_batch=min(512, context),
            n_ubatch=min(512, context),
            n_threads=threads,
            n_threads_batch=threads,
            verbose=False,
        )
        self.memory = llama_cpp.llama_get_memory(self.model.ctx)
        self.shape = (self.model.n_vocab(),)

    def read(self, ids: list[int], anew: bool) -> Any:
        if anew:
            llama_cpp.llama_memory_clear(self.memory, True)
        tokens = (ctypes.c_int32 * len(ids))(*ids)
        failed = llama_cpp.llama_decode(
            self.model.ctx, llama_cpp.llama_batch_get_one(tokens, len(ids))
        )
        if failed:
            raise RuntimeError(f"llama_decode: {failed}")
        return numpy.ctypeslib.as_array(
            llama_cpp.llama_get_logits_ith(self.model.ctx, -1), self.shape
        )


if __name__ == "__main__":
    serve(LlamaCpp)
