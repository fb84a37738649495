"""Every objective of `minillm train`: the loop, saves and resuming; and each one's own."""

import json

import numpy as np
import pytest

from minillm import load, no_grad, ops
from minillm.training import metrics, pretraining, run_folder
from small_runs import CUT_RUN, minillm, result, starter, story, trainer, written

OWN = {  # beside the options of a small run
    "mlm": {"tokenizer": "wordpiece", "vocab_size": 60},
    "span": {"tokenizer": "unigram", "vocab_size": 420},
    "prefix": {"tokenizer": "unigram", "vocab_size": 320},
    "fim": {},
}


@pytest.fixture
def start(tmp_path, monkeypatch):
    return starter(tmp_path, monkeypatch, story()[:900], **CUT_RUN)


@pytest.mark.parametrize("objective", pretraining.OBJECTIVES)
def test_any_cut_gives_the_bits_of_the_straight_run(start, tmp_path, objective):
    options = {"objective": objective} | OWN.get(objective, {})
    assert start("straight", **options) == 0
    for cut in (1, 7):
        assert start(f"cut{cut}", "--stop-after", cut, **options) == 0
        assert minillm("train", "--resume", f"cut{cut}") == 0
        assert result(tmp_path / f"cut{cut}") == result(tmp_path / "straight")


@pytest.mark.parametrize("objective", pretraining.OBJECTIVES)
def test_a_sample_is_the_same_however_it_is_batched(tmp_path, objective):
    run = trainer(tmp_path, story(), objective=objective, **OWN.get(objective, {}))
    whole = run.objective.batch(3, 6)
    for part, size in ((0, 1), (1, 2), (3, 3)):
        for one, other in zip(whole, run.objective.batch(3 + part, size), strict=True):
            width = other.shape[1]  # rows may be padded to the longest of a batch
            assert np.array_equal(one[part : part + size, :width], other)
            assert len(np.unique(one[part : part + size, width:])) <= 1


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--objective", "clm"], "objective: 'clm', one of causal, mlm, span, prefix, fim"),
        (["--whole-word"], "train: --whole-word goes with --objective mlm only"),
        (["--objective", "mlm", "--document-mask"], "--document-mask goes with --objective causal"),
        (
            ["--objective", "mlm", "--tokenizer", "bpe"],
            "tokenizer: 'bpe' with --objective mlm, wordpiece is needed",
        ),
        (
            ["--tokenizer", "wordpiece"],
            "tokenizer: 'wordpiece' with --objective causal, byte or char or bpe or word is",
        ),
        (["--objective", "mlm", "--context", 2], "context: 2, 3 or more is needed"),
        (["--objective", "mlm", "--prompt", "the cat"], "prompt: 'the cat' has no [MASK]"),
        (["--objective", "span", "--context", 3], "context: 3, 4 or more is needed for a span"),
        (["--objective", "prefix", "--context", 1], "context: 1, 2 or more is needed to cut it"),
        (["--fim-rate", 0.2], "train: --fim-rate goes with --objective fim only"),
        (["--objective", "fim", "--context", 4], "context: 4, 5 or more is needed: 4 of it are"),
        (["--objective", "span", "--prompt", "a"], "prompt: samples of --objective span begin"),
    ],
)
def test_what_cannot_be_is_refused(tmp_path, monkeypatch, capsys, words, said):
    monkeypatch.chdir(tmp_path)
    written(tmp_path / "s.txt")
    assert minillm("train", "s.txt", *words) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith("minillm: ")
    assert said in line
    assert not (tmp_path / "runs").exists()


def test_prepared_data_without_a_mask_token_are_refused(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    written(tmp_path / "s.txt")
    assert minillm("data", "prepare", "s.txt", "--out", "d", "--tokenizer", "char") == 0
    assert minillm("train", "d", "--objective", "mlm", "--context", 16) == 2
    assert "train: the char tokenizer has no cls token, one like BERT's" in capsys.readouterr().err
    assert minillm("train", "d", "--objective", "fim", "--context", 16) == 2
    assert (
        "<|fim_prefix|> token, one that has it is needed; train on texts" in capsys.readouterr().err
    )


def test_a_bert_learns_what_is_hidden_and_predict_fills_it_in(tmp_path, monkeypatch, capsys):
    """Where each word has one that goes with it, that one can be guessed."""
    monkeypatch.chdir(tmp_path)
    pairs = ["apple red", "sky blue", "grass green", "lemon yellow", "snow white", "coal black"]
    rng = np.random.default_rng(0)
    written(tmp_path / "s.txt", "".join(pairs[n] + "\n" for n in rng.integers(6, size=1000)))
    sizes = ["--vocab-size", 120, "--layers", 1, "--width", 32, "--context", 4, "--steps", 300]
    fast = [
        "--dropout",
        0,
        "--lr",
        0.002,
        "--batch",
        64,
        "--optimizer",
        "adamw",
        "--precision",
        "f32",
    ]
    assert minillm("train", "s.txt", "--objective", "mlm", "--out", "run", *sizes, *fast) == 0
    said = capsys.readouterr().err
    assert "model: BERT with " in said
    assert 'minillm predict run "... [MASK] ..."' in said
    found = json.loads((tmp_path / "run/training/facts.json").read_text())
    assert found["model"]["family"] == "BERT"
    assert found["result"]["accuracy"] > 0.5  # by chance 0.17
    assert minillm("predict", "run", "lemon [MASK]", "--json") == 0
    top = json.loads(capsys.readouterr().out)["top"]
    assert top[0]["token"].strip() == "yellow"
    config = json.loads((tmp_path / "run/config.json").read_text())
    assert config["architectures"] == ["BertForMaskedLM"]


def test_validation_asks_the_same_each_time_and_means_over_what_is_hidden(tmp_path):
    run = trainer(tmp_path, story(), objective="mlm", **OWN["mlm"])
    objective = run.objective
    first, again = run.evaluate(), run.evaluate()
    assert first == again
    run.objective.batch(100, 4)
    assert run.evaluate() == first
    val, context = objective.dataset.val, objective.windows.context
    nats, right, count = 0.0, 0, 0
    run.model.eval()
    for begin in range(0, len(val) - 1, context):
        length = min(context, len(val) - 1 - begin)
        window = val.rows(np.array([begin]), length)
        batch = objective.hidden(window, 1, [begin])
        with no_grad():
            logits = run.model(batch.ids)
            nats += ops.cross_entropy(logits, batch.targets, reduction="sum").item()
        asked = batch.targets != -100
        right += int((logits.numpy().argmax(-1) == batch.targets)[asked].sum())
        count += int(asked.sum())
    assert first["val_loss"] == pytest.approx(nats / count, rel=1e-5)
    assert first["val_accuracy"] == pytest.approx(right / count)


def test_rows_are_windows_between_cls_and_sep(tmp_path):
    run = trainer(tmp_path, story(), objective="mlm", **OWN["mlm"])
    batch, tokenizer = run.objective.batch(0, 3), run.objective.tokenizer
    assert batch.ids.shape == (3, 16)
    assert (batch.ids[:, 0] == tokenizer.role_ids["cls"]).all()
    assert (batch.ids[:, -1] == tokenizer.role_ids["sep"]).all()
    plain = np.where(batch.targets == -100, batch.ids, batch.targets)[:, 1:-1]
    assert np.array_equal(plain, run.objective.windows.batch(0, 3)[0])
    assert run.objective.targets(batch) == 3 * round(0.15 * 14)


def test_documents_end_with_the_separator(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    lines = [json.dumps({"text": line}) + "\n" for line in story(60).splitlines()]
    written(tmp_path / "s.jsonl", "".join(lines))
    options = ["--context", 16, "--vocab-size", 60, "--steps", 1, "--layers", 1, "--width", 16]
    words = ["--objective", "mlm", *options, "--out", "run", "--precision", "f32"]
    assert minillm("train", "s.jsonl", *words) == 0
    run = run_folder.resume(tmp_path / "run", lambda line: None)
    tokens = run.objective.dataset
    sep = run.objective.tokenizer.role_ids["sep"]
    ends = [(part.ids == sep).sum() for part in (tokens.train, tokens.val)]
    assert sum(ends) == 60


def test_a_trained_bert_is_tuned_for_a_task(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    written(tmp_path / "s.txt")
    options = {"objective": "mlm", "steps": 2} | OWN["mlm"]
    start = starter(tmp_path, monkeypatch, story(), **options)
    assert start("base") == 0
    rows = "".join(f"{line}\t{place % 2}\n" for place, line in enumerate(story(40).splitlines()))
    written(tmp_path / "d.tsv", "text\tlabel\n" + rows)
    code = minillm("finetune", "base", "d.tsv", "--task", "classify", "--out", "t", "--steps", 2)
    assert code == 0, capsys.readouterr().err
    tuned, base = load(tmp_path / "t")[0], load(tmp_path / "base")[0]
    assert tuned.config.architecture == "BertForSequenceClassification"
    assert tuned.config.hidden_size == base.config.hidden_size


def test_a_t5_is_saved_as_one_and_writes_what_is_missing(tmp_path, monkeypatch, capsys):
    start = starter(tmp_path, monkeypatch, story(), objective="span", **OWN["span"])
    assert start("run") == 0
    said = capsys.readouterr().err
    assert "model: T5 with " in said
    config = json.loads((tmp_path / "run/config.json").read_text())
    assert config["architectures"] == ["T5ForConditionalGeneration"]
    tokenizer = load(tmp_path / "run")[1]
    names = tokenizer.id_to_token
    assert names(tokenizer.vocab_size - 1) == "<extra_id_0>"
    assert [names(config[f"{role}_token_id"]) for role in ("pad", "eos")] == ["<pad>", "</s>"]
    assert tokenizer.encode("cat", add_special_tokens=True)[-1] == tokenizer.eos_id
    prompt = ["--control-tokens", "--prompt", "the <extra_id_0> sat", "--max-tokens", 3, "--json"]
    assert minillm("generate", "run", *prompt) == 0
    spelled = json.loads(capsys.readouterr().out)
    ids = tokenizer.encode("the ")
    assert spelled["prompt_tokens"] < len(tokenizer.encode("the <extra_id_0> sat")) + 1
    assert spelled["prompt_tokens"] == len(ids) + 2 + len(tokenizer.encode(" sat"))


def test_rows_of_spans_fill_the_context_and_hold_the_whole_text(tmp_path):
    run = trainer(tmp_path, story(), objective="span", **OWN["span"] | {"context": 32})
    objective, tokenizer = run.objective, run.objective.tokenizer
    batch = objective.batch(0, 3)
    assert batch.ids.shape == (3, 32)
    assert batch.targets.shape == (3, 5 + 2 + 1)  # of 34 tokens 5 in 2 spans
    assert (batch.ids[:, -1] == tokenizer.eos_id).all()
    assert (batch.targets[:, -1] == tokenizer.eos_id).all()
    windows, _ = objective.windows.batch(0, 3)
    marks = objective.sentinels.tolist()
    for ids, targets, window in zip(batch.ids, batch.targets, windows, strict=True):
        taken, last = {}, None
        for id in targets[:-1].tolist():
            if id in marks:
                last = taken.setdefault(id, [])
            else:
                last.append(id)
        text = [one for id in ids[:-1].tolist() for one in taken.get(id, [id])]
        assert text == window.tolist()
        assert list(taken) == marks[: len(taken)]


def test_a_gpt_fills_in_the_middle(tmp_path, monkeypatch, capsys):
    start = starter(tmp_path, monkeypatch, story(), objective="fim")
    assert start("run") == 0
    said = capsys.readouterr().err
    assert "model: GPT-2 with " in said
    assert 'minillm generate run --fill-in "..." "..."' in said
    row = metrics.read(tmp_path / "run/metrics.jsonl")[-1]
    assert {"val_loss", "val_bpb", "val_infill_loss"} <= row.keys()
    tokenizer = load(tmp_path / "run")[1]
    assert tokenizer.id_to_token(tokenizer.eos_id) == "<|endoftext|>"
    filled = ["--max-tokens", 3, "--temperature", 0, "--json"]
    assert minillm("generate", "run", "--fill-in", "the c", "sat", *filled) == 0
    found = json.loads(capsys.readouterr().out)
    spelled = "<|fim_prefix|>the c<|fim_suffix|>sat<|fim_middle|>"
    assert minillm("generate", "run", "--control-tokens", "--prompt", spelled, *filled) == 0
    same = json.loads(capsys.readouterr().out)
    assert (found["prompt_tokens"], found["text"]) == (11, same["text"])
    for words, why in (
        (["--prompt", "a"], "fill-in and prompt: they contradict each other"),
        (["--control-tokens"], "fill-in and control-tokens: they contradict"),
        (["--overflow", "truncate"], "fill-in and overflow truncate: they contradict each other"),
    ):
        assert minillm("generate", "run", "--fill-in", "a", "b", *words) == 2
        assert why in capsys.readouterr().err


def test_filling_in_asks_for_a_model_that_learnt_it(tmp_path, monkeypatch, capsys):
    start = starter(tmp_path, monkeypatch, story())
    assert start("run") == 0
    assert minillm("generate", "run", "--fill-in", "a", "b") == 2
    assert "fill-in: the char tokenizer has no <|fim_prefix|> token" in capsys.readouterr().err


def test_infill_loss_is_that_of_the_middles_alone(tmp_path):
    run = trainer(tmp_path, story(), objective="fim")
    objective = run.objective
    found = run.evaluate()
    assert found == run.evaluate()
    val, nats, count = objective.dataset.val, 0.0, 0
    for begin in range(0, len(val) - 1, 16):
        row = val.rows(np.array([begin]), min(16, len(val) - 1 - begin) + 1)
        if row.shape[1] <= 4:
            continue
        filled, middle = objective.asking(row[0], 5, begin)
        with no_grad():
            logits = run.model(filled[None, :-1]).numpy()[0].astype(np.float64)
        for place in range(middle.start, middle.stop):
            one = logits[place - 1]
            nats += np.log(np.exp(one).sum()) - one[filled[place]]
            count += 1
    assert found["val_infill_loss"] == pytest.approx(nats / count, rel=1e-5)
    plain = trainer(tmp_path / "plain", story(), objective="fim", fim_rate=0.0)
    assert np.array_equal(plain.objective.batch(3, 2)[0], plain.objective.windows.batch(3, 2)[0])


def test_a_prefix_is_read_and_the_rest_written(tmp_path):
    run = trainer(tmp_path, story(), objective="prefix", **OWN["prefix"])
    objective = run.objective
    end, pad = objective.tokenizer.eos_id, objective.tokenizer.role_ids["pad"]
    cuts = set()
    for first in range(0, 60, 4):
        batch, (windows, _) = objective.batch(first, 4), objective.windows.batch(first, 4)
        for ids, mask, targets, window in zip(*batch, windows, strict=True):
            prefix, rest = ids[mask].tolist(), targets[targets != -100].tolist()
            assert prefix[-1] == end
            assert prefix[:-1] + rest == window.tolist()
            assert (ids[~mask] == pad).all()
            cuts.add(len(rest))
        assert objective.targets(batch) + int(batch.mask.sum()) == objective.tokens(batch) == 4 * 17
    assert cuts == set(range(1, 16))
    run.model.eval()
    batch = objective.batch(0, 4)
    together = objective.loss(run.model, batch).item()
    alone = 0.0
    for number in range(4):
        alone += objective.loss(run.model, objective.batch(number, 1)).item()
    assert together == pytest.approx(alone, rel=1e-5)


def test_a_prefix_model_goes_on_with_a_prompt(tmp_path, monkeypatch, capsys):
    start = starter(tmp_path, monkeypatch, story(), objective="prefix", **OWN["prefix"])
    assert start("run") == 0
    assert 'minillm generate run --prompt "..."' in capsys.readouterr().err
    assert minillm("generate", "run", "--prompt", "the cat", "--max-tokens", 4, "--json") == 0
    tokenizer = load(tmp_path / "run")[1]
    found = json.loads(capsys.readouterr().out)
    assert found["prompt_tokens"] == len(tokenizer.encode("the cat")) + 1
