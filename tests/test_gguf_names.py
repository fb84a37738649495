"""GGUF's names, layouts and metadata against Hugging Face's."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import small_llama
from minillm.formats import gguf, gguf_writing
from minillm.models import FAMILIES
from minillm.models.gguf_export import FILE_TYPES, write_gguf
from minillm.models.gguf_metadata import to_metadata
from minillm.models.gguf_names import GPT2_NAMES, ROTARY_NAMES, half_split, interleaved, open_gguf
from minillm.models.gguf_rope import llama3_factors
from small_gguf import numbers
from small_gpt2 import logits, small

LLAMA = {
    "general.architecture": "llama",
    "llama.vocab_size": 11,
    "llama.context_length": 64,
    "llama.embedding_length": 8,
    "llama.block_count": 1,
    "llama.feed_forward_length": 12,
    "llama.attention.head_count": 2,
    "llama.attention.head_count_kv": 1,
    "llama.attention.layer_norm_rms_epsilon": 1e-5,
    "llama.rope.dimension_count": 4,
    "llama.rope.freq_base": 500000.0,
    "tokenizer.ggml.bos_token_id": 1,
    "tokenizer.ggml.eos_token_id": 2,
}
CONTENT = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "vocab_size": 11,
    "hidden_size": 8,
    "intermediate_size": 12,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 4,
    "hidden_act": "silu",
    "max_position_embeddings": 64,
    "rms_norm_eps": 1e-5,
    "rope_theta": 500000.0,
    "rope_scaling": None,
    "tie_word_embeddings": True,
    "attention_bias": False,
    "mlp_bias": False,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "torch_dtype": "float32",
}
SHAPES = {
    "token_embd.weight": (11, 8),
    "output_norm.weight": (8,),
    "blk.0.attn_q.weight": (8, 8),
    "blk.0.attn_k.weight": (4, 8),
    "blk.0.ffn_down.weight": (8, 12),
}


def write(path, metadata, shapes=SHAPES, **more):
    tensors = {
        name: (numbers(int(np.prod(shape))).reshape(shape), "F32") for name, shape in shapes.items()
    }
    gguf_writing.write(path, metadata, tensors | {name: (a, "F32") for name, a in more.items()})
    return path


@pytest.fixture
def opened(tmp_path):
    """open_gguf of a small llama with other settings; None leaves one out."""

    def open_(changed=None, shapes=SHAPES, **more):
        metadata = {k: v for k, v in (LLAMA | (changed or {})).items() if v is not None}
        return open_gguf(write(tmp_path / "a.gguf", metadata, shapes, **more))

    return open_


class TestNames:
    @pytest.mark.parametrize(
        "names, ours, theirs",
        [
            (ROTARY_NAMES, "token_embd.weight", "model.embed_tokens.weight"),
            (ROTARY_NAMES, "output.weight", "lm_head.weight"),
            (ROTARY_NAMES, "output_norm.weight", "model.norm.weight"),
            (ROTARY_NAMES, "blk.0.attn_q.bias", "model.layers.0.self_attn.q_proj.bias"),
            (ROTARY_NAMES, "blk.12.attn_k_norm.weight", "model.layers.12.self_attn.k_norm.weight"),
            (
                ROTARY_NAMES,
                "blk.3.ffn_norm.weight",
                "model.layers.3.post_attention_layernorm.weight",
            ),
            (ROTARY_NAMES, "blk.3.ffn_gate.weight", "model.layers.3.mlp.gate_proj.weight"),
            (GPT2_NAMES, "position_embd.weight", "transformer.wpe.weight"),
            (GPT2_NAMES, "output_norm.bias", "transformer.ln_f.bias"),
            (GPT2_NAMES, "blk.1.attn_qkv.bias", "transformer.h.1.attn.c_attn.bias"),
            (GPT2_NAMES, "blk.1.ffn_down.weight", "transformer.h.1.mlp.c_proj.weight"),
        ],
    )
    def test_each_name_leads_to_the_other(self, names, ours, theirs):
        assert names.hf_name(ours) == theirs
        assert names.gguf_name(theirs) == ours

    @pytest.mark.parametrize("name", ["blk.0.odd.weight", "odd.weight", "odd", "blk", "blk.0"])
    def test_an_unknown_name_stays_and_is_refused_the_other_way(self, name):
        assert ROTARY_NAMES.hf_name(name) == name
        with pytest.raises(ValueError, match="has no place in this architecture"):
            ROTARY_NAMES.gguf_name(f"model.{name}")

    def test_rows_of_interleaved_pairs(self):
        rows = np.arange(12)
        mixed = interleaved(rows, 2)
        assert mixed.tolist() == [0, 3, 1, 4, 2, 5, 6, 9, 7, 10, 8, 11]
        assert half_split(mixed, 2).tolist() == rows.tolist()

    def test_either_rotation_gives_the_same_scores(self):
        """A query rotated as halves against the same, its rows in the other order, as pairs."""
        q, cos, sin = np.array([1.0, 2, 3, 4]), np.cos([1, 0.01]), np.sin([1, 0.01])
        halves = np.concatenate([q[:2] * cos - q[2:] * sin, q[2:] * cos + q[:2] * sin])
        np.testing.assert_allclose(halves, [-1.98411, 1.95990, 2.46238, 4.0198], atol=5e-5)
        even, odd = interleaved(q, 1)[::2], interleaved(q, 1)[1::2]
        pairs = np.stack([even * cos - odd * sin, odd * cos + even * sin], axis=1).reshape(4)
        np.testing.assert_allclose(half_split(pairs, 1), halves)


class TestReading:
    def test_settings_become_those_of_config_json(self, opened):
        content, tensors, metadata = opened()
        assert content == CONTENT
        assert metadata["tokenizer.ggml.eos_token_id"] == 2
        assert {name: tensor.shape for name, tensor in tensors.items()} == {
            "model.embed_tokens.weight": (11, 8),
            "model.norm.weight": (8,),
            "model.layers.0.self_attn.q_proj.weight": (8, 8),
            "model.layers.0.self_attn.k_proj.weight": (4, 8),
            "model.layers.0.mlp.down_proj.weight": (8, 12),
        }

    def test_rows_of_queries_and_keys_are_put_back(self, opened):
        tensors = opened()[1]
        query = tensors["model.layers.0.self_attn.q_proj.weight"]
        right = half_split(numbers(64).reshape(8, 8), 2)
        np.testing.assert_array_equal(query.decode(), right)
        np.testing.assert_array_equal(query[2:5], right[2:5])
        out = np.empty((8, 8), np.float32)
        assert query.decode(out) is out and np.array_equal(out, right)
        key = tensors["model.layers.0.self_attn.k_proj.weight"]
        np.testing.assert_array_equal(key.decode(), numbers(32).reshape(4, 8)[[0, 2, 1, 3]])

    @pytest.mark.parametrize("arch", ["qwen2", "qwen3"])
    def test_qwen_keeps_its_rows(self, tmp_path, arch):
        metadata = {key.replace("llama.", f"{arch}."): value for key, value in LLAMA.items()}
        metadata |= {"general.architecture": arch, f"{arch}.attention.key_length": 4}
        content, tensors, _ = open_gguf(write(tmp_path / "a.gguf", metadata))
        assert content["model_type"] == arch and "attention_bias" not in content
        np.testing.assert_array_equal(
            tensors["model.layers.0.self_attn.q_proj.weight"].decode(), numbers(64).reshape(8, 8)
        )

    def test_tensors_say_whether_there_are_biases_and_a_head(self, opened):
        more = {"output.weight": (11, 8), "blk.0.attn_q.bias": (8,), "blk.0.ffn_up.bias": (12,)}
        content = opened(shapes=SHAPES | more)[0]
        assert not content["tie_word_embeddings"]
        assert content["attention_bias"] and content["mlp_bias"]

    def test_two_ids_end_a_text_where_the_end_of_a_turn_is_another(self, opened):
        assert opened({"tokenizer.ggml.eot_token_id": 5})[0]["eos_token_id"] == [2, 5]
        assert opened({"tokenizer.ggml.eot_token_id": 2})[0]["eos_token_id"] == 2
        assert opened({"tokenizer.ggml.eos_token_id": None})[0]["eos_token_id"] is None

    def test_defaults_and_values_for_each_layer(self, opened):
        content = opened(
            {
                "llama.rope.freq_base": None,
                "llama.attention.head_count_kv": None,
                "llama.attention.head_count": np.array([2, 2, 2], np.int32),
                "llama.rope.dimension_count": None,
                "llama.expert_count": 0,
            }
        )[0]
        assert (content["rope_theta"], content["head_dim"]) == (10000, 4)
        assert (content["num_attention_heads"], content["num_key_value_heads"]) == (2, 2)

    @pytest.mark.parametrize(
        "changed, scaling",
        [
            ({"type": "none"}, None),
            ({"type": "linear", "factor": 2.0}, {"rope_type": "linear", "factor": 2.0}),
            (
                {"type": "yarn", "factor": 4.0, "original_context_length": 16},
                {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16},
            ),
        ],
    )
    def test_scaling_of_rotary_frequencies(self, opened, changed, scaling):
        changed = {f"llama.rope.scaling.{name}": value for name, value in changed.items()}
        assert opened(changed)[0]["rope_scaling"] == scaling

    def test_the_old_key_of_linear_scaling(self, opened):
        scaling = opened({"llama.rope.scale_linear": 4.0})[0]["rope_scaling"]
        assert scaling == {"rope_type": "linear", "factor": 4.0}

    def test_factors_of_llama_3_are_known_by_their_values(self, opened):
        wide = {"llama.attention.key_length": 128, "llama.attention.value_length": 128}
        wide |= {"llama.rope.dimension_count": 128}
        shapes = SHAPES | {"blk.0.attn_q.weight": (256, 8), "blk.0.attn_k.weight": (128, 8)}
        scaling = {
            "rope_type": "llama3",
            "factor": 32.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192,
        }
        factors = llama3_factors(500000.0, 128, scaling)
        content, tensors, _ = opened(wide, shapes, **{"rope_freqs.weight": factors})
        assert content["rope_scaling"] == scaling and "rope_freqs.weight" not in tensors
        assert opened(wide, shapes, **{"rope_freqs.weight": np.ones(64)})[0]["rope_scaling"] is None
        with pytest.raises(ValueError, match=r"rope_freqs.weight is not implemented"):
            opened(wide, shapes, **{"rope_freqs.weight": factors**0.9})

    @pytest.mark.parametrize(
        "changed, complaint",
        [
            ({"general.architecture": "gemma3"}, "architecture 'gemma3' is not supported, one of"),
            ({"general.architecture": None}, "architecture None is not supported"),
            ({"general.architecture": np.array([1, 2])}, "is not supported"),
            ({"tokenizer.ggml.eos_token_id": "</s>"}, "eos_token_id is '</s>', one int is needed"),
            ({"llama.block_count": None}, "metadata llama.block_count is missing"),
            ({"llama.block_count": "7"}, "llama.block_count is '7', one int is needed"),
            ({"llama.logit_scale": 0.5}, "llama.logit_scale=0.5 is not implemented"),
            ({"llama.expert_count": 8}, "llama.expert_count=8 is not implemented"),
            ({"llama.odd": 1}, "llama.odd=1 is not implemented"),
            ({"llama.attention.head_count_kv": np.array([1, 2])}, "head_count_kv is .* one int"),
            ({"llama.rope.dimension_count": 2}, "rope.dimension_count is 2, only .* 4, is"),
            ({"llama.rope.scaling.type": "longrope"}, "rope.scaling.type='longrope' is not"),
            ({"llama.attention.head_count": 3, "llama.attention.key_length": 4}, "8 rows, 3 heads"),
            ({"llama.attention.head_count": 0}, "llama.attention.head_count is 0"),
        ],
    )
    def test_what_is_not_implemented_is_named(self, opened, changed, complaint):
        with pytest.raises(ValueError, match=complaint) as caught:
            opened(changed)
        assert "a.gguf: " in str(caught.value)

    def test_a_part_of_a_model_is_refused_with_what_joins_parts(self, opened):
        with pytest.raises(ValueError, match=r"one of 3 parts of a model, .* llama-gguf-split"):
            opened({"split.count": 3})
        opened({"split.count": 1})

    def test_a_file_without_an_embedding_is_refused(self, opened):
        with pytest.raises(ValueError, match=r"tensor token_embd.weight is missing"):
            opened(shapes={"output_norm.weight": (8,)})


class TestMetadata:
    @pytest.mark.parametrize(
        "changed",
        [
            {},
            {"model_type": "qwen2", "attention_bias": True},
            {"model_type": "qwen3", "head_dim": 16, "eos_token_id": [2, 7]},
            {"rope_scaling": {"rope_type": "linear", "factor": 2.0}},
            {
                "rope_scaling": {
                    "rope_type": "yarn",
                    "factor": 4.0,
                    "original_max_position_embeddings": 16,
                }
            },
            {
                "head_dim": 64,
                "rope_scaling": {
                    "rope_type": "llama3",
                    "factor": 8.0,
                    "low_freq_factor": 1.0,
                    "high_freq_factor": 4.0,
                    "original_max_position_embeddings": 8192,
                },
            },
        ],
    )
    def test_settings_come_back(self, tmp_path, changed):
        content = CONTENT | changed
        metadata, factors = to_metadata(content)
        shapes = {"token_embd.weight": (11, 8)}
        more = {} if factors is None else {"rope_freqs.weight": factors}
        again = open_gguf(write(tmp_path / "a.gguf", metadata, shapes, **more))[0]
        assert {name: content[name] for name in again if name != "architectures"} == {
            name: value for name, value in again.items() if name != "architectures"
        }

    def test_yarn_without_a_factor_reaches_what_the_context_does(self):
        scaling = {"rope_type": "yarn", "original_max_position_embeddings": 16}
        metadata, _ = to_metadata(CONTENT | {"rope_scaling": scaling})
        assert metadata["llama.rope.scaling.factor"] == 4.0
        assert metadata["llama.rope.scaling.original_context_length"] == 16

    def test_both_spellings_of_the_base_are_read(self):
        content = {k: v for k, v in CONTENT.items() if k not in ("rope_theta", "rope_scaling")}
        content["rope_parameters"] = {"rope_type": "default", "rope_theta": 7.0}
        assert to_metadata(content)[0]["llama.rope.freq_base"] == 7.0
        assert to_metadata(CONTENT)[0]["llama.rope.freq_base"] == 500000.0

    @pytest.mark.parametrize(
        "changed, complaint",
        [
            ({"model_type": "bert"}, "bert cannot be written, one of llama, mistral, qwen2"),
            ({"hidden_act": "gelu"}, "hidden_act='gelu' cannot be held, 'silu' is needed"),
            ({"eos_token_id": [1, 2, 3]}, "at most two ids can end a text"),
            ({"model_type": "qwen3", "attention_bias": True}, "attention_bias=True cannot be held"),
            (
                {"model_type": "mistral", "sliding_window": 32},
                "sliding_window=32 is not applied .* all 64 positions",
            ),
            ({"rope_scaling": {"rope_type": "dynamic", "factor": 2.0}}, "of type 'dynamic' cannot"),
            (
                {"rope_scaling": {"rope_type": "yarn", "factor": 2.0, "beta_fast": 16}},
                "yarn with beta_fast=16 cannot be held",
            ),
            (
                {
                    "rope_scaling": {
                        "rope_type": "llama3",
                        "factor": 8.0,
                        "low_freq_factor": 1.0,
                        "high_freq_factor": 3.0,
                        "original_max_position_embeddings": 64,
                    }
                },
                "cannot be held, only that of Llama 3.1 is",
            ),
        ],
    )
    def test_what_llama_cpp_would_compute_otherwise_is_refused(self, changed, complaint):
        with pytest.raises(ValueError, match=complaint):
            to_metadata(CONTENT | changed)


CANNOT_BE_HELD = {  # of small_llama.CASES
    "biases": "hidden_act='gelu' cannot",
    "linear": "hidden_act='relu' cannot",
    "dynamic": "of type 'dynamic' cannot",
    "yarn, every setting": "yarn with beta_fast=5.0",
    "yarn, own attention factor": "yarn with attention_factor=1.25",
    "yarn, long ramp": "yarn with beta_slow=0.01",
    "longrope": "of type 'longrope' cannot",
    "longrope, short": "of type 'longrope' cannot",
    "llama3": "only that of Llama 3.1",
    "rope_parameters": "only that of Llama 3.1",
    "mistral": "sliding_window=7 is not applied",
    "mistral, no window": "hidden_act='gelu_pytorch_tanh' cannot",
    "qwen2, window": "sliding_window=6 is not applied",
    "qwen3": "attention_bias=True cannot",
    "qwen3, window": "sliding_window=6 is not applied",
}


def wide(**options):
    """A small GPT-2 whose rows are whole blocks."""
    return small(n_embd=64, n_head=4, **options)


def reopened(path):
    content, tensors, metadata = open_gguf(path)
    family = FAMILIES[content["model_type"]]
    config = family.config.from_hf(content)
    model = family.model(config)
    model.load_state_dict(family.from_files(tensors, config))
    return model.eval(), metadata


class TestModels:
    @pytest.mark.parametrize(
        "dtype, tolerance",
        [
            ("f32", 0),
            ("f16", 0.01),
            ("bf16", 0.1),
            ("q8_0", 0.3),
            ("q4_0", 2),
            ("q4_1", 2),
            ("q5_0", 2),
            ("q5_1", 2),
            ("q4_k", 2),
            ("q5_k", 2),
            ("q6_k", 0.5),
        ],
    )
    def test_a_model_comes_back_as_exactly_as_its_dtype_allows(self, tmp_path, dtype, tolerance):
        model = wide()
        write_gguf(tmp_path / "a.gguf", model, None, dtype)
        again, metadata = reopened(tmp_path / "a.gguf")
        assert again.config == model.config
        difference = np.abs(logits(again) - logits(model)).max()
        assert difference <= tolerance and (difference > 0) == (dtype != "f32")
        assert metadata["general.file_type"] == FILE_TYPES[dtype]

    def test_gpt2s_matrices_lie_as_each_side_has_them(self, tmp_path):
        model = wide()
        write_gguf(tmp_path / "a.gguf", model, None, "f32")
        right = FAMILIES["gpt2"].to_files(model.state_dict(), model.config)
        found = open_gguf(tmp_path / "a.gguf")[1]
        assert found.keys() == right.keys()
        for name, array in right.items():
            np.testing.assert_array_equal(found[name].decode(), array)
        raw = gguf.read(tmp_path / "a.gguf")[1]
        assert raw["blk.0.attn_qkv.weight"].shape == (192, 64)
        assert raw["blk.1.ffn_down.weight"].shape == (64, 256)

    def test_vectors_positions_and_tables_are_kept_finer(self, tmp_path):
        write_gguf(tmp_path / "a.gguf", wide(), None, "q4_0")
        kinds = {name: tensor.kind for name, tensor in gguf.read(tmp_path / "a.gguf")[1].items()}
        assert kinds["token_embd.weight"] == "Q8_0" and kinds["position_embd.weight"] == "F32"
        assert kinds["blk.0.attn_qkv.weight"] == "Q4_0" and kinds["blk.0.attn_qkv.bias"] == "F32"

    @pytest.mark.parametrize(
        "dtype, width, matrix, table, replaced",
        [
            ("q8_0", 64, "Q8_0", "Q8_0", {}),
            ("q5_0", 64, "Q5_0", "Q8_0", {}),
            ("q4_k", 256, "Q4_K", "Q6_K", {}),
            ("q5_k", 256, "Q5_K", "Q6_K", {}),
            ("q6_k", 256, "Q6_K", "Q6_K", {}),
            ("q4_k", 64, "Q5_0", "Q8_0", {("Q4_K", "Q5_0"): 6, ("Q6_K", "Q8_0"): 1}),
            ("q5_k", 64, "Q5_1", "Q8_0", {("Q5_K", "Q5_1"): 6, ("Q6_K", "Q8_0"): 1}),
            ("q6_k", 64, "Q8_0", "Q8_0", {("Q6_K", "Q8_0"): 7}),
            ("q4_k", 12, "F16", "F16", {("Q4_K", "F16"): 8, ("Q6_K", "F16"): 1}),
            ("q8_0", 12, "F16", "F16", {("Q8_0", "F16"): 9}),
        ],
    )
    def test_rows_that_are_no_whole_blocks_get_the_next_type(
        self, tmp_path, dtype, width, matrix, table, replaced
    ):
        model = small(n_embd=width, n_head=4)
        written = write_gguf(tmp_path / "a.gguf", model, None, dtype)
        tensors = gguf.read(tmp_path / "a.gguf")[1]
        kinds = {name: tensor.kind for name, tensor in tensors.items()}
        assert (kinds["blk.0.attn_qkv.weight"], kinds["token_embd.weight"]) == (matrix, table)
        assert written.replaced == replaced
        for kind, count in written.numbers.items():
            assert count == sum(tensor.size for tensor in tensors.values() if tensor.kind == kind)
        assert written.numbers.keys() == set(kinds.values())

    def test_progress_adds_up_to_all_numbers(self, tmp_path):
        told = []
        write_gguf(tmp_path / "a.gguf", wide(), None, "q4_0", told.append)
        assert sum(told) == sum(array.size for array in wide().state_dict().values())

    @pytest.mark.parametrize(
        "option",
        [
            {"activation_function": "gelu"},
            {"scale_attn_weights": False},
            {"scale_attn_by_inverse_layer_idx": True},
        ],
    )
    def test_what_llama_cpp_has_not_is_refused(self, tmp_path, option):
        with pytest.raises(ValueError, match=f"{next(iter(option))}=.* cannot be held"):
            write_gguf(tmp_path / "a.gguf", wide(**option), None, "f32")

    @pytest.mark.parametrize(
        "option", [{"tie_word_embeddings": False}, {"n_inner": 96}, {"eos_token_id": (3, 4)}]
    )
    def test_options_come_back(self, tmp_path, option):
        model = wide(**option)
        write_gguf(tmp_path / "a.gguf", model, None, "f32")
        again, _ = reopened(tmp_path / "a.gguf")
        assert again.config == model.config
        np.testing.assert_array_equal(logits(again), logits(model))

    @pytest.mark.parametrize("case", ["llama", "tied", "yarn", "qwen2"])
    def test_the_llama_family_comes_back(self, tmp_path, case):
        model = small_llama.small(case)
        write_gguf(tmp_path / "a.gguf", model, None, "f32")
        again, _ = reopened(tmp_path / "a.gguf")
        np.testing.assert_array_equal(small_llama.logits(again), small_llama.logits(model))
        assert again.config == model.config

    @pytest.mark.parametrize("case", CANNOT_BE_HELD)
    def test_others_of_the_llama_family_are_refused(self, tmp_path, case):
        with pytest.raises(ValueError, match=CANNOT_BE_HELD[case]):
            write_gguf(tmp_path / "a.gguf", small_llama.small(case), None, "f32")

    def test_mistral_is_a_llama_whose_window_its_context_does_not_exceed(self, tmp_path):
        model = small_llama.small("mistral", sliding_window=64)
        write_gguf(tmp_path / "a.gguf", model, None, "f32")
        again, _ = reopened(tmp_path / "a.gguf")
        np.testing.assert_array_equal(small_llama.logits(again), small_llama.logits(model))
        assert again.config.model_type == "llama"

    def test_other_dtypes_are_refused(self, tmp_path):
        with pytest.raises(ValueError, match="dtype 'q2_k', one of f32, f16, bf16, q8_0"):
            write_gguf(tmp_path / "a.gguf", wide(), None, "q2_k")

    @settings(max_examples=300)
    @given(st.lists(st.tuples(st.integers(0, 1100), st.integers(0, 255)), min_size=1, max_size=4))
    def test_damage_to_the_description_gives_a_value_error_or_a_model(
        self, tmp_path_factory, damage
    ):
        path = tmp_path_factory.getbasetemp() / "damaged-model.gguf"
        write(path, LLAMA)
        data = bytearray(path.read_bytes())
        for place, value in damage:
            data[place] = value
        path.write_bytes(data)
        try:
            content, tensors, _ = open_gguf(path)
        except ValueError as error:
            assert "\n" not in str(error) and str(path) in str(error)
        else:
            assert content["model_type"] == "llama"
            assert all(tensor.decode().shape == tensor.shape for tensor in tensors.values())
