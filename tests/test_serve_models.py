"""Several models and adapters behind one server, each by its name."""

import numpy as np
import pytest

from minillm.generation import generate
from minillm.models import adapter
from minillm.models.adapter import Lora
from minillm.models.folder import save_model
from minillm.tokenizers import ByteTokenizer
from small_gpt2 import small
from small_runs import minillm
from small_server import serving  # the extra `serve`, or skipped

from minillm.serve.loading import add_draft, open_adapter, open_served, twin  # isort: skip
from minillm.serve.settings import Settings  # isort: skip

ASKED = {"max_tokens": 20, "temperature": 0.8, "seed": 3}


def base():
    return small(vocab_size=257, n_positions=64)


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """A model and two adapters of it."""
    place = tmp_path_factory.mktemp("models")
    save_model(place / "base", base(), ByteTokenizer())
    for seed in (1, 2):
        model, rng = base(), np.random.default_rng(seed)
        lora = Lora(rank=2, alpha=4.0)
        adapter.attach(model, lora)
        for _, layer in adapter.adapted(model):
            layer.lora_B.data[...] = rng.normal(size=layer.lora_B.shape)
        adapter.save(place / f"lora{seed}", model, lora, "base", None)
    return place


def told(place, name):
    """What the command line's way of loading gives."""
    from minillm.cli.adapted import load

    path = None if name == "base" else str(place / name)
    return generate(*load(str(place / "base"), path), "ab", **ASKED)


def test_each_adapter_answers_as_it_does_alone(places):
    settings = Settings()
    served = open_served("base", str(places / "base"), settings)
    adapters = [
        open_adapter(name, served, str(places / name), settings) for name in ("lora1", "lora2")
    ]
    with serving(*(lambda _, one=one: one for one in (served, *adapters))) as client:
        texts = {}
        for name in ("base", "lora1", "lora2", "base"):
            body = {"model": name, "prompt": "ab", **ASKED}
            answer = client.post("/v1/completions", json=body).json()
            texts[name] = answer["choices"][0]["text"]
            assert answer["model"] == name
        assert texts == {name: told(places, name) for name in texts}
        assert len(set(texts.values())) == 3
        listed = client.get("/v1/models").json()["data"]
    assert [one["adapter"] is None for one in listed] == [True, False, False]
    assert len({one["fingerprint"] for one in listed}) == 3


def test_a_twin_shares_its_weights_and_not_its_layers():
    model = base()
    other = twin(model)
    pairs = list(zip(model.named_parameters(), other.named_parameters(), strict=True))
    assert all(one is two for (_, one), (_, two) in pairs)
    assert not set(map(id, model.modules())) & set(map(id, other.modules()))


@pytest.mark.parametrize("words, line", [
    (["m", "--host", "0.0.0.0"], "host: 0.0.0.0 is reached from other machines and no key is asked "
     "for, --api-key-file FILE is needed; or --open-to-all, to serve everybody"),
    (["m", "--name", "a", "--name", "b"], "name: 2 given for 1 model, one for each is needed"),
    (["m", "n/m"], "serve: two models named m, names of their own are needed"),
    (["m", "--adapter", "x"], "adapter: 'x', NAME=DIR is needed"),
    (["m", "--adapter", "m=x"], "serve: two models named m, names of their own are needed"),
    (["m", "--port", "70000"], "port: 70000, 0 to 65535 is needed"),
    (["m", "--max-concurrency", "0"], "max-concurrency: 0, 1 or more is needed"),
    (["m", "--request-seconds", "0"], "request-seconds: 0.0, more than 0 is needed"),
])  # fmt: skip
def test_what_cannot_be_served_is_one_line(capsys, words, line):
    assert minillm("serve", *words, *([] if "--port" in words else ["--port", "0"])) == 2
    assert capsys.readouterr() == ("", f"minillm: {line}\n")


@pytest.mark.parametrize("content, fact", [
    ("", "holds no key, at least 1 line is needed"),
    ("# none\n\n", "holds no key, at least 1 line is needed"),
    ("short\n", "a key in {} has 5 characters, 16 or more are needed"),
])  # fmt: skip
def test_a_file_without_good_keys_is_refused(tmp_path, capsys, content, fact):
    path = tmp_path / "keys"
    path.write_text(content, encoding="utf-8")
    assert minillm("serve", "m", "--api-key-file", str(path)) == 2
    assert fact.format(path) in capsys.readouterr().err


def test_a_file_of_keys_that_is_not_there_is_told_by_its_option(tmp_path, capsys):
    path = tmp_path / "keys"
    assert minillm("serve", "m", "--api-key-file", str(path)) == 2
    assert capsys.readouterr().err == (
        f"minillm: api-key-file: {path}: no such file or directory, a file with a key on each line "
        "is needed\n"
    )


def test_a_draft_changes_no_greedy_text(places):
    settings = Settings()
    with_draft = open_served("drafted", str(places / "base"), settings)
    add_draft(with_draft, str(places / "base"))
    plain = open_served("plain", str(places / "base"), settings)
    with serving(lambda _: with_draft, lambda _: plain) as client:
        texts = {}
        for name in ("drafted", "plain"):
            for more in ({}, {"logprobs": 1}):  # which a draft leaves alone
                body = {"model": name, "prompt": "ab", "max_tokens": 20, "temperature": 0} | more
                answer = client.post("/v1/completions", json=body).json()
                texts[name, *more] = answer["choices"][0]["text"]
        assert len(set(texts.values())) == 1
