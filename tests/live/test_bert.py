"""BERT, RoBERTa and DistilBERT against transformers, on random small configurations."""

import itertools

import numpy as np
import pytest

from minillm import no_grad
from minillm.models import FAMILIES
from minillm.models.folder import load_model, save_model
from real_models import minilm

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

NAMES = {
    "bert": "Bert",
    "roberta": "Roberta",
    "xlm-roberta": "XLMRoberta",
    "distilbert": "DistilBert",
}
TASKS = (
    "Model",
    "ForMaskedLM",
    "ForSequenceClassification",
    "ForTokenClassification",
    "ForQuestionAnswering",
)
ACTIVATIONS = ("gelu", "gelu_new", "relu", "silu", "gelu_pytorch_tanh", "gelu_fast", "swish")
UNREAD = ("cls.predictions.bias", "lm_head.bias")  # beside a decoder that is not tied
LENGTH = 7


def settings(kind, rng, task):
    """A random configuration as transformers takes it."""
    heads = int(rng.choice([1, 2, 3, 4]))
    sizes = {
        "vocab_size": int(rng.integers(11, 40)),
        "hidden_size": heads * int(rng.choice([2, 4, 5, 8])),
        "num_hidden_layers": int(rng.integers(1, 4)),
        "num_attention_heads": heads,
        "intermediate_size": int(rng.integers(3, 40)),
        "hidden_act": str(rng.choice(ACTIVATIONS)),
        "max_position_embeddings": int(rng.integers(LENGTH + 5, 20)),
        "type_vocab_size": int(rng.integers(1, 4)),
        "layer_norm_eps": float(rng.choice([1e-12, 1e-5, 1e-2])),
        "pad_token_id": int(rng.choice([0, 1, 3])),
        "tie_word_embeddings": bool(rng.random() < 0.7),
        "classifier_dropout": [None, 0.3][int(rng.integers(2))],
        "num_labels": 2 if task == "ForQuestionAnswering" else int(rng.integers(2, 6)),
    }
    if kind != "distilbert":
        return sizes
    renamed = {
        "hidden_size": "dim",
        "num_hidden_layers": "n_layers",
        "num_attention_heads": "n_heads",
        "intermediate_size": "hidden_dim",
        "hidden_act": "activation",
    }
    del sizes["type_vocab_size"], sizes["layer_norm_eps"], sizes["classifier_dropout"]
    return {renamed.get(name, name): value for name, value in sizes.items()}


def theirs(kind, task, rng, **options):
    """A transformers model with random weights everywhere, in float64 and evaluation mode."""
    config = getattr(transformers, f"{NAMES[kind]}Config")(**settings(kind, rng, task) | options)
    model = getattr(transformers, NAMES[kind] + task)(config)
    torch.manual_seed(int(rng.integers(1 << 30)))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.4)
    return model.eval()


def batch(config, rng, padded):
    """ids, mask and segments (B, T): rows padded on either side and with holes, or none."""
    ids = rng.integers(0, config.vocab_size, (4, LENGTH))
    segments = None
    if getattr(config, "type_vocab_size", 0) and rng.random() < 0.7:
        segments = rng.integers(0, config.type_vocab_size, ids.shape)
    if not padded:
        return ids, None, segments
    mask = np.ones(ids.shape, int)
    mask[0, 4:] = mask[1, :2] = mask[2, 3] = 0
    ids[mask == 0] = config.pad_token_id
    return ids, mask, segments


def call(model, ids, mask, segments, **options):
    given = {"input_ids": ids, "attention_mask": mask, "token_type_ids": segments} | options
    return model(**{name: torch.tensor(a) for name, a in given.items() if a is not None})


def answer(output, task):
    if task == "ForQuestionAnswering":
        return torch.stack([output.start_logits, output.end_logits], dim=-1)
    return output.last_hidden_state if task == "Model" else output.logits


def relative(got, right):
    return np.abs(got - right).max() / np.abs(right).max()


CASES = list(itertools.product(NAMES, TASKS, range(4)))


@pytest.mark.parametrize("kind, task, seed", CASES)
def test_outputs_equal_those_of_transformers(tmp_path, kind, task, seed):
    rng = np.random.default_rng([seed, *kind.encode(), TASKS.index(task)])
    their = theirs(kind, task, rng)
    their.save_pretrained(tmp_path)
    our = load_model(tmp_path)
    assert our.config.parameter_count == our.parameter_count()
    assert sum(p.numel() for p in their.parameters()) >= our.parameter_count()
    assert our.config.task == {"Model": "features"}.get(task, our.config.task)
    for padded, dtype in itertools.product((False, True), ("float32", "float64")):
        their = their.to(getattr(torch, dtype))
        our.astype(dtype)
        given = batch(their.config, rng, padded)
        with torch.no_grad(), no_grad():
            output = call(their, *given)
            right, got = answer(output, task).numpy(), our(*given).numpy()
            assert got.shape == right.shape and got.dtype == dtype
            tolerance = 1e-9 if dtype == "float64" else 1e-4
            assert relative(got, right) <= tolerance
            if task == "Model" and kind != "distilbert":
                pooled = our.pooled(*given).numpy()
                assert relative(pooled, output.pooler_output.numpy()) <= tolerance


@pytest.mark.parametrize("kind, task, seed", [case for case in CASES if case[2] < 2])
def test_transformers_opens_what_was_saved(tmp_path, kind, task, seed):
    rng = np.random.default_rng([seed, *kind.encode(), TASKS.index(task)])
    their = theirs(kind, task, rng)
    their.save_pretrained(tmp_path / "theirs")
    our = load_model(tmp_path / "theirs")
    save_model(tmp_path / "ours", our)
    again, report = type(their).from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert not any(report.values()), report
    for name, parameter in their.named_parameters():
        if their.config.tie_word_embeddings or name not in UNREAD:
            assert torch.equal(parameter, again.get_parameter(name)), name
    given = batch(their.config, rng, True)
    with torch.no_grad():
        right = answer(call(their, *given), task)
        assert torch.equal(answer(call(again.eval(), *given), task), right)


def labels(config, task, problem, ids, rng):
    if task == "ForQuestionAnswering":
        return rng.integers(0, LENGTH, (len(ids), 2))
    if task != "ForSequenceClassification":
        size = config.vocab_size if task == "ForMaskedLM" else config.num_labels
        right = rng.integers(0, size, ids.shape)
        right[rng.random(ids.shape) < 0.5] = -100
        return right
    shape = (len(ids), config.num_labels)
    if problem == "multi_label_classification":
        return (rng.random(shape) < 0.5).astype(float)
    if problem == "regression":
        return rng.normal(size=shape if config.num_labels > 1 else len(ids))
    return rng.integers(0, config.num_labels, len(ids))


GRADIENTS = [(kind, task, None, {}) for kind in NAMES for task in TASKS[1:]] + [
    (kind, "ForSequenceClassification", problem, {"problem_type": problem, "num_labels": count})
    for kind in NAMES
    for problem, count in (("multi_label_classification", 3), ("regression", 3), ("regression", 1))
]


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("kind, task, problem, options", GRADIENTS)
def test_the_loss_and_every_gradient_equal_those_of_transformers(
    tmp_path, kind, task, problem, options, recompute
):
    rng = np.random.default_rng([7, *kind.encode(), TASKS.index(task)])
    their = theirs(kind, task, rng, **options).double()
    their.save_pretrained(tmp_path)
    our = load_model(tmp_path).astype("float64")
    our.load_state_dict(
        FAMILIES[kind].from_files(
            {name: p.detach().numpy() for name, p in their.named_parameters()}, our.config
        )
    )
    our.recompute = recompute
    ids, mask, segments = batch(their.config, rng, True)
    targets = labels(their.config, task, problem, ids, rng)
    named = {"labels": targets}
    if task == "ForQuestionAnswering":
        named = {"start_positions": targets[:, 0], "end_positions": targets[:, 1]}
    expected = call(their, ids, mask, segments, **named).loss
    expected.backward()
    loss = our.loss(ids, targets, mask, segments)
    loss.backward()
    assert abs(loss.item() / expected.item() - 1) < 1e-10
    got = FAMILIES[kind].to_files(
        {name: parameter.grad.data for name, parameter in our.named_parameters()}, our.config
    )
    if kind == "xlm-roberta" and task == "ForMaskedLM":  # names the tied weight by its head
        got["lm_head.decoder.weight"] = got["roberta.embeddings.word_embeddings.weight"]
    compared = 0
    for name, parameter in their.named_parameters():
        if parameter.grad is None:  # no part in this loss
            continue
        right = parameter.grad.numpy()
        largest = np.abs(right).max()
        # the bias of keys has no influence: both sides hold rounding errors of 0
        error = np.abs(got[name] - right).max()
        assert largest < 1e-10 or error < max(1e-9 * largest, 1e-16), name
        compared += right.size
    assert compared >= 0.9 * our.parameter_count()


@pytest.mark.parametrize("kind", NAMES)
def test_a_padded_row_gives_what_it_gives_alone(tmp_path, kind):
    rng = np.random.default_rng(3)
    theirs(kind, "Model", rng).save_pretrained(tmp_path)
    our = load_model(tmp_path).astype("float64")
    ids, mask, _ = batch(our.config, rng, True)
    with no_grad():
        together, alone = our(ids, mask).numpy()[0, :4], our(ids[:1, :4]).numpy()[0]
    np.testing.assert_allclose(together, alone, rtol=1e-11)


def test_minilm_in_float64():
    folder = minilm()
    their = transformers.BertModel.from_pretrained(folder).double().eval()
    our = load_model(folder).astype("float64")
    rng = np.random.default_rng(0)
    ids = rng.integers(0, our.config.vocab_size, (3, 40))
    mask = np.ones(ids.shape, int)
    mask[1, 20:] = mask[2, 5:] = 0
    with torch.no_grad(), no_grad():
        right = call(their, ids, mask, None)
        assert relative(our(ids, mask).numpy(), right.last_hidden_state.numpy()) < 1e-9
        assert relative(our.pooled(ids, mask).numpy(), right.pooler_output.numpy()) < 1e-9
