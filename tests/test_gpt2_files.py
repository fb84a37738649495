"""GPT-2 in and out of a folder, and the settings it refuses."""

import json

import numpy as np
import pytest

from minillm.formats import hf, safetensors
from minillm.models import GPT2, GPT2Config
from minillm.models.folder import load, load_model, save_description, save_weights
from minillm.tokenizers import ByteTokenizer
from small_gpt2 import SIZES, logits, small


class TestConfig:
    def test_it_comes_back_from_config_json(self):
        config = GPT2Config(**SIZES, dropout=0.25, layer_norm_epsilon=1e-6, eos_token_id=3,
                            activation_function="gelu")  # fmt: skip
        assert GPT2Config.from_hf(json.loads(json.dumps(config.to_hf()))) == config

    @pytest.mark.parametrize(
        "change, message",
        [
            ({"n_head": 5}, "5 heads do not divide the width 12"),
            ({"n_layer": 0}, "n_layer is 0"),
            ({"n_embd": -12}, "n_embd is -12"),
            ({"vocab_size": 13.0}, "vocab_size is 13.0, a whole number"),
            ({"vocab_size": "13"}, "vocab_size is '13', a whole number"),
            ({"n_positions": True}, "n_positions is True, a whole number"),
            ({"n_positions": None}, "n_positions is None, a whole number"),
            ({"resid_pdrop": 1.0}, "dropout is 1.0"),
            ({"resid_pdrop": "0.1"}, "dropout is '0.1'"),
            ({"layer_norm_epsilon": -1e-5}, "layer_norm_epsilon is -1e-05"),
            ({"layer_norm_epsilon": "1e-5"}, "layer_norm_epsilon is '1e-5'"),
            ({"activation_function": "relu6"}, "activation 'relu6', one of gelu_new"),
            ({"tie_word_embeddings": "no"}, "tie_word_embeddings is 'no', a bool"),
            ({"scale_attn_weights": 1}, "scale_attn_weights is 1, a bool"),
            ({"add_cross_attention": True}, "add_cross_attention=True is not implemented"),
            ({"n_inner": 0}, "n_inner is 0, a whole number"),
            ({"eos_token_id": "end"}, "eos_token_id is 'end', an id or several are needed"),
            ({"eos_token_id": [1, None]}, r"eos_token_id is \(1, None\), an id or several"),
        ],
    )
    def test_what_is_not_implemented_is_refused(self, change, message):
        content = GPT2Config(**SIZES).to_hf() | change
        with pytest.raises(ValueError, match=f"gpt2: .*{message}"):
            GPT2Config.from_hf(content)

    @pytest.mark.parametrize(
        "change, eos",
        [
            ({"eos_token_id": 5}, 5),
            ({"eos_token_id": [5, 7]}, (5, 7)),
            ({"eos_token_id": None}, None),
            ({"eos_token_id": []}, None),
            ({"vocab_size": 50257}, 50256),
            ({"vocab_size": 50256}, None),
        ],
    )
    def test_the_end_of_text(self, change, eos):
        content = GPT2Config(**SIZES).to_hf()
        del content["eos_token_id"]
        config = GPT2Config.from_hf(content | change)
        assert config.eos_token_id == eos
        assert GPT2Config.from_hf(json.loads(json.dumps(config.to_hf()))) == config

    def test_what_config_json_leaves_out_is_as_in_transformers(self):
        config = GPT2Config.from_hf(dict(SIZES))
        assert config == GPT2Config(**SIZES, dropout=0.1)

    @pytest.mark.parametrize("name", SIZES)
    def test_a_missing_size_is_named(self, name):
        content = GPT2Config(**SIZES).to_hf()
        del content[name]
        with pytest.raises(ValueError, match=f"config.json has no '{name}'"):
            GPT2Config.from_hf(content)


def save(folder, model):
    folder.mkdir(exist_ok=True)
    hf.write_json(folder / "config.json", model.config.to_hf())
    save_weights(folder, model)
    return folder


def rewrite(folder, change):
    """Apply `change` to the arrays of model.safetensors and write them without reference logits."""
    arrays, _ = safetensors.read(folder / "model.safetensors")
    arrays = {name: np.array(array) for name, array in arrays.items()}
    arrays = change(arrays) or arrays
    safetensors.write(folder / "model.safetensors", arrays, {"format": "pt"})
    return folder


class TestFiles:
    def test_what_is_saved_comes_back(self, tmp_path, recwarn):
        model = small()
        again = load_model(save(tmp_path, model))
        assert np.array_equal(logits(again), logits(model))
        assert not again.training
        assert not recwarn.list

    def test_conv1d_weights_are_stored_transposed(self, tmp_path):
        """(in, out), also for the square one, whose shape cannot tell."""
        model = small()
        arrays, metadata = safetensors.read(save(tmp_path, model) / "model.safetensors")
        state = model.state_dict()
        assert metadata["format"] == "pt"
        assert arrays.keys() == {f"transformer.{name}" for name in state}
        for name in ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj"):
            stored = arrays[f"transformer.h.1.{name}.weight"]
            assert np.array_equal(stored, state[f"h.1.{name}.weight"].T)
        for name in ("wte.weight", "wpe.weight", "h.0.attn.c_attn.bias"):
            assert np.array_equal(arrays[f"transformer.{name}"], state[name])

    @pytest.mark.parametrize(
        "change",
        [
            lambda a: {name.removeprefix("transformer."): array for name, array in a.items()},
            lambda a: a.update({"transformer.h.0.attn.bias": np.ones((1, 1, 9, 9), np.uint8),
                                "h.1.attn.masked_bias": np.array(-1e4, np.float32)}),
            lambda a: a.update({"lm_head.weight": a["transformer.wte.weight"]}),
            lambda a: a.update({"lm_head.weight": a.pop("transformer.wte.weight")}),
            lambda a: {name: array.T if ".c_" in name else array for name, array in a.items()},
        ],
        ids=["no prefix", "mask buffers", "head as well", "head only", "as Linear stores them"],
    )  # fmt: skip
    def test_variants_that_mean_the_same(self, tmp_path, recwarn, change):
        model = small()
        again = load_model(rewrite(save(tmp_path, model), change))
        assert np.array_equal(logits(again), logits(model))
        assert not recwarn.list

    @pytest.mark.parametrize("prefix", ["transformer.", ""])
    def test_a_head_of_its_own(self, tmp_path, prefix):
        model = small(tie_word_embeddings=False, n_inner=10, scale_attn_weights=False)
        save(tmp_path, model)
        rewrite(
            tmp_path,
            lambda arrays: {n.replace("transformer.", prefix): a for n, a in arrays.items()},
        )
        again = load_model(tmp_path)
        assert again.config == model.config
        assert np.array_equal(logits(again), logits(model))
        assert not np.array_equal(again.lm_head.weight.data, again.wte.weight.data)

    def test_a_head_that_differs_is_named(self, tmp_path):
        def change(arrays):
            arrays["lm_head.weight"] = arrays["transformer.wte.weight"].copy()
            arrays["lm_head.weight"][3, 4] += 0.5

        model = small()
        rewrite(save(tmp_path, model), change)
        with pytest.warns(
            UserWarning, match=r"lm_head\.weight and wte\.weight differ by up to 0\.5"
        ):
            again = load_model(tmp_path)
        assert np.array_equal(logits(again), logits(model))

    def test_a_head_that_is_no_number_is_named(self, tmp_path):
        def change(arrays):
            arrays["lm_head.weight"] = np.full_like(arrays["transformer.wte.weight"], np.nan)

        rewrite(save(tmp_path, small()), change)
        with pytest.warns(UserWarning, match="differ by up to nan"):
            load_model(tmp_path)

    def test_weights_without_a_shape_are_refused(self, tmp_path):
        names = ("transformer.wte.weight", "lm_head.weight")
        rewrite(save(tmp_path, small()), lambda a: a.update(dict.fromkeys(names, np.float32(1))))
        with pytest.raises(ValueError, match=r"wte\.weight has shape \(\)"):
            load_model(tmp_path)

    def test_a_name_with_and_without_prefix_is_refused(self, tmp_path):
        change = {"wte.weight": np.ones((13, 12), np.float32)}
        rewrite(save(tmp_path, small()), lambda arrays: arrays.update(change))
        with pytest.raises(ValueError, match=r"gpt2: wte\.weight is there twice, one is needed"):
            load_model(tmp_path)

    @pytest.mark.parametrize(
        "change, message",
        [
            (lambda a: a.__delitem__("transformer.ln_f.bias"), r"missing ln_f\.bias"),
            (lambda a: a.update(extra=np.ones(1)), "unknown extra"),
            (lambda a: a.update({"transformer.wpe.weight": np.ones((8, 12), np.float32)}),
             r"wpe\.weight has shape \(8, 12\), \(9, 12\) is needed"),
        ],
    )  # fmt: skip
    def test_weights_of_another_model_are_refused(self, tmp_path, change, message):
        rewrite(save(tmp_path, small()), change)
        with pytest.raises(ValueError, match=rf"model\.safetensors: load_state_dict: {message}"):
            load_model(tmp_path)

    def test_logits_that_cannot_be_reproduced_are_reported(self, tmp_path):
        path = save(tmp_path, small()) / "model.safetensors"
        arrays, metadata = safetensors.read(path)
        arrays = {name: np.array(array) for name, array in arrays.items()}
        arrays["transformer.h.0.attn.c_proj.weight"] = arrays[
            "transformer.h.0.attn.c_proj.weight"
        ].T
        safetensors.write(path, arrays, metadata)
        with pytest.warns(UserWarning, match=r"logits differ by up to \S+ from those stored"):
            load_model(tmp_path)

    def test_saving_keeps_the_mode(self, tmp_path):
        model = small(dropout=0.5).train()
        save(tmp_path, model)
        assert model.training and model.h[0].dropout.training

    def test_a_folder_without_a_model(self, tmp_path):
        with pytest.raises(FileNotFoundError, match=r"is no model folder \(no config\.json\)"):
            load_model(tmp_path)
        with pytest.raises(FileNotFoundError, match="is not a folder"):
            load_model(tmp_path / "none")
        hf.write_json(tmp_path / "config.json", GPT2Config(**SIZES).to_hf())
        with pytest.raises(FileNotFoundError, match=r"no model\.safetensors"):
            load_model(tmp_path)
        untrained = load_model(tmp_path, untrained=True, seed=4)
        assert np.array_equal(logits(untrained), logits(GPT2(GPT2Config(**SIZES), 4).eval()))

    @pytest.mark.parametrize(
        "text, message",
        [("{", "not valid JSON"), ("[]", "a JSON object is needed, this is a list"),
         ('{"model_type": "mamba"}', "model_type 'mamba' .* is not known, one of gpt2"),
         ("{}", "model_type None")],
    )  # fmt: skip
    def test_a_config_that_cannot_be_used(self, tmp_path, text, message):
        (tmp_path / "config.json").write_text(text, encoding="utf-8")
        with pytest.raises(ValueError, match=message):
            load_model(tmp_path)

    def test_model_and_tokenizer_must_fit(self, tmp_path):
        tokenizer = ByteTokenizer()
        for size, fits in ((257, True), (300, True), (256, False)):
            folder = tmp_path / str(size)
            model = small(vocab_size=size)
            save_description(save(folder, model), model, tokenizer)
            if fits:
                assert load(folder)[1].eos_id == 256
            else:
                with pytest.raises(ValueError, match="has 257 ids, the model only 256"):
                    load(folder)
