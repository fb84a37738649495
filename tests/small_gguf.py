"""A small GGUF file that the `gguf` package 0.19.0 wrote: every type of metadata, four tensors."""

import base64
import zlib

import numpy as np

FOREIGN = zlib.decompress(
    base64.b64decode(
        "eNpzdw91Y2ZgYGBhgABhKC0CpdNT81KLEnP0EouSMzJLUpNLSotSOYDirFD5nJzE3ESY5kS9UgsQfQIhkGnBCKTn"
        "sCJUGJoxARkJrxBCmYZmICdc6EJSZWwENkMj+x2SOmMjMCfnVAdCMM3YiA3IOHvmjC1CsDK1mB3IYGSDi5SkVpSA"
        "3M0NFclLPLy+LFXhw/yZTUi2mplwMcBBA5LNZibcCIkDSLabmfAAGbNmgsBOe3a4RHl+UUoxJ5DJgRS4MMAIUwYz"
        "6MiCkoxUmCqQmxAOz8wrAZsDUsqMpP/f////maHmQ92Sk58IUQvSzYSwzh7oZCSnJeXn54CVsSMpY0QyKC+1uCQ1"
        "BaSCE0kFK4pqCJsVyTMgxwiip5qczPS83NS8EpDfHJCSTUFOYmYeE5KXmBgwASxAMhJz0pDTKBMazQg1nAHJAnD4"
        "M6EpAgE5UMyiWZCWX1oEUqeAxYIDDESABnuIExyAuAGIFzgwEA8MGEwYzBgsGCwZrBisGWwabBhsG2wZ7BrsGOzB"
        "5uIFB+yJcyFu2z98ErPKX/raeY/qeqtrzY7yXKL35tTE+Po7ps46zxqzRXe5Ij7tAC5xdww="
    )
)
METADATA = {
    "general.architecture": "llama",
    "a.u8": 200,
    "a.i8": -100,
    "a.u16": 60000,
    "a.i16": -30000,
    "a.u32": 4000000000,
    "a.i32": -2000000000,
    "a.f32": float(np.float32(0.1)),
    "a.yes": True,
    "a.text": "naïve 🙂",
    "a.u64": 2**63,
    "a.i64": -(2**62),
    "a.f64": 0.1,
    "a.words": ["", "a", "Ġthe", "🙂"],
    "a.ints": [1, -2, 3],
    "a.floats": [0.5, 1.5],
    "a.bools": [True, False],
    "a.nested": [[1, 2], [3]],
    "general.alignment": 64,
}
TENSORS = {  # kind, and what its numbers are; those of "four" come in blocks of another scale
    "plain": ("F32", np.arange(6).reshape(2, 3)),
    "half": ("F16", np.arange(16).reshape(2, 2, 4) / 8),
    "words": ("BF16", np.array([[1.5, -2.0]])),
    "four": ("Q4_0", None),
}


def numbers(count=64):
    """float32 from -1 to 1, exact everywhere; from the 33rd on smaller by 100."""
    place = np.arange(count)
    wave = ((place * place * 7 + place * 31) % 256 - 128) / np.float32(128)
    return np.where(place < 32, wave, wave * np.float32(0.01)).astype(np.float32)


def awkward():
    """float32 (16, 256), exact everywhere, on which an encoder has to decide as another did."""
    x = np.random.RandomState(7).randint(-4096, 4096, (16, 256)).astype(np.float32) / 1024
    x[0] = 0
    x[1] = 0.75  # one number, above and below zero
    x[2] = -0.75
    x[3, :32] = 0
    x[4] = np.round(x[4])  # ties
    x[5], x[6] = np.abs(x[5]), -np.abs(x[6])
    x[7, :128] /= 4096  # groups whose scale becomes zero beside the others'
    x[8, ::7] *= 64
    x[9] /= 1 << 24  # scales that float16 holds with few bits
    x[10] /= 1 << 60
    x[11, 32:64] = 2**-20
    return x
