"""`minillm train` as people use it: inputs, folders, files of a run, consoles."""

import gzip
import io
import json
import os
import shlex
import subprocess
import sys

import numpy as np
import pytest

from minillm import tokenizers
from minillm.data import TokenFile
from minillm.formats import safetensors
from minillm.training import metrics
from small_runs import command, environment, flags, minillm, process, story, trainer, tree, written

FILES = {
    "config.json",
    "generation_config.json",
    "metrics.jsonl",
    "model.safetensors",
    "report.html",
    "tokenizer.json",
    "tokenizer_config.json",
    "training/dataset.json",
    "training/facts.json",
    "training/outcome.json",
    "training/samples.jsonl",
    "training/lock",
    "training/settings.json",
    "training/state-00000008.safetensors",
    "training/state-00000012.safetensors",
    "training/train.bin",
    "training/val.bin",
}


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """Every test works in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def read_json(path):
    return json.loads(path.read_text(encoding="utf-8"))


def text_of_run(folder):
    """All training and validation text of a run, from its token files."""
    tokenizer = tokenizers.load(folder)
    parts = [TokenFile.open(folder / f"training/{name}.bin").ids for name in ("train", "val")]
    return tokenizer.decode(np.concatenate(parts))


def test_a_run_leaves_these_files_and_no_other(here):
    written(here / "tiny.txt")
    assert minillm("train", "tiny.txt", *flags(steps=12, seed=3, dropout=0.25)) == 0
    run = here / "runs/tiny"
    assert tree(run).keys() == FILES
    saved = read_json(run / "training/settings.json")
    assert saved["files"] == ["tiny.txt"]
    assert {"steps": 12, "seed": 3, "dropout": 0.25, "final-lr": 0.1}.items() <= saved.items()
    config = read_json(run / "config.json")
    assert config["architectures"] == ["GPT2LMHeadModel"]
    sizes = ("n_layer", "n_head", "n_embd", "n_positions", "vocab_size", "resid_pdrop")
    assert [config[name] for name in sizes] == [1, 2, 16, 16, 19, 0.25]
    assert read_json(run / "generation_config.json") == {"do_sample": True}
    arrays, metadata = safetensors.verify(run / "model.safetensors")
    assert arrays["transformer.wte.weight"].shape == (19, 16)
    assert len(json.loads(metadata["reference_logits"])) == 19
    report = (run / "report.html").read_text(encoding="utf-8")
    assert report.lower().startswith("<!doctype html>")
    for words in ("<svg", "dropout", "tiny: training report"):
        assert words in report
    assert "src=" not in report
    assert "http://www.w3.org" not in report.replace('xmlns="http://www.w3.org/2000/svg"', "")


def test_metrics_have_the_promised_keys(here):
    written(here / "tiny.txt")
    assert minillm("train", "tiny.txt", *flags(steps=12, eval_every=4)) == 0
    rows = metrics.read(here / "runs/tiny/metrics.jsonl")
    always = {"step", "tokens", "loss", "lr", "grad_norm", "tokens_per_s", "elapsed_s"}
    for row in rows:
        evaluated = {"val_loss", "val_bpb"} if row["step"] % 4 == 0 else set()
        assert row.keys() - {"rss_mb"} == always | evaluated
        assert row["tokens"] == row["step"] * 4 * 16
    assert [row["step"] for row in rows] == list(range(1, 13))
    assert rows[-1]["val_bpb"] == pytest.approx(rows[-1]["val_loss"] / np.log(2), rel=1e-9)


def test_runs_are_numbered_and_never_overwritten(here, capsys):
    written(here / "tiny.txt")
    for _ in range(3):
        assert minillm("train", "tiny.txt", *flags(steps=1)) == 0
    assert sorted(path.name for path in (here / "runs").iterdir()) == ["tiny", "tiny-2", "tiny-3"]
    before = tree(here)
    capsys.readouterr()
    assert minillm("train", "tiny.txt", "--out", "runs/tiny", *flags(steps=1)) == 2
    assert capsys.readouterr().err == (
        "minillm: train: runs/tiny exists already; name another --out, or go on with "
        "--resume runs/tiny\n"
    )
    assert tree(here) == before


@pytest.mark.parametrize(
    ("words", "name"),
    [
        (["a.b.txt"], "a"),
        (["folder"], "folder"),
        (["folder/", "a.b.txt"], "folder"),
        (["."], "work"),
        (["folder/x.txt.gz"], "x"),
    ],
)
def test_the_folder_is_named_after_the_first_input(here, monkeypatch, words, name):
    (here / "work").mkdir()
    monkeypatch.chdir(here / "work")
    written(here / "work/a.b.txt")
    written(here / "work/folder/x.txt.gz", gzip.compress(story(seed=2).encode("utf-8")))
    assert minillm("train", *words, *flags(steps=1)) == 0
    assert [path.name for path in (here / "work/runs").iterdir()] == [name]


def test_every_kind_of_input(here, monkeypatch):
    first, second = story(60, seed=1), story(60, seed=2)
    written(here / "one.txt", first)
    written(here / "two.txt.gz", gzip.compress(second.encode("utf-8")))
    lines = "".join(json.dumps({"body": line}) + "\n" for line in first.splitlines())
    written(here / "lines.jsonl", lines)
    written(here / "folder/a.md", first)
    written(here / "folder/deep/b.txt", second)
    stream = io.TextIOWrapper(io.BytesIO(first.encode("utf-8")), encoding="ascii")
    monkeypatch.setattr(sys, "stdin", stream)
    for name, words, text in (
        ("file", ["one.txt"], first),
        ("gz", ["two.txt.gz"], second),
        ("two", ["one.txt", "two.txt.gz"], first + second),
        ("folder", ["folder"], first + second),
        ("stdin", ["-"], first),
    ):
        assert minillm("train", *words, "--out", f"run-{name}", *flags(steps=1)) == 0
        assert text_of_run(here / f"run-{name}") == text, name
    assert minillm("train", "lines.jsonl", "--out", "j", "--text-field", "body", *flags()) == 0
    facts = read_json(here / "j/training/facts.json")["data"]
    assert (facts["documents"], facts["split"]) == (60, "documents")
    assert sorted(text_of_run(here / "j")) == sorted(first.replace("\n", ""))
    assert read_json(here / "j/generation_config.json")["eos_token_id"] == 19 - 1


def test_without_validation_the_last_weights_are_kept(here):
    written(here / "tiny.txt")
    words = flags(val_fraction=0, steps=6, eval_every=2, save_every=2)
    assert minillm("train", "tiny.txt", "--out", "run", "--stop-after", 3, *words) == 0
    for stop in (("--stop-after", 5), ()):
        assert minillm("train", "--resume", "run", *stop) == 0
        newest = max((here / "run/training").glob("state-*"))
        state, model = (
            safetensors.read(path)[0] for path in (newest, here / "run/model.safetensors")
        )
        kept = model["transformer.wte.weight"]
        assert kept.tobytes() == state["model/wte.weight"].tobytes()
    assert "validation: none" not in (here / "run/metrics.jsonl").read_text(encoding="utf-8")


def test_samples_begin_with_the_prompt_and_are_recorded(here):
    written(here / "tiny.txt")
    words = flags(prompt="the cat", sample_tokens=5, eval_every=6)
    assert minillm("train", "tiny.txt", "--out", "run", *words) == 0
    lines = (here / "run/training/samples.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    assert [(row["step"], row["prompt"], len(row["text"])) for row in rows] == [
        (6, "the cat", 5),
        (12, "the cat", 5),
    ]


@pytest.mark.parametrize("tokenizer", ["byte", "bpe", "char"])
@pytest.mark.parametrize("context", [2, 5])
def test_samples_of_cut_characters_never_crash_a_run(here, capsys, tokenizer, context):
    written(here / "ru.txt", "мир и хлеб 🙂 сад\n" * 30)
    words = flags(tokenizer=tokenizer, context=context, width=8, steps=2, eval_every=1)
    extra = {"bpe": ("--vocab-size", 260), "char": ("--byte-fallback", "--vocab-size", 262)}
    assert minillm("train", "ru.txt", *words, *extra.get(tokenizer, ())) == 0
    assert "no sample" not in capsys.readouterr().err


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "utf-16"])
def test_any_console_encoding(here, encoding):
    written(here / "ru.txt", "мир и хлеб 🙂 сад\n" * 40)
    done = subprocess.run(
        command("train", "ru.txt", *flags(steps=2, eval_every=1)),
        capture_output=True,
        env=environment(PYTHONIOENCODING=encoding, PYTHONUTF8="0", LC_ALL="C"),
        check=False,
    )
    assert done.returncode == 0
    said = done.stderr.decode(encoding)
    assert "done: runs/ru holds the model" in said
    assert ("мир" if encoding == "utf-16" else "\\u0438") in said


def test_a_reader_that_goes_away_does_not_end_the_run(here):
    written(here / "tiny.txt")
    with subprocess.Popen(
        command("train", "tiny.txt", *flags()),
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=environment(),
    ) as run:
        run.stderr.close()
        run.stdout.close()
        assert run.wait(60) == 0
    assert tree(here / "runs/tiny").keys() == FILES


@pytest.mark.skipif(os.name == "nt", reason="written for a POSIX shell")
def test_programs_without_streams(here):
    written(here / "tiny.txt")
    words = shlex.join(command("train", "-", *flags()))
    closed = subprocess.run(f"{words} <&- >&- 2>err", shell=True, env=environment(), check=False)
    assert closed.returncode == 2
    assert "standard input holds 0 characters" in (here / "err").read_text(encoding="utf-8")
    words = shlex.join(command("train", "tiny.txt", *flags()))
    silent = subprocess.run(f"{words} <&- >&- 2>&-", shell=True, env=environment(), check=False)
    assert silent.returncode == 0


def test_hash_seed_and_locale_change_no_bit(here):
    written(here / "tiny.txt")
    for name, changes in (("a", {"PYTHONHASHSEED": "1"}), ("b", {"LC_ALL": "tr_TR.UTF-8"})):
        done = process("train", "tiny.txt", "--out", name, *flags(dropout=0.1), **changes)
        assert done.returncode == 0, done.stderr
    one, other = tree(here / "a"), tree(here / "b")
    for name in ("model.safetensors", "tokenizer.json", "training/state-00000012.safetensors"):
        assert one[name] == other[name]


@pytest.mark.skipif(os.name == "nt", reason="written for a POSIX shell")
def test_hints_can_be_pasted(here, capsys):
    written(here / "my story's.txt")
    assert minillm("train", "my story's.txt", *flags()) == 0
    hint = capsys.readouterr().err.splitlines()[-1]
    line = hint.strip().replace("minillm", shlex.join(command()), 1)
    line = line.replace('"..."', '"the "')
    assert subprocess.run(line, shell=True, env=environment(), check=False).returncode == 0


@pytest.mark.parametrize("words", [[], ["train"], ["generate"], ["verify-resume"], ["doctor"]])
def test_help(capsys, words):
    assert minillm(*words, "--help") == 0
    captured = capsys.readouterr()
    assert captured.out.startswith("usage: minillm")
    assert captured.err == ""


def test_version(capsys):
    assert minillm("--version") == 0
    assert capsys.readouterr().out == "minillm 0.1.0\n"


def test_precision_of_another_machine_is_told(here, capsys, monkeypatch):
    monkeypatch.setattr("minillm.kernels.has_bf16", lambda device=None: False)
    written(here / "tiny.txt")
    assert minillm("train", "tiny.txt", *flags(precision="bf16", steps=1)) == 0
    said = capsys.readouterr().err
    assert "precision: no bfloat16 matrix product on this machine, running in float32" in said
    assert read_json(here / "runs/tiny/training/settings.json")["precision"] == "f32"


def test_trainer_from_the_library(here):
    run = trainer(here)
    run.step(0.5)
    assert run.save().name == "state-00000001.safetensors"
