"""minillm finetune: methods, resume, what is learnt, preferences, and what is refused."""

import json
import sys
import tracemalloc

import numpy as np
import pytest

import stand_in_cupy
from minillm import kernels, nn
from minillm.blocks import GPU_CHUNK
from minillm.formats import safetensors
from minillm.formats.lock import Lock
from minillm.models import GPT2, GPT2Config, Llama, adapter
from minillm.models.folder import load, load_model, logits_of
from minillm.models.gguf_export import write_gguf
from minillm.training import methods, metrics, tuning, tuning_memory
from minillm.training.preference import log_probabilities
from minillm.training.trainer import Trainer
from minillm.training.tuning_data import read_parts
from minillm.training.tuning_settings import METHODS, TuneSettings
from small_runs import CLOCKED, minillm, tree
from small_tuning import base, gpt2, llama, preferences, talks, tokenizer

FLAGS = {
    "steps": 8, "batch": 2, "accumulate": 2, "eval-every": 4, "save-every": 4, "context": 90,
    "sample-tokens": 4, "precision": "f32", "threads": 1, "rank": 2, "lr": 0.01,
}  # fmt: skip


def flags(**changed):
    return [
        word
        for name, value in (FLAGS | {k.replace("_", "-"): v for k, v in changed.items()}).items()
        for word in (f"--{name}", str(value))
        if value is not None
    ]


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    base(tmp_path / "base")
    talks(tmp_path / "talks.jsonl")
    return tmp_path


def finetune(*words, data="talks.jsonl", model="base", out="run", **changed):
    if {"full", "head", "last-n"} & set(words):
        changed["rank"] = None
    return minillm("finetune", model, data, "--out", out, *words, *flags(**changed))


def quantised(path):
    """A GGUF file of blocks: the matrices that are wide enough for them."""
    write_gguf(path, llama(), tokenizer(), "q8_0")
    return path


def result(folder):
    files = {
        name: content
        for name, content in tree(folder).items()
        if name.endswith((".safetensors", "samples.jsonl")) and "state-00000004" not in name
    }
    rows = [
        {key: value for key, value in row.items() if key not in CLOCKED}
        for row in metrics.read(folder / "metrics.jsonl")
    ]
    return files, rows


@pytest.mark.parametrize("template, tried", [(True, "chat base "), (False, "generate base ")])
def test_the_command_to_try_is_one_that_the_model_can_do(here, capsys, template, tried):
    if not template:
        for path in (here / "base").glob("chat_template*"):
            path.unlink()
        config = here / "base/tokenizer_config.json"
        content = json.loads(config.read_text()) if config.exists() else {}
        content.pop("chat_template", None)
        config.write_text(json.dumps(content))
    (here / "plain.txt").write_text("the cat sat on the mat. " * 40)
    assert finetune("--method", "lora", data="plain.txt") == 0
    assert f"  minillm {tried}--adapter run" in capsys.readouterr().err


@pytest.mark.parametrize("method", [m for m in METHODS if m != "qlora"])
def test_each_method_lowers_the_loss_and_trains_what_it_says(here, method):
    last = 1 if method == "last-n" else None
    assert finetune("--method", method, steps=30, last=last, lr=0.01) == 0
    rows = metrics.read(here / "run/metrics.jsonl")
    losses = [row["val_loss"] for row in rows if "val_loss" in row]
    assert losses[-1] < 0.98 * losses[0]
    saved, _ = safetensors.read(max((here / "run/training").glob("state-*")))
    trained = {name.partition("/")[2] for name in saved if name.startswith("model/")}
    own = {name for name, _ in llama().named_parameters()}
    if method == "full":
        assert trained == own
    elif method == "head":
        assert trained == {"norm.weight", "embed_tokens.weight"}
    elif method == "last-n":
        assert trained == {n for n in own if n.startswith("layers.1.")} | {"norm.weight"}
    else:
        assert len(trained) == 28
        assert all(".lora_" in name for name in trained)
    before, page = load_model(here / "base"), (here / "run/report.html").read_text("utf-8")
    assert "Loss" in page
    if method == "lora":
        after = load_model(here / "base")
        adapter.load(after, here / "run")
    else:
        after = load_model(here / "run")
    ids = np.array([[72, 105, 33]])
    assert np.abs(logits_of(after)(ids) - logits_of(before)(ids)).max() > 1e-3


@pytest.mark.parametrize(
    "words", [("--method", "full"), ("--method", "lora", "--lora-dropout", "0.2")]
)
@pytest.mark.parametrize("cut", [3, 4])
def test_a_cut_run_has_the_bits_of_a_straight_one(here, words, cut):
    assert finetune(*words, out="straight") == 0
    assert finetune(*words, "--stop-after", cut, out="cut") == 0
    assert minillm("finetune", "--resume", "cut") == 0
    assert result(here / "cut") == result(here / "straight")


@pytest.mark.parametrize("step", [2, 6])
def test_a_step_that_never_ended_costs_what_came_after_the_last_save(here, monkeypatch, step):
    assert finetune("--lora-dropout", 0.2, out="straight") == 0
    with monkeypatch.context() as patch:
        whole_step = Trainer.step

        def breaks(run, *arguments):
            if run.counters.step == step:
                raise LookupError("broken off")
            return whole_step(run, *arguments)

        patch.setattr(Trainer, "step", breaks)
        assert finetune("--lora-dropout", 0.2, out="cut") == 2
    assert minillm("finetune", "--resume", "cut") == 0
    assert result(here / "cut") == result(here / "straight")


def test_qlora_trains_beside_blocks_that_stay(here, capsys):
    quantised(here / "q.gguf")
    assert finetune("--method", "qlora", model="q.gguf", steps=30) == 0
    losses = [r["val_loss"] for r in metrics.read(here / "run/metrics.jsonl") if "val_loss" in r]
    assert losses[-1] < 0.98 * losses[0]
    assert minillm("merge", "q.gguf", "run", "merged", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["largest_difference_by_merging"] < 1e-3 < found["largest_change_by_adapter"]
    assert minillm("merge", "q.gguf", "run", "merged.gguf", "--dtype", "q8_0", "--json") == 0
    said = capsys.readouterr()
    again = json.loads(said.out)["largest_difference_by_merging"]
    assert found["largest_difference_by_merging"] < again < 0.2
    assert "rounding them again adds to the loss" in said.err


@pytest.mark.parametrize("resumed", [False, True])
def test_qlora_keeps_blocks_on_a_gpu_without_an_extension(here, monkeypatch, resumed, capsys):
    quantised(here / "q.gguf")
    model, step = load_model(here / "q.gguf"), Trainer.step
    blocks = model.nbytes
    methods.widen(model)
    seen = []

    def watched(self, *arguments):
        seen.append(self.model.nbytes)
        return step(self, *arguments)

    monkeypatch.setattr(Trainer, "step", watched)
    with stand_in_cupy.installed(), kernels.use("reference"):
        words = ("--method", "qlora", "--device", "cuda", *("--stop-after", "2") * resumed)
        assert finetune(*words, model="q.gguf", steps=4) == 0
        if resumed:
            assert minillm("finetune", "--resume", "run") == 0
    assert len(seen) == 4 and blocks < model.nbytes / 2
    assert max(seen) < blocks + model.nbytes / 10, capsys.readouterr().err


def test_what_a_gpu_holds_is_predicted_from_blocks(here):
    quantised(here / "q.gguf")
    model, settings = load_model(here / "q.gguf"), TuneSettings(base="b", batch=2, device="cuda")
    as_blocks = tuning_memory.predicted(model, settings, 90, 2, False)
    blocks = sum(p.nbytes for p in model.parameters())
    methods.widen(model)
    wide = tuning_memory.predicted(model, settings, 90, 2, False)
    opened = tuning_memory.OPENED_BYTES * GPU_CHUNK
    assert wide - as_blocks == model.nbytes - blocks - opened


@pytest.mark.skipif(
    kernels.cpu is None, reason="needs the extension: without it blocks are widened"
)
@pytest.mark.parametrize("recompute", [False, True])
def test_gradients_beside_blocks_are_those_beside_their_numbers(here, recompute):
    quantised(here / "q.gguf")
    ids = np.array([[72, 105, 33, 9, 200, 4, 17, 88]] * 5)
    targets = np.where(ids == 33, -100, ids[:, ::-1])
    grads = []
    for widened in (False, True):
        model = load_model(here / "q.gguf")
        if widened:
            for parameter in model.parameters():
                _ = parameter.data
        model.recompute = recompute
        adapter.attach(model, adapter.Lora(2), seed=1)
        for _, layer in adapter.adapted(model):
            layer.lora_B.data[...] = 0.1
        model.loss(ids, targets, reduction="sum").backward()
        kinds = {nn.held_blocks(layer.weight).kind for _, layer in adapter.adapted(model)}
        assert kinds == ({"F32"} if widened else {"Q8_0"})
        grads.append([p.grad.numpy() for p in model.parameters() if p.requires_grad])
    for one, other in zip(*grads):  # kernels round activations to 16 bits
        assert np.abs(one - other).max() < 2e-3 * np.abs(other).max()


def test_the_loss_is_that_of_the_answers_alone(here):
    settings = TuneSettings(
        base="base", context=90, batch=3, accumulate=2, steps=4, precision="f32", lr=0.0001
    )
    run = tuning.start(["talks.jsonl"], settings, here / "run", lambda line: None)
    model, own = load(here / "base")
    nats, count = 0.0, 0
    places = run.objective.order.samples(0, 6)
    for place in places:
        text, learnt = run.objective.parts.train.text(place)
        said = own.decode(text)
        logits = logits_of(model)(text[None, :-1].astype(np.int64))[0].astype(np.float64)
        logp = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
        begin = len(own.encode(said[: said.index("assistant: ")])) + len("assistant: ") + 1
        assert text[-1] == own.eos_id  # the end is learnt
        for at in range(begin, len(text)):
            nats -= logp[at - 1, text[at]]
            count += 1
        assert learnt.sum() == len(text) - begin
    assert run.step(0.5).loss == pytest.approx(nats / count, rel=1e-5)


def test_after_enough_steps_answers_end_by_themselves(here, capsys):
    talks(here / "few.jsonl", 4)
    words = ("--method", "full", "--val-fraction", "0")
    assert finetune(*words, data="few.jsonl", steps=150, lr=0.01, eval_every=150) == 0
    model, own = load(here / "run")
    rows = [json.loads(line)["messages"] for line in (here / "few.jsonl").read_text().splitlines()]
    from minillm.generation import complete

    for messages in rows:
        ids = own.apply_chat_template(messages[:1], add_generation_prompt=True)
        (found,) = complete(model, own, [ids], max_tokens=60, temperature=0.0)
        assert (found.text, found.finish_reason) == (messages[1]["content"], "stop")


def test_preferences_are_learnt(here):
    preferences(here / "p.json")
    for objective in ("dpo", "simpo"):
        words = ("--method", "lora", "--objective", objective)
        assert finetune(*words, data="p.json", out=objective, steps=30, lr=0.01) == 0
        rows = [r for r in metrics.read(here / objective / "metrics.jsonl") if "val_loss" in r]
        assert rows[-1]["val_accuracy"] == 1.0
        assert rows[-1]["val_loss"] < rows[0]["val_loss"]
    assert "Best accuracy" in (here / "dpo/report.html").read_text("utf-8")


def test_dpo_begins_at_the_loss_of_a_coin(here):
    preferences(here / "p.json")
    settings = TuneSettings(
        base="base", objective="dpo", context=90, batch=3, steps=4, precision="f32"
    )
    run = tuning.start(["p.json"], settings, here / "run", lambda line: None)
    assert run.step(0.5).loss == pytest.approx(np.log(2), rel=1e-5)


@pytest.mark.skipif(not kernels.has_bf16(), reason="no bfloat16 products here")
def test_dpo_asks_the_reference_in_the_precision_of_the_run(here, monkeypatch, capsys):
    preferences(here / "p.json")
    asked = []

    def spied(model, examples, rows):
        asked.append((kernels.active_precision, rows, len(examples)))
        return log_probabilities(model, examples, rows)

    monkeypatch.setattr(tuning, "log_probabilities", spied)
    assert finetune("--objective", "dpo", data="p.json", precision="bf16") == 0
    assert asked == [("bf16", 4, 42), ("bf16", 4, 6)]
    said = capsys.readouterr().err
    told = [said.index(s) for s in ("engine: ", "reference: answer 4/48", "reference: log-")]
    assert told == sorted(told)


def test_talks_with_the_same_beginning_are_held_out_together(here):
    rows = []
    for n in range(40):
        says = [f"hello {n % 10}", "hi", f"more of {n}?", f"no {n}"]
        roles = ("user", "assistant", "user", "assistant")
        rows.append({"messages": [{"role": r, "content": c} for r, c in zip(roles, says)]})
    (here / "talks.jsonl").write_text(rows_of(*rows), encoding="utf-8")
    settings = TuneSettings(base="base", context=90, val_fraction=0.3)
    parts = read_parts(["talks.jsonl"], tokenizer(), settings, 90, lambda line: None)

    def beginnings(part):
        texts = (tokenizer().decode(part.text(n)[0].tolist()) for n in range(len(part)))
        return {text.partition("hello ")[2][0] for text in texts}

    assert len(parts.val) == 12
    assert not beginnings(parts.train) & beginnings(parts.val)


def test_a_preference_run_that_is_cut_has_the_same_bits(here):
    preferences(here / "p.json")
    words = ("--objective", "dpo")
    assert finetune(*words, data="p.json", out="straight") == 0
    assert finetune(*words, "--stop-after", 3, data="p.json", out="cut") == 0
    assert minillm("finetune", "--resume", "cut") == 0
    assert result(here / "cut") == result(here / "straight")


def rows_of(*rows):
    return "\n".join(json.dumps(row) for row in rows)


USER, BOT = {"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}


@pytest.mark.parametrize(
    ("text", "words", "line"),
    [
        ("{]", (), "line 1: no JSON"),
        ("[1]", (), "line 1: no object"),
        ("[{", (), "not JSON"),
        (rows_of({"a": 1, "b": 2}), (), "line 1: the fields 'a', 'b', an object with messages"),
        (rows_of({"messages": [USER]}), (), "line 1: no answer at the end"),
        (rows_of({"messages": [BOT]}), (), "line 1: nothing before the answer"),
        (rows_of({"messages": [{"role": "user"}]}), (), "line 1: a message without text"),
        (rows_of({"prompt": "a", "answer": "  "}), (), "line 1: no answer at the end"),
        (rows_of({"prompt": "a", "answer": 3}), (), "line 1: 'answer' is no text"),
        (rows_of({"prompt": "a", "chosen": "b", "rejected": "b"}), (), "are the same"),
        (rows_of({"prompt": "a", "rejected": "b"}), (), "rejected without chosen"),
        (rows_of({"prompt": "a", "answer": "b"}), ("--objective", "dpo"), "no rejected answer"),
        (rows_of({"prompt": "a" * 200, "answer": "b" * 95}), (), "dropped 1 of 1: no trainable"),
        (rows_of({"prompt": "a", "answer": "b"}), ("--columns", "x"), "columns: 'x', pairs such"),
        (rows_of({"prompt": "a", "answer": "b"}), ("--beta", "1"), "--beta goes with"),
        (rows_of({"prompt": "a", "answer": "b"}), ("--method", "qlora"), "no quantised matrix"),
        (rows_of({"prompt": "a", "answer": "b"}), ("--targets", "x"), "no layer is called 'x'"),
        (rows_of({"prompt": "a", "answer": "b"}), ("--context", "97"), "at most 96 (the model's)"),
        (rows_of({"prompt": "a", "answer": "b"}), ("--columns", "promt=a"), "no field 'promt'"),
        (rows_of({"prompt": "a", "answer": "b"}), ("--columns", "text=a,text=b"), "each once"),
        (
            rows_of({"messages": [{"role": "system", "content": "a"}, BOT]}),
            ("--instruction", "Shorten:"),
            "line 1: no message of the user, one is needed",
        ),
        (
            rows_of({"prompt": "a", "answer": "b"}),
            ("--method", "full", "--lora-dropout", "0.1", "--rank", "8"),
            "--lora-dropout goes with --method lora or qlora only",
        ),
        (rows_of({"prompt": "a", "answer": "b"}), ("--last", "1"), "--last goes with --method"),
        (rows_of({"prompt": "a", "answer": "b"}), ("--gamma", "2"), "--gamma goes with"),
        (
            rows_of({"prompt": "a", "answer": "b"}, {"prompt": "c", "answer": "b"}),
            ("--optimizer", "muon"),
            "optimizer: muon has no matrix",
        ),
        ("", (), "at least 1 is needed"),
        (
            rows_of({"text": "a b"}),
            ("--instruction", "Shorten:"),
            "line 1: a text without a prompt for the instruction, a row with a prompt is needed",
        ),
    ],
)
def test_what_cannot_be_learnt_is_refused_in_one_line(here, capsys, text, words, line):
    (here / "bad.jsonl").write_text(text, encoding="utf-8")
    assert minillm("finetune", "base", "bad.jsonl", "--out", "run", *flags(), *words) == 2
    said = capsys.readouterr().err
    assert line in said
    assert said.splitlines()[-1].startswith("minillm: ")
    assert not (here / "run").exists()


@pytest.mark.parametrize(
    ("name", "content", "words", "line"),
    [
        ("a.txt", b"plain", ("--instruction", "Shorten:"), "instruction: a.txt is text that is le"),
        ("a.txt", b"plain", ("--columns", "prompt=a"), "columns: a.txt is text that is learnt who"),
        ("a.jsonl", b"\0\1\2", (), "offset 0, a text file is needed\n"),
        ("a.jsonl", b"caf\xe9", (), "text in utf-8 is needed\n"),
        ("a.txt", b"plain", ("--config", "t.toml"), "t.toml: unknown key 'base'"),
    ],
)
def test_what_would_be_passed_over_in_silence_is_refused(here, capsys, name, content, words, line):
    (here / name).write_bytes(content)
    (here / "t.toml").write_text("base = 'other'\n", encoding="utf-8")
    assert finetune(*words, data=name) == 2
    said = capsys.readouterr().err
    assert line in said
    assert said.count("\n") == 1


def test_the_lock_of_a_run_names_its_command(here, capsys):
    assert finetune("--stop-after", 4) == 0
    held = Lock(here / "run/training", "")
    assert minillm("finetune", "--resume", "run") == 2
    assert "finetune: another process is training in run" in capsys.readouterr().err
    held.close()


def test_bad_rows_are_skipped_and_counted_where_asked(here, capsys):
    good = (here / "talks.jsonl").read_text(encoding="utf-8")
    (here / "bad.jsonl").write_text("{]\n" + good + rows_of({"messages": [USER]}), "utf-8")
    assert finetune("--on-bad", "skip", data="bad.jsonl") == 0
    said = capsys.readouterr().err
    assert "skipped 2 rows of bad.jsonl: 1 with no JSON (first in line 1), 1 with no answer" in said


def test_a_run_is_told_from_a_pretraining_run_and_its_base_is_watched(here, capsys):
    assert finetune("--stop-after", 2) == 0
    assert minillm("train", "--resume", "run") == 2
    assert "go on with: minillm finetune --resume run" in capsys.readouterr().err
    assert minillm("finetune", "--resume", "run", "--lr", "1") == 2
    assert "--lr cannot be changed" in capsys.readouterr().err
    base(here / "base", llama(seed=4))
    assert minillm("finetune", "--resume", "run") == 2
    assert "differ by up to" in capsys.readouterr().err
    (here / "run/training/base.json").write_text("{}", encoding="utf-8")
    assert minillm("finetune", "--resume", "run") == 2
    assert "base.json says nothing of the base" in capsys.readouterr().err


def test_merge_compares_and_refuses_another_base(here, capsys):
    assert finetune() == 0
    capsys.readouterr()
    assert minillm("merge", "base", "run", "merged", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["layers"] == 14
    assert found["largest_difference_by_merging"] < 1e-4 < found["largest_change_by_adapter"]
    both = [load_model(here / "base"), load_model(here / "merged")]
    adapter.load(both[0], here / "run")
    ids = np.array([[1, 2, 3]])
    one, other = (logits_of(model)(ids) for model in both)
    np.testing.assert_allclose(one, other, atol=1e-4)
    base(here / "other", gpt2())
    for words, line in (
        (("base", "run", "merged"), "merged is there already"),
        (("other", "run", "m2"), "the same base is needed; or --any-base"),
        (("other", "run", "m2", "--any-base"), "which this model does not have"),
        (("base", "talks.jsonl", "m2"), "adapter_config.json"),
    ):
        assert minillm("merge", *words) == 2
        assert line in capsys.readouterr().err
    assert minillm("generate", "base", "--adapter", "run", "--prompt", "a", "--max-tokens", 2) == 0


def test_an_instruction_goes_before_each_prompt(here):
    (here / "p.jsonl").write_text(
        rows_of(*[{"source": f"text {n}", "targets": [f"t{n}", "x"]} for n in range(8)]), "utf-8"
    )
    words = ("--columns", "prompt=source,answer=targets", "--instruction", "Shorten:")
    assert finetune(*words, data="p.jsonl") == 0
    ids = safetensors.read(here / "run/training/examples.safetensors")[0]["train/ids"]
    said = tokenizer().decode(ids[:40])
    assert said.startswith("user: Shorten:\n\ntext ")


def test_show_mask_prints_what_is_learnt(here, capsys, monkeypatch):
    assert minillm("data", "show-mask", "base", "talks.jsonl", "--count", 1) == 0
    shown = capsys.readouterr().out
    row = json.loads((here / "talks.jsonl").read_text().splitlines()[0])["messages"]
    assert (
        f"user: {row[0]['content']}<|endoftext|>assistant: [[{row[1]['content']}<|endoftext|>]]"
        in shown
    )
    assert "tokens are learnt in 20 examples" in shown
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    assert minillm("data", "show-mask", "base", "talks.jsonl", "--count", 1) == 0
    assert f"\x1b[1;32m{row[1]['content']}<|endoftext|>\x1b[0m" in capsys.readouterr().out


def test_max_memory_chooses_smaller_batches_and_recomputation(here, capsys):
    from minillm.machine import memory

    model = llama()
    adapter.attach(model, adapter.Lora(2))
    now = memory().rss_mb
    if now is None:
        pytest.skip("the system does not say what memory a process holds")
    settings = TuneSettings(base="base", batch=8, max_memory="900G")
    free = tuning_memory.choose(model, settings, [91])
    assert (free.batch, free.recompute) == (8, False)
    sizes = [
        tuning_memory.predicted(model, settings, 90, rows, again)
        for rows, again in ((8, False), (4, False), (1, False), (8, True), (1, True))
    ]
    assert sizes[0] > sizes[1] > sizes[2] > sizes[4]
    assert sizes[0] > sizes[3] > sizes[4]
    assert finetune("--max-memory", "20G", batch=4, accumulate=1) == 0
    assert "memory: about" in capsys.readouterr().err
    assert finetune("--max-memory", "1M", out="small") == 2
    said = capsys.readouterr().err
    assert "are needed for one example of" in said
    assert "1.0 MB are allowed" in said
    for text in ("1", "1T", "fast", "-1G"):
        assert finetune(f"--max-memory={text}", out="small") == 2
        assert "max-memory" in capsys.readouterr().err


@pytest.mark.skipif(kernels.active_cpu is None, reason="counted with the extension's attention")
@pytest.mark.parametrize("adapted", [False, True])
@pytest.mark.parametrize("family", [GPT2, Llama])
@pytest.mark.parametrize("recompute", [False, True])
def test_blocks_keep_what_is_predicted(family, adapted, recompute):
    """Against the memory that NumPy asked for in steps on models and texts of two lengths."""
    tokens = (64, 192)
    found, told = {}, {}
    method = "lora" if adapted else "full"
    settings = TuneSettings(base="base", method=method, batch=1)
    for layers in (1, 4):
        model = wide(family, layers)
        if adapted:
            adapter.attach(model, adapter.Lora(2))
        model.recompute = recompute
        found[layers] = growth(model, tokens)
        told[layers] = tuning_memory._kept(model, settings, recompute)
    assert told[4] - told[1] == pytest.approx(found[4] - found[1], rel=0.05)
    assert told[4] == pytest.approx(found[4], rel=0.1)


def wide(family, layers):
    if family is GPT2:
        return GPT2(GPT2Config(vocab_size=16, n_positions=192, n_embd=96, n_layer=layers, n_head=3))
    return llama(vocab_size=16, hidden_size=96, intermediate_size=256, num_hidden_layers=layers,
                 num_attention_heads=3, num_key_value_heads=1, head_dim=32,
                 max_position_embeddings=192)  # fmt: skip


def growth(model, tokens):
    """Bytes at the peak of a step, for each token more."""
    peaks = []
    for length in tokens:
        ids = np.arange(length + 1)[None] % 16
        model.loss(ids[:, :-1], ids[:, 1:]).backward()  # gradients are there from now on
        tracemalloc.start()
        try:
            model.loss(ids[:, :-1], ids[:, 1:]).backward()
            peaks.append(tracemalloc.get_traced_memory()[1])
        finally:
            tracemalloc.stop()
    return (peaks[1] - peaks[0]) / (tokens[1] - tokens[0])


def test_a_limit_of_examples_is_kept(here, capsys):
    assert finetune("--limit", "6") == 0
    assert "training: 5 examples" in capsys.readouterr().err
