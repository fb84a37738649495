"""--device on the command line, on a stand-in for CuPy: the same output, and runs that move."""

import json
import os
from types import SimpleNamespace

import pytest

import stand_in_cupy
from minillm import kernels
from minillm.training import metrics
from small_runs import CLOCKED, environment, flags, minillm, process, result, story
from small_tasks import folder as encoder
from small_translation import written as pairs
from small_tuning import base, preferences, talks


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """A decoder, an encoder for a task, texts and examples."""
    top = tmp_path_factory.mktemp("places")
    base(top / "decoder")
    encoder(top / "classify", "classify")
    encoder(top / "embed")
    (top / "text.txt").write_text(story(30), encoding="utf-8")
    rows = [("a good film", "yes"), ("a bad film", "no"), ("the film", "perhaps")]
    lines = ["text\tlabel", *("\t".join(row) for row in rows)]
    (top / "rows.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return top


@pytest.fixture
def gpus(places, monkeypatch):
    monkeypatch.chdir(places)
    with stand_in_cupy.installed(), kernels.use("reference"):
        yield stand_in_cupy.machine


COMMANDS = {
    "generate": "generate decoder --prompt red --max-tokens 8 --seed 3",
    "beams": "generate decoder --prompt red --max-tokens 4 --beams 2",
    "int8": "generate decoder --prompt red --max-tokens 4 --cache-dtype int8",
    "bf16": "generate decoder --prompt red --max-tokens 4 --cache-dtype bf16",
    "contrastive": "generate decoder --prompt red --max-tokens 4 --contrastive 0.5 --top-k 3",
    "drafted": "generate decoder --prompt red --max-tokens 4 --draft decoder",
    "predict": "predict decoder red",
    "score": "score decoder --file text.txt",
    "perplexity": "eval decoder --perplexity text.txt",
    "measured": "eval classify --task classify --data rows.tsv",
    "compare": "compare classify classify --task classify --data rows.tsv",
    "classify": "task classify classify good",
    "embed": "embed embed a b",
    "embedded": "task embed embed a b",
}


@pytest.mark.parametrize("words", COMMANDS.values(), ids=COMMANDS)
def test_a_command_says_the_same_on_a_gpu(gpus, capsys, words):
    def said():
        out, err = capsys.readouterr()
        return out, [line for line in err.splitlines() if " a second" not in line]  # of slow ones

    assert minillm(*words.split()) == 0
    wanted = said()
    assert gpus.pooled == [0, 0]
    assert minillm(*words.split(), "--device", "cuda:1") == 0
    assert said() == wanted
    assert gpus.pooled[1] > gpus.pooled[0] == 0
    assert kernels.get_default_device() == "cpu"


def test_a_model_is_quantised_and_measured_there(gpus, tmp_path, capsys):
    found = []
    for name, device in (("a", "cpu"), ("b", "cuda")):
        words = ["--type", "q8_0", "--evaluate", "text.txt", "--json", "--device", device]
        assert minillm("quantize", "decoder", tmp_path / f"{name}.gguf", *words) == 0
        found.append(json.loads(capsys.readouterr().out))
    assert gpus.pooled[0] > 0
    for side in ("in", "out"):
        assert found[0][side]["perplexity"] == found[1][side]["perplexity"]
    assert (tmp_path / "a.gguf").read_bytes() == (tmp_path / "b.gguf").read_bytes()


RUNS = {
    "causal": "train s.txt --optimizer adamw8bit --ema 0.9 --dropout 0.1",
    "muon": "train s.txt --optimizer muon --accumulate 2 --recompute",
    "documents": "train s.txt --tokenizer bpe --document-mask --stochastic-depth 0.2",
    "mlm": "train s.txt --objective mlm --tokenizer wordpiece",
    "span": "train s.txt --objective span --tokenizer unigram",
    "fim": "train s.txt --objective fim",
    "translate": "train pairs.tsv --objective translate --tokenizer bpe --val-last 4",
    "full": "finetune base talks.jsonl --method full",
    "last-n": "finetune base talks.jsonl --method last-n --last 1",
    "classify": "finetune encoder rows.tsv --task classify --val-last 3",
}
STEPS = {"steps": 4, "eval_every": 2, "save_every": 2, "batch": 2, "sample_tokens": 4}


@pytest.fixture
def data(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    base(tmp_path / "base")
    encoder(tmp_path / "encoder")
    talks(tmp_path / "talks.jsonl")
    preferences(tmp_path / "preferences.json")
    pairs(tmp_path / "pairs.tsv")
    (tmp_path / "s.txt").write_text(story(40), encoding="utf-8")
    rows = [
        f"{'a good' if n % 2 else 'a bad'} film {n}\t{'yes' if n % 2 else 'no'}" for n in range(12)
    ]
    (tmp_path / "rows.tsv").write_text("text\tlabel\n" + "\n".join(rows) + "\n", encoding="utf-8")
    stand_in_cupy.let_numpy_add_alike(monkeypatch)
    with stand_in_cupy.installed(), kernels.use("reference"):
        yield tmp_path


def options(words):
    """Those of a small run of this kind."""
    changed = STEPS | {"tokenizer": None if "--tokenizer" in words else "char"}
    if words[0] == "finetune":
        changed |= dict.fromkeys(("layers", "heads", "width", "tokenizer")) | {"context": 64}
    if "--task" in words:
        changed |= {"sample_tokens": None, "context": None}
    if "translate" in words:
        changed |= {"context": None, "vocab_size": 300}
    return flags(**changed)


@pytest.mark.parametrize("words", RUNS.values(), ids=RUNS)
def test_a_run_goes_on_with_the_same_bits_on_another_device(data, words, capsys):
    words = words.split()
    words += options(words)
    assert minillm(*words, "--out", "straight") == 0
    assert stand_in_cupy.machine.pooled == [0, 0]
    assert minillm(*words, "--out", "there", "--device", "cuda:1", "--stop-after", 2) == 0
    assert stand_in_cupy.machine.pooled[1] > stand_in_cupy.machine.pooled[0] == 0
    said = capsys.readouterr().err
    line = "engine: CuPy alone (no CUDA extension) on cuda:1 (Stand-in, "
    assert line in said
    assert minillm(words[0], "--resume", "there", "--device", "cpu") == 0
    assert result(data / "there") == result(data / "straight")
    assert json.loads((data / "there/training/settings.json").read_text())["device"] == "cuda:1"


@pytest.mark.parametrize("words", ["--method lora --rslora", "--objective dpo --lora-dropout 0.2"])
def test_adapters_learn_there(data, words, capsys):
    """Not bit for bit: on a host frozen matrices are multiplied as blocks, in another order."""
    name = "preferences.json" if "dpo" in words else "talks.jsonl"
    words = ["finetune", "base", name, "--method", "lora", *words.split()]
    words += options(words)
    for device in ("cpu", "cuda"):
        assert minillm(*words, "--out", device, "--device", device) == 0
    assert stand_in_cupy.machine.pooled[0] > 0
    found, wanted = (metrics.read(data / device / "metrics.jsonl") for device in ("cuda", "cpu"))
    assert len(found) == len(wanted) == 4
    for one, other in zip(found, wanted):
        for key in one.keys() - CLOCKED:
            assert one[key] == pytest.approx(other[key], rel=1e-3), key


def test_a_run_goes_on_where_it_was_unless_told(data, capsys):
    words = ["train", "s.txt", *flags(**STEPS), "--out", "run"]
    assert minillm(*words, "--device", "cuda", "--stop-after", 2) == 0
    stand_in_cupy.machine.gpus = 0
    capsys.readouterr()
    assert minillm("train", "--resume", "run") == 2
    assert capsys.readouterr().err == (
        "minillm: device: the driver for CUDA 13.0 finds no GPU (cudaErrorNoDevice: no "
        "CUDA-capable device is detected), one is needed; CUDA_VISIBLE_DEVICES may hide it; or go "
        "on with --device cpu\n"
    )
    assert minillm("train", "--resume", "run", "--device", "cpu") == 0


def test_a_gpu_without_products_in_bf16_says_so(data, capsys, monkeypatch):
    half = SimpleNamespace(
        runtime=SimpleNamespace(has_bf16=lambda: True, set_bf16=lambda wanted: None)
    )
    words = ["train", "s.txt", *flags(**STEPS), "--out", "run", "--precision", "bf16"]
    told = "precision: no bfloat16 matrix product on cuda, running in float32"
    with monkeypatch.context() as patch:  # undone before `data` gives the extension back
        patch.setattr(kernels, "active_cpu", half)
        assert kernels.has_bf16() and kernels.has_bf16("cpu") and not kernels.has_bf16("cuda")
        assert minillm(*words, "--device", "cuda") == 0
    assert told in capsys.readouterr().err
    settings = json.loads((data / "run/training/settings.json").read_text())
    assert settings["precision"] == "f32"
    with pytest.warns(RuntimeWarning, match=told), kernels.precision("bf16", "cuda"):
        assert kernels.active_precision == "f32"


def test_a_file_of_options_names_the_device(data, capsys):
    (data / "run.toml").write_text('files = "s.txt"\ndevice = "cuda:5"\n', encoding="utf-8")
    assert minillm("train", "--config", "run.toml") == 2
    assert "device: 'cuda:5' is not there, this machine has 2 GPUs" in capsys.readouterr().err


@pytest.mark.parametrize("words", ["train s.txt", "finetune base talks.jsonl", "predict base red"])
def test_a_device_that_is_not_there_ends_a_command_before_it_begins(data, capsys, words):
    before = sorted(data.rglob("*"))
    for device, line in (
        ("tpu", "device: 'tpu' is not known, 'cpu' or 'cuda' is needed, or 'cuda:N'"),
        (
            "cuda:2",
            "device: 'cuda:2' is not there, this machine has 2 GPUs, cuda:0, cuda:1 can be used",
        ),
    ):
        assert minillm(*words.split(), "--device", device) == 2
        assert capsys.readouterr() == ("", f"minillm: {line}\n")
    assert sorted(data.rglob("*")) == before


def test_a_process_of_its_own_computes_there(data, tmp_path_factory):
    place = stand_in_cupy.folder(tmp_path_factory.mktemp("cupy"))
    path = os.pathsep.join([environment()["PYTHONPATH"], place])
    words = ["train", "s.txt", *flags(**STEPS), "--out", "run"]
    done = process(*words, "--device", "cuda", PYTHONPATH=path, MINILLM_KERNELS="off")
    assert done.returncode == 0, done.stderr
    assert "engine: CuPy alone (no CUDA extension) on cuda (Stand-in, 80.0 GB" in done.stderr
    assert "step 4/4  loss " in done.stderr and " of cuda" in done.stderr
    assert "Traceback" not in done.stderr
    done = process(*words, "--device", "cuda:9", PYTHONPATH=path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        "minillm: device: 'cuda:9' is not there, this machine has 2 GPUs, cuda:0, cuda:1 can be "
        "used\n"
    )
    on = ("--device", "cuda:1")
    done = process("verify-resume", "--steps", 4, *on, PYTHONPATH=path, MINILLM_KERNELS="off")
    assert done.stdout.startswith("equal: 4 steps on cuda:1, and 2 + 2 steps in two processes on c")
    done = process("doctor", "--cases", 1, PYTHONPATH=path, MINILLM_KERNELS="off")
    assert done.returncode == 0
    assert "cuda:1       Stand-in, 80.0 GB of 80.0 GB free, compute 9.0" in done.stdout
