"""Settings: one name for an option everywhere, limits, nearest names, TOML files."""

import json

import pytest

from minillm.cli.main import build_parser
from minillm.training.options import flag, read_toml, seconds
from minillm.training.settings import Settings, option_fields
from minillm.words import nearest
from small_runs import flags, minillm, trainer, written

NEEDED = {"byte_fallback": {"tokenizer": "char"}}  # options that go with others only
OPTIONS = {option.name: option for option in option_fields()}


def other_value(option):
    """A value the option may take and does not have by default."""
    limits = option.metadata
    if "choices" in limits:
        return next(choice for choice in limits["choices"] if choice != option.default)
    if limits["kind"] is bool:
        return not option.default
    if limits["kind"] is str:
        return {"device": "cuda:1", "max_memory": "1.5G"}.get(option.name, "latin-1")
    if limits["kind"] is float:
        return 0.4375
    return limits["low"] + 3


def words_of(name, value):
    if isinstance(value, bool):
        return [f"--{flag(name)}" if value else f"--no-{flag(name)}"]
    return [f"--{flag(name)}", str(value)]


def from_command_line(words):
    parsed = build_parser().parse_args(["train", "x.txt", *words])
    return {name: value for name in OPTIONS if (value := getattr(parsed, name)) is not None}


@pytest.mark.parametrize("name", OPTIONS)
def test_an_option_is_the_same_on_the_command_line_and_in_toml(tmp_path, name):
    option = OPTIONS[name]
    chosen = {name: other_value(option)} | NEEDED.get(name, {})
    if "objectives" in option.metadata:
        chosen |= {"objective": option.metadata["objectives"][-1]}
    lines = [f"{flag(key)} = {json.dumps(value)}\n" for key, value in chosen.items()]
    path = written(tmp_path / "run.toml", "".join(lines))
    words = [word for key, value in chosen.items() for word in words_of(key, value)]
    assert read_toml(path, Settings) == from_command_line(words) == chosen
    settings = Settings(**chosen)
    assert settings == Settings(**read_toml(path, Settings))
    assert settings.to_dict()[flag(name)] == chosen[name]


def test_every_option_has_a_help_text_and_appears_in_the_help(capsys):
    assert minillm("train", "--help") == 0
    shown = capsys.readouterr().out
    for name, option in OPTIONS.items():
        assert f"--{flag(name)}" in shown
        assert option.metadata["help"]


def test_a_run_from_toml_is_the_run_from_the_command_line(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    written(tmp_path / "s.txt")
    words = flags(dropout=0.25, lr=2, schedule="wsd", keep_newlines=True, threads=1)
    assert minillm("train", "s.txt", "--out", "one", *words) == 0
    toml = 'files = ["s.txt"]\nout = "two"\nlr = 2\nkeep-newlines = true\ndropout = 0.25\n'
    toml += 'precision = "f32"\nthreads = 1\n'  # left open they are what is faster: load turns it
    toml += 'schedule = "wsd"\nlayers = 1\nheads = 2\nwidth = 16\ncontext = 16\nbatch = 4\n'
    toml += 'tokenizer = "char"\nsteps = 12\neval-every = 4\nsave-every = 4\nsample-tokens = 8\n'
    assert minillm("train", "--config", written(tmp_path / "run.toml", toml)) == 0
    for name in ("model.safetensors", "training/settings.json"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_the_command_line_wins_over_the_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    toml = written(tmp_path / "run.toml", 'files = "s.txt"\nseed = 3\nbyte-fallback = true\n')
    written(tmp_path / "s.txt")
    assert minillm("train", "--config", toml, "--out", "r", *flags(seed=4)) == 0
    saved = json.loads((tmp_path / "r/training/settings.json").read_text(encoding="utf-8"))
    assert (saved["seed"], saved["byte-fallback"], saved["files"]) == (4, True, ["s.txt"])


@pytest.mark.parametrize(
    ("toml", "line"),
    [
        ("layrs = 3", "unknown key 'layrs'; did you mean layers?"),
        ("vocab_size = 300", "unknown key 'vocab_size'; did you mean vocab-size?"),
        ("[model]\nlayers = 3", "unknown key 'model'; minillm train --help lists all"),
        ("layers = 0", "layers: 0, 1 or more is needed"),
        ("layers = 2.0", "layers: 2.0, a whole number is needed"),
        ("layers = true", "layers: True, a whole number is needed"),
        ('lr = "fast"', "lr: 'fast', a number is needed"),
        ("lr = nan", "lr: nan, a finite number is needed"),
        ("lr = 0", "lr: 0.0, more than 0.0 is needed"),
        ("dropout = 0.96", "dropout: 0.96, 0.95 or less is needed"),
        ("keep-newlines = 1", "keep-newlines: 1, true or false is needed"),
        ('schedule = "cosin"', "schedule: 'cosin', one of cosine, linear, constant, wsd"),
        ('time = "soon"', "time: 'soon', a duration like"),
        ("time = -1", "time: -1.0 seconds, more than 0 is needed"),
        ("files = 3", "files: 3 is no text or list of texts, one is needed"),
        ("files = [1]", "files: [1] is no text or list of texts, one is needed"),
        ("out = 3", "out: 3 is no text, one is needed"),
        ("layers = ", "not valid TOML"),
        ("a = 1\na = 2", "not valid TOML"),
    ],
)
def test_a_toml_file_is_refused_in_one_line_that_names_it(
    tmp_path, capsys, monkeypatch, toml, line
):
    monkeypatch.chdir(tmp_path)
    written(tmp_path / "s.txt")
    assert minillm("train", "s.txt", "--config", written(tmp_path / "run.toml", toml)) == 2
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 1
    assert captured.err.startswith(f"minillm: {tmp_path / 'run.toml'}: ")
    assert line in captured.err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run.toml", "s.txt"]


def test_a_toml_file_may_begin_with_a_byte_order_mark(tmp_path):
    path = written(tmp_path / "r.toml", b"\xef\xbb\xbfseed = 5\r\n")
    assert read_toml(path, Settings) == {"seed": 5}


@pytest.mark.parametrize("content", [b"seed = 1 # caf\xe9", b"\xff\xfes\x00"])
def test_a_toml_file_in_another_encoding_is_refused(tmp_path, content):
    with pytest.raises(ValueError, match="not valid TOML"):
        read_toml(written(tmp_path / "r.toml", content), Settings)


@pytest.mark.parametrize(
    ("text", "value"),
    [("90", 90), ("90s", 90), ("10m", 600), ("10 min", 600), ("1.5h", 5400), (" 2M ", 120)],
)
def test_durations(text, value):
    assert seconds(text) == value


@pytest.mark.parametrize("text", ["", "m", "10d", "-5s", "1h30m", "nan", "1e3"])
def test_what_is_no_duration_is_refused(text):
    with pytest.raises(ValueError, match=r"^time: .*, a duration like 90s"):
        seconds(text)


def test_options_that_exclude_each_other():
    with pytest.raises(ValueError, match="both --steps and --time given"):
        Settings(steps=5, time=3.0)
    with pytest.raises(ValueError, match="--warmup 9 is longer than the 5 --steps of the run"):
        Settings(steps=5, warmup=9)
    with pytest.raises(ValueError, match="--warmup is in steps, with --time it is the first 5 %"):
        Settings(time=5.0, warmup=9)
    assert Settings(steps=5, warmup=5).warmup == 5
    with pytest.raises(ValueError, match="--byte-fallback goes with --tokenizer char only"):
        Settings(byte_fallback=True, tokenizer="bpe")


def test_nearest():
    assert nearest("warm-up", ["warmup", "width"]) == "warmup"
    assert nearest("zzz", ["warmup", "width"]) is None


def test_saved_settings_leave_nothing_open(tmp_path):
    trainer(tmp_path, layers=None, heads=None, width=None, batch=None, context=None)
    saved = json.loads((tmp_path / "run/training/settings.json").read_text(encoding="utf-8"))
    open_still = {flag(name) for name in OPTIONS} - saved.keys()
    assert open_still == {
        "vocab-size",
        "byte-fallback",
        "time",
        "prompt",
        "ema",
        "patience",
        "max-memory",
    }
