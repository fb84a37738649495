"""The Llama family in and out of a folder, and the settings it refuses."""

import json

import numpy as np
import pytest

from minillm.formats import hf, safetensors
from minillm.models import LlamaConfig
from minillm.models.folder import load_model, save_description, save_model
from minillm.tokenizers import ByteTokenizer
from small_llama import CASES, SIZES, content, logits, small


class TestConfig:
    @pytest.mark.parametrize("case", CASES)
    def test_it_comes_back_from_config_json(self, case):
        config = LlamaConfig.from_hf(content(case))
        assert LlamaConfig.from_hf(json.loads(json.dumps(config.to_hf()))) == config

    @pytest.mark.parametrize(
        "kind, expected",
        [
            ("llama", {"max_position_embeddings": 2048, "num_key_value_heads": 32, "head_dim": 4,
                       "attention_bias": False, "eos_token_id": 2, "bos_token_id": 1}),
            ("mistral", {"max_position_embeddings": 131072, "num_key_value_heads": 8,
                         "head_dim": 4, "windows": (4096, 4096), "eos_token_id": 2}),
            ("qwen2", {"max_position_embeddings": 32768, "num_key_value_heads": 32, "head_dim": 4,
                       "attention_bias": True, "output_bias": False, "windows": (None, None),
                       "eos_token_id": None, "query_norm": False}),
            ("qwen3", {"num_key_value_heads": 32, "head_dim": 128, "attention_bias": False,
                       "windows": (None, None), "query_norm": True, "hidden_act": "silu",
                       "rms_norm_eps": 1e-6, "tie_word_embeddings": False,
                       "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0}}),
        ],
    )  # fmt: skip
    def test_what_config_json_leaves_out_has_transformers_defaults(self, kind, expected):
        """Read from the signatures of its configuration classes, version 5.24."""
        sizes = {"vocab_size": 9, "hidden_size": 128, "intermediate_size": 8}
        sizes |= {"num_hidden_layers": 2, "num_attention_heads": 32}
        config = LlamaConfig.from_hf({"model_type": kind} | sizes)
        assert {name: getattr(config, name) for name in expected} == expected

    def test_both_spellings_of_rotary_parameters_mean_the_same(self):
        scaling = {"factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
        old = {"rope_theta": 5e5, "rope_scaling": {"type": "llama3", **scaling}}
        new = {"rope_parameters": {"rope_type": "llama3", "rope_theta": 5e5, **scaling}}
        configs = [LlamaConfig.from_hf(content("llama") | spelt) for spelt in (old, new)]
        assert configs[0] == configs[1]
        assert configs[0].rope_parameters == new["rope_parameters"]
        empty = {"rope_theta": 7.0, "rope_parameters": {"rope_theta": None, "rope_type": "default"}}
        beside = new | {"rope_theta": 3.0, "original_max_position_embeddings": 8}
        assert LlamaConfig.from_hf(content("llama") | empty).rope_parameters["rope_theta"] == 7.0
        assert LlamaConfig.from_hf(content("llama") | beside).rope_parameters == (
            new["rope_parameters"] | {"original_max_position_embeddings": 8}
        )
        plain = LlamaConfig.from_hf(content("llama") | {"rope_theta": 7.0, "rope_scaling": None})
        assert plain.rope_parameters == {"rope_type": "default", "rope_theta": 7.0}

    def test_several_ids_may_end_a_text(self):
        config = LlamaConfig.from_hf(content("llama") | {"eos_token_id": [2, 7]})
        assert config.eos_token_id == (2, 7)
        assert config.to_hf()["eos_token_id"] == [2, 7]

    def test_settings_without_influence_are_accepted(self):
        harmless = {
            "pretraining_tp": 1, "rope_interleaved": False, "use_cache": True,
            "initializer_range": 0.1, "architectures": ["X"], "is_llama_config": True,
            "torch_dtype": "bfloat16", "dtype": "bfloat16", "transformers_version": "4.40.0",
            "attention_dropout": None, "partial_rotary_factor": 1.0, "sliding_window": None,
            "quantization_config": None, "num_key_value_heads": 2, "layer_types": None,
        }  # fmt: skip
        assert LlamaConfig.from_hf(content("llama") | harmless) == LlamaConfig.from_hf(
            content("llama")
        )

    @pytest.mark.parametrize(
        "kind, change, message",
        [
            ("llama", {"num_key_value_heads": 3}, "4 heads on 3 key-value heads"),
            ("llama", {"num_attention_heads": 5, "num_key_value_heads": 5},
             "5 heads do not divide the width 12, head_dim or a width"),
            ("llama", {"head_dim": 3}, "heads of 3 features, an even number"),
            ("llama", {"num_hidden_layers": 0}, "num_hidden_layers is 0"),
            ("llama", {"num_hidden_layers": 10**12}, "a whole number from 1 to 65536"),
            ("qwen2", {"num_hidden_layers": 10**12, "use_sliding_window": True}, "to 65536"),
            ("llama", {"vocab_size": "13"}, "vocab_size is '13', a whole number"),
            ("llama", {"hidden_size": 12.0}, "hidden_size is 12.0, a whole number"),
            ("llama", {"num_attention_heads": True}, "num_attention_heads is True"),
            ("llama", {"max_position_embeddings": None}, "max_position_embeddings is None"),
            ("llama", {"rms_norm_eps": "1e-5"}, "rms_norm_eps is '1e-5'"),
            ("llama", {"rms_norm_eps": -1.0}, "rms_norm_eps is -1.0"),
            ("llama", {"attention_dropout": 1.0}, "attention_dropout is 1.0"),
            ("llama", {"tie_word_embeddings": None}, "tie_word_embeddings is None"),
            ("llama", {"hidden_act": "mish"}, "hidden_act 'mish', one of gelu_new"),
            ("llama", {"hidden_act": None}, "hidden_act None"),
            ("llama", {"eos_token_id": "2"}, "eos_token_id is '2'"),
            ("llama", {"eos_token_id": [2, None]}, r"eos_token_id is \(2, None\)"),
            ("llama", {"pretraining_tp": 2}, "pretraining_tp=2 is not implemented"),
            ("llama", {"rope_interleaved": True}, "rope_interleaved=True is not implemented"),
            ("llama", {"quantization_config": {"bits": 4}}, "quantization_config=.* not impl"),
            ("llama", {"is_causal": False}, "is_causal=False is not implemented"),
            ("llama", {"sliding_window": 8}, "sliding_window=8 is not implemented"),
            ("llama", {"layer_types": ["sliding_attention"] * 2}, "a window is needed exactly"),
            ("mistral", {"attention_bias": True}, "attention_bias=True is not implemented"),
            ("mistral", {"sliding_window": 4,
                         "layer_types": ["sliding_attention", "full_attention"]},
             "layer_types .* with sliding_window=4 is not implemented"),
            ("mistral", {"sliding_window": 0}, "sliding_window is 0, a whole number from 1"),
            ("qwen2", {"attention_bias": False}, "attention_bias=False is not implemented"),
            ("qwen2", {"mlp_bias": True}, "mlp_bias=True is not implemented"),
            ("qwen2", {"layer_types": ["full_attention"]}, "for each of 2 layers is needed"),
            ("qwen2", {"layer_types": ["full_attention", "chunked_attention"]}, "chunked"),
            ("qwen2", {"layer_types": 2}, "layer_types is 2, a list of names"),
            ("qwen2", {"layer_types": ["sliding_attention"] * 2}, "a window is needed exactly"),
            ("qwen3", {"use_sliding_window": True, "max_window_layers": None},
             "max_window_layers is None"),
            ("qwen3", {"rope_scaling": {"rope_type": "su", "factor": 2.0}}, "rope_type 'su'"),
            ("qwen3", {"rope_scaling": "linear"}, "rope_scaling is 'linear', an object"),
            ("qwen3", {"rope_parameters": {"full_attention": {"rope_theta": 1.0}}},
             "rope_parameters of its own for full_attention is not implemented"),
            ("qwen3", {"rope_parameters": {"rope_theta": 2.0}, "rope_scaling": {"type": "linear"}},
             "rope_parameters and rope_scaling differ"),
            ("llama", {"rope_theta": 0, "head_dim": 4}, "rope_theta is 0, a number above 0"),
            ("llama", {"partial_rotary_factor": 0.5, "head_dim": 4},
             "partial_rotary_factor=0.5 is not implemented"),
            ("phi", {}, "model_type 'phi', one of llama, mistral, qwen2, qwen3 is needed"),
        ],
    )  # fmt: skip
    def test_what_is_not_implemented_is_refused(self, kind, change, message):
        with pytest.raises(ValueError, match=rf"^(llama|{kind}|rope): .*{message}"):
            LlamaConfig.from_hf(SIZES | {"model_type": kind} | change)

    @pytest.mark.parametrize("name", sorted(SIZES.keys() - {"num_key_value_heads"}))
    def test_a_missing_size_is_named(self, name):
        description = content("llama")
        del description[name]
        if name == "max_position_embeddings":  # which has a default
            assert LlamaConfig.from_hf(description).context == 2048
            return
        with pytest.raises(ValueError, match=f"llama: config.json has no '{name}'"):
            LlamaConfig.from_hf(description)


def rewrite(folder, model, change):
    """Save the model and apply `change` to the arrays in the file."""
    save_model(folder, model)
    arrays, _ = safetensors.read(folder / "model.safetensors")
    arrays = {name: np.array(array) for name, array in arrays.items()}
    arrays = change(arrays) or arrays
    safetensors.write(folder / "model.safetensors", arrays, {"format": "pt"})
    return folder


class TestFiles:
    @pytest.mark.parametrize(
        ("ids", "expected"),
        [
            ({"bos_token_id": 3, "eos_token_id": [5, 256]}, {"bos": 3, "eos": [5, 256]}),
            ({"bos_token_id": None, "eos_token_id": None}, {"bos": 256, "eos": 256}),
        ],
    )
    def test_what_begins_and_ends_a_text(self, tmp_path, ids, expected):
        save_description(tmp_path, small("llama", vocab_size=257, **ids), ByteTokenizer())
        content = hf.read_json(tmp_path / "generation_config.json")
        assert content == {f"{n}_token_id": id for n, id in expected.items()} | {"do_sample": True}

    @pytest.mark.parametrize("case", ["llama", "tied", "qwen2, window", "qwen3"])
    def test_what_is_saved_comes_back(self, tmp_path, recwarn, case):
        model = small(case)
        save_model(tmp_path, model)
        again = load_model(tmp_path)
        assert again.config == model.config
        assert np.array_equal(logits(again), logits(model))
        assert not again.training
        assert not recwarn.list

    def test_names_are_those_of_hugging_face(self, tmp_path):
        model = small("qwen3")
        save_model(tmp_path, model)
        arrays, _ = safetensors.read(tmp_path / "model.safetensors")
        layer = [name.removeprefix("model.layers.1.") for name in arrays if "layers.1." in name]
        projections = [f"self_attn.{x}_proj" for x in "qkvo"]
        assert sorted(layer) == sorted(
            [f"{name}.{part}" for name in projections for part in ("weight", "bias")]
            + [f"mlp.{name}_proj.weight" for name in ("gate", "up", "down")]
            + [f"self_attn.{name}_norm.weight" for name in "qk"]
            + ["input_layernorm.weight", "post_attention_layernorm.weight"]
        )
        others = {"model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"}
        assert {name for name in arrays if "layers" not in name} == others

    @pytest.mark.parametrize("case", ["llama", "tied"])
    @pytest.mark.parametrize(
        "change",
        [
            lambda a: {name.removeprefix("model."): array for name, array in a.items()},
            lambda a: a.update({"model.layers.0.self_attn.rotary_emb.inv_freq": np.ones(4)}),
        ],
        ids=["no prefix", "angle buffers"],
    )
    def test_variants_that_mean_the_same(self, tmp_path, recwarn, case, change):
        model = small(case)
        again = load_model(rewrite(tmp_path, model, change))
        assert np.array_equal(logits(again), logits(model))
        assert not recwarn.list

    def test_a_tied_head_may_be_there_under_either_name(self, tmp_path, recwarn):
        embedding, head, model = "model.embed_tokens.weight", "lm_head.weight", small("tied")
        for place, change in enumerate(
            (
                lambda a: a.update({head: a[embedding]}),
                lambda a: a.update({head: a.pop(embedding)}),
            )
        ):
            again = load_model(rewrite(tmp_path / str(place), model, change))
            assert np.array_equal(logits(again), logits(model))
        assert not recwarn.list
        folder = rewrite(tmp_path / "2", model, lambda a: a.update({head: a[embedding] + 0.5}))
        with pytest.warns(UserWarning, match=r"llama: lm_head\.weight and embed_tokens\.weight"):
            load_model(folder)

    @pytest.mark.parametrize(
        "change, message",
        [
            (lambda a: a.__delitem__("lm_head.weight"), r"missing lm_head\.weight"),
            (lambda a: a.update({"model.layers.0.self_attn.q_proj.bias": np.ones(32)}),
             r"unknown layers\.0\.self_attn\.q_proj\.bias"),
            (lambda a: a.update({"model.layers.1.self_attn.k_proj.weight": np.ones((12, 16))}),
             r"k_proj\.weight has shape \(12, 16\), \(16, 12\) is needed"),
        ],
    )  # fmt: skip
    def test_weights_of_another_model_are_refused(self, tmp_path, change, message):
        rewrite(tmp_path, small(), change)
        with pytest.raises(ValueError, match=message):
            load_model(tmp_path)
