"""Impossible input: one line that says what is wrong, exit code 2, nothing left or lost."""

import gzip
import os
import sys
from pathlib import Path

import pytest

from minillm.training import metrics
from minillm.training.run_folder import new_folder
from small_runs import flags, limited, minillm, story, tree, written

GONE = "no such file or directory, one that is there is needed"

TEXT = story(20)


def everything(folder: Path):
    """All names under a folder, folders too, and the content of files."""
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))
    return names, tree(folder)


def distinct(count: int) -> str:
    """A text of `count` characters, one token each for a character tokenizer."""
    return (story(2) * (1 + count // 70))[:count]


FILES = {
    "empty.txt": "",
    "one.txt": "a",
    "mark.txt": b"\xef\xbb\xbf",
    "latin.txt": TEXT.encode() + b"caf\xe9\n",
    "binary.bin": b"\x7fELF\x02\x01\x01" + bytes(range(256)) * 40,
    "image.png": b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 40,
    "wide.txt": TEXT.encode("utf-16"),
    "cut.txt.gz": gzip.compress(TEXT.encode())[:-20],
    "plain.txt.gz": TEXT,
    "broken.jsonl": '{"text": "fine and well"}\n{"text": "cut\n',
    "other.jsonl": '{"body": "a text elsewhere"}\n' * 30,
    "number.jsonl": '{"text": 5}\n',
    "good.txt": TEXT,
    "spaces.txt": " \n" * 300,
}
FOLDERS = {"nothing/.hidden.txt": TEXT, "nothing/image.png": b"\x89PNG\r\n\x1a\n"}

BAD_FILES = [
    (["empty.txt"], "read: empty.txt holds 0 characters, at least 2 are needed"),
    (["one.txt"], "read: one.txt holds 1 character, at least 2 are needed"),
    (["mark.txt"], "read: mark.txt holds 0 characters, at least 2 are needed"),
    (["latin.txt"], "latin.txt"),
    (["binary.bin"], "binary.bin"),
    (["image.png"], "image.png"),
    (["wide.txt"], "wide.txt"),
    (["none.txt"], "read: none.txt: No such file or directory, a file or folder is needed"),
    (["good.txt", "none.txt"], "read: none.txt: No such file or directory"),
    (["good.txt", "empty/"], "empty/ is a folder without text"),
    (["nothing"], "nothing is a folder without text"),
    (["cut.txt.gz"], "cut.txt.gz is damaged gzip"),
    (["plain.txt.gz"], "plain.txt.gz is not gzip"),
    (["broken.jsonl"], "broken.jsonl line 2 is not JSON"),
    (["other.jsonl"], "other.jsonl line 1 has no field 'text' but 'body'"),
    (["number.jsonl"], "number.jsonl line 1: field 'text' is a number"),
    (["/dev/null"], "/dev/null is a device"),
    (["-"], "standard input holds 0 characters"),
    ([], "train: no file given, at least 1 is needed (or - for stdin)"),
]
BAD_OPTIONS = [
    (
        ["--tokenizer", "chars"],
        "tokenizer: 'chars', one of byte, char, bpe, wordpiece, unigram, word is needed; did you",
    ),
    (["--schedule", "sine"], "schedule: 'sine', one of cosine, linear, constant, wsd is needed"),
    (["--precision", "fp16"], "precision: 'fp16', one of f32, bf16 is needed"),
    (["--on-nan", "ignore"], "on-nan: 'ignore', one of skip, stop is needed"),
    (["--errors", "ignore"], "errors: 'ignore', one of strict, replace is needed"),
    (["--encoding", "klingon"], "klingon"),
    (["--encoding", "base64"], "base64"),
    (["--layers", "0"], "minillm: layers: 0, 1 or more is needed"),
    (["--layers", "-1"], "minillm: layers: -1, 1 or more is needed"),
    (["--layers", "two"], "layers: 'two', a whole number is needed"),
    (["--layers", "1.5"], "layers: '1.5', a whole number is needed"),
    (["--layers", ""], "layers: '', a whole number is needed"),
    (["--layers"], "minillm: layers: no value given, one is needed"),
    (["--lr", "fast"], "lr: 'fast', a number is needed"),
    (["--lr", "nan"], "minillm: lr: nan, a finite number is needed"),
    (["--lr", "inf"], "minillm: lr: inf, a finite number is needed"),
    (["--lr", "0"], "minillm: lr: 0.0, more than 0.0 is needed"),
    (["--dropout", "1"], "minillm: dropout: 1.0, 0.95 or less is needed"),
    (["--val-fraction", "1"], "minillm: val-fraction: 1.0, 0.9 or less is needed"),
    (["--time", "soon"], "time: 'soon', a duration like 90s, 10m or 1.5h is needed"),
    (["--time", "0s"], "minillm: time: 0.0 seconds, more than 0 is needed"),
    (["--time", "9s", "--steps", "5"], "train: both --steps and --time given"),
    (["--warmup", "9", "--steps", "5"], "--warmup 9 is longer than the 5 --steps"),
    (["--heads", "3", "--width", "16"], "3 heads do not divide the width 16"),
    (["--byte-fallback"], "--byte-fallback goes with --tokenizer char only"),
    (["--tokenizer", "char", "--vocab-size", "5"], "distinct characters"),
    (["--tokenizer", "byte", "--vocab-size", "5"], "it always has 257"),
    (["--tokenizer", "bpe", "--vocab-size", "5"], "a bpe vocabulary of 5, at least 257"),
    (["--context", "100000"], "a context of 100000 needs at least 100001"),
    (["--batch", "1000000000"], "of memory needed"),
    (["--layers", "100000000"], "of memory needed"),
    (["--prompt", "日"], "minillm: prompt: unknown character '日' (U+65E5) at position 0"),
    (["--prompt", ""], "minillm: prompt: 0 tokens, 1 to"),
    (["--prompt", "a" * 999], "minillm: prompt: 999 tokens, 1 to"),
    (["--seed", "-1"], "minillm: seed: -1, 0 or more is needed"),
    (["--stop-after", "-1"], "minillm: stop-after: -1, 0 or more is needed"),
    (["--stop-after", "1.5"], "minillm: stop-after: '1.5', a whole number is needed"),
    (["--out", ""], "minillm: out: an empty name given, a path is needed"),
    (["--out", "good.txt"], "good.txt exists already"),
    (["--out", "good.txt/run"], "not a directory"),
    (["--out", "new/deep/" + "x" * 300], "file name too long"),
    (["--config", "none.toml"], f"train: none.toml: {GONE}"),
    (["--config", "nothing"], "train: nothing: is a directory, a file is needed"),
    (["--layrs", "3"], "minillm: train: unknown option --layrs; did you mean --layers?"),
    (["--step", "3"], "unknown option --step; did you mean --steps?"),
    (["--zzz"], "train: unknown option --zzz; minillm train --help lists all"),
    (["--resume", "runs/none"], "resume: runs/none holds no run"),
    (["--resume", ""], "minillm: resume: an empty name given"),
]


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with every kind of bad file, to work in."""
    for name, content in (FILES | FOLDERS).items():
        written(tmp_path / name, content)
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "stdin", open(os.devnull, encoding="utf-8"))  # noqa: SIM115
    return tmp_path


def refusal(capsys, place, *words):
    """The one line that a command line is refused with, if it leaves everything as it was."""
    before = everything(place)
    assert minillm(*words) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    *preflight, line, rest = captured.err.split("\n")
    assert rest == ""
    assert line.startswith("minillm: ")
    assert not any(said.startswith("minillm") or "rror" in said for said in preflight)
    assert everything(place) == before
    return line


@pytest.mark.parametrize(("files", "line"), BAD_FILES, ids=[" ".join(b[0]) for b in BAD_FILES])
def test_files_that_cannot_be_trained_on(place, capsys, files, line):
    assert line in refusal(capsys, place, "train", *files)


@pytest.mark.parametrize(("words", "line"), BAD_OPTIONS, ids=[" ".join(b[0]) for b in BAD_OPTIONS])
def test_options_that_cannot_be(place, capsys, words, line):
    files = [] if words[0] == "--resume" else ["good.txt"]
    assert line in refusal(capsys, place, "train", *files, *words)


def test_invalid_utf_8_is_placed_exactly(place, capsys):
    line = refusal(capsys, place, "train", "latin.txt")
    for words in ("latin.txt", "line 21", f"{len(TEXT.encode()) + 3}", "0xE9", "--encoding"):
        assert words in line
    words = ("train", "latin.txt", "--errors", "replace", *flags(steps=1))
    assert minillm(*words) == 0
    assert "replaced 1 undecodable sequence by U+FFFD" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["trian", "good.txt"], "trian"),
        ([], "command"),
        (["generate"], "MODEL"),
        (["generate", "none", "--prompt", "a"], "load: none is not a folder"),
        (["generate", "nothing"], "nothing is no model folder"),
        (["generate", "none", "--temprature", "1"], "did you mean --temperature?"),
        (["generate", "none", "--top-k", "many"], "top-k: 'many'"),
        (["doctor", "--cases", "x"], "cases: 'x'"),
        (["doctor", "more"], "more"),
        (["verify-resume", "none.txt"], "none.txt"),
    ],
)
def test_other_commands(place, capsys, words, line):
    before = everything(place)
    assert minillm(*words) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert line in captured.err
    assert everything(place) == before


@pytest.mark.parametrize("tokens", [2, 40, 64, 65, 66])
def test_a_text_around_the_size_of_the_context(tmp_path, monkeypatch, capsys, tokens):
    monkeypatch.chdir(tmp_path)
    written(tmp_path / "short.txt", distinct(tokens))
    words = flags(context=64, steps=2, val_fraction=0, sample_tokens=0)
    if tokens >= 65:
        assert minillm("train", "short.txt", *words) == 0
        return
    line = refusal(capsys, tmp_path, "train", "short.txt", *words)
    assert line.endswith(
        f"{tokens} tokens: a context of 64 needs at least 65; choose a smaller context or more text"
    )


def test_a_text_too_short_for_any_context_is_not_told_to_choose_a_smaller_one(place, capsys):
    written(place / "abc.txt", "abc")
    line = refusal(capsys, place, "train", "abc.txt")
    assert line.endswith("a context of 1 needs at least 2; choose more text")


def test_the_validation_text_is_checked_too(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    written(tmp_path / "short.txt", distinct(100))
    line = refusal(capsys, tmp_path, "train", "short.txt", *flags(context=16))
    assert "10 tokens of 100 for validation (a share of 0.1): a context of 16 needs" in line
    capsys.readouterr()
    assert minillm("train", "short.txt", *flags(context=None, steps=2, sample_tokens=0)) == 0
    assert "context: 128 cut to 9, " in capsys.readouterr().err


def test_a_refused_run_keeps_the_empty_folder_it_was_given(place, capsys):
    (place / "link").symlink_to("empty")
    for out in ("empty", "link", "empty/new/deep"):
        refusal(capsys, place, "train", "none.txt", "--out", out)
    assert minillm("train", "good.txt", "--out", "link", *flags(steps=1)) == 0
    assert (place / "empty/model.safetensors").exists()


def test_a_folder_that_another_run_made_meanwhile_is_left_alone(place):
    written(place / "run/training/settings.json", "of the other")
    before = everything(place)
    with pytest.raises(FileExistsError), new_folder(place / "run"):
        raise AssertionError("not reached")
    assert everything(place) == before


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root may read and write all")
def test_what_may_not_be_read_or_written(place, capsys):
    (place / "good.txt").chmod(0)
    (place / "empty").chmod(0o500)
    assert "good.txt: Permission denied" in refusal(capsys, place, "train", "good.txt")
    line = refusal(capsys, place, "train", "spaces.txt", "--out", "empty/run")
    assert "empty/run: permission denied" in line


def test_a_text_of_spaces_trains(place):
    assert minillm("train", "spaces.txt", *flags(steps=2)) == 0


@pytest.mark.skipif(os.name == "nt", reason="Windows cannot limit the size of files")
@pytest.mark.parametrize("size", [40_000, 10_000, 1_500])
def test_a_disk_that_is_full_while_saving_loses_nothing(place, size):
    run = ("train", "good.txt", *flags(dropout=0.1, sample_tokens=0, optimizer="adamw"))
    assert minillm(*run, "--out", "straight") == 0
    assert minillm(*run, "--out", "run", "--stop-after", 4) == 0
    done = limited(size, "train", "--resume", "run")
    assert done.returncode == 2
    *_, line = done.stderr.splitlines()
    assert line.startswith("minillm: train: ")
    assert "file too large, stopped after step" in line
    assert line.endswith(
        "the save of step 4 is whole, make room and go on with: minillm train --resume run"
    )
    assert "Traceback" not in done.stderr
    assert not list((place / "run").rglob("*.tmp"))
    assert 4 < metrics.read(place / "run/metrics.jsonl")[-1]["step"] <= 8
    assert minillm("train", "--resume", "run") == 0
    one, other = tree(place / "straight"), tree(place / "run")
    for name in ("model.safetensors", "training/state-00000012.safetensors"):
        assert one[name] == other[name]


@pytest.mark.skipif(os.name == "nt", reason="Windows cannot limit the size of files")
def test_a_disk_that_is_full_in_the_preflight_leaves_nothing(place):
    before = everything(place)
    for size in (100, 1_000, 10_000):
        done = limited(size, "train", "good.txt", "--out", "new/run", *flags())
        assert done.returncode == 2
        assert "file too large" in done.stderr.splitlines()[-1]
        assert "Traceback" not in done.stderr
        assert everything(place) == before
