"""Saves: damaged ones are passed over, runs that cannot go on are refused, leftovers go."""

import json
import shutil

import pytest

from minillm.formats.lock import Lock
from minillm.training import options, state
from minillm.training.settings import Settings
from small_runs import CUT_RUN, minillm, result, starter, story, trainer, tree, written


@pytest.fixture
def start(tmp_path, monkeypatch):
    """Starts CUT_RUN in the folder of a name; the exit code."""
    return starter(tmp_path, monkeypatch, story()[:500], **CUT_RUN)


def damaged(content: bytes):
    middle = len(content) // 2
    yield "cut short", content[:-1]
    yield "half", content[:middle]
    yield "empty", b""
    yield "longer", content + b"\0"
    yield "zeros", bytes(len(content))
    yield "a flipped bit in the numbers", flipped(content, middle)
    yield "a flipped bit in the last byte", flipped(content, len(content) - 1)
    yield "an absurd header", b"\xff" * 8 + content[8:]


def flipped(content: bytes, place: int, bit: int = 0) -> bytes:
    return content[:place] + bytes([content[place] ^ (1 << bit)]) + content[place + 1 :]


def test_a_damaged_save_is_passed_over_for_the_one_before(start, tmp_path, capsys):
    assert start("straight") == 0
    wanted = result(tmp_path / "straight")
    assert start("cut", "--stop-after", 11) == 0
    saved = tree(tmp_path / "cut")
    newest = tmp_path / "cut/training/state-00000011.safetensors"
    for what, content in damaged(newest.read_bytes()):
        shutil.rmtree(tmp_path / "cut")
        for name, old in saved.items():
            written(tmp_path / "cut" / name, old)
        newest.write_bytes(content)
        capsys.readouterr()
        assert minillm("train", "--resume", "cut") == 0, what
        said = capsys.readouterr().err.splitlines()
        assert said[0].startswith("passed over state-00000011.safetensors: "), what
        assert said[1] == "resumed cut after step 10 of 16"
        assert result(tmp_path / "cut") == wanted, what


def test_any_flipped_bit_of_a_save_is_found(tmp_path):
    run = trainer(tmp_path, width=4, heads=1, context=4)
    path = run.save()
    content = path.read_bytes()
    header = 8 + int.from_bytes(content[:8], "little")
    counters = content.index(b"best_step")
    places = [*range(0, header, 11), *range(header, len(content), 997)]
    for place in [*places, *range(counters, counters + 150)]:
        path.write_bytes(flipped(content, place))  # a digit becomes another digit
        with pytest.raises(ValueError, match=r"every saved state in .* is damaged"):
            state.load_latest(path.parent)
    path.write_bytes(content)
    assert state.load_latest(path.parent)[1] == []


def test_a_run_with_no_whole_save_is_refused(start, tmp_path, capsys):
    assert start("cut", "--stop-after", 11) == 0
    for path in (tmp_path / "cut/training").glob("state-*"):
        path.write_bytes(path.read_bytes()[:-5])
    before = tree(tmp_path)
    capsys.readouterr()
    assert minillm("train", "--resume", "cut") == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "every saved state in cut/training is damaged" in said
    assert tree(tmp_path) == before
    for path in (tmp_path / "cut/training").glob("state-*"):
        path.unlink()
    assert minillm("train", "--resume", "cut") == 2
    assert "cut/training holds no saved state" in capsys.readouterr().err


def test_leftovers_of_a_killed_writer_are_removed(start, tmp_path):
    assert start("cut", "--stop-after", 4) == 0
    for name in (
        "model.safetensors.0a1b2c3d.tmp",
        "training/state-00000005.safetensors.00ff00ff.tmp",
    ):
        written(tmp_path / "cut" / name, "half")
    assert minillm("train", "--resume", "cut") == 0
    assert not list((tmp_path / "cut").rglob("*.tmp"))


def changed_settings():
    for option in options.fields_of(Settings):
        if option.name not in ("threads", "device", "max_memory", "byte_fallback"):
            limits = option.metadata
            kind = limits["kind"]
            value = [*limits.get("choices", ()), {str: "latin-1", float: 0.5, int: 3}.get(kind)][0]
            yield f"--{options.flag(option.name)}", *([] if kind is bool else [value])
    yield "--out", "elsewhere"
    yield "--config", "s.toml"


def test_a_run_goes_on_as_it_began(start, tmp_path, capsys):
    assert start("cut", "--stop-after", 4) == 0
    written(tmp_path / "s.toml", "seed = 1\n")
    before = tree(tmp_path)
    for words in changed_settings():
        capsys.readouterr()
        assert minillm("train", "--resume", "cut", *words) == 2
        said = capsys.readouterr().err
        assert said == (
            f"minillm: resume: {words[0]} cannot be changed, a run goes on as it began; "
            "start a new run for other settings\n"
        )
    for words in (("s.txt",), ("--threads", 0), ("--stop-after", 3), ("--stop-after", -1)):
        capsys.readouterr()
        assert minillm("train", *words, "--resume", "cut") == 2
        assert capsys.readouterr().err.count("\n") == 1 + (words == ("--stop-after", 3))
    assert tree(tmp_path) == before


def other_tokenizer(folder):
    spec = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    vocab = spec["model"]["vocab"]
    vocab["a"], vocab["b"] = vocab["b"], vocab["a"]
    (folder / "tokenizer.json").write_text(json.dumps(spec), encoding="utf-8")


def in_settings(**changes):
    def change(folder):
        path = folder / "training/settings.json"
        content = json.loads(path.read_text(encoding="utf-8")) | changes
        kept = {key: value for key, value in content.items() if value is not None}
        path.write_text(json.dumps(kept), encoding="utf-8")

    return change


def in_file(name, change):
    def apply(folder):
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(change(content))

    return apply


def without(name):
    return lambda folder: (folder / name).unlink()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (other_tokenizer, "the same is needed"),
        (in_file("training/train.bin", lambda b: flipped(b, 200)), "is damaged"),
        (in_file("training/train.bin", lambda b: b[:-2]), "bytes are needed but it has"),
        (in_file("training/val.bin", lambda b: flipped(b, 5)), "is needed"),
        (in_file("training/dataset.json", lambda b: b.replace(b"print", b"point")), "fingerprint"),
        (in_file("training/settings.json", lambda b: b[:-9]), "not valid JSON"),
        (in_file("training/settings.json", lambda b: b"[]"), "a JSON object is needed"),
        (in_settings(layers=None), "settings.json is damaged (no layers given"),
        (in_settings(steps=None), "settings.json is damaged (no steps given"),
        (in_settings(layers=2), "missing h.1."),
        (in_settings(width=0), "settings.json is damaged (width: 0, 1 or more is needed)"),
        (in_settings(colour=3), "settings.json is damaged"),
        (in_settings(heads=3), "3 heads do not divide the width 16"),
        (without("tokenizer.json"), "has no tokenizer.json, a tokenizer is needed"),
        (without("training/val.bin"), "val.bin: no such file"),
        (without("training/settings.json"), "cut holds no run (no training/settings.json)"),
        (in_file("metrics.jsonl", lambda b: b.replace(b"{", b"[", 1)), "metrics.jsonl line 1"),
    ],
)
def test_other_data_tokenizer_or_settings_are_refused(start, tmp_path, capsys, change, words):
    assert start("cut", "--stop-after", 4) == 0
    change(tmp_path / "cut")
    before = tree(tmp_path)
    capsys.readouterr()
    assert minillm("train", "--resume", "cut") == 2
    said = capsys.readouterr().err.splitlines()
    assert words in said[-1]
    assert said[-1].startswith("minillm: ")
    assert said[:-1] in ([], ["resumed cut after step 4 of 16"])
    assert tree(tmp_path) == before


def test_a_state_of_other_data_is_refused(start, tmp_path, capsys):
    assert start("cut", "--stop-after", 4) == 0
    written(tmp_path / "s.txt", story(seed=2)[:500])
    assert start("other", "--stop-after", 4) == 0
    for path in (tmp_path / "other/training").glob("state-*"):
        (tmp_path / "cut/training" / path.name).write_bytes(path.read_bytes())
    capsys.readouterr()
    assert minillm("train", "--resume", "cut") == 2
    assert "the same data are needed" in capsys.readouterr().err


def test_two_saves_are_kept(start, tmp_path):
    assert start("run") == 0
    names = [path.name for path in sorted((tmp_path / "run/training").glob("state-*"))]
    assert names == ["state-00000015.safetensors", "state-00000016.safetensors"]
    assert not list((tmp_path / "run").rglob("*.tmp"))


def test_two_processes_do_not_train_in_one_folder(tmp_path):
    (tmp_path / "run/training").mkdir(parents=True)
    refusal = "train: another process is training in run; stop it first"
    held = Lock(tmp_path / "run/training", refusal)
    with pytest.raises(RuntimeError, match="another process is training in"):
        Lock(tmp_path / "run/training", refusal)
    held.close()
    Lock(tmp_path / "run/training", refusal).close()


def test_a_save_beyond_the_resumed_one_does_not_push_out_good_ones(tmp_path):
    for step in (100, 85, 90):
        state.save(tmp_path, state.State(state.Counters(step=step), step, "f", {}))
    assert [path.name for path in sorted(tmp_path.glob(state.PATTERN))] == [
        f"state-{step:08}.safetensors" for step in (85, 90, 100)
    ]
