"""T5 against transformers: random small models of every option, and a published file."""

import numpy as np
import pytest

from minillm import no_grad
from minillm.formats import hf, safetensors
from minillm.generation import EncoderDecoderCache
from minillm.generation.encoder_decoder import generate_ids
from minillm.models import T5, T5Config
from minillm.models.folder import load_model
from minillm.models.t5 import from_files, to_files

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
torch.set_num_threads(1)

SMALL = {"vocab_size": 37, "d_model": 24, "d_kv": 6, "d_ff": 20, "num_layers": 2, "num_heads": 4}
CONFIGURATIONS = {
    "v1.0": {},
    "v1.1": {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False},
    "gelu": {"feed_forward_proj": "gelu", "layer_norm_epsilon": 1e-3},
    "gelu, own head": {"feed_forward_proj": "gelu", "tie_word_embeddings": False},
    "gelu_new": {"feed_forward_proj": "gelu_new"},
    "silu": {"feed_forward_proj": "silu"},
    "gated relu": {"feed_forward_proj": "gated-relu"},
    "gated silu": {"feed_forward_proj": "gated-silu", "tie_word_embeddings": False},
    "gated gelu, tied": {"feed_forward_proj": "gated-gelu"},
    "relu, own head": {"tie_word_embeddings": False},
    "deeper decoder": {"num_layers": 1, "num_decoder_layers": 3},
    "deeper encoder": {"num_layers": 3, "num_decoder_layers": 1, "tie_word_embeddings": False},
    "wide heads": {"d_kv": 16, "num_heads": 3, "d_model": 20},
    "one head": {"num_heads": 1, "d_kv": 1},
    "few buckets": {"relative_attention_num_buckets": 8, "relative_attention_max_distance": 9},
    "odd buckets": {"relative_attention_num_buckets": 11, "relative_attention_max_distance": 20},
    "other start": {"decoder_start_token_id": 5, "pad_token_id": 3, "eos_token_id": 7},
}
generator = np.random.default_rng(0)
IDS, DECODER_IDS = generator.integers(0, 37, (3, 29)), generator.integers(0, 37, (3, 17))
MASK = np.arange(29) < np.array([29, 18, 1])[:, None]
TARGETS = np.where(generator.random((3, 17)) < 0.2, -100, DECODER_IDS)


@pytest.fixture(autouse=True)
def norm_in_the_precision_of_its_input(monkeypatch):
    """transformers finds the mean square in float32 even in a float64 model."""
    norm = transformers.models.t5.modeling_t5.T5LayerNorm
    single = norm.forward

    def forward(self, x):
        if x.dtype != torch.float64:
            return single(self, x)
        return (
            self.weight * x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.variance_epsilon)
        )

    monkeypatch.setattr(norm, "forward", forward)


def oracle(options, seed=0):
    """A model of transformers in float64, all weights far from their start."""
    torch.manual_seed(seed)
    settings = {**SMALL, "decoder_start_token_id": 0, "dropout_rate": 0.0} | options
    model = transformers.T5ForConditionalGeneration(transformers.T5Config(**settings)).eval()
    if options.get("tie_word_embeddings") is False:  # transformers 5 ties all
        model.lm_head.weight = torch.nn.Parameter(torch.randn_like(model.shared.weight))
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.ndim == 1:
                weight.uniform_(0.5, 1.5)
            elif "relative" in name:
                weight.normal_(0, 1)
    return model.double()


def theirs(model, **inputs):
    with torch.no_grad():
        return model(**{name: torch.tensor(array) for name, array in inputs.items()}).logits.numpy()


def ours(model, *inputs, **options):
    with no_grad():
        return model(*inputs, **options).numpy()


def content_of(model, options):
    content = model.config.to_dict()
    if options.get("tie_word_embeddings") is False:  # as transformers 4 wrote it
        content["tie_word_embeddings"] = False
    return content


def same(model, options):
    """Ours with the oracle's weights, in float64."""
    config = T5Config.from_hf(content_of(model, options))
    arrays = {name: weight.detach().numpy() for name, weight in model.named_parameters()}
    twin = T5(config).astype("float64").eval()
    twin.load_state_dict(from_files(arrays, config))
    return twin


def relative(got, right):
    return np.abs(got - right).max() / np.abs(right).max()


@pytest.mark.parametrize("options", CONFIGURATIONS.values(), ids=CONFIGURATIONS)
class TestLogits:
    def test_they_equal_transformers(self, options):
        model = oracle(options)
        right = theirs(model, input_ids=IDS, decoder_input_ids=DECODER_IDS, attention_mask=MASK * 1)
        twin = same(model, options)
        assert relative(ours(twin, IDS, DECODER_IDS, mask=MASK), right) < 1e-9
        unmasked = theirs(model, input_ids=IDS, decoder_input_ids=DECODER_IDS)
        assert relative(ours(twin, IDS, DECODER_IDS), unmasked) < 1e-9
        assert relative(right, unmasked) > 1e-3  # the mask matters
        single = theirs(
            model.float(), input_ids=IDS, decoder_input_ids=DECODER_IDS, attention_mask=MASK * 1
        )
        assert relative(ours(twin.astype("float32"), IDS, DECODER_IDS, mask=MASK), single) < 1e-4
        assert twin.parameter_count() == sum(p.numel() for p in model.parameters())
        assert twin.config.parameter_count == twin.parameter_count()

    def test_decoding_by_steps_equals_all_at_once(self, options):
        twin = same(oracle(options), options)
        right = ours(twin, IDS, DECODER_IDS, mask=MASK)
        for steps in ([1] * 17, [5, 1, 11]):
            cache = EncoderDecoderCache(twin.config.n_layer)
            with no_grad():
                memory = twin.encode(IDS, MASK)
                parts = [
                    twin.decode(DECODER_IDS[:, end - step : end], memory, MASK, cache).numpy()
                    for step, end in zip(steps, np.cumsum(steps))
                ]
            assert relative(np.concatenate(parts, axis=1), right) < 1e-12

    def test_greedy_generation_equals_transformers(self, options):
        model = oracle(options)
        out = model.generate(
            torch.tensor(IDS),
            attention_mask=torch.tensor(MASK * 1),
            max_new_tokens=12,
            do_sample=False,
            use_cache=False,  # with one, transformers fails on a decoder deeper than the encoder
        )
        end, got = (
            model.config.eos_token_id,
            generate_ids(same(model, options), IDS, mask=MASK, max_tokens=12),
        )
        for row, right in zip(got, out[:, 1:].tolist()):
            assert row == (right[: right.index(end)] if end in right else right)

    def test_loss_and_gradients_equal_transformers(self, options):
        model = oracle(options)
        twin = same(model, options)
        expected = model(
            input_ids=torch.tensor(IDS),
            attention_mask=torch.tensor(MASK * 1),
            labels=torch.tensor(TARGETS),
        ).loss
        expected.backward()
        right = {name: weight.grad.numpy() for name, weight in model.named_parameters()}
        for recompute in (False, True):
            twin.recompute = recompute
            twin.zero_grad()
            loss = twin.loss(IDS, TARGETS, MASK)
            loss.backward()
            assert abs(loss.item() / expected.item() - 1) < 1e-10
            got = {name: weight.grad.data for name, weight in twin.named_parameters()}
            assert got.keys() == right.keys()
            for name in got:
                assert np.abs(right[name]).max() > 1e-9, name
                assert relative(got[name], right[name]) < 1e-9, name

    def test_files_go_both_ways(self, options, tmp_path):
        model = oracle(options).float()
        right = theirs(model, input_ids=IDS, decoder_input_ids=DECODER_IDS)
        model.save_pretrained(tmp_path / "theirs")
        twin = load_model(tmp_path / "theirs")
        assert relative(ours(twin, IDS, DECODER_IDS), right) < 1e-5
        (tmp_path / "ours").mkdir()
        hf.write_json(tmp_path / "ours" / "config.json", twin.config.to_hf())
        safetensors.write(
            tmp_path / "ours" / "model.safetensors",
            to_files(twin.state_dict(), twin.config),
            {"format": "pt"},
        )
        again = transformers.T5ForConditionalGeneration.from_pretrained(tmp_path / "ours").eval()
        assert relative(theirs(again, input_ids=IDS, decoder_input_ids=DECODER_IDS), right) < 1e-5
