"""Models of the hub: which files are taken, what is said where they cannot be had, fetching."""

import hashlib
import json
import re
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest

from minillm.formats import hub
from minillm.models import GPT2, GPT2Config
from minillm.models.folder import load, load_model, save_model
from minillm.tokenizers import ByteTokenizer
from small_gpt2 import logits, small
from small_runs import environment, minillm, process

COMMIT = "0123456789abcdef" * 2 + "01234567"
SMALL = ["config.json", "tokenizer.json", "vocab.json", "merges.txt", "tokenizer.model"]


class TestNames:
    @pytest.mark.parametrize("name", ["gpt2", "openai-community/gpt2", "a.b/C_d-1.5"])
    def test_names_of_models(self, name):
        assert hub.is_name(name)

    @pytest.mark.parametrize(
        "name",
        ["", ".", "..", "../x", "a/../b", "/a", "a/", "a/b/c", "a b", "a--b", "-a", "a\n", "~/x"],
    )
    def test_what_is_none(self, name):
        assert not hub.is_name(name)
        assert hub.cached(name) is None
        with pytest.raises(ValueError, match="is no name on the hub"):
            hub.pull(name)


class TestWanted:
    @pytest.mark.parametrize(
        ("weights", "taken"),
        [
            (["model.safetensors"], ["model.safetensors"]),
            (["model.safetensors", "pytorch_model.bin", "model.fp16.safetensors", "tf_model.h5",
              "onnx/model.onnx", "onnx/config.json", "flax_model.msgpack",
              "pytorch_model.bin.index.json", "README.md", ".gitattributes", "old/params.json"],
             ["model.safetensors"]),
            (["model.safetensors.index.json", "model-00001-of-00002.safetensors",
              "model-00002-of-00002.safetensors", "consolidated.safetensors", "x.gguf"],
             ["model.safetensors.index.json", "model-00001-of-00002.safetensors",
              "model-00002-of-00002.safetensors"]),
            (["model.safetensors", "model.safetensors.index.json", "chat_template.jinja",
              "1_Pooling/config.json"],
             ["model.safetensors", "chat_template.jinja", "1_Pooling/config.json"]),
        ],
    )  # fmt: skip
    def test_what_runs_the_model_and_no_more(self, weights, taken):
        assert sorted(hub.wanted("m", SMALL + weights)) == sorted(SMALL + taken)

    def test_gguf_files(self):
        assert hub.wanted("m", ["README.md", "a.gguf"]) == ["a.gguf"]
        assert hub.wanted("m", ["a.gguf", "b.gguf", "config.json"], "b.gguf") == ["b.gguf"]
        with pytest.raises(ValueError, match=r"m has a\.gguf, b\.gguf, name one of them with --fi"):
            hub.wanted("m", ["a.gguf", "b.gguf"])
        with pytest.raises(ValueError, match=r"m has no c\.gguf, one of a\.gguf is needed"):
            hub.wanted("m", ["a.gguf"], "c.gguf")

    def test_no_weights(self):
        with pytest.raises(ValueError, match=r"only pickles \(\.bin\), which are never opened"):
            hub.wanted("m", [*SMALL, "pytorch_model.bin"])
        with pytest.raises(ValueError, match="no weights in safetensors or GGUF, none"):
            hub.wanted("m", SMALL)


def test_without_the_extra_the_error_names_it(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    assert minillm("pull", "org/name") == 2
    assert capsys.readouterr().err == (
        "minillm: pull: huggingface-hub is not installed, it is needed; "
        "install the extra hf, in the checkout: pip install '.[hf]'\n"
    )


class Hub(BaseHTTPRequestHandler):
    """As much of the hub as it takes to fetch one model."""

    files: dict[str, bytes]
    asked: list[str]

    def do_HEAD(self):
        self.answer(False)

    def do_GET(self):
        self.answer(True)

    def answer(self, whole):
        path = self.path.partition("?")[0]
        if path.startswith("/api/models/org/name"):
            siblings = [{"rfilename": name} for name in self.files]
            content = {"id": "org/name", "sha": COMMIT, "siblings": siblings}
            if "/tree/" in path:
                content = [{"type": "file", "path": name, "size": len(data), "oid": COMMIT}
                           for name, data in self.files.items()]  # fmt: skip
            return self.send(200, json.dumps(content).encode(), "application/json", whole)
        found = re.fullmatch(r"/org/name/resolve/[^/]+/(.+)", path)
        if found is None or found[1] not in self.files:
            return self.send(404, b"Repository not found", "text/plain", whole)
        if whole:
            self.asked.append(found[1])
        return self.send(200, self.files[found[1]], "application/octet-stream", whole)

    def send(self, status, content, kind, whole):
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.end_headers()
        if whole:
            self.wfile.write(content)

    def log_message(self, *_):
        pass


@pytest.fixture
def served(tmp_path):
    """A hub of our own with one model: the environment that leads there, and to an empty cache."""
    pytest.importorskip("huggingface_hub")
    save_model(tmp_path / "model", small(vocab_size=300), ByteTokenizer(), shard_bytes=9000)
    Hub.files = {path.name: path.read_bytes() for path in (tmp_path / "model").iterdir()}
    Hub.files |= {"pytorch_model.bin": b"pickle", "onnx/model.onnx": b"onnx", "README.md": b"#"}
    Hub.asked = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield {
        "HF_HUB_CACHE": str(tmp_path / "cache"),
        "HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}",
        "HF_HUB_OFFLINE": "0",
        "HF_HUB_DISABLE_TELEMETRY": "1",
    }
    server.shutdown()
    thread.join()
    server.server_close()


PRETRAINED = """
import sys
import numpy as np
from minillm.models import GPT2, Bert
model = GPT2.from_pretrained("org/name")
print(model.training, model.config.vocab_size)
Bert.from_pretrained("org/name")
"""


class TestPull:
    def test_a_model_is_fetched_once_and_then_found_by_its_name(self, served, monkeypatch):
        done = process("pull", "org/name", **served)
        assert done.returncode == 0, done.stderr
        monkeypatch.setenv("HF_HUB_CACHE", served["HF_HUB_CACHE"])
        assert done.stdout.strip() == str(hub.cached("org/name"))
        assert sorted(Hub.asked) == sorted(set(Hub.asked))
        assert not {"pytorch_model.bin", "onnx/model.onnx", "README.md"} & set(Hub.asked)
        again, tokenizer = load("org/name")
        assert np.array_equal(logits(again), logits(small(vocab_size=300)))
        assert tokenizer.vocab_size == 257
        count = len(Hub.asked)
        done = process("pull", "org/name", "--json", **served)
        assert json.loads(done.stdout) == {"path": str(hub.cached("org/name"))}
        assert len(Hub.asked) == count

    def test_from_pretrained_fetches_what_is_not_there(self, served):
        done = subprocess.run(
            [sys.executable, "-c", PRETRAINED],
            capture_output=True, encoding="utf-8", env=environment(**served), check=False,
        )  # fmt: skip
        assert done.stdout == "False 300\n"
        assert done.stderr.endswith("org/name is GPT2, Bert was asked for\n")

    def test_what_the_hub_does_not_have(self, served):
        done = process("pull", "org/other", **served)
        assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
        assert done.stderr.startswith("minillm: pull: org/other cannot be had from http://127.0.0.")

    def test_a_hub_that_cannot_be_reached(self, served):
        done = process("pull", "org/name", **served | {"HF_ENDPOINT": "http://127.0.0.1:9"})
        assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
        assert "cannot be had from http://127.0.0.1:9 (" in done.stderr
        assert done.stderr.endswith("copy the model's folder to this machine and give its path\n")


def test_from_pretrained_takes_a_folder_as_well(tmp_path):
    model = GPT2(GPT2Config(vocab_size=7, n_positions=5, n_embd=4, n_layer=1, n_head=1))
    model.save_pretrained(tmp_path / "m")
    again = GPT2.from_pretrained(tmp_path / "m")
    assert again.config == model.config
    assert np.array_equal(again.wte.weight.data, load_model(tmp_path / "m").wte.weight.data)
