"""LoRA: beside a layer, in peft's files, merged; gradients against the plain computation."""

import json
import warnings
from pathlib import Path

import numpy as np
import pytest

from minillm import kernels, nn, no_grad
from minillm.arrays import new_generator
from minillm.formats import safetensors
from minillm.models import adapter
from minillm.models.adapter import Lora
from minillm.models.folder import load_model, logits_of, save_model
from minillm.tensor import Tensor
from small_encoders import small as small_encoder
from small_gpt2 import small as small_gpt2
from small_llama import small as small_llama

FROZEN = Path(__file__).parent / "frozen_peft"
IDS = np.array([[1, 5, 2, 7, 0]])
TARGETS = np.array([[5, -100, 7, 0, 3]])
LORA = Lora(rank=3, alpha=5.0, rslora=True)
FAMILIES = {"llama": lambda: small_llama("llama"), "gpt2": small_gpt2}


def shaken(model, seed=0):
    """Adapters that do something."""
    rng = np.random.default_rng(seed)
    for _, layer in adapter.adapted(model):
        layer.lora_B.data[...] = rng.normal(size=layer.lora_B.shape)
    return model


def adapted(build, lora=LORA):
    model = build()
    adapter.attach(model, lora, seed=2)
    return shaken(model)


def test_merging_equals_the_path_beside_the_weight():
    x = np.array([[1.0, -2.0, 0.5], [0.25, 3.0, -1.0]], np.float32)
    base = nn.Linear(3, 4, generator=new_generator(0))
    before = base.weight.data.copy()
    layer = nn.LoRALinear(base, 2, 16, generator=new_generator(1))
    assert np.array_equal(layer(Tensor(x)).numpy(), base(Tensor(x)).numpy())  # B is 0
    layer.lora_B.data[...] = np.arange(8).reshape(4, 2) / 4
    right = before + 8 * (layer.lora_B.data @ layer.lora_A.data)
    merged = layer.merged()
    np.testing.assert_allclose(merged.weight.data, right, rtol=1e-6)
    np.testing.assert_allclose(merged(Tensor(x)).numpy(), layer(Tensor(x)).numpy(), rtol=1e-6)
    assert np.abs(merged.weight.data - before).max() > 1
    assert layer.weight.data.tobytes() == before.tobytes()


def test_a_rank_stabilised_layer_scales_by_the_root():
    base = nn.Linear(3, 4)
    assert nn.LoRALinear(base, 4, 8).scaling == 2
    assert nn.LoRALinear(base, 4, 8, rslora=True).scaling == 4


@pytest.mark.parametrize("family", FAMILIES)
def test_gradients_are_those_of_the_whole_weight(family):
    """d/dA and d/dB from the gradient of a model whose weights are the sums."""
    model = adapted(FAMILIES[family])
    model.loss(IDS, TARGETS).backward()
    plain = adapted(FAMILIES[family])
    adapter.merge(plain)
    for parameter in plain.parameters():
        parameter.requires_grad_(True)
    plain.loss(IDS, TARGETS).backward()
    whole = dict(plain.named_parameters())
    seen = 0
    for name, layer in adapter.adapted(model):
        grad = whole[f"{name}.weight"].grad.numpy().astype(np.float64)
        a, b = layer.lora_A.data, layer.lora_B.data
        for found, right in (
            (layer.lora_A.grad, layer.scaling * b.T @ grad),
            (layer.lora_B.grad, layer.scaling * grad @ a.T),
        ):
            limit = 1e-4 * np.abs(right).max()
            np.testing.assert_allclose(found.numpy(), right, rtol=1e-3, atol=limit)
        assert layer.weight.grad is None
        seen += 1
    assert seen == {"llama": 14, "gpt2": 8}[family]


@pytest.mark.parametrize("family", FAMILIES)
def test_recomputation_changes_no_gradient(family):
    grads = []
    for recompute in (False, True):
        model = adapted(FAMILIES[family])
        model.recompute = recompute
        model.loss(IDS, TARGETS).backward()
        grads.append([p.grad.numpy() for p in model.parameters() if p.requires_grad])
    for one, other in zip(*grads):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("family", FAMILIES)
def test_saved_loaded_and_merged_the_logits_stay(family, tmp_path):
    save_model(tmp_path / "base", FAMILIES[family]())
    model = load_model(tmp_path / "base")
    base = logits_of(model)(IDS)
    adapter.attach(model, LORA, seed=2)
    before = logits_of(shaken(model))(IDS)
    assert np.abs(before - base).max() > 0.1
    adapter.save(tmp_path / "a", model, LORA, "base", base)
    again = load_model(tmp_path / "base")
    assert adapter.load(again, tmp_path / "a").rank == 3
    assert np.array_equal(logits_of(again)(IDS), before)
    merged = adapter.merge(again)
    assert merged == len(list(adapter.adapted(model)))
    np.testing.assert_allclose(logits_of(again)(IDS), before, atol=1e-5 * np.abs(before).max())
    with pytest.raises(ValueError, match="the model has no adapter, at least 1 is needed"):
        adapter.merge(again)  # twice


@pytest.mark.parametrize("kind", ["bert", "distilbert"])
def test_queries_keys_and_values_in_one_matrix_are_three_in_the_files(kind, tmp_path):
    def build():
        return small_encoder(kind, "ForSequenceClassification")

    model = adapted(build)
    before = logits_of(model)(IDS)
    adapter.save(tmp_path, model, LORA, "base", before)
    names = set(safetensors.read(tmp_path / adapter.WEIGHTS)[0])
    query = {"bert": "bert.encoder.layer.0.attention.self.query",
             "distilbert": "distilbert.transformer.layer.0.attention.q_lin"}[kind]  # fmt: skip
    assert f"base_model.model.{query}.lora_A.weight" in names
    again = build()
    adapter.load(again, tmp_path)
    np.testing.assert_allclose(logits_of(again)(IDS), before, rtol=1e-5)


def test_adapters_of_some_of_three_joined_matrices_act_on_their_rows(tmp_path):
    model = adapted(lambda: small_encoder("bert"))
    adapter.save(tmp_path, model, LORA, "base", logits_of(model)(IDS))
    arrays, metadata = safetensors.read(tmp_path / adapter.WEIGHTS)
    kept = {name: np.array(array) for name, array in arrays.items() if "query" in name}
    kept |= {name: 2 * array for name, array in arrays.items() if "value.lora_A" in name}
    kept |= {name: np.array(array) for name, array in arrays.items() if "value.lora_B" in name}
    safetensors.write(tmp_path / adapter.WEIGHTS, kept, metadata)
    again = small_encoder("bert")
    adapter.load(again, tmp_path)
    delta = dict(adapter.adapted(again))["layers.0.joint"].delta()
    whole = dict(adapter.adapted(model))["layers.0.joint"].delta()
    np.testing.assert_allclose(delta[:6], whole[:6], rtol=1e-6)
    assert not delta[6:12].any()
    np.testing.assert_allclose(delta[12:], 2 * whole[12:], rtol=1e-6)


@pytest.mark.parametrize("family", FAMILIES)
def test_an_adapter_that_peft_made_gives_the_logits_of_peft(family):
    model = FAMILIES[family]()
    adapter.load(model, FROZEN / family)
    right = json.loads((FROZEN / family / "logits.json").read_text(encoding="utf-8"))
    found = logits_of(model)(np.array(right["ids"]))
    np.testing.assert_allclose(found, right["logits"], atol=1e-5 * np.abs(found).max())
    assert np.abs(found - logits_of(FAMILIES[family]())(np.array(right["ids"]))).max() > 0.05


def test_targets_are_named_as_in_the_files():
    model = small_llama("llama")
    found = adapter.attach(model, Lora(2, targets=("q_proj", "v_proj")))
    assert found == [f"model.layers.{n}.self_attn.{name}_proj" for n in (0, 1) for name in "qv"]
    trained = [name for name, p in model.named_parameters() if p.requires_grad]
    assert len(trained) == 8
    assert all(".lora_" in name for name in trained)
    with pytest.raises(ValueError, match="no layer is called 'qproj', some of down_proj, gate"):
        adapter.attach(small_llama("llama"), Lora(2, targets=("qproj",)))
    with pytest.raises(ValueError, match=r"is one matrix with .*key, .*value here"):
        adapter.attach(small_encoder("bert"), Lora(2, targets=("query",)))


def changed(**content):
    def change(folder):
        path = folder / adapter.CONFIG
        path.write_text(json.dumps(json.loads(path.read_text()) | content))

    return change


def other_arrays(make):
    def change(folder):
        arrays, metadata = safetensors.read(folder / adapter.WEIGHTS)
        safetensors.write(
            folder / adapter.WEIGHTS, make({n: np.array(a) for n, a in arrays.items()}), metadata
        )

    return change


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (lambda folder: (folder / adapter.CONFIG).unlink(), "holds no adapter_config.json"),
        (changed(peft_type="IA3"), "is 'IA3', LORA is needed"),
        (changed(use_dora=True), "use_dora is True in .*, False is needed"),
        (changed(bias="all"), "bias is 'all' in .*, 'none' is needed"),
        (changed(alpha_pattern={"q": 1}), "alpha_pattern is"),
        (changed(modules_to_save=["classifier"]), "replaces classifier"),
        (changed(r=0), "r is 0 in .*, a number above 0 is needed"),
        (changed(r=4), "has rank 3, 4 is needed"),
        (other_arrays(lambda a: {}), "adapts nothing, at least 1 layer is needed"),
        (other_arrays(lambda a: dict([next(iter(a.items()))])), "has only lora_A, both"),
        (
            other_arrays(lambda a: {n.replace("layers.0", "layers.7"): x for n, x in a.items()}),
            "adapts model.layers.7.mlp.*which this model does not have",
        ),
        (other_arrays(lambda a: {n: x[:, :-1] for n, x in a.items()}), "made for another base"),
        (
            lambda folder: (folder / adapter.WEIGHTS).write_bytes(
                (folder / adapter.WEIGHTS).read_bytes()[:-9]
            ),
            "adapter_model.safetensors",
        ),
    ],
)
def test_what_cannot_be_used_is_refused_in_one_line(tmp_path, change, line):
    model = adapted(FAMILIES["llama"])
    adapter.save(tmp_path, model, LORA, "base", logits_of(model)(IDS))
    change(tmp_path)
    with pytest.raises((ValueError, FileNotFoundError), match=line) as error:
        adapter.load(small_llama("llama"), tmp_path)
    assert "\n" not in str(error.value)


def test_another_base_of_the_same_shape_is_told(tmp_path):
    from minillm.formats.hf import reference_prompt

    model = small_llama("llama")
    base = logits_of(model)(reference_prompt(17, 40))
    adapter.attach(model, LORA)
    adapter.save(tmp_path, model, LORA, "base", base)
    same, other = small_llama("llama"), small_llama("llama")
    other.norm.weight.data[...] *= 1.5
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        adapter.load(same, tmp_path, logits_of(same))
    with pytest.warns(UserWarning, match="logits of this base differ by up to"):
        adapter.load(other, tmp_path, logits_of(other))


@pytest.mark.parametrize("provider", ["auto", "reference"])
def test_a_frozen_model_takes_no_gradient_and_gives_the_same(provider):
    with kernels.use(provider):
        plain, frozen = small_llama("llama"), small_llama("llama")
        adapter.freeze(frozen)
        with no_grad():
            np.testing.assert_allclose(
                frozen(IDS).numpy(), plain(IDS).numpy(), rtol=1e-5, atol=1e-5
            )
            for reduction in ("sum", "mean", "none"):
                one, other = (m.loss(IDS, TARGETS, reduction) for m in (frozen, plain))
                np.testing.assert_allclose(one.numpy(), other.numpy(), rtol=1e-5, atol=1e-6)
