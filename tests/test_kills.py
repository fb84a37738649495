"""Tuning killed before any file and in any line of a log: what is left goes on to the same bits."""

import os
import shutil
import signal

import pytest

import small_tasks
from minillm.models.gguf_export import write_gguf
from minillm.training.trainer import Trainer
from small_kills import killed
from small_runs import limited, minillm, result
from small_tuning import base, llama, preferences, talks, tokenizer

LOOP = "--batch 2 --eval-every 2 --save-every 2 --precision f32 --threads 1".split()
TUNED = [*LOOP, *"--steps 4 --accumulate 2 --context 90 --sample-tokens 4 --lr 0.01".split()]
RUNS = {
    "lora": ("base", "talks.jsonl", *TUNED, "--rank", 2, "--lora-dropout", 0.2),
    "qlora": ("base.gguf", "talks.jsonl", "--method", "qlora", *TUNED, "--rank", 2),
    "dpo": ("base", "pairs.json", "--objective", "dpo", *TUNED, "--rank", 2),
    "8-bit": ("base", "talks.jsonl", *TUNED, "--method", "full", "--optimizer", "adamw8bit"),
    "classify": ("encoder", "texts.tsv", "--task", "classify", *LOOP, "--steps", 4),
}


@pytest.fixture(scope="module")
def given(tmp_path_factory):
    top = tmp_path_factory.mktemp("kills")
    base(top / "base")
    write_gguf(top / "base.gguf", llama(), tokenizer(), "q8_0")
    talks(top / "talks.jsonl")
    preferences(top / "pairs.json", 12)
    small_tasks.folder(top / "encoder", hidden_dropout_prob=0.1)
    rows = "".join(f"{word}\tthe {word} film {end}\n" for word in ("good", "bad") for end in "abcd")
    (top / "texts.tsv").write_text("label\ttext\n" + rows, encoding="utf-8")
    return top


@pytest.mark.skipif(os.name == "nt", reason="SIGKILL is of POSIX")
@pytest.mark.parametrize("kind", RUNS)
def test_killed_at_any_moment_it_goes_on_to_the_same_bits(given, monkeypatch, capsys, kind):
    monkeypatch.chdir(given)
    whole, cut = given / f"{kind}-whole", given / "cut"
    assert minillm("finetune", *RUNS[kind], "--out", whole) == 0
    moment = early = late = 0
    while killed(moment + 1, given, "finetune", *RUNS[kind], "--out", "cut"):
        moment += 1
        saved = list(cut.glob("training/state-*.safetensors"))
        capsys.readouterr()
        code = minillm("finetune", "--resume", "cut")
        if saved:
            assert code == 0
            assert result(cut) == result(whole)
            late += 1
        else:
            assert code == 2
            said = capsys.readouterr().err
            assert said.count("\n") == 1
            assert "ended before its first save is to be deleted and begun anew" in said
            early += 1
        shutil.rmtree(cut)
    assert early > 2
    assert late > 5
    assert result(cut) == result(whole)
    shutil.rmtree(cut)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("kind", ["dpo", "8-bit", "classify"])
def test_a_signal_saves_what_was_done(given, monkeypatch, capfd, kind, number):
    monkeypatch.chdir(given)
    whole, cut = given / f"{kind}-{number}", given / "stopped"
    assert minillm("finetune", *RUNS[kind], "--out", whole) == 0
    step = Trainer.step

    def signalled(trainer, *arguments):
        if trainer.counters.step == 3:
            signal.raise_signal(number)
        return step(trainer, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "step", signalled)
        assert minillm("finetune", *RUNS[kind], "--out", "stopped") == 130
    assert "saved after step 3; go on with:" in capfd.readouterr().err
    assert minillm("finetune", "--resume", "stopped") == 0
    assert result(cut) == result(whole)
    shutil.rmtree(cut)


@pytest.mark.skipif(os.name == "nt", reason="Windows cannot limit the size of files")
@pytest.mark.parametrize("kind", ["qlora", "8-bit", "classify"])
def test_a_disk_that_is_full_loses_nothing(given, monkeypatch, kind):
    monkeypatch.chdir(given)
    whole, cut = given / f"{kind}-roomy", given / "full"
    assert minillm("finetune", *RUNS[kind], "--out", whole) == 0
    assert minillm("finetune", *RUNS[kind], "--out", "full", "--stop-after", 2) == 0
    state = cut / "training/state-00000002.safetensors"
    done = limited(state.stat().st_size // 2, "finetune", "--resume", "full")
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].endswith(
        "file too large, stopped after step 4; the save of step 2 is whole, make room and go on "
        "with: minillm finetune --resume full"
    )
    assert "Traceback" not in done.stderr
    assert not list(cut.rglob("*.tmp"))
    assert minillm("finetune", "--resume", "full") == 0
    assert result(cut) == result(whole)
    shutil.rmtree(cut)
    done = limited(100, "finetune", *RUNS[kind], "--out", "full")
    assert done.returncode == 2
    assert "file too large" in done.stderr.splitlines()[-1]
    assert not cut.exists()
