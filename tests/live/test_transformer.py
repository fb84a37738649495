"""The Transformer of 2017 against torch.nn.Transformer with the same weights."""

import math

import numpy as np
import pytest

from minillm import no_grad
from minillm.generation import EncoderDecoderCache
from minillm.models import Transformer, TransformerConfig

torch = pytest.importorskip("torch")
torch.set_num_threads(1)
pytestmark = pytest.mark.filterwarnings("ignore:enable_nested_tensor")

SMALL = {"vocab_size": 37, "target_vocab_size": 29, "d_model": 24, "nhead": 4, "dropout": 0.0,
         "num_encoder_layers": 2, "num_decoder_layers": 2, "dim_feedforward": 40}  # fmt: skip
SHARED = {"target_vocab_size": 37, "share_embeddings": True}
CONFIGURATIONS = {
    "as in the paper": {},
    "norm first": {"norm_first": True},
    "norm after all": {"final_norm": True},
    "norm first, none after": {"norm_first": True, "final_norm": False},
    "gelu": {"activation": "gelu", "norm_first": True},
    "gelu_tanh": {"activation": "gelu_tanh", "layer_norm_eps": 1e-3},
    "silu": {"activation": "silu"},
    "all shared": SHARED | {"tie_word_embeddings": True},
    "embeddings shared": SHARED | {"norm_first": True},
    "tied output": {"tie_word_embeddings": True, "output_bias": False},
    "no output bias": {"output_bias": False},
    "unscaled": {"scale_embeddings": False},
    "halves": {"positions": "halves", "first_position": 1, "norm_first": True},
    "positions from 2": {"first_position": 2},
    "one head": {"nhead": 1, "d_model": 10},
    "deeper encoder": {"num_encoder_layers": 4, "num_decoder_layers": 1},
    "deeper decoder": {"num_encoder_layers": 1, "num_decoder_layers": 3, "norm_first": True},
}
generator = np.random.default_rng(0)
IDS, TARGETS = generator.integers(0, 29, (3, 13)), generator.integers(0, 29, (3, 9))
MASK = np.arange(13) < np.array([13, 8, 1])[:, None]


def weights_of(config, seed=1):
    """A model of ours whose weights, biases and norms are all far from their start."""
    model, draw = Transformer(config).astype("float64").eval(), np.random.default_rng(seed)
    with no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 1:
                centre = 1.0 if "norm" in name and name.endswith("weight") else 0.0
                parameter.copy_(draw.normal(centre, 0.3, parameter.shape))
            elif not name.endswith("embeddings.weight"):
                parameter.copy_(draw.normal(0, 0.3, parameter.shape))
    return model


class Oracle(torch.nn.Module):
    """torch.nn.Transformer between embeddings and output."""

    def __init__(self, config, state):
        super().__init__()
        self.config = config
        activation = {
            "gelu_tanh": lambda x: torch.nn.functional.gelu(x, approximate="tanh"),
            "silu": torch.nn.functional.silu,
        }.get(config.activation, config.activation)
        self.body = torch.nn.Transformer(
            config.d_model,
            config.nhead,
            config.num_encoder_layers,
            config.num_decoder_layers,
            config.dim_feedforward,
            0.0,
            activation,
            layer_norm_eps=config.layer_norm_eps,
            batch_first=True,
            norm_first=config.norm_first,
        ).double()
        self.body.encoder.enable_nested_tensor = False
        if not config.final_norm:
            self.body.encoder.norm = self.body.decoder.norm = None
        own = ("source_embeddings.weight", "target_embeddings.weight", "output.weight",
               "output.bias")  # fmt: skip
        tensors = {name: torch.tensor(array) for name, array in state.items()}
        self.body.load_state_dict({n: t for n, t in tensors.items() if n not in own})
        self.own = {n: torch.nn.Parameter(tensors[n]) for n in own if n in tensors}

    def positions(self, length):
        """Formula by formula, one number at a time."""
        width, config = self.config.d_model, self.config
        table = np.empty((length, width))
        for t in range(length):
            place = t + config.first_position
            for i in range(width // 2):
                if config.positions == "interleaved":
                    angle, at = place / 10000 ** (2 * i / width), (2 * i, 2 * i + 1)
                else:
                    angle, at = place / 10000 ** (i / (width // 2 - 1)), (i, i + width // 2)
                table[t, at[0]], table[t, at[1]] = math.sin(angle), math.cos(angle)
        return torch.tensor(table)

    def embedded(self, weight, ids):
        x = weight[torch.tensor(ids)]
        if self.config.scale_embeddings:
            x = x * math.sqrt(self.config.d_model)
        return x + self.positions(ids.shape[1])

    def forward(self, ids, decoder_ids, mask=None):
        source = self.own["source_embeddings.weight"]
        target = self.own.get("target_embeddings.weight", source)
        hidden = None if mask is None else torch.tensor(~mask)
        ahead = torch.nn.Transformer.generate_square_subsequent_mask(
            decoder_ids.shape[1], dtype=torch.float64
        )
        out = self.body(
            self.embedded(source, ids),
            self.embedded(target, decoder_ids),
            tgt_mask=ahead,
            src_key_padding_mask=hidden,
            memory_key_padding_mask=hidden,
            tgt_is_causal=True,
        )
        return torch.nn.functional.linear(
            out, self.own.get("output.weight", target), self.own.get("output.bias")
        )

    def gradients(self):
        body = {name: weight.grad.numpy() for name, weight in self.body.named_parameters()}
        return body | {name: weight.grad.numpy() for name, weight in self.own.items()}


def relative(got, right):
    return np.abs(got - right).max() / np.abs(right).max()


@pytest.mark.parametrize("options", CONFIGURATIONS.values(), ids=CONFIGURATIONS)
class TestTransformer:
    @pytest.fixture
    def pair(self, options):
        model = weights_of(TransformerConfig(**SMALL | options))
        return model, Oracle(model.config, model.state_dict()).eval()

    def test_logits_equal_torch(self, pair):
        model, oracle = pair
        decoder_ids = model.shift_right(TARGETS)
        for mask in (None, MASK):
            right = oracle(IDS, decoder_ids, mask).detach().numpy()
            with no_grad():
                assert relative(model(IDS, decoder_ids, mask).numpy(), right) < 1e-9
        with no_grad():
            single = model.astype("float32")(IDS, decoder_ids, MASK).numpy()
        assert single.dtype == np.float32
        assert relative(single, right) < 1e-4
        count = sum(a.size for a in model.state_dict().values())
        assert model.config.parameter_count == model.parameter_count() == count

    def test_loss_and_gradients_equal_torch(self, pair):
        model, oracle = pair
        targets = np.where(np.arange(9) < np.array([9, 4, 7])[:, None], TARGETS, -100)
        logits = oracle(IDS, model.shift_right(targets), MASK)
        expected = torch.nn.functional.cross_entropy(
            logits.flatten(0, 1), torch.tensor(targets).flatten()
        )
        expected.backward()
        right = oracle.gradients()
        for recompute in (False, True):
            model.recompute = recompute
            model.zero_grad()
            loss = model.loss(IDS, targets, MASK)
            loss.backward()
            assert abs(loss.item() / expected.item() - 1) < 1e-10
            got = {name: weight.grad.data for name, weight in model.named_parameters()}
            assert got.keys() == right.keys()
            for name in got:
                # the bias of keys has no influence: both sides hold rounding errors of 0
                error = np.abs(got[name] - right[name]).max()
                assert error < 1e-9 * max(np.abs(right[name]).max(), 1e-3), name

    def test_decoding_by_steps_equals_all_at_once(self, pair):
        model, _ = pair
        decoder_ids = model.shift_right(TARGETS)
        with no_grad():
            right, memory = model(IDS, decoder_ids, MASK).numpy(), model.encode(IDS, MASK)
            for steps in ([1] * 9, [3, 1, 5]):
                cache = EncoderDecoderCache(model.config.n_layer)
                parts = [
                    model.decode(decoder_ids[:, end - step : end], memory, MASK, cache).numpy()
                    for step, end in zip(steps, np.cumsum(steps))
                ]
                assert relative(np.concatenate(parts, axis=1), right) < 1e-12
