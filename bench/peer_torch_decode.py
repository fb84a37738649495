"""PyTorch at the far end of a line: a GPT-2 in Hugging Face layout, keys and values in place."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F

from bench.line import serve
from bench.torch_gpt2 import features

TRANSPOSED = ("attn.c_attn.weight", "attn.c_proj.weight", "mlp.c_fc.weight", "mlp.c_proj.weight")


def weights(folder: Path) -> dict[str, Any]:
    """The tensors of model.safetensors, float32, matrices (out, in)."""
    data = torch.from_file(
        str(folder / "model.safetensors"),
        size=(folder / "model.safetensors").stat().st_size,
        dtype=torch.uint8,
    )
    begin = 8 + int.from_bytes(bytes(data[:8].tolist()), "little")
    found = {}
    for name, entry in json.loads(bytes(data[8:begin].tolist())).items():
        if name != "__metadata__":
            start, end = entry["data_offsets"]
            raw = data[begin + start : begin + end].clone().view(torch.float32)
            tensor = raw.reshape(entry["shape"])
            turned = name.endswith(TRANSPOSED)
            found[name.removeprefix("transformer.")] = tensor.T.contiguous() if turned else tensor
    return found


class Torch:
    def __init__(self, options: dict[str, Any]) -> None:
        torch.set_num_threads(options["threads"])
        folder = Path(options["path"])
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        self.size = SimpleNamespace(
            layers=config["n_layer"],
            heads=config["n_head"],
            width=config["n_embd"],
            activation=config["activation_function"],
        )
        self.weights = weights(folder)
        self.dtype = torch.float32
        if options["precision"] == "bf16":
            self.dtype = torch.bfloat16
            self.weights = {name: w.to(self.dtype) for name, w in self.weights.items()}
        room = 1, self.size.heads, options["context"], self.size.width // self.size.heads
        self.cache = [
            (torch.empty(room, dtype=self.dtype), torch.empty(room, dtype=self.dtype))
            for _ in range(self.size.layers)
        ]
        self.start = 0

    def read(self, ids: list[int], anew: bool) -> Any:
        self.start = 0 if anew else self.start
        with torch.inference_mode():
            row = torch.tensor([ids])
            x = features(self.weights, self.size, row, self.cache, self.start)
            logits = F.linear(x[0, -1], self.weights["wte.weight"])
        self.start += len(ids)
        return logits.float().numpy()


if __name__ == "__main__":
    serve(Torch)
