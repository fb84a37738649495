"""What a server takes from whom: keys, hosts, sizes, slow and broken clients, and its end."""

import asyncio
import json
import socket
import threading
import time

import pytest

from minillm.generation import Engine
from small_bigram import TURN, bigram, tokenizer
from small_server import httpx, serving  # the extra `serve`, or skipped

from minillm.serve import protocol  # isort: skip
from minillm.serve.running import Server  # isort: skip
from minillm.serve.settings import Settings, digest_of  # isort: skip
from minillm.serve.follow import Follow  # isort: skip
from minillm.serve.worker import Worker  # isort: skip

KEYS = ("key-of-the-first-one", "key-of-the-second-one")
GET = b"GET /health HTTP/1.1\r\nHost: localhost\r\n"
ENDLESS = bigram("\nab" + "ba")


def hello(**settings):
    return serving(("hello", bigram(f"\nab{TURN}"), tokenizer()), **settings)


def body(**more):
    return {"messages": [{"role": "user", "content": "?"}], "temperature": 0, **more}


def raw(client, data, shut=False):
    """What comes back for bytes on a socket of their own, until the server closes it."""
    with socket.create_connection((client.base_url.host, client.base_url.port), 60) as connection:
        connection.sendall(data)
        if shut:
            connection.shutdown(socket.SHUT_WR)
        found = b""
        while part := connection.recv(1 << 16):
            found += part
    return found


def post(content, headers="", length=None):
    length = len(content) if length is None else length
    return (
        f"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
        f"Content-Type: application/json\r\nContent-Length: {length}\r\n{headers}\r\n"
    ).encode() + content


def answered(data):
    """Status and error of a raw answer."""
    head, _, content = data.partition(b"\r\n\r\n")
    return int(head.split()[1]), json.loads(content)["error"]


def test_only_known_keys_are_let_in():
    with hello(keys=tuple(map(digest_of, KEYS))) as client:
        for key, status in ((None, 401), ("wrong", 401), ("é", 401), *((key, 200) for key in KEYS)):
            headers = {} if key is None else {"Authorization": f"Bearer {key}".encode()}
            answer = client.post("/v1/chat/completions", json=body(), headers=headers)
            assert answer.status_code == status, key
            if status == 401:
                assert answer.json()["error"]["code"] == "invalid_api_key"
        assert client.get("/v1/models").status_code == 401
        assert client.get("/health").status_code == 200


@pytest.mark.parametrize("keys", [(), KEYS[:1]])
def test_where_there_are_no_keys_for_it_there_is_no_administration(keys):
    with hello(keys=tuple(map(digest_of, keys))) as client:
        for key in keys:
            client.headers["Authorization"] = f"Bearer {key}"
        answer = client.post("/admin/reload")
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, "unknown_url")


@pytest.mark.parametrize("shared", [False, True])
def test_prompts_are_shared_within_a_key_a_user_and_a_template_only(shared):
    settings = {"keys": tuple(map(digest_of, KEYS)), "share_prefixes": shared}
    said = [{"role": "user", "content": "a long prompt " * 50}]

    def cached(key, model="hello", **more):
        answer = client.post(
            "/v1/chat/completions",
            json=body(model=model, messages=said) | more,
            headers={"Authorization": f"Bearer {key}"},
        )
        return answer.json()["usage"]["prompt_tokens_details"]["cached_tokens"]

    models = [("hello", bigram(f"\nab{TURN}"), tokenizer())]
    models.append(("other", models[0][1], models[0][2]))
    with serving(*models, **settings) as client:
        assert [cached(KEYS[0]), cached(KEYS[0])] == [0, 512]
        assert cached(KEYS[1]) == (512 if shared else 0)
        assert cached(KEYS[1]) == 512
        assert [cached(KEYS[0], user="me"), cached(KEYS[0], user="me")] == [0, 512]
        assert cached(KEYS[0], model="other") == 0
        prompt = {"model": "hello", "prompt": "a long prompt " * 50, "max_tokens": 1}
        headers = {"Authorization": f"Bearer {KEYS[0]}"}
        for right in (0, 512):
            usage = client.post("/v1/completions", json=prompt, headers=headers).json()["usage"]
            assert usage["prompt_tokens_details"]["cached_tokens"] == right


@pytest.mark.parametrize("host, status", [
    ("localhost:1", 200), ("127.0.0.1", 200), ("[::1]:80", 200), ("LocalHost", 200),
    ("me.org", 200),    ("evil.example", 421), ("127.0.0.1.evil.example", 421), ("", 421),
])  # fmt: skip
def test_without_keys_the_loopback_answers_to_local_names_only(host, status):
    with hello(allowed_hosts=("me.org",)) as client:
        assert client.get("/v1/models", headers={"Host": host}).status_code == status


def test_no_other_origin_is_named_and_scripts_are_shut_out():
    with hello() as client:
        origin = {"Origin": "https://evil.example", "Access-Control-Request-Method": "POST"}
        for answer in (
            client.get("/v1/models", headers=origin),
            client.options("/v1/chat/completions", headers=origin),
            client.post("/v1/chat/completions", json=body(), headers=origin),
        ):
            assert not [name for name in answer.headers if name.startswith("access-control")]
            assert answer.headers["x-content-type-options"] == "nosniff"
            assert "default-src 'none'" in answer.headers["content-security-policy"]
        plain = client.post(
            "/v1/chat/completions",
            content=json.dumps(body()),
            headers={"Content-Type": "text/plain"},
        )
        assert plain.status_code == 415


@pytest.mark.parametrize("content, status, code", [
    (b'{"messages": [', 400, "invalid_json"),
    (b"", 400, "invalid_json"),
    (b"[]", 400, "invalid_value"),
    (b'{"messages": [{"role": "user", "content": "\xff"}]}', 400, "invalid_json"),
    (b'{"messages": [{"role": "user", "content": "\\ud83d"}]}', 400, "invalid_value"),
    (b'{"temperature": NaN}', 400, "invalid_json"),
    (b'{"n": 1, "n": 2}', 400, "invalid_json"),
    (b'{"\\ud800": 1}', 400, "invalid_json"),
    (b'{"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": '
     b'{"\\ud800": 1}}}}', 400, "invalid_json"),
    (b"[" * 5000, 400, "invalid_json"),
    (b'{"messages": ' + b"[" * 200 + b"]" * 200 + b"}", 400, "invalid_json"),
    (b'{"seed": ' + b"9" * 5000 + b"}", 400, "invalid_json"),
    (b'{"pad": "' + b"x" * 20_000 + b'"}', 413, "body_too_large"),
])  # fmt: skip
def test_a_body_that_is_none_is_refused(content, status, code):
    with hello(max_body=10_000) as client:
        for data in (post(content), post(content).replace(
            f"Content-Length: {len(content)}".encode(), b"Transfer-Encoding: chunked"
        )[: -len(content) or None] + b"%x\r\n%s\r\n0\r\n\r\n" % (len(content), content)
        if content else b""):  # fmt: skip
            if data:
                found, error = answered(raw(client, data))
                assert (found, error["code"]) == (status, code)


@pytest.mark.parametrize("data, status", [
    (b"", 408),
    (GET, 408),
    (post(b'{"messages"', length=500), 408),
    (b"nonsense\r\n\r\n", 400),
    (GET + b"Connection: close\r\nX: " + b"x" * 40_000 + b"\r\n\r\n", 431),
    (GET + b"X: " + b"x" * 400_000, 400),
])  # fmt: skip
def test_a_slow_or_broken_client_is_told_and_left(data, status):
    with hello(header_seconds=0.2, body_seconds=0.2) as client:
        found, error = answered(raw(client, data))
        assert found == status
        assert error["message"]
        assert client.get("/health").status_code == 200


def test_a_client_that_sends_on_after_its_refusal_is_left():
    with hello(max_body=100) as client:
        assert answered(raw(client, post(b"{", length=10**6)))[0] == 413


@pytest.mark.parametrize("line", [b"", b"Connection: close\r\n"])
def test_a_client_that_sends_all_of_a_body_that_is_too_large_hears_so(line):
    """Closed at once, its system would throw the answer away with what it still sends."""
    with hello(max_body=100) as client:
        address = client.base_url.host, client.base_url.port
        with socket.create_connection(address, 60) as connection:
            size = 8 << 20
            head = post(b"", length=size).replace(b"Connection: close\r\n", line)
            connection.sendall(head + b"x" * size)
            assert connection.recv(1000).startswith(b"HTTP/1.1 413 ")


def test_a_client_that_was_answered_is_left_however_it_sends_on(monkeypatch):
    monkeypatch.setattr(protocol, "LINGER", 0.05)
    with hello() as client:
        address = client.base_url.host, client.base_url.port
        with socket.create_connection(address, 60) as connection:
            connection.sendall(GET + b"Content-Length: 100000000\r\n\r\n")
            with pytest.raises(OSError):
                for _ in range(10**6):
                    connection.send(b"x")


def test_an_answer_that_is_taken_slowly_has_its_deadline_too():
    async def taken(left):
        follow = Follow(Worker(), None, [], "hello")
        for pieces in ([], None):
            follow.put(pieces)
        return [pieces async for pieces in follow.pieces(time.monotonic() + left)]

    assert asyncio.run(taken(60)) == [[]]
    with pytest.raises(TimeoutError):
        asyncio.run(taken(0))


def test_a_silence_is_told_until_something_comes():
    async def heard():
        follow, found = Follow(Worker(), None, [], "hello"), []
        async for pieces in follow.pieces(time.monotonic() + 600, 0.001):
            found.append(pieces)
            if len(found) == 3:
                follow.put(None)
        return found

    assert asyncio.run(heard()) == [[]] * 3


@pytest.mark.parametrize("path", ["/health/", "/v1/chat/completions/"])
def test_no_path_leads_elsewhere(path):
    """Behind a proxy that ends TLS a redirect would name http, and a client follow with its key."""
    with hello() as client:
        for method in ("GET", "POST"):
            answer = client.request(method, path, json={})
            assert (answer.status_code, answer.headers.get("location")) == (404, None)


def test_connections_have_a_bound():
    with hello(max_connections=2) as client:
        held = [
            socket.create_connection((client.base_url.host, client.base_url.port), 60)
            for _ in range(2)
        ]
        assert answered(raw(client, b""))[0] == 503
        for connection in held:
            connection.close()


def test_a_client_that_reads_nothing_is_given_up():
    with serving(("endless", ENDLESS, tokenizer()), write_seconds=0.2) as client:
        worker, over = client.app.state.catalogue.worker, threading.Event()
        worker.on_end.append(lambda follow: over.set())
        asked = json.dumps(body(stream=True, max_tokens=4000, logprobs=True, top_logprobs=20))
        connection = socket.socket()
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 10)
        connection.connect((client.base_url.host, client.base_url.port))
        connection.sendall(post(asked.encode()))
        assert over.wait(60)
        assert worker.follows == []
        connection.close()


@pytest.mark.parametrize("stream", [True, False])
def test_a_request_has_a_deadline(stream):
    with serving(("endless", ENDLESS, tokenizer()), request_seconds=0.2) as client:
        worker, over = client.app.state.catalogue.worker, threading.Event()
        worker.on_end.append(lambda follow: over.set())
        answer = client.post("/v1/chat/completions", json=body(stream=stream, max_tokens=4000))
        text = answer.text.removeprefix("data: ") if not stream else answer.text.split("data: ")[-1]
        error = json.loads(text)["error"]
        assert answer.status_code == (200 if stream else 504)
        assert error["code"] == "deadline_exceeded"
        assert over.wait(60)
        assert worker.follows == []


@pytest.mark.parametrize("seconds, status", [(60, 200), (0.2, 503)])
def test_the_end_of_a_server_waits_for_what_runs(monkeypatch, seconds, status):
    """As long as it is given; then the rest is told that it was given up."""
    begun, released, told = threading.Event(), threading.Event(), []
    step, give_up, ends = Engine.step, Worker.give_up, Server.shutdown

    def held_step(engine):
        begun.set()
        assert released.wait(60)
        return step(engine)

    def told_give_up(worker, reason):
        give_up(worker, reason)
        released.set()

    async def told_shutdown(server, sockets=None):
        if seconds == 60:
            released.set()
        await ends(server, sockets)

    def ask(url):
        asked = body(max_tokens=30)
        told.append(httpx.post(f"{url}/v1/chat/completions", json=asked, timeout=60))

    monkeypatch.setattr(Engine, "step", held_step)
    monkeypatch.setattr(Worker, "give_up", told_give_up)
    monkeypatch.setattr(Server, "shutdown", told_shutdown)
    with serving(("endless", ENDLESS, tokenizer()), shutdown_seconds=seconds) as client:
        thread = threading.Thread(target=ask, args=(client.base_url,))
        thread.start()
        assert begun.wait(60)
    thread.join(60)
    (answer,) = told
    assert answer.status_code == status
    if status == 200:
        assert len(answer.json()["choices"][0]["message"]["content"]) == 30
    else:
        assert answer.json()["error"]["code"] == "server_ending"


def test_a_request_that_is_let_in_as_the_server_ends_has_its_time_and_no_more(monkeypatch):
    """Its prompt is being read into ids when the signal comes."""
    entered, ends, released, told = (*(threading.Event() for _ in range(3)), [])
    ticket, step, give_up, shutdown = Engine.ticket, Engine.step, Worker.give_up, Server.shutdown

    def held_ticket(engine, *arguments, **options):
        entered.set()
        assert ends.wait(60)
        return ticket(engine, *arguments, **options)

    def held_step(engine):
        assert released.wait(20)
        return step(engine)

    def told_give_up(worker, reason):
        give_up(worker, reason)
        released.set()

    async def told_shutdown(server, sockets=None):
        ends.set()
        await shutdown(server, sockets)

    monkeypatch.setattr(Engine, "ticket", held_ticket)
    monkeypatch.setattr(Engine, "step", held_step)
    monkeypatch.setattr(Worker, "give_up", told_give_up)
    monkeypatch.setattr(Server, "shutdown", told_shutdown)
    with serving(("endless", ENDLESS, tokenizer()), shutdown_seconds=0.5) as client:
        url = f"{client.base_url}/v1/chat/completions"
        asked = threading.Thread(
            target=lambda: told.append(httpx.post(url, json=body(max_tokens=30), timeout=60))
        )
        asked.start()
        assert entered.wait(60)
    asked.join(60)
    (answer,) = told
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "server_ending")


def test_settings_are_checked():
    with pytest.raises(ValueError, match=r"^max-queue: -1, 0 or more is needed"):
        Settings(max_queue=-1)
    assert not Settings(host="0.0.0.0").is_loopback
