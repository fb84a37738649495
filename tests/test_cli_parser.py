"""What cannot be parsed: one line in the form of all errors, exit code 2, nothing is begun."""

import pytest

from minillm.cli.main import build_parser
from small_runs import minillm


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ([], "no command given, a value is needed"),
        (["trian", "a"], "command: 'trian', one of train, finetune, generate, chat, serve, "
         "predict, score, embed, task, eval, compare, runs, info, convert, quantize, merge, data, "
         "tokenizer, pull, verify-resume, doctor is "
         "needed; did you mean train?"),
        (["doctor", "--josn"], "doctor: unknown option --josn; did you mean --json?"),
        (["generate"], "generate: no MODEL given, a value is needed"),
        (["convert"], "convert: no IN, OUT given, a value is needed"),
        (["generate", "m", "--top-k", "many"], "top-k: 'many', a whole number is needed"),
        (["generate", "m", "--top-k", "1.5"], "top-k: '1.5', a whole number is needed"),
        (["generate", "m", "--top-p", "much"], "top-p: 'much', a number is needed"),
        (["generate", "m", "--seed"], "seed: no value given, one is needed"),
        (["generate", "m", "--seed", "-a"], "seed: no value given, one is needed"),
        (["generate", "m", "--prompt", "-a*b"], "prompt: no value given, one is needed; for a text "
         "that begins with -: --prompt='-a*b'"),
        (["score", "m", "--text", "-a"], "text: no value given, one is needed; for a text that "
         "begins with -: --text=-a"),
        (["generate", "m", "--prompt", "--json"], "prompt: no value given, one is needed"),
        (["score", "m", "--file", "gone.txt"], "score: gone.txt: no such file or directory, one "
         "that is there is needed"),
        (["score", "m", "--file", "."], "score: .: is a directory, a file is needed"),
        (["generate", "m", "--grammar", "gone.gbnf"], "generate: gone.gbnf: no such file or "
         "directory, one that is there is needed"),
        (["generate", "m", "--presence-penalty", "-1e3"], "presence-penalty: -1000.0, a number "
         "from -2 to 2 is needed"),
        (["generate", "m", "--temperature", "-.5"], "temperature: -0.5, a finite number of 0 or "
         "more is needed"),
        (["generate", "m", "--json=yes"], "json: 'yes' given, no value is needed"),
        (["generate", "m", "more"], "generate: unexpected argument more, none is needed"),
        (["generate", "m", "--temp=1"], "generate: unknown option --temp=1; did you mean "
         "--temperature?"),
        (["generate", "m", "--zzz"], "generate: unknown option --zzz; minillm generate --help lists"
         " all"),
        (["chat", "m", "--color"], "chat: unknown option --color; minillm chat --help lists all"),
        (["score", "m"], "score: nothing given, one of --text --file is needed"),
        (["score", "m", "--text", "a", "--file", "b"], "file and text: they contradict each other, "
         "one of them is needed"),
        (["convert", "a", "b", "--to", "gguff"], "to: 'gguff', one of hf, gguf is needed; did you "
         "mean gguf?"),
        (["doctor", "--cases", "0"], "cases: 0, 1 or more is needed"),
        (["verify-resume", "--steps", "1"], "steps: 1, 2 or more is needed"),
    ],
)  # fmt: skip
def test_what_cannot_be_parsed_is_one_line(capsys, words, line):
    assert minillm(*words) == 2
    assert capsys.readouterr() == ("", f"minillm: {line}\n")


@pytest.mark.parametrize(
    ("words", "name", "values"),
    [
        ("embed m --json a b", "texts", ["a", "b"]),
        ("embed m a --json b", "texts", ["a", "b"]),
        ("embed --json m a -- -b --json", "texts", ["a", "-b", "--json"]),
        ("task tag m --top 3 a", "inputs", ["a"]),
        ("finetune m --task tag f --steps 2 g", "files", ["f", "g"]),
        ("data report f --workers 1 g", "files", ["f", "g"]),
    ],
)
def test_arguments_stand_on_both_sides_of_an_option(words, name, values):
    parsed, unknown = build_parser().parse_known_args(words.split())
    assert getattr(parsed, name) == values
    assert unknown == []
