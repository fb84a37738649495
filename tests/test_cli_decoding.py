"""`minillm generate`: what the flags of decoding do, and how a text is shown."""

import json
import math
import os
import re
import signal
import subprocess

import pytest

from minillm import machine
from minillm.cli.written import Written
from minillm.generation import Options
from minillm.models.folder import load, save_model
from minillm.tokenizers import ByteTokenizer
from minillm.tokenizers.chat import render
from small_bigram import END, TURN, bigram, ids_of, saved, tokenizer
from small_runs import command, environment, minillm, written
from terminals import Terminal

GONE = "no such file or directory, one that is there is needed"

posix = pytest.mark.skipif(os.name == "nt", reason="a pseudo-terminal and signals of POSIX")


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Folders: a text that ends, one that never does, one that is a or b after every letter."""
    place = tmp_path_factory.mktemp("models")
    saved(place / "hello", f">🙂 你!{END}", f"\nhi{TURN}")
    saved(place / "endless", ">🙂你!🙂")
    saved(place / "coin", ">a", ">b", "aabba")
    saved(place / "short", "aa", context=12)
    return place


@pytest.fixture
def generate(capsys):
    """generate(model, *words): exit code, output, notices; the prompt is > if there is no other."""

    def run(model, *words):
        prompt = () if "--prompt" in words else ("--prompt", ">")
        code = minillm("generate", model, *prompt, *words)
        return code, *capsys.readouterr()

    return run


def test_the_prompt_is_written_only_when_asked_for(models, generate):
    assert generate(models / "hello") == (0, "🙂 你!\n", "")
    assert generate(models / "hello", "--echo") == (0, ">🙂 你!\n", "")


@pytest.mark.parametrize(
    ("stops", "text", "reason"),
    [
        (["你"], "🙂 ", "stop"),
        (["!", " "], "🙂", "stop"),
        (["🙂"], "", "stop"),
        (["!?", "x"], "🙂 你!", "stop"),  # the end of the text lets go of the !
        (["你!"], "🙂 ", "stop"),
    ],
)
def test_a_text_ends_before_a_stop_string(models, generate, stops, text, reason):
    words = [word for stop in stops for word in ("--stop", stop)]
    assert generate(models / "hello", *words) == (0, f"{text}\n", "")
    content = json.loads(generate(models / "hello", *words, "--json")[1])
    assert (content["text"], content["finish_reason"]) == (text, reason)


def test_json_holds_everything(models, generate):
    words = ("--json", "--seed", 5, "--max-tokens", 5, "--logprobs", 1, "--temperature", 0)
    content = json.loads(generate(models / "endless", *words)[1])
    ids = ids_of("🙂你")[:5]
    top = content.pop("logprobs")
    assert content == {
        "prompt": ">",
        "prompt_tokens": 1,
        "seed": 5,
        "text": "🙂\ufffd",
        "ids": ids,
        "finish_reason": "length",
    }
    certain = -math.log1p(259 * math.exp(-2 * math.sqrt(260)))  # 260 ids, one has a logit
    for id, token in zip(ids, top):
        assert token.keys() == {"id", "token", "log_probability", "top"}
        assert (token["id"], token["token"]) == (id, f"\\x{id_byte(id):02x}")
        assert token["log_probability"] == pytest.approx(certain, abs=1e-6)
        assert [other["id"] for other in token["top"]] == [id]


def id_byte(id):
    return tokenizer().token_bytes(id)[0]


def test_several_texts(models, generate):
    words = ("--n", 3, "--max-tokens", 30)
    _, out, _ = generate(models / "coin", *words)
    heads, texts = out.splitlines()[::2], out.splitlines()[1::2]
    assert heads == ["--- 1 of 3", "--- 2 of 3", "--- 3 of 3"]
    assert len(set(texts)) == 3
    assert all(re.fullmatch("[ab]{30}", text) for text in texts)
    assert generate(models / "coin", "--max-tokens", 30)[1] == f"{texts[0]}\n"
    content = json.loads(generate(models / "coin", *words, "--json")[1])
    assert [one["text"] for one in content["completions"]] == texts
    assert (content["prompt"], content["prompt_tokens"], content["seed"]) == (">", 1, 0)


def test_more_texts_than_memory_holds_come_as_they_are_written(models, generate, monkeypatch):
    words = ("generate", models / "coin", "--prompt", ">", "--n", 10**9, "--max-tokens", 2)
    with subprocess.Popen(
        command(*words), stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment()
    ) as run:
        lines = [run.stdout.readline() for _ in range(200)]
        run.stdout.close()  # as head does
        assert (run.wait(60), run.stderr.read()) == (0, b"")
    heads = [f"--- {place:,} of 1,000,000,000{os.linesep}".encode() for place in range(1, 101)]
    assert lines[::2] == heads
    assert {line.strip() for line in lines[1::2]} == {b"aa", b"ab", b"ba", b"bb"}
    monkeypatch.setattr(machine, "available_memory", lambda: 10**10)
    code, out, said = generate(models / "coin", *words[4:], "--json")
    assert (code, out) == (2, "")
    assert said.startswith("minillm: n: 1,000,000,000 texts of up to 2 tokens to be kept: ")


@pytest.mark.parametrize("words, said", [
    (("--best-of", 10**9), "best-of: 1,000,000,000 texts of up to "),
    (("--beams", 10**9), "beams: 1,000,000,000 texts of up to "),
    (("--n", 10**9, "--beams", 10**9), "beams: 1,000,000,000 texts of up to "),
])  # fmt: skip
def test_what_memory_cannot_hold_is_refused(models, generate, monkeypatch, words, said):
    monkeypatch.setattr(machine, "available_memory", lambda: 10**10)
    code, out, told = generate(models / "coin", *words)
    assert (code, out, told.count("\n")) == (2, "", 1)
    assert told.startswith(f"minillm: {said}") and " are free; lower " in told


def test_the_best_of_several_texts(models, generate):
    code, out, err = generate(models / "coin", "--best-of", 4, "--max-tokens", 6)
    assert (code, err) == (0, "")
    assert re.fullmatch("[ab]{6}\n", out)


def test_a_table_of_log_probabilities(models, generate):
    words = ("--max-tokens", 2, "--logprobs", 2, "--top-k", 1)  # the lower id of the two
    _, out, _ = generate(models / "coin", *words)
    (a,) = ids_of("a")
    assert out.splitlines() == [
        "aa",
        "      id  token                probability  log-probability  most probable",
        *[f"{a:>8}  'a'                       50.00%          -0.6931  'a' 50.0%  'b' 50.0%"] * 2,
    ]
    _, out, _ = generate(models / "coin", *words, "--echo")
    first = out.splitlines()[2]
    assert out.startswith(">aa\n")
    assert first == f"{ids_of('>')[0]:>8}  '>'"


def test_a_prompt_as_a_chat_message(models, generate, capsys):
    pytest.importorskip("jinja2", reason="jinja2, the extra `chat`, is not installed")
    words = ("--chat", "--prompt", f"be quick {TURN}")
    assert generate(models / "hello", *words) == (0, "hi\n", "")
    content = json.loads(generate(models / "hello", *words, "--json")[1])
    message = {"role": "user", "content": words[-1]}
    ids = tokenizer().apply_chat_template([message], True)
    assert content["prompt_tokens"] == len(ids)
    assert tokenizer().decode(ids, skip_special_tokens=False) == render(
        tokenizer(), [message], add_generation_prompt=True
    )
    assert ids.count(ids_of(TURN)[0]) == 1  # the template's, not the user's
    assert (content["ids"][:2], content["finish_reason"]) == (ids_of("hi"), "stop")
    written = Written(*load(models / "hello"), "x", Options(stop_ids=ids_of("i")), chat=True)
    assert written.options.stop_ids[0] == ids_of("i")[0]
    written.streamed()
    assert capsys.readouterr().out == "h\n"
    code, out, err = generate(models / "hello", "--chat", "--prompt", "")
    assert (code, out) == (2, "")
    assert "no prompt given" in err


def test_what_is_done_about_a_full_context_is_told(models, generate):
    prompt = ("--prompt", "b" + "a" * 9)
    code, out, err = generate(models / "short", *prompt)
    assert (code, out, err) == (0, "aaa\n", "")  # what fits
    code, out, err = generate(models / "short", *prompt, "--max-tokens", 6)
    assert (code, out) == (2, "")
    assert err.count("\n") == 1
    for how, note in (("slide", "going on from"), ("truncate", "10 tokens is too long")):
        code, out, err = generate(models / "short", *prompt, "--max-tokens", 6, "--overflow", how)
        assert (code, out.strip()) == (0, "aaaaaa")
        assert err.removeprefix("\n" if how == "slide" else "").startswith("minillm: note: ")
        assert note in err


def test_a_text_is_what_it_has_to_be(models, generate, tmp_path):
    content = {"type": "array", "items": {"enum": ["a"]}, "minItems": 2, "maxItems": 2}
    schema = written(tmp_path / "s.json", json.dumps(content))
    grammar = written(tmp_path / "g.gbnf", 'root ::= "a" ("b" | "aa")')
    for words, texts in (
        (("--regex", "ab{3}|ba"), {"abbb", "ba"}),
        (("--choices", "aab,bba"), {"aab", "bba"}),
        (("--grammar", grammar), {"ab", "aaa"}),
        (("--json-schema", schema, "--max-tokens", 12), {'["a","a"]'}),
    ):
        found = set()
        for seed in range(8):
            code, out, err = generate(models / "coin", *words, "--seed", seed)
            assert (code, err) == (0, "")
            found.add(out.removesuffix("\n").replace(" ", "").replace("\n", ""))
        assert found == texts
    code, out, err = generate(models / "coin", "--regex", "a(b")
    assert (code, out) == (2, "")
    assert err.startswith("minillm: regex: ")


def test_guesses_and_beams_give_what_is_most_probable(models, generate):
    plain = generate(models / "endless", "--temperature", 0, "--max-tokens", 20)
    assert plain[1].startswith("🙂你!🙂你!")
    for words in (("--beams", 3), ("--lookup", 2, "--temperature", 0),
                  ("--draft", models / "endless", "--temperature", 0),
                  ("--contrastive", 0.1, "--top-k", 4)):  # fmt: skip
        assert generate(models / "endless", *words, "--max-tokens", 20) == plain
    _, out, _ = generate(models / "coin", "--beams", 2, "--n", 2, "--max-tokens", 1)
    assert out == "--- 1 of 2\na\n--- 2 of 2\nb\n"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--stop", ""), "stop: an empty string, at least 1 character is needed"),
        (("--n", 2, "--temperature", 0), "n 2 and temperature 0"),
        (("--beams", 2, "--temperature", 1), "beams and temperature 1"),
        (("--regex", "a", "--choices", "a,b"), "regex and choices"),
        (("--choices", "a,,b"), "choices: one of them is empty"),
        (("--choices", ""), "choices: one of them is empty"),
        (("--json-schema", "nowhere"), f"generate: nowhere: {GONE}"),
        (("--grammar", "nowhere"), f"generate: nowhere: {GONE}"),
        (("--draft", "nowhere"), "load: nowhere is not a folder"),
        (("--overflow", "wrap"), "overflow: 'wrap', one of error, truncate, slide is needed"),
        (("--logprobs", -1), "logprobs: -1, 0 or more is needed"),
    ],
)
def test_what_cannot_be_followed_is_refused_in_one_line(models, generate, words, said):
    code, out, err = generate(models / "hello", *words)
    assert (code, out) == (2, "")
    assert err.startswith(f"minillm: {said}")
    assert err.count("\n") == 1


def test_a_draft_with_another_vocabulary_is_refused(models, generate, tmp_path):
    save_model(tmp_path, bigram("aa"), ByteTokenizer())
    code, _, err = generate(models / "hello", "--draft", tmp_path)
    assert code == 2
    assert err == (
        "minillm: draft: its vocabulary has 257 tokens and the model's 259, a draft with the "
        "model's vocabulary is needed\n"
    )


@pytest.mark.parametrize("words", [(), ("--logprobs", 0), ("--json",)])
def test_how_fast_it_was_is_said_when_asked(models, generate, words):
    code, out, err = generate(models / "hello", "--verbose", "--echo", *words)
    assert code == 0
    assert ">🙂 你!" in out
    first = "" if words == ("--json",) else ", the first after [0-9.]+ s, then [0-9,.]+ tokens/s"
    assert re.fullmatch(
        r"minillm: model loaded in [0-9.]+ s; 1 token read, 9 written in [0-9.]+ s" + first + "\n",
        err,
    )


# At a terminal


@posix
def test_a_terminal_shows_colours_and_the_speed(models):
    words = command("generate", models / "coin", "--prompt", ">", "--max-tokens", 1, "--top-k", 1)
    with Terminal([*words, "--logprobs", "0"]) as terminal:
        assert terminal.ends() == 0
        assert terminal.seen.startswith("\x1b[33ma\x1b[0m\n")  # a half: yellow
        assert "tokens/s" not in terminal.seen  # one token has no speed
        assert "minillm: model loaded in " in terminal.seen
    with Terminal([*words, "--logprobs", "0"], NO_COLOR="1") as terminal:
        assert terminal.ends() == 0
        assert terminal.seen.startswith("a\n")
    with Terminal(words) as terminal:
        assert terminal.ends() == 0
        assert "\x1b" not in terminal.seen


@posix
def test_ctrl_c_leaves_what_was_written(models):
    words = command("generate", models / "endless", "--prompt", ">", "--max-tokens", 10**9)
    with Terminal([*words, "--overflow", "slide"]) as terminal:
        terminal.until("🙂你!🙂你!")
        terminal.type("\x03")
        assert terminal.ends() == 130
        assert terminal.seen.endswith("\ninterrupted\n")
        assert "Traceback" not in terminal.seen


@posix
def test_a_character_is_written_when_it_is_whole(models):
    with subprocess.Popen(
        command("generate", models / "endless", "--prompt", ">", "--overflow", "slide",
                "--max-tokens", 10**9),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(),
    ) as run:  # fmt: skip
        seen = b""
        for _ in range(50):
            seen += os.read(run.stdout.fileno(), 4096)
            seen.decode("utf-8")  # what was flushed never ends inside a character
        run.send_signal(signal.SIGINT)
        rest, said = run.communicate(timeout=60)
    assert (run.returncode, said) == (130, b"\ninterrupted\n")
    assert ("🙂你!" * len(seen + rest)).encode().startswith((seen + rest).rstrip(b"\n"))
