"""What a run decides for itself: tokenizer, context, model, length; and what it predicts."""

import json
import os
import subprocess
import sys
import time
import tracemalloc
from dataclasses import replace

import numpy as np
import pytest

from minillm import data, kernels, machine, tokenizers
from minillm.models import GPT2
from minillm.training import plan, run_folder
from minillm.training.settings import Settings
from small_runs import environment, minillm, story, trainer, written


def facts_of(tmp_path, text):
    return data.read(written(tmp_path / "text.txt", text)).facts


def prepared(tmp_path, text, context=8, kind="char"):
    corpus = data.read(written(tmp_path / "text.txt", text))
    tokenizer = tokenizers.train(kind, [text], special_tokens=())
    return tokenizer, data.prepare(corpus, tokenizer, tmp_path / "data", context=context)


@pytest.mark.parametrize(
    ("text", "given", "kind", "vocab_size"),
    [
        ("abc def\n" * 100, {}, "char", None),
        ("".join(map(chr, range(0x4E00, 0x4E00 + 600))), {}, "byte", None),
        ("a story that is long\n" * 4000, {}, "bpe", 512),
        ("a story that is long\n" * 20_000, {}, "bpe", 1024),
        ("abc def\n" * 100, {"vocab_size": 300}, "bpe", 300),
        ("abc def\n" * 100, {"tokenizer": "byte"}, "byte", None),
        ("a story that is long\n" * 4000, {"tokenizer": "char"}, "char", None),
    ],
)
def test_tokenizer_follows_the_size_of_the_text(tmp_path, text, given, kind, vocab_size):
    chosen = plan.choose_tokenizer(Settings(**given), facts_of(tmp_path, text))
    assert (chosen.tokenizer, chosen.vocab_size) == (kind, vocab_size)


def test_context_follows_the_text_and_is_cut_to_what_it_fills(tmp_path):
    short, long = facts_of(tmp_path, "ab\n" * 100), facts_of(tmp_path, "abc\n" * 30_000)
    words, characters = Settings(tokenizer="bpe"), Settings(tokenizer="char")
    assert plan.choose_context(words, short).context == 64
    assert plan.choose_context(words, long).context == 128
    assert plan.choose_context(characters, long).context == 256
    assert plan.choose_context(Settings(context=7), long).context == 7
    cut, line = plan.fit_context(Settings(context=64), 30)
    assert cut.context == 29
    assert line == "context: 64 cut to 29, a part of the text has 30 tokens"
    assert plan.fit_context(Settings(context=64), 65) == (Settings(context=64), None)


@pytest.mark.parametrize("lines", [10, 400, 3000])
def test_model_is_the_largest_with_few_enough_parameters(tmp_path, lines):
    tokenizer, dataset = prepared(tmp_path, story(lines))
    chosen = plan.choose_model(Settings(context=8), tokenizer, dataset)
    sizes = [
        plan.config_of(replace(chosen, layers=la, heads=h, width=w), tokenizer).parameter_count
        for la, h, w in plan.LADDER
    ]
    fitting = [s for s in sizes if s <= plan.PARAMETERS_PER_TOKEN * len(dataset.train)]
    expected = max(fitting, default=sizes[0])
    config = plan.config_of(chosen, tokenizer)
    assert config.parameter_count == expected == GPT2(config).parameter_count()


@pytest.mark.parametrize(
    ("given", "heads", "width"),
    [
        ({"width": 96}, 3, 96),
        ({"width": 7}, 1, 7),
        ({"heads": 5}, 5, 60),
        ({"heads": 500}, 500, 500),
        ({"heads": 3, "width": 48}, 3, 48),
    ],
)
def test_heads_and_width_fit_each_other(tmp_path, given, heads, width):
    tokenizer, dataset = prepared(tmp_path, story(10))
    chosen = plan.choose_model(Settings(context=8, **given), tokenizer, dataset)
    assert (chosen.heads, chosen.width) == (heads, width)


def products_of_muon(layers, width):
    """Multiplications of five steps on the four matrices of each block, counted one by one."""
    total = 0
    for rows, cols in ((3 * width, width), (width, width), (4 * width, width), (width, 4 * width)):
        side, longer = sorted((rows, cols))
        total += 5 * (2 * side * side * longer + side**3)
    return layers * total


@pytest.mark.parametrize("tokens, optimizer", [(24, "adamw"), (256, "muon"), (240, "adamw")])
def test_muon_is_chosen_where_its_products_are_fewer_than_those_of_a_step(
    tmp_path, tokens, optimizer
):
    tokenizer, dataset = prepared(tmp_path, story(10))
    given = Settings(context=8, batch=tokens // 8, layers=2, width=64, heads=2)
    chosen = plan.choose_model(given, tokenizer, dataset)
    step = 3 * 2 * 12 * 64**2 * tokens  # of the blocks' matrices, forward and twice backward
    assert (products_of_muon(2, 64) <= step) == (optimizer == "muon")
    assert chosen.optimizer == optimizer
    assert chosen.lr == 4e-3
    asked = replace(given, optimizer="adamw8bit", width=256)
    assert plan.choose_model(asked, tokenizer, dataset).optimizer == "adamw8bit"
    assert plan.choose_model(asked, tokenizer, dataset).lr == 2e-3
    masked = replace(asked, objective="mlm")
    pieces = tokenizers.train("wordpiece", [story(10)], vocab_size=60)
    assert plan.choose_model(masked, pieces, dataset).lr == 4.9e-4


def test_an_absurd_width_is_refused_at_once(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    written(tmp_path / "s.txt")
    begin = time.perf_counter()
    assert minillm("train", "s.txt", "--width", 10**9 + 7) == 2
    assert time.perf_counter() - begin < 10
    line = capsys.readouterr().err.splitlines()[-1]
    assert "of memory needed" in line
    assert "choose a smaller --batch, --width, --layers or --context" in line


def test_length(tmp_path):
    _, dataset = prepared(tmp_path, story(400), context=16)
    sized = Settings(batch=4, context=16, accumulate=2)
    asked, reason = plan.choose_length(replace(sized, steps=1000), dataset, 0.1)
    assert (asked.steps, asked.warmup, asked.eval_every, asked.save_every) == (1000, 100, 50, 50)
    assert reason == "as asked"
    free, reason = plan.choose_length(sized, dataset, 1e-4)
    passes = free.steps * 4 * 2 * 16 / len(dataset.train)
    assert plan.EPOCHS - 1 < passes <= plan.EPOCHS
    assert reason == f"{passes:.1f} passes over the text"
    slow, reason = plan.choose_length(sized, dataset, 1.0)
    assert (slow.steps, reason) == (300, "5 minutes on this machine")
    timed, _ = plan.choose_length(replace(sized, time=60.0), dataset, 0.5)
    assert (timed.steps, timed.eval_every) == (None, 6)
    own = replace(sized, steps=10, warmup=0, eval_every=3, save_every=7, eval_tokens=5)
    assert plan.choose_length(own, dataset, 0.1)[0] == own


WIDE = {"layers": 3, "width": 64, "context": 64, "batch": 4}


@pytest.mark.parametrize("provider", ["auto", "reference"])
@pytest.mark.parametrize(
    "options",
    [
        {"layers": 4, "width": 64, "context": 64, "batch": 8},
        {"layers": 4, "width": 64, "context": 64, "batch": 8, "recompute": True},
        {"layers": 1, "width": 32, "context": 256, "heads": 8},
        {"objective": "mlm", "tokenizer": "wordpiece", "vocab_size": 100} | WIDE,
        {"objective": "span", "tokenizer": "unigram", "vocab_size": 420} | WIDE,
        {"objective": "prefix", "tokenizer": "unigram", "vocab_size": 420} | WIDE,
        {"objective": "fim", "ema": 0.9} | WIDE,
    ],
)
def test_predicted_memory_is_that_of_a_step(tmp_path, provider, options):
    with kernels.use(provider):
        run = trainer(tmp_path, story(200), dropout=0.1, **options)
        predicted = plan.predicted_memory(run.settings, run.model.config)
        tracemalloc.start()
        run.step(0.5)
        peak = tracemalloc.get_traced_memory()[1] + 12 * run.model.parameter_count()
        tracemalloc.stop()
    predicted -= plan.PROCESS_BYTES + plan.LOGITS_BYTES
    assert 0.9 < predicted / peak < 2.5


PEAK = """
import json, pathlib, sys
from minillm import machine
from minillm.training import plan
from small_runs import story, trainer
run = trainer(pathlib.Path(sys.argv[1]), story(200), **json.loads(sys.argv[2]))
for _ in range(2):
    run.step(0.5)
print(plan.predicted_memory(run.settings, run.model.config) / 1e6, machine.memory().peak_mb)
"""


@pytest.mark.skipif(kernels.cpu is None, reason="the C++ extension is not installed: no arena")
@pytest.mark.skipif(machine.memory().peak_mb is None, reason="this system tells no peak of memory")
@pytest.mark.parametrize(
    "options",
    [
        {"layers": 4, "heads": 4, "width": 128, "context": 64, "batch": 12},
        {"layers": 4, "heads": 4, "width": 128, "context": 64, "batch": 12, "recompute": True},
        {"layers": 2, "heads": 6, "width": 384, "context": 256, "batch": 4},
        {"layers": 6, "width": 256, "context": 32, "batch": 4, "accumulate": 2},
    ],
)
def test_predicted_memory_is_that_of_the_process(tmp_path, options):
    done = subprocess.run(
        [sys.executable, "-c", PEAK, str(tmp_path), json.dumps(options | {"threads": 2})],
        check=True, capture_output=True, encoding="utf-8",
        env=environment(PYTHONPATH=os.pathsep.join(sys.path)),
    )  # fmt: skip
    predicted, peak = map(float, done.stdout.split())
    assert 0.8 < predicted / peak < 1.2


def test_recompute_is_kept_by_the_run_and_changes_no_bit(tmp_path):
    runs = [
        trainer(tmp_path / name, recompute=name == "yes", dropout=0.1) for name in ("yes", "no")
    ]
    for run in runs:
        run.step(0.5)
        run.save()
    assert [run.model.recompute for run in runs] == [True, False]
    assert run_folder.resume(tmp_path / "yes/run", print).model.recompute
    for name, array in runs[0].model.state_dict().items():
        assert np.array_equal(array, runs[1].model.state_dict()[name])


def test_more_memory_than_there_is_is_refused():
    plan.require_memory(10**9, None)
    plan.require_memory(10**9, 10**9)
    with pytest.raises(ValueError, match=r"about 2\.0 GB of memory needed, 1\.0 GB are free"):
        plan.require_memory(2 * 10**9, 10**9)


def test_preflight_says_what_it_decided(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    written(tmp_path / "s.txt", "\ufeff" + story(40).replace("\n", "\r\n"))
    assert minillm("train", "s.txt", "--steps", 2, "--sample-tokens", 0) == 0
    said = capsys.readouterr().err
    for words in (
        "1 file, ",
        "removed 1 byte order mark",
        "normalised 40 line ends",
        "tokenizer: char, vocabulary of 19",
        "validation: ",
        "model: GPT-2 with ",
        "of memory",
        "training: 2 steps of ",
        "done in about ",
    ):
        assert words in said
    described = json.loads((tmp_path / "runs/s/training/facts.json").read_text(encoding="utf-8"))
    assert described["data"]["lines"] == 40
    assert described["model"]["vocabulary"] == 19
