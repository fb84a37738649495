"""`minillm serve` as a process: its address, its keys, its end."""

import json
import os
import re
import signal
import subprocess
from contextlib import contextmanager

import pytest

from small_bigram import TURN, saved
from small_runs import command, environment
from small_server import Budget, Catalogue, Server, Settings, bind, build, httpx

pytest.importorskip("jinja2", reason="jinja2, the extra `serve`, is not installed")
KEY = "a-key-of-the-tests-0"


@contextmanager
def process(*words):
    """A running server: the process and its address."""
    made = subprocess.Popen(
        command("serve", *words, "--port", 0),
        stderr=subprocess.PIPE,
        text=True,
        encoding="utf-8",
        env=environment(),
    )
    try:
        line = made.stderr.readline()
        found = re.search(r" on (http://\S+), Ctrl-C ends", line)
        assert found, line + made.stderr.read()
        yield made, found[1]
    finally:
        made.kill()
        made.wait(60)
        made.stderr.close()


def notices(made):
    """What a process that ended said, beside its log; every line is one or the other."""
    lines = made.stderr.read().splitlines()
    told = [line.removeprefix("minillm: ") for line in lines if line.startswith("minillm: ")]
    assert len(told) + sum(" info request " in line for line in lines) == len(lines), lines
    return told


def test_a_model_is_served_under_its_name_behind_a_key(tmp_path):
    saved(tmp_path / "hello", f"\na🙂b{TURN}")
    keys = tmp_path / "keys"
    keys.write_text(f"# whose\n{KEY}\n", encoding="utf-8")
    with process(tmp_path / "hello", "--api-key-file", keys, "--max-context", 100) as (_, url):
        assert httpx.get(f"{url}/v1/models").status_code == 401
        headers = {"Authorization": f"Bearer {KEY}"}
        (model,) = httpx.get(f"{url}/v1/models", headers=headers).json()["data"]
        assert (model["id"], model["context"]) == ("hello", 100)
        body = {"messages": [{"role": "user", "content": "?"}], "temperature": 0}
        answer = httpx.post(f"{url}/v1/chat/completions", json=body, headers=headers).json()
        assert answer["choices"][0]["message"]["content"] == "a🙂b"


@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
@pytest.mark.parametrize("sign", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_once_what_runs_is_finished(tmp_path, sign):
    saved(tmp_path / "endless", "\nab" + "ba")
    with process(tmp_path / "endless") as (made, url):
        body = {"messages": [{"role": "user", "content": "?"}], "max_tokens": 4000, "stream": True}
        with httpx.stream("POST", f"{url}/v1/chat/completions", json=body, timeout=60) as answer:
            lines = answer.iter_lines()
            first = next(lines)
            made.send_signal(sign)
            events = [line for line in (first, *lines) if line]
        assert events[-1] == "data: [DONE]"
        assert len(events) == 1 + 4000 + 2  # the role, the tokens, the reason, the end
        assert made.wait(60) == 0
        assert notices(made) == [
            "ending: 1 request to finish, 30 s for it",
            "ended: 1 of 1 request finished, 0 given up",
        ]


@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
def test_a_second_signal_gives_up_what_runs(tmp_path):
    saved(tmp_path / "endless", "\nab" + "ba")
    with process(tmp_path / "endless") as (made, url):
        body = {"messages": [{"role": "user", "content": "?"}], "max_tokens": 4000, "stream": True}
        many = body | {"n": 64}
        with httpx.stream("POST", f"{url}/v1/chat/completions", json=many, timeout=60) as answer:
            lines = answer.iter_lines()
            next(lines)
            made.send_signal(signal.SIGTERM)
            assert "ending: 1 request to finish" in made.stderr.readline()
            made.send_signal(signal.SIGTERM)
            *_, last = [line for line in lines if line]
        assert json.loads(last.removeprefix("data: "))["error"]["code"] == "server_ending"
        assert made.wait(60) == 0
        assert notices(made) == ["ended: 0 of 1 request finished, 1 given up"]


@pytest.mark.parametrize("moment", ["at once", "as the end is told"])
def test_a_second_signal_counts_however_soon_it_comes(moment):
    told, settings = [], Settings(port=0, shutdown_seconds=3600)
    catalogue = Catalogue(Budget(1))
    app = build(settings, catalogue)
    app.state.admitted["a request that does not end"] = 1

    def give_up(why):
        app.state.admitted.clear()

    def on_notice(text):
        told.append(text)
        if moment == "as the end is told" and text.startswith("ending"):
            server.handle_exit(signal.SIGTERM, None)

    catalogue.worker.give_up = give_up
    server = Server(app, settings, on_notice)
    server.handle_exit(signal.SIGTERM, None)
    if moment == "at once":
        server.handle_exit(signal.SIGTERM, None)
    with bind(settings) as listener:
        server.run(sockets=[listener])
    assert told[1:] == ["ended: 0 of 1 request finished, 1 given up"]


def test_an_address_that_is_taken_is_one_line(tmp_path):
    saved(tmp_path / "hello", f"\na{TURN}")
    with process(tmp_path / "hello") as (_, url):
        port = url.rpartition(":")[2]
        done = subprocess.run(
            [*command("serve", tmp_path / "hello"), "--port", port],
            capture_output=True,
            text=True,
            encoding="utf-8",
            env=environment(),
            check=False,
        )
        assert done.returncode == 2
        assert done.stderr == (
            f"minillm: serve: 127.0.0.1:{port}: address already in use, a free address is "
            "needed; --host, --port\n"
        )
