"""Many clients: nobody sees another's text, none is lost, and too many are told to come again."""

import os
import random
import signal
import subprocess
import sys
import threading

import pytest

from minillm.generation import complete
from minillm.tokenizers import ByteTokenizer
from small_bigram import saved
from small_gpt2 import small
from small_server import begun, httpx, serving  # the extra `serve`, or skipped

CANARY = "zebra-7741"
PROMPTS = (CANARY, CANARY[:-1], CANARY + "x", "z", "other", CANARY[:5] + "!")
INTERLEAVINGS = 200


def asked(prompt, seed):
    return {"prompt": prompt, "max_tokens": 6, "temperature": 0.8, "seed": seed}


def together(count, work):
    """What `work` of each number gives, in threads; at most so many as there are numbers."""
    found, ready = [None] * count, threading.Barrier(count)

    def one(number):
        ready.wait(60)
        found[number] = work(number)

    threads = [threading.Thread(target=one, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    return found


def test_a_text_is_that_of_a_fresh_server_whatever_others_ask():
    """Beginnings are shared by chunks of 4 tokens here, so that these prompts share some."""
    model, rng = small(vocab_size=257, n_positions=64), random.Random(5)
    right = {
        (prompt, seed): complete(model, ByteTokenizer(), [prompt], **options)[0].text
        for prompt in PROMPTS
        for seed in range(3)
        for options in [{k: v for k, v in asked(prompt, seed).items() if k != "prompt"}]
    }
    with serving(("small", model, ByteTokenizer()), max_concurrency=3) as client:
        engine = client.app.state.catalogue.find("small").engine
        engine.chunk = engine.prefixes.chunk = engine._schedule.chunk = 4
        reused = 0
        for _ in range(INTERLEAVINGS):
            wanted = [(rng.choice(PROMPTS), rng.randrange(3)) for _ in range(4)]
            answers = together(
                4,
                lambda number: client.post("/v1/completions", json=asked(*wanted[number])).json(),  # noqa: B023
            )
            assert [one["choices"][0]["text"] for one in answers] == [right[one] for one in wanted]
            usages = [one["usage"]["prompt_tokens_details"] for one in answers]
            reused += sum(usage["cached_tokens"] for usage in usages)
    assert reused > 0  # else nothing was shared, and nothing tested


def test_of_64_clients_those_beyond_the_queue_are_told_when_to_come_again():
    model = small(vocab_size=257, n_positions=2048)
    with serving(("small", model, ByteTokenizer()), max_concurrency=4, max_queue=16) as client:
        limits = httpx.Limits(max_connections=64)
        with httpx.Client(base_url=client.base_url, timeout=120, limits=limits) as wide:
            body = {"prompt": "a", "max_tokens": 300, "temperature": 0}
            answers = together(64, lambda _: wide.post("/v1/completions", json=body))
            later = wide.post("/v1/completions", json=body)
    statuses = [one.status_code for one in answers]
    assert set(statuses) == {200, 429} and statuses.count(200) >= 20
    for one in answers:
        if one.status_code == 429:
            assert int(one.headers["retry-after"]) >= 1
            assert one.json()["error"]["code"] == "queue_full"
    texts = {one.json()["choices"][0]["text"] for one in answers if one.status_code == 200}
    assert texts == {later.json()["choices"][0]["text"]}


@pytest.mark.skipif(os.name != "posix", reason="sends SIGTERM")
def test_sigterm_loses_no_answer_that_runs(tmp_path):
    place = saved(tmp_path / "model", "\naa")
    words = [sys.executable, "-m", "minillm", "serve", str(place), "--port", "0"]
    with subprocess.Popen(words, stderr=subprocess.PIPE, text=True) as process:
        try:
            url = next(
                line.split(" on ")[1].split(",")[0] for line in process.stderr if " on http" in line
            )
            body = {
                "messages": [{"role": "user", "content": "?"}], "temperature": 0,
                "max_tokens": 1500, "stream": True,
            }  # fmt: skip
            path = f"{url}/v1/chat/completions"
            whole = begun(8, lambda: httpx.stream("POST", path, json=body, timeout=60))
            process.send_signal(signal.SIGTERM)
            found = whole()
            said = process.stderr.read()
            assert process.wait(60) == 0
        finally:
            process.kill()
    assert [text.count('"content":"a"') for text in found] == [1500] * 8
    assert all(text.endswith("data: [DONE]") for text in found)
    assert "0 given up" in said and "Traceback" not in said
