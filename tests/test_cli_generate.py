"""`minillm generate`: prompts, seeds, consoles, and model folders damaged in many ways."""

import io
import json
import math
import shutil
import subprocess
import sys
import warnings

import numpy as np
import pytest

from minillm import generate, load
from minillm.formats import safetensors
from minillm.models.folder import save_model
from small_runs import command, environment, flags, minillm, process, story, written


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with a small trained model, and one whose text has two documents."""
    place = tmp_path_factory.mktemp("trained")
    written(place / "tiny.txt")
    written(place / "more.txt", story(60, seed=2))
    words = flags(steps=60, lr=0.01, sample_tokens=0)
    assert minillm("train", place / "tiny.txt", "--out", place / "run", *words) == 0
    both = (place / "tiny.txt", place / "more.txt")
    assert minillm("train", *both, "--out", place / "ended", *words) == 0
    return place


@pytest.fixture
def model(trained):
    return trained / "run"


SLIDE = ("--overflow", "slide")


def text_of(capsys, *words):
    assert minillm("generate", *words) == 0
    return capsys.readouterr().out


def test_the_same_seed_gives_the_same_text_whatever_the_way(model, capsys):
    words = (model, "--prompt", "the cat", "--max-tokens", 60, *SLIDE, "--seed", 4)
    text = text_of(capsys, *words)
    assert len(text) == 60 + 1
    assert text_of(capsys, *words, "--echo") == "the cat" + text
    assert text_of(capsys, *words) == text
    assert text_of(capsys, *words, "--no-cache") == text
    assert text_of(capsys, *words, "--threads", 1) == text
    assert process("generate", *words).stdout == text
    assert text_of(capsys, *words[:-1], 5) != text
    options = {"max_tokens": 60, "seed": 4, "temperature": 0.8, "overflow": "slide"}
    found = generate(*load(model), "the cat", **options)
    assert found + "\n" == text


def test_json_is_the_prompt_and_the_text(model, capsys):
    words = (model, "--prompt", "the cat", "--max-tokens", 20, *SLIDE)
    content = json.loads(text_of(capsys, *words, "--json"))
    assert content["prompt"] == "the cat"
    assert content["text"] + "\n" == text_of(capsys, *words)


def test_without_a_cache_no_cache_is_used(model, capsys, monkeypatch):
    def begin(*arguments):
        raise RuntimeError("a cache was made")

    monkeypatch.setattr("minillm.generation.cache.Cache.__init__", begin)
    words = (model, "--prompt", "the", "--max-tokens", 3)
    assert len(text_of(capsys, *words, "--no-cache")) == 4
    assert minillm("generate", *words) == 2


def test_temperature_0_takes_the_most_probable_token_whatever_the_seed(model, capsys):
    long = (model, "--prompt", "the", "--max-tokens", 40, *SLIDE)
    greedy = text_of(capsys, *long, "--temperature", 0)
    for words, note in (
        (("--seed", 9), "seed changes nothing"),
        (("--top-p", 0, "--top-k", 3, "--seed", 9), "top-k and top-p and seed change nothing"),
        (("--no-cache",), None),
    ):
        assert minillm("generate", *long, "--temperature", 0, *words) == 0
        out, err = capsys.readouterr()
        assert out == greedy
        note = note and f"minillm: note: temperature 0 takes the most probable token, {note}\n"
        assert err.startswith(note or "\nminillm: note: the context is full")
    assert text_of(capsys, *long, "--top-k", 1) == greedy
    loaded, tokenizer = load(model)
    ids = tokenizer.encode("the")
    for _ in range(12):
        ids.append(int(loaded(np.array([ids])).numpy()[0, -1].argmax()))
    assert ("the" + greedy).startswith(tokenizer.decode(ids))


def test_a_full_context_is_told_once(model, capsys):
    assert minillm("generate", model, "--prompt", "the", "--max-tokens", 100, *SLIDE) == 0
    said = capsys.readouterr().err
    assert said == "\nminillm: note: the context is full, going on from the last 8 tokens\n"


def test_no_tokens_give_no_text(model, capsys):
    assert text_of(capsys, model, "--prompt", "the", "--max-tokens", 0) == "\n"
    assert text_of(capsys, model, "--prompt", "the", "--max-tokens", 0, "--echo") == "the\n"


def test_an_empty_prompt_needs_a_model_that_knows_beginnings(trained, capsys):
    assert text_of(capsys, trained / "ended", "--max-tokens", 3).endswith("\n")
    assert minillm("generate", trained / "run") == 2
    assert capsys.readouterr().err == (
        "minillm: generate: no prompt given, this model needs one to begin with; --prompt\n"
    )


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (
            ("--prompt", "the Zoo"),
            "unknown character 'Z' (U+005A) at position 4; vocabulary has 19: "
            "'\\n' ' ' . a b c d e g h i m n o r s t u w",
        ),
        (("--prompt", "🦙"), "unknown character '🦙' (U+1F999) at position 0; vocabulary has 19: "),
        (
            ("--prompt", "the cat sat on the mat."),
            "generate: a prompt of 23 tokens, 1 to 16 (the model's context) are needed",
        ),
        (("--prompt", "a", "--max-tokens", -1), "max-tokens: -1, 0 or more is needed"),
        (("--prompt", "a", "--temperature", -1), "temperature: -1.0, a finite number of 0 or more"),
        (("--prompt", "a", "--temperature", math.nan), "temperature: nan, a finite number of"),
        (("--prompt", "a", "--top-k", -1), "top-k: -1, 0 (all) or more is needed"),
        (("--prompt", "a", "--top-p", 1.5), "top-p: 1.5, 0 <= p <= 1 is needed"),
        (("--prompt", "a", "--seed", -1), "seed: -1, 0 or more is needed"),
        (("--prompt", "a", "--threads", 0), "threads: 0 asked for, at least 1 is needed"),
    ],
)
def test_what_cannot_be_continued_is_refused_in_one_line(model, capsys, words, line):
    assert minillm("generate", model, *words) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith(f"minillm: {line}")
    assert captured.err.count("\n") == 1


@pytest.mark.parametrize(
    "words",
    [("--prompt", "a", "--prompt", "b"), ("--regex", "a", "--regex", "a"),
     ("--choices", "a,b", "--choices", "c")],
)  # fmt: skip
def test_what_is_given_twice_is_not_dropped(model, capsys, words):
    assert minillm("generate", model, *words) == 2
    line = f"minillm: {words[0].removeprefix('--')}: given twice, one is needed\n"
    assert capsys.readouterr() == ("", line)


@pytest.mark.parametrize("command", ["generate", "predict", "score"])
def test_damaged_weights_are_named(trained, capsys, tmp_path, command):
    loaded, tokenizer = load(trained / "run")
    loaded.ln_f.weight.data[0] = math.nan
    save_model(tmp_path, loaded, tokenizer)
    text = {"generate": ("--prompt", "the"), "predict": ("the",), "score": ("--text", "the")}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert minillm(command, tmp_path, *text[command]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    line = err.splitlines()[-1]
    assert line.startswith(f"minillm: {command}: the lo") and "NaN" in line
    assert line.endswith(f"; the weights of {tmp_path} are damaged")


def test_a_prompt_from_standard_input_is_utf_8_in_any_locale(model, capsys, monkeypatch):
    def give(data):
        stream = io.TextIOWrapper(io.BytesIO(data), encoding="ascii")
        monkeypatch.setattr(sys, "stdin", stream)

    give(b"the cat")
    words = (model, "--prompt", "-", "--max-tokens", 0, "--echo")
    assert text_of(capsys, *words) == "the cat\n"
    give("cané".encode())
    assert minillm("generate", model, "--prompt", "-") == 2
    assert "unknown character 'é' (U+00E9) at position 3" in capsys.readouterr().err
    give(b"can\xe9")
    assert minillm("generate", model, "--prompt", "-") == 2
    assert "byte 0xE9 of the prompt, at offset 3, is not UTF-8" in capsys.readouterr().err
    monkeypatch.setattr(sys, "stdin", None)
    assert minillm("generate", model, "--prompt", "-") == 2
    assert "no prompt given" in capsys.readouterr().err


def test_bytes_of_a_command_line_that_are_not_text(model):
    done = subprocess.run(
        [*map(str.encode, command("generate", model, "--prompt")), b"caf\xe9"],
        capture_output=True,
        env=environment(),
        check=False,
    )
    assert done.returncode == 2
    assert b"lone surrogate U+DCE9 at position 3" in done.stderr


@pytest.mark.parametrize("encoding", ["ascii", "cp1252"])
def test_any_console_encoding(tmp_path, encoding):
    written(tmp_path / "ru.txt", "мир и хлеб 🙂 сад\n" * 40)
    words = flags(steps=1, sample_tokens=0)
    assert minillm("train", tmp_path / "ru.txt", "--out", tmp_path / "ru", *words) == 0
    words = command("generate", tmp_path / "ru", "--prompt", "мир 🙂", "--echo", "--max-tokens", 9)
    changes = {"PYTHONIOENCODING": encoding, "PYTHONUTF8": "1"}
    done = subprocess.run(words, capture_output=True, env=environment(**changes), check=False)
    assert done.returncode == 0
    assert done.stdout.decode(encoding).startswith("\\u043c\\u0438\\u0440 \\U0001f642")


def test_a_reader_that_has_enough(model):
    with subprocess.Popen(
        command("generate", model, "--prompt", "the", "--max-tokens", 5000, *SLIDE),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(),
    ) as run:
        assert len(run.stdout.read(3)) == 3
        run.stdout.close()
        assert run.wait(60) == 0
        assert b"Error" not in run.stderr.read()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs /dev/full")
def test_a_full_disk_is_told(model):
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            command("generate", model, "--prompt", "the", "--max-tokens", 4),
            stdout=full,
            stderr=subprocess.PIPE,
            env=environment(),
            check=False,
        )
    assert done.returncode == 2
    assert done.stderr == b"minillm: generate: no space left on device, more room is needed\n"


def changed(**values):
    def change(folder):
        path = folder / "config.json"
        content = json.loads(path.read_text(encoding="utf-8")) | values
        path.write_text(json.dumps(content), encoding="utf-8")

    return change


def rewritten(name, change):
    def apply(folder):
        (folder / name).write_bytes(change((folder / name).read_bytes()))

    return apply


def reheaded(**entry):
    """The weights file with a changed entry for one array in its header."""

    def change(content):
        length = int.from_bytes(content[:8], "little")
        header = json.loads(content[8 : 8 + length])
        header["transformer.wte.weight"] |= entry
        encoded = json.dumps(header).encode()
        return len(encoded).to_bytes(8, "little") + encoded + content[8 + length :]

    return rewritten("model.safetensors", change)


def without_an_array(folder):
    arrays, metadata = safetensors.read(folder / "model.safetensors")
    kept = {name: np.array(array) for name, array in arrays.items() if "ln_f" not in name}
    safetensors.write(folder / "model.safetensors", kept, metadata)


WEIGHTS = "model.safetensors"
DAMAGES = [
    ("no folder", shutil.rmtree, "is not a folder"),
    ("no config", lambda f: (f / "config.json").unlink(), "is no model folder (no config.json)"),
    ("no weights", lambda f: (f / WEIGHTS).unlink(), "no model.safetensors in"),
    ("no tokenizer", lambda f: (f / "tokenizer.json").unlink(), "tokenizer.json"),
    ("config not JSON", rewritten("config.json", lambda b: b[:-9]), "not valid JSON"),
    ("config a list", rewritten("config.json", lambda b: b"[]"), "a JSON object is needed"),
    ("config binary", rewritten("config.json", lambda b: b"\xff\xfe"), "not valid JSON"),
    ("config empty", rewritten("config.json", lambda b: b""), "not valid JSON"),
    ("config deep", rewritten("config.json", lambda b: b"[" * 100_000), ""),
    ("other family", changed(model_type="mamba"), "model_type 'mamba'"),
    ("no family", changed(model_type=None), "model_type None"),
    ("odd family", changed(model_type=[]), ""),
    ("width of text", changed(n_embd="16"), "n_embd is '16'"),
    ("width of nothing", changed(n_embd=0), "n_embd is 0"),
    ("heads do not divide", changed(n_head=3), "3 heads do not divide the width 16"),
    ("untied", changed(tie_word_embeddings=False), "missing lm_head.weight"),
    ("more layers", changed(n_layer=2), "missing h.1."),
    ("absurd vocabulary", changed(vocab_size=10**15), ""),
    ("wider", changed(n_embd=32), "has shape"),
    ("shorter", rewritten(WEIGHTS, lambda b: b[:-1]), "not a readable safetensors file"),
    ("half", rewritten(WEIGHTS, lambda b: b[: len(b) // 2]), "not a readable safetensors file"),
    ("empty", rewritten(WEIGHTS, lambda b: b""), "not a readable safetensors file"),
    ("longer", rewritten(WEIGHTS, lambda b: b + b"\0"), "not a readable safetensors file"),
    ("header of 2**63", rewritten(WEIGHTS, lambda b: b"\xff" * 8 + b[8:]), "not a readable"),
    ("header not JSON", rewritten(WEIGHTS, lambda b: b[:8] + b"#" + b[9:]), "not a readable"),
    ("text", rewritten(WEIGHTS, lambda b: b"version https://git-lfs\n" * 5), "not a readable"),
    ("hostile shape", reheaded(shape=[2**40, 2**40]), "not a readable safetensors file"),
    ("hostile offsets", reheaded(data_offsets=[0, 2**60]), "not a readable safetensors file"),
    ("other dtype", reheaded(dtype="I16", shape=[19, 32]), "damaged, its content"),
    ("an array less", without_an_array, "missing ln_f.weight"),
    ("tokenizer not JSON", rewritten("tokenizer.json", lambda b: b[:-9]), "is not JSON"),
    ("tokenizer of words", rewritten("tokenizer.json", lambda b: b"{}"), "tokenizer.json"),
]


@pytest.mark.parametrize(("damage", "line"), [d[1:] for d in DAMAGES], ids=[d[0] for d in DAMAGES])
def test_a_damaged_model_is_refused_in_one_line(model, tmp_path, capsys, damage, line):
    folder = tmp_path / "model"
    shutil.copytree(model, folder)
    damage(folder)
    assert minillm("generate", folder, "--prompt", "the") == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("minillm: ")
    assert captured.err.count("\n") == 1
    assert line in captured.err


def test_a_tokenizer_with_more_ids_than_the_model_is_refused(trained, tmp_path, capsys):
    folder = tmp_path / "model"
    shutil.copytree(trained / "run", folder)
    written(tmp_path / "t.txt", "".join(map(chr, range(0x4E00, 0x4E40))) * 20)
    assert minillm("train", tmp_path / "t.txt", "--out", tmp_path / "t", *flags(steps=1)) == 0
    shutil.copy(tmp_path / "t/tokenizer.json", folder)
    assert minillm("generate", folder, "--prompt", "the") == 2
    assert "has 64 ids, the model only 19; they do not belong together" in capsys.readouterr().err


def test_weights_that_are_not_those_of_the_stored_logits_are_told(model, tmp_path, capsys):
    folder = tmp_path / "model"
    shutil.copytree(model, folder)
    arrays, metadata = safetensors.read(folder / WEIGHTS)
    arrays["transformer.ln_f.bias"] = arrays["transformer.ln_f.bias"] + 40
    metadata.pop(safetensors.DIGEST)
    safetensors.write(folder / WEIGHTS, arrays, metadata)
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        assert minillm("generate", folder, "--prompt", "the", "--max-tokens", 1) == 0
    assert "logits differ by up to" in capsys.readouterr().err


def test_a_flipped_bit_in_a_weight_no_reference_prompt_reads_is_found(model, tmp_path, capsys):
    folder = tmp_path / "model"
    shutil.copytree(model, folder)
    content = bytearray((folder / WEIGHTS).read_bytes())
    content[-1] ^= 1
    (folder / WEIGHTS).write_bytes(content)
    assert minillm("generate", folder, "--prompt", "the") == 2
    assert "damaged, its content has not the digest" in capsys.readouterr().err
