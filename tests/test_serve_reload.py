"""A model takes the place of another while requests run; a bad one does not."""

import asyncio
import logging
import weakref
from contextlib import suppress

import numpy as np
import pytest

from minillm import no_grad
from minillm.generation.budget import Budget
from minillm.models.folder import save_model
from minillm.tokenizers import ByteTokenizer
from small_bigram import TURN, bigram, saved, tokenizer
from small_server import begun, listening  # the extra `serve`, or skipped

from minillm.serve.app import build  # isort: skip
from minillm.serve.catalogue import Catalogue  # isort: skip
from minillm.serve.loading import open_served  # isort: skip
from minillm.serve.reload import Reloader  # isort: skip
from minillm.serve.settings import Settings, digest_of  # isort: skip

ADMIN = {"Authorization": "Bearer the-key-of-the-operator"}
OLD, NEW = "\naa", f"\nb{TURN}"


def ask(**more):
    return {"messages": [{"role": "user", "content": "?"}], "temperature": 0, **more}


@pytest.fixture
def place(tmp_path):
    return saved(tmp_path / "model", OLD)


@pytest.fixture
def client(place):
    keys = (digest_of("the-key-of-the-operator"),)
    settings = Settings(port=0, admin_keys=keys, metrics=True, max_concurrency=4)
    catalogue = Catalogue(Budget(1 << 30))

    def open_all():
        return [open_served("m", str(place), settings, catalogue.budget)]

    catalogue.add(*open_all())
    reloader = Reloader(catalogue, open_all, [place])
    with listening(build(settings, catalogue, reloader), settings) as found:
        yield found


def text_of(client, **more):
    answer = client.post("/v1/chat/completions", json=ask(max_tokens=5, **more))
    return answer.json()["choices"][0]["message"]["content"]


def test_requests_that_run_are_finished_by_the_old_model(client, place):
    body = ask(max_tokens=2000, stream=True)
    whole = begun(8, lambda: client.stream("POST", "/v1/chat/completions", json=body))
    saved(place, NEW)
    answer = client.post("/admin/reload", headers=ADMIN)
    assert answer.status_code == 200 and answer.json()["models"][0]["id"] == "m"
    assert text_of(client) == "b"
    assert [text.count('"content":"a"') for text in whole()] == [2000] * 8


def test_a_model_that_is_bad_leaves_the_old_one(client, place):
    model = bigram(NEW)
    with no_grad():
        model.norm.weight.copy_(np.full(model.norm.weight.shape, np.nan))
    save_model(place, model, tokenizer())
    answer = client.post("/admin/reload", headers=ADMIN)
    assert answer.status_code == 409 and "logits" in answer.json()["error"]["message"]
    assert text_of(client) == "aaaaa"
    (place / "model.safetensors").write_bytes(b"nothing")
    answer = client.post("/admin/reload", headers=ADMIN)
    assert answer.status_code == 409 and "the old models go on" in answer.json()["error"]["message"]
    assert text_of(client) == "aaaaa"


def test_weights_that_do_not_give_the_logits_stored_with_them_are_refused(client, place):
    from minillm.formats import safetensors

    saved(place, NEW)
    arrays, notes = safetensors.verify(place / "model.safetensors")
    arrays = {name: np.array(array) for name, array in arrays.items()}
    name = next(name for name in arrays if "lm_head" in name)
    arrays[name] += 1
    safetensors.write(place / "model.safetensors", arrays, notes)
    answer = client.post("/admin/reload", headers=ADMIN)
    assert answer.status_code == 409 and "logits" in answer.json()["error"]["message"]
    assert text_of(client) == "aaaaa"


def test_a_name_keeps_its_tokens(client, place):
    other = ByteTokenizer(("<|a|>", "<|b|>", "<|c|>", "<|d|>"), "<|a|>")
    save_model(place, bigram(NEW, pieces=1), other)
    answer = client.post("/admin/reload", headers=ADMIN)
    assert answer.status_code == 409
    assert "has other tokens than the model that serves as m" in answer.json()["error"]["message"]
    assert text_of(client) == "aaaaa"


def test_models_that_do_not_fit_beside_the_old_ones_are_refused(client, place, monkeypatch):
    monkeypatch.setattr("minillm.device_memory.free", lambda device: 1000)
    answer = client.post("/admin/reload", headers=ADMIN)
    assert answer.status_code == 409 and "1.0 kB are free" in answer.json()["error"]["message"]
    assert text_of(client) == "aaaaa"


def test_outcomes_are_counted_and_the_log_says_why(client, place, caplog):
    caplog.set_level(logging.INFO, "minillm.serve")
    assert client.post("/admin/reload", headers=ADMIN).status_code == 200
    (place / "config.json").write_text("{}", encoding="utf-8")
    assert client.post("/admin/reload", headers=ADMIN).status_code == 409
    lines = client.get("/metrics").text.splitlines()
    for outcome in ("switched", "refused"):
        assert f'minillm_reloads_total{{outcome="{outcome}"}} 1.0' in lines
    told = [one.getMessage() for one in caplog.records if one.name == "minillm.serve"]
    assert any(line.startswith("reloaded m in ") for line in told)
    assert any(line.startswith("reload: the old models go on: ") for line in told)


def test_the_old_model_is_freed_once_its_last_request_is_over(client, place):
    old = weakref.ref(client.app.state.catalogue.find("m").model)
    body = ask(max_tokens=2000, stream=True)
    whole = begun(4, lambda: client.stream("POST", "/v1/chat/completions", json=body))
    saved(place, NEW)
    assert client.post("/admin/reload", headers=ADMIN).status_code == 200
    assert [text.endswith("data: [DONE]") for text in whole()] == [True] * 4
    assert text_of(client) == "b"  # the worker has forgotten what is over
    assert old() is None


@pytest.mark.parametrize("headers", [{}, {"Authorization": "Bearer another"}])
def test_only_the_operator_reloads(client, headers):
    assert client.post("/admin/reload", headers=headers).status_code == 401
    assert client.post("/v1/chat/completions", json=ask(max_tokens=1)).status_code == 200


def test_files_that_change_are_opened_once_they_rest(place):
    opened = []

    async def watched():
        catalogue, done = Catalogue(), asyncio.Event()
        loop = asyncio.get_running_loop()

        def open_all():
            opened.append((place / "config.json").read_text())
            loop.call_soon_threadsafe(done.set)
            return []

        task = asyncio.ensure_future(Reloader(catalogue, open_all, [place]).watch(0.01))
        while not done.is_set():
            (place / "config.json").write_text("{}" + " " * len(opened))
            try:
                async with asyncio.timeout(1):
                    await done.wait()
            except TimeoutError:
                continue
        task.cancel()

    asyncio.run(watched())
    assert opened and opened[0].strip() == "{}"


def test_a_file_that_breaks_what_opens_it_does_not_end_the_watch(place):
    async def watched():
        failed, opened = asyncio.Event(), asyncio.Event()
        loop = asyncio.get_running_loop()

        def open_all():
            loop.call_soon_threadsafe(opened.set if failed.is_set() else failed.set)
            if not failed.is_set():
                raise KeyError("weights")
            return []

        task = asyncio.ensure_future(Reloader(Catalogue(), open_all, [place]).watch(0.01))
        written = 0
        for event in (failed, opened):
            while not event.is_set():
                written += 1
                (place / "config.json").write_text("{}" + " " * written)
                with suppress(TimeoutError):
                    await asyncio.wait_for(event.wait(), 1)
        task.cancel()

    asyncio.run(watched())
