"""Resume: the bits of an uninterrupted run, wherever it was cut; damaged saves; refusals."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from minillm import kernels
from minillm.cli.train import options
from minillm.models import GPT2
from minillm.training import metrics, preflight, state
from minillm.training.trainer import Trainer
from small_runs import CLOCKED, environment, flags, minillm, process, story, trainer, tree, written

# 28 windows an epoch (450 training tokens, 16 a window): 7 steps of 2 batches of 2
RUN = {"steps": 16, "batch": 2, "accumulate": 2, "dropout": 0.1, "eval_every": 3, "save_every": 5}
EPOCH = 7


@pytest.fixture
def start(tmp_path, monkeypatch):
    """Starts the run of RUN in the folder of a name; the exit code."""
    monkeypatch.chdir(tmp_path)
    written(tmp_path / "s.txt", story()[:500])

    def start_run(name, *words, **options):
        return minillm("train", "s.txt", "--out", name, *flags(**(RUN | options)), *words)

    return start_run


def result(folder: Path):
    """All that a run leaves behind but for clocks and the older save."""
    files = {
        name: content
        for name, content in tree(folder).items()
        if name.startswith(("model", "tokenizer", "config", "training/samples", "training/train"))
    }
    files["state"] = max(folder.glob("training/state-*")).read_bytes()
    rows = [
        {key: value for key, value in row.items() if key not in CLOCKED}
        for row in metrics.read(folder / "metrics.jsonl")
    ]
    return files, rows


def test_an_epoch_is_seven_steps(tmp_path):
    run = trainer(tmp_path, story()[:500], **RUN)
    assert run.windows.per_epoch == EPOCH * RUN["batch"] * RUN["accumulate"]


@pytest.mark.parametrize("provider", ["auto", "reference"])
def test_any_cut_gives_the_bits_of_the_straight_run(start, tmp_path, provider):
    with kernels.use(provider):
        assert start("straight") == 0
        for cut in (1, EPOCH - 2, EPOCH, 2 * EPOCH):
            assert start(f"cut{cut}", "--stop-after", cut) == 0
            assert minillm("train", "--resume", f"cut{cut}") == 0
            assert result(tmp_path / f"cut{cut}") == result(tmp_path / "straight"), cut
        assert start("often", "--stop-after", 0) == 0
        for cut in (2, 6, 10, 14, 16):
            assert minillm("train", "--resume", "often", "--stop-after", cut) == 0
        assert result(tmp_path / "often") == result(tmp_path / "straight")


def test_a_cut_at_another_step_would_be_seen(start, tmp_path):
    assert start("one") == start("other", seed=1) == 0
    assert result(tmp_path / "one")[0]["state"] != result(tmp_path / "other")[0]["state"]


@pytest.mark.parametrize("mode", ["auto", "off"])
def test_threads_and_processes_change_no_bit(start, tmp_path, mode):
    wide = {"width": 64, "layers": 2, "steps": 6, "save_every": 3, "batch": 8}
    with kernels.use("auto" if mode == "auto" else "reference"):
        assert start("straight", "--threads", 1, **wide) == 0
    words = flags(**(RUN | wide))
    cut = ("--out", "cut", "--threads", 2, "--stop-after", 4)
    for step in (("s.txt", *words, *cut), ("--resume", "cut", "--threads", 1)):
        done = process("train", *step, MINILLM_KERNELS=mode, PYTHONHASHSEED="7")
        assert done.returncode == 0, done.stderr
    assert result(tmp_path / "cut") == result(tmp_path / "straight")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("moment", ["in the first batch", "in the last batch", "in validation"])
def test_a_signal_saves_whole_steps_and_says_how_to_go_on(
    start, tmp_path, monkeypatch, capsys, number, moment
):
    assert start("straight") == 0
    calls = {"batches": 0, "windows": 0}
    loss = GPT2.loss

    def loss_and_signal(model, *inputs, **options):
        calls["batches" if model.training else "windows"] += 1
        at = {"in the first batch": 2 + 2 * 4 + 1, "in the last batch": 2 + 2 * 4 + 2}.get(moment)
        if calls["batches"] == at or (moment == "in validation" and calls["windows"] == 1):
            calls["batches"] += 1000
            calls["windows"] += 1000
            signal.raise_signal(number)
        return loss(model, *inputs, **options)

    monkeypatch.setattr(GPT2, "loss", loss_and_signal)
    before = signal.getsignal(number)
    capsys.readouterr()
    assert start("cut") == 130
    assert signal.getsignal(number) is before
    step = {"in the first batch": 4, "in the last batch": 5, "in validation": 3}[moment]
    said = capsys.readouterr().err
    assert said.count("stopping: saving first; once more to leave at once\n") == 1
    assert said.endswith(f"saved after step {step}; go on with:\n  minillm train --resume cut\n")
    assert max((tmp_path / "cut/training").glob("state-*")).name == f"state-{step:08}.safetensors"
    assert (tmp_path / "cut/model.safetensors").exists()
    assert minillm("train", "--resume", "cut") == 0
    assert result(tmp_path / "cut") == result(tmp_path / "straight")


@pytest.mark.parametrize("step", [2, 4, 9])
def test_a_step_that_never_ended_costs_what_came_after_the_last_save(
    start, tmp_path, monkeypatch, step
):
    assert start("straight") == 0
    with monkeypatch.context() as patch:
        whole_step = Trainer.step

        def breaks(run, *arguments):
            if run.counters.step == step:
                raise MemoryError("broken off")
            return whole_step(run, *arguments)

        patch.setattr(Trainer, "step", breaks)
        assert start("cut") == 2
    assert minillm("train", "--resume", "cut") == 0
    assert result(tmp_path / "cut") == result(tmp_path / "straight")


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
    places = [*range(0, header, 5), *range(header, len(content), 997)]
    for place in places:
        path.write_bytes(flipped(content, place, place % 8))
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
    for name in ("model.safetensors.0a1b2c3d.tmp", "training/state-00000005.safetensors.00ff00ff.tmp"):
        written(tmp_path / "cut" / name, "half")
    assert minillm("train", "--resume", "cut") == 0
    assert not list((tmp_path / "cut").rglob("*.tmp"))


def test_resuming_a_finished_run_changes_nothing(start, tmp_path, capsys):
    assert start("run") == 0
    before = tree(tmp_path)
    assert minillm("train", "--resume", "run/") == 0
    assert tree(tmp_path) == before
    assert capsys.readouterr().err.endswith('minillm generate run --prompt "..."\n')


def changed_settings():
    for option in options.option_fields():
        if option.name not in ("threads", "byte_fallback"):
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
        assert capsys.readouterr().err.count("\n") == 1 + ("--stop-after" in words)
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
        (in_settings(width=0), "settings.json is damaged (--width: 0, 1 or more is needed)"),
        (in_settings(colour=3), "settings.json is damaged"),
        (in_settings(heads=3), "3 heads do not divide the width 16"),
        (without("tokenizer.json"), "tokenizer.json: no such file"),
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


def test_weights_moments_and_counters_all_come_back(tmp_path):
    """Adam by hand: lr 0.1, w = 1, gradients 1, 0.5, 0.25, cut before the last."""
    run = trainer(tmp_path, width=4, heads=1)
    values = {}
    for cut in (False, True):
        group = run.optimizer.param_groups[0]
        group |= {"lr": 0.1, "weight_decay": 0.0, "betas": (0.9, 0.999), "eps": 1e-8}
        place = run.model.wte.weight
        for arrays in run.optimizer.state:
            for array in arrays.values():
                array[...] = 0
        place.data[...], run.optimizer.steps = 1.0, 0
        for gradient in (1.0, 0.5, 0.25):
            if cut and gradient == 0.25:
                run.save()
                run = preflight.resume(tmp_path / "run", print)
                run.optimizer.param_groups[0] |= {
                    key: group[key] for key in ("lr", "weight_decay", "betas", "eps")
                }
                place = run.model.wte.weight
            place.grad = type(place)(np.full(place.shape, gradient, np.float32))
            run.optimizer.step()
        values[cut] = float(place.data[0, 0])
    assert values[True] == values[False] == pytest.approx(0.7225118734, abs=1e-6)


def test_verify_resume_proves_it(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(os, "environ", environment())
    assert minillm("verify-resume", "--steps", 7) == 0
    assert capsys.readouterr().out.startswith("equal: 7 steps on 1 thread, and 3 + 4 steps in two")
    assert minillm("verify-resume", "--steps", 1) == 2
    assert minillm("verify-resume", tmp_path / "none.txt") == 2
    assert "none.txt" in capsys.readouterr().err


def test_killed_at_random_moments_it_always_goes_on(tmp_path):
    script = Path(__file__).parents[1] / "bench/crash.py"
    source = written(tmp_path / "s.txt", story(300))
    words = [sys.executable, script, "--kills", "4", "--seed", "1", "--steps", "60", source]
    done = subprocess.run(
        words, capture_output=True, encoding="utf-8", env=environment(), check=False, timeout=120
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "4 kills" in done.stdout
