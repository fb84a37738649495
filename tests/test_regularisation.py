"""What keeps a run from learning too much: averages, patience, smoothed labels, depth."""

import numpy as np
import pytest

from minillm import load, no_grad
from minillm.arrays import manual_seed
from minillm.models import GPT2, GPT2Config
from minillm.nn import Parameter
from minillm.training import metrics, state
from minillm.training.averaging import Average
from minillm.training.run import Run
from minillm.training.tuning_settings import TuneSettings
from small_llama import small as small_llama
from small_runs import CUT_RUN, minillm, result, same_bits, starter, story, trainer
from test_objective import Signs, started, weights
from test_pretraining import OWN


def test_an_average_is_that_of_its_closed_form():
    """Weights w0 ... wT: sum over t of (1 - d_t) * product of the later d * w_t, and of d * w0."""
    rng = np.random.default_rng(0)
    parameter = Parameter(rng.normal(size=3).astype(np.float32))
    average = Average({"w": parameter}, 0.7)
    history = [parameter.data.copy()]
    for step in range(1, 30):
        parameter.data[...] += rng.normal(size=3).astype(np.float32)
        history.append(parameter.data.copy())
        average.update(step)
    decays = [min(0.7, (1 + t) / (10 + t)) for t in range(1, 30)]
    assert decays[0] < 0.2
    assert decays[-1] == 0.7
    expected = np.prod(decays) * history[0].astype(np.float64)
    for t in range(1, 30):
        expected += (1 - decays[t - 1]) * np.prod(decays[t:]) * history[t]
    np.testing.assert_allclose(average.arrays["w"], expected, rtol=1e-5)
    with average.in_place():
        assert parameter.data is average.arrays["w"]
    assert np.array_equal(parameter.data, history[-1])


def test_the_average_is_validated_and_kept_and_the_weights_trained(tmp_path, monkeypatch):
    start = starter(tmp_path, monkeypatch, story()[:500], **CUT_RUN)
    assert start("plain") == start("ema", "--ema", 0.9) == 0
    saved = {
        name: state.load_latest(tmp_path / name / "training")[0].arrays for name in ("plain", "ema")
    }
    for name, array in saved["plain"].items():
        assert array.tobytes() == saved["ema"][name].tobytes()  # training goes the same way
    assert saved["ema"].keys() - saved["plain"].keys() == {
        name.replace("model/", "ema/") for name in saved["plain"] if name.startswith("model/")
    }
    rows = [metrics.read(tmp_path / name / "metrics.jsonl") for name in ("plain", "ema")]
    assert [row["loss"] for row in rows[0]] == [row["loss"] for row in rows[1]]
    assert rows[0][-1]["val_loss"] != rows[1][-1]["val_loss"]
    assert rows[1][-1]["val_loss"] == min(r["val_loss"] for r in rows[1] if "val_loss" in r)
    model = load(tmp_path / "ema")[0]
    for name, parameter in model.named_parameters():
        assert np.array_equal(parameter.data, saved["ema"][f"ema/{name}"])


@pytest.mark.parametrize("cut", [1, 7, 10])
def test_a_cut_run_with_an_average_has_the_bits_of_a_straight_one(tmp_path, monkeypatch, cut):
    start = starter(tmp_path, monkeypatch, story()[:500], **CUT_RUN | {"ema": 0.9})
    assert start("straight") == start("cut", "--stop-after", cut) == 0
    assert minillm("train", "--resume", "cut") == 0
    assert result(tmp_path / "cut") == result(tmp_path / "straight")


def test_patience_ends_a_run_and_keeps_the_best(tmp_path):
    accuracies = [0.5, 0.9, 0.7, 0.9, 0.95, 0.1, 1.0]
    one = started(tmp_path, Signs(accuracies=accuracies), patience=2, steps=30)
    assert Run(one.trainer, print).train() == "done"
    assert one.trainer.counters.step == 12  # validations every 3: 0.7 and 0.9 are no better
    assert one.written == [3, 6]
    assert accuracies == [0.1, 1.0]  # 0.95 was that of all, at the end
    before = weights(one)
    again = started(tmp_path, Signs(), patience=2, steps=30)
    again.trainer.restore(state.load_latest(tmp_path / "training")[0])
    assert Run(again.trainer, print).train() == "done"
    assert same_bits(weights(again), before)
    assert again.trainer.counters.step == 12


@pytest.mark.parametrize("cut", [4, 9, 11])
def test_patience_counts_on_after_a_cut(tmp_path, cut):
    found = [0.5, 0.9, 0.7, 0.9]
    one = started(tmp_path, Signs(accuracies=[*found, 1.0]), patience=2, steps=30)
    assert Run(one.trainer, print, cut).train() == "stopped"
    again = started(tmp_path, Signs(accuracies=[*found[cut // 3 :], 1.0]), patience=2, steps=30)
    again.trainer.restore(state.load_latest(tmp_path / "training")[0])
    assert Run(again.trainer, print).train() == "done"
    assert again.trainer.counters.step == 12


def test_a_better_one_renews_the_patience(tmp_path):
    one = started(tmp_path, Signs(accuracies=[0.5, 0.4, 0.6, 0.5, 0.7]), patience=2, steps=12)
    assert Run(one.trainer, print).train() == "done"
    assert one.trainer.counters.step == 12


def test_patience_without_validation_is_refused(tmp_path):
    with pytest.raises(ValueError, match="patience: 0 tokens to validate on, some are needed"):
        trainer(tmp_path, story(), val_fraction=0.0, patience=3)


@pytest.mark.parametrize(("objective", "options"), [("causal", {}), *OWN.items()])
def test_smoothed_labels_cost_what_the_formula_says_and_only_in_training(
    tmp_path, objective, options
):
    """(1 - s) * -log p(target) + s / V * the sum of -log p over all V tokens."""
    runs = [
        trainer(tmp_path / str(s), story(), objective=objective, label_smoothing=s, **options)
        for s in (0.0, 0.2)
    ]
    batch = runs[1].objective.batch(0, 3)
    given, *masks, targets = batch
    model = runs[1].model.eval()
    inputs = [given]
    if model.config.kind == "encoder-decoder":
        inputs += [model.shift_right(targets), *masks]
    with no_grad():
        logits = model(*inputs).numpy().astype(np.float64)
    nats = -(logits - np.log(np.exp(logits).sum(-1, keepdims=True)))
    used = targets != -100
    own = np.take_along_axis(nats, np.where(used, targets, 0)[..., None], -1)[..., 0][used].sum()
    smooth = nats.mean(-1)[used].sum()
    plain, smoothed = (run.objective for run in runs)
    assert smoothed.loss(model, batch).item() == pytest.approx(own, rel=1e-5)
    model.train()
    assert plain.loss(model, batch).item() == pytest.approx(own, rel=1e-5)
    assert smoothed.loss(model, batch).item() == pytest.approx(0.8 * own + 0.2 * smooth, rel=1e-5)
    assert runs[0].evaluate() == runs[1].evaluate()


def small_gpt(layers, rate):
    config = GPT2Config(vocab_size=11, n_positions=8, n_embd=8, n_layer=layers, n_head=2)
    model = GPT2(config, seed=3).astype(np.float64)
    for parameter in model.parameters():
        parameter.data[...] = np.random.default_rng(1).normal(0, 0.5, parameter.shape)
    model.stochastic_depth = rate
    return model


IDS = np.arange(6).reshape(1, 6)


def test_the_mean_of_a_block_that_is_left_out_or_not_is_that_of_evaluation():
    """One block before the last norm: kept with 1 - r and then scaled, or what came in."""
    model, rate = small_gpt(1, 0.3), 0.3
    model.ln_f.forward = lambda x: x
    found = {}
    for seed in range(40):
        manual_seed(seed)
        with no_grad():
            out = model.train().features(IDS).numpy()
            found.setdefault(out.tobytes(), out)
    kept, left = sorted(found.values(), key=lambda out: -np.abs(out).max())
    with no_grad():
        whole = model.eval().features(IDS).numpy()
        before = (model.wte(IDS) + model.wpe(np.arange(6))).numpy()
    assert np.array_equal(left, before)
    np.testing.assert_allclose((1 - rate) * kept + rate * left, whole, rtol=1e-12)


def test_deeper_blocks_are_left_out_more_often_and_none_in_evaluation():
    model = small_gpt(4, 0.4)
    assert model.train().survivals() == pytest.approx([0.9, 0.8, 0.7, 0.6])
    runs = np.zeros(4)
    for layer, block in enumerate(model.h):
        forward = block.forward

        def counted(*inputs, layer=layer, forward=forward):
            runs[layer] += 1
            return forward(*inputs)

        block.forward = counted
    trials = 600
    with no_grad():
        for seed in range(trials):
            manual_seed(seed)
            model.features(IDS)
    expected = trials * np.array([0.9, 0.8, 0.7, 0.6])
    deviation = np.sqrt(expected * (1 - expected / trials))
    assert (np.abs(runs - expected) < 4 * deviation).all()
    runs[:] = 0
    with no_grad():
        model.eval().features(IDS)
    assert runs.tolist() == [1, 1, 1, 1]


@pytest.mark.parametrize("recompute", [False, True])
def test_a_cut_run_of_stochastic_depth_has_the_bits_of_a_straight_one(
    tmp_path, monkeypatch, recompute
):
    options = CUT_RUN | {"layers": 3, "stochastic_depth": 0.5, "recompute": recompute}
    start = starter(tmp_path, monkeypatch, story()[:500], **options)
    assert start("straight") == start("cut", "--stop-after", 7) == 0
    assert minillm("train", "--resume", "cut") == 0
    assert result(tmp_path / "cut") == result(tmp_path / "straight")
    assert start("whole", stochastic_depth=0) == 0
    assert result(tmp_path / "whole") != result(tmp_path / "straight")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--ema", 0], "ema: 0.0, more than 0.0 is needed"),
        (["--ema", 1], "ema: 1.0, 0.999999 or less is needed"),
        (["--patience", 0], "patience: 0, 1 or more is needed"),
    ],
)
def test_what_cannot_be_is_refused(tmp_path, monkeypatch, capsys, words, said):
    start = starter(tmp_path, monkeypatch, story()[:500])
    assert start("run", *words) == 2
    assert said in capsys.readouterr().err


def test_a_llama_smooths_labels_by_the_formula():
    model = small_llama()
    ids, targets = np.array([[1, 2, 3, 4]]), np.array([[2, 3, -100, 5]])
    with no_grad():
        logits = model(ids).numpy().astype(np.float64)
        found = model.loss(ids, targets, reduction="sum", label_smoothing=0.3).item()
    nats = (np.log(np.exp(logits).sum(-1, keepdims=True)) - logits)[0]
    expected = sum(0.7 * nats[k, t] + 0.3 * nats[k].mean() for k, t in ((0, 2), (1, 3), (3, 5)))
    assert found == pytest.approx(expected, rel=1e-5)


def test_answers_alone_are_smoothed():
    assert TuneSettings(label_smoothing=0.1).label_smoothing == 0.1
    with pytest.raises(ValueError, match="--label-smoothing goes with --objective answers only"):
        TuneSettings(objective="dpo", label_smoothing=0.1)
