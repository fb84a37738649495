"""Finding models, and refusing what cannot be one before anything is built or allocated."""

import json
import struct
import time
import tracemalloc
import warnings

import numpy as np
import pytest

import small_encoders
import small_llama
import small_t5
import small_transformer
from minillm import kernels, load, machine, nn
from minillm.formats import hf, hub, safetensors
from minillm.models import GPT2, GPT2Config
from minillm.models.folder import load_config, load_model, save_model
from minillm.models.gguf_export import write_gguf
from minillm.models.opening import find, open_model
from minillm.tokenizers import ByteTokenizer
from small_gpt2 import IDS, SIZES, logits, small


@pytest.fixture
def folder(tmp_path):
    save_model(tmp_path / "model", small(vocab_size=300), ByteTokenizer())
    return tmp_path / "model"


def configure(folder, **change):
    content = hf.read_json(folder / "config.json") | change
    hf.write_json(folder / "config.json", content)


def refused(path, message, error=ValueError):
    """In one line, at once, and without memory."""
    tracemalloc.start()
    begin = time.perf_counter()
    try:
        with pytest.raises(error, match=message) as caught:
            load_model(path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert "\n" not in str(caught.value)
    assert peak < 4e6
    assert time.perf_counter() - begin < 2  # tracing is slow


class TestFind:
    def test_a_folder_is_itself(self, folder):
        assert find(folder) == find(str(folder)) == folder

    def test_nothing_there(self, tmp_path, monkeypatch):
        monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
        monkeypatch.chdir(tmp_path)
        refused("none", "load: none is not a folder, nor a .gguf file, .*: minillm pull none",
                FileNotFoundError)  # fmt: skip
        refused("no/such/place", r"nor the name of a model in \S+$", FileNotFoundError)
        refused("a--b", "load: a--b is not a folder", FileNotFoundError)

    def test_a_single_file_is_told_apart(self, folder):
        for name in ("config.json", "model.safetensors"):
            refused(folder / name, "is not a folder nor a GGUF file, .* give the folder: ")
        (folder / "notes.txt").write_text("hi", encoding="utf-8")
        refused(
            folder / "notes.txt", r"a folder in Hugging Face layout or a \.gguf file is needed$"
        )
        (folder / "model.pt").write_bytes(b"PK")
        refused(folder / "model.pt", r"model\.pt may be a pickle, which can run any code")
        (folder / "none.gguf").write_bytes(b"")
        refused(folder / "none.gguf", r"none\.gguf \(0 bytes\) is not a folder nor a GGUF file")
        (folder / "other.gguf").write_bytes(b"GGML" + bytes(12341))
        refused(folder / "other.gguf", r"other\.gguf \(12,345 bytes\) is not a folder nor a GGUF")
        (folder / "cut.gguf").write_bytes(b"GGUF")
        refused(folder / "cut.gguf", "not a GGUF file, it has only 4 bytes")

    def test_several_gguf_files_are_named(self, tmp_path):
        for name in ("a.gguf", "b.gguf"):
            (tmp_path / name).write_bytes(b"GGUF")
        refused(tmp_path, r"holds a\.gguf, b\.gguf, the path of one of them is needed")
        (tmp_path / "b.gguf").unlink()
        assert find(tmp_path) == tmp_path / "a.gguf"

    def test_a_model_that_was_pulled_is_found_by_its_name(self, folder, tmp_path, monkeypatch):
        commit = "0123456789abcdef" * 2 + "01234567"
        model = tmp_path / "hub" / "models--org--name"
        (model / "refs").mkdir(parents=True)
        (model / "refs" / "main").write_text(commit, encoding="utf-8")
        (model / "snapshots").mkdir()
        folder.rename(model / "snapshots" / commit)
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
        assert find("org/name") == model / "snapshots" / commit
        assert load("org/name")[1].eos_id == 256
        (model / "refs" / "main").write_text("../../../etc", encoding="utf-8")
        assert find("org/name") == model / "snapshots" / commit
        for name in ("../name", "org/../name", "org/name/more", "models--org--name", ""):
            assert hub.cached(name) is None

    @pytest.mark.parametrize(
        ("variables", "place"),
        [
            ({"HF_HUB_CACHE": "/a", "HF_HOME": "/b"}, "/a"),
            ({"HF_HOME": "/b", "XDG_CACHE_HOME": "/c"}, "/b/hub"),
            ({"XDG_CACHE_HOME": "/c"}, "/c/huggingface/hub"),
            ({"HF_HUB_CACHE": "", "HOME": "/d", "USERPROFILE": "/d"}, "/d/.cache/huggingface/hub"),
        ],
    )
    def test_the_cache_is_where_the_hub_s_library_has_it(self, monkeypatch, variables, place):
        for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_HOME", "XDG_CACHE_HOME"):
            monkeypatch.delenv(name, raising=False)
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        assert hub.cache_folder().as_posix() == place


class TestContradictions:
    def test_a_model_of_other_sizes(self, folder):
        configure(folder, n_layer=1_000_000_000)
        refused(
            folder,
            r"describes [\d,]+ parameters in 1,000,000,000 layers, .* holds 7,500 in 28 tensors",
        )
        configure(folder, n_layer=2, vocab_size=10**15)
        refused(folder, "describes 12,000,000,000,003,900 parameters in 2 layers, .* do not belong")

    def test_a_layer_less(self, folder):
        configure(folder, n_layer=1)
        refused(
            folder,
            r"model\.safetensors: load_state_dict: unknown h\.1\.attn\.c_attn\.bias; .*; 6 mo",
        )

    def test_weights_that_are_no_numbers_to_compute_with(self, folder):
        arrays, _ = safetensors.read(folder / "model.safetensors")
        arrays["transformer.wte.weight"] = np.zeros((300, 12), np.int8)
        safetensors.write(folder / "model.safetensors", arrays)
        refused(folder, r"wte\.weight has dtype int8; floating-point weights are needed")

    def test_quantised_weights_are_named(self, folder):
        configure(folder, quantization_config={"quant_method": "gptq", "bits": 4})
        refused(folder, r"quantization_config \(gptq\) in .*config\.json is not supported")

    @pytest.mark.parametrize("kind", [None, 3, ["gpt2"], "gpt3", {}])
    def test_a_family_that_is_not_known(self, folder, kind):
        configure(folder, model_type=kind)
        refused(folder, r"model_type .* is not known, one of gpt2, .* is needed")

    @pytest.mark.parametrize(
        ("key", "value"),
        [
            ("hidden_act", ["silu"]),
            ("rope_scaling", {"rope_type": "yarn", "factor": 1e308}),
            ("rope_theta", 10**400),
        ],
    )
    def test_values_that_cannot_be_computed_with(self, tmp_path, key, value):
        content = {"model_type": "llama", "vocab_size": 9, "hidden_size": 8, "num_hidden_layers": 1,
                   "intermediate_size": 8, "num_attention_heads": 1, key: value}  # fmt: skip
        hf.write_json(tmp_path / "config.json", content)
        refused(tmp_path, r"load: .*config\.json holds a value of a wrong kind or size \(")

    def test_a_configuration_that_says_two_things(self, folder):
        text = (folder / "config.json").read_text(encoding="utf-8")
        (folder / "config.json").write_text('{"n_layer": 1,' + text.lstrip()[1:], encoding="utf-8")
        refused(folder, r"config\.json: not valid JSON \('n_layer' occurs twice\)")

    def test_a_configuration_of_absurd_size(self, folder):
        with open(folder / "config.json", "ab") as file:
            file.truncate(1 << 40)
        refused(folder, r"config\.json: not valid JSON \(more than 16777216 bytes\)")


ANY = {
    "gpt2": small,
    "bert": lambda: small_encoders.small("bert", "ForMaskedLM"),
    "t5": small_t5.small,
    "qwen3": lambda: small_llama.small("qwen3"),
    "transformer": small_transformer.small,
}


@pytest.mark.parametrize("name", ANY)
def test_whatever_stands_in_config_json_is_read_or_refused_in_one_line(tmp_path, name):
    """Each setting in turn of a wrong kind, absurd, or missing."""
    save_model(tmp_path, ANY[name]())
    path = tmp_path / "config.json"
    content = hf.read_json(path)
    right = load_config(tmp_path)
    missing = object()
    begin, tried = time.perf_counter(), 0
    for key in content:
        for value in (missing, None, True, -1, 10**9, 10**30, 1.5, "x" * 5000, [], {"a": 1}):
            changed = {k: value if k == key else v for k, v in content.items()}
            if value is missing:
                del changed[key]
            hf.write_json(path, changed)
            tried += 1
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    load_model(tmp_path)
            except (ValueError, FileNotFoundError) as error:
                assert "\n" not in str(error) and len(str(error)) < 1000, (key, value)
    assert time.perf_counter() - begin < 0.1 * tried
    hf.write_json(path, content)
    assert load_config(tmp_path) == right


def giant(folder):
    """A model of 2 TiB that takes no place on the disk, and is what it says it is."""
    config = GPT2Config(vocab_size=1 << 39, n_positions=1, n_embd=1, n_layer=1, n_head=1)
    hf.write_json(folder / "config.json", config.to_hf())
    header, start = {}, 0
    for name, parameter in nn.skip_init(GPT2, config).named_parameters():
        shape = list(parameter.shape[::-1] if "c_" in name else parameter.shape)
        end = start + 4 * parameter.size
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [start, end]}
        start = end
    text = json.dumps(header).encode()
    with open(folder / "model.safetensors", "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        try:
            file.truncate(8 + len(text) + start)
        except OSError:
            pytest.skip("this file system has no sparse files of 2 TiB")


def test_a_model_larger_than_memory_is_refused_with_the_figures(tmp_path):
    giant(tmp_path)
    message = (
        r"needs 2\.2 TB of memory for 550B parameters in float32, "
        r"\S+ .B are free; a model of up to \S+ parameters fits"
    )
    refused(tmp_path, rf"model\.safetensors {message}")
    with pytest.raises(ValueError, match=message):
        load_model(tmp_path, untrained=True)


@pytest.mark.skipif(kernels.cpu is None, reason="blocks need the C++ extension")
def test_blocks_need_the_memory_of_blocks(tmp_path, monkeypatch):
    path = tmp_path / "a.gguf"
    write_gguf(path, small(n_embd=64, n_head=4, vocab_size=512), None, "q8_0")
    opened = open_model(path)
    held = sum(array.nbytes for array in opened.arrays.values())
    assert opened.running_bytes() == held < 4 * opened.config.parameter_count / 3
    monkeypatch.setattr(machine, "available_memory", lambda: opened.running_bytes())
    load_model(path)
    monkeypatch.setattr(machine, "available_memory", lambda: opened.running_bytes() - 1)
    with pytest.raises(ValueError, match=r"needs 1\S+ kB of memory for \S+ parameters, "):
        load_model(path)
    with kernels.use("reference"), pytest.raises(ValueError, match="parameters in float32"):
        load_model(path)


class TestOpen:
    def test_headers_are_read_and_no_more(self, tmp_path):
        config = GPT2Config(vocab_size=20_000, n_positions=8, n_embd=64, n_layer=2, n_head=2)
        save_model(tmp_path, GPT2(config), dtype="bf16")
        tracemalloc.start()
        try:
            opened = open_model(tmp_path)
            assert load_config(tmp_path) == config
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert peak < 1e6 < opened.files[0].stat().st_size
        assert opened.config == config and not opened.is_gguf
        assert opened.metadata["format"] == "pt"

    def test_weights_are_decoded_when_they_are_used(self, tmp_path):
        save_model(tmp_path, small(), dtype="f16")
        arrays, _ = safetensors.read(tmp_path / "model.safetensors")
        safetensors.write(tmp_path / "model.safetensors", arrays, {"format": "pt"})  # no reference
        model = load_model(tmp_path)
        assert all(isinstance(p, nn.DeferredParameter) for p in model.parameters())
        assert model.parameter_count() == model.config.parameter_count
        logits(model)
        waiting = [p for p in model.parameters() if isinstance(p, nn.DeferredParameter)]
        if kernels.cpu is None:
            assert waiting == []
        else:  # matrices are multiplied as they lie in the file
            assert waiting and all(p.ndim == 2 for p in waiting)
        model.loss(np.array(IDS), np.array(IDS))
        assert not any(isinstance(p, nn.DeferredParameter) for p in model.parameters())

    def test_reference_logits_that_make_no_sense_are_reported(self, folder):
        arrays, metadata = safetensors.read(folder / "model.safetensors")
        for text in (
            "nonsense",
            "[[1]]",
            '{"a": 1}',
            "null",
            "[" * 100_000,
            json.dumps([1.0] * 999),
        ):
            metadata[hf.REFERENCE] = text
            safetensors.write(folder / "model.safetensors", arrays, metadata)
            with pytest.warns(UserWarning, match="logits differ by up to inf from those stored"):
                load_model(folder)

    def test_a_model_that_reproduces_them_is_silent(self, folder):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            load(folder)

    def test_sizes_that_fit_give_an_untrained_model(self, folder):
        model = load_model(folder, untrained=True, seed=5)
        right = GPT2(GPT2Config(**SIZES | {"vocab_size": 300}), seed=5).eval()
        assert np.array_equal(logits(model), logits(right))
