"""Time a server with several streaming clients, beside llama-cpp-python's and the bare engine."""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from contextlib import closing
from typing import Any

from bench import report
from bench.decode import settle
from bench.decoded_models import CONTEXT, Decoded, resolve
from bench.served import Answer, Served, llama_cpp, ours, resident_mb, together
from minillm import kernels
from minillm.generation import Engine, Options
from minillm.models.folder import load

COLUMNS = "model provider clients tokens_per_s ratio_one ratio_peer first_s rss_mb wrong"
PACKAGES = "import llama_cpp.server, uvicorn"


def prompt(place: int) -> str:
    """One of its own for each client, which the model goes on from for long."""
    return f"Story number {place}: Once upon a time there was"


def lone(server: Served, clients: int, tokens: int) -> list[str]:
    """What each client gets while no other asks."""
    return [server.ask(prompt(place), tokens).text for place in range(clients)]


def measured(server: Served, clients: int, tokens: int, right: list[str]) -> dict[str, Any]:
    """One round with so many clients at once."""
    found, seconds = together(server, [prompt(place) for place in range(clients)], tokens)
    answers = [one for one in found if isinstance(one, Answer)]
    wrong = sum(one.text != text for one, text in zip(found, right) if isinstance(one, Answer))
    if not answers:
        raise RuntimeError(f"{server.name}: no client of {clients} was answered: {found[0]}")
    return {
        "tokens_per_s": sum(one.tokens for one in answers) / seconds,
        "first_s": statistics.median(one.first_s for one in answers),
        "wrong": wrong + len(found) - len(answers),
        "rss_mb": resident_mb(server.pid),
    }


def overhead(path: str, server: Served, tokens: int, rounds: int) -> str:
    """A lone request over HTTP beside the same of an engine in this process, in turns. The share is
    the median of neighbouring pairs: the machine's speed drifts more than HTTP costs."""
    engine = Engine(*load(path))
    options = Options(max_tokens=tokens, temperature=0)

    def inside(turn: int) -> float:
        begin = time.perf_counter()
        engine.complete([prompt(turn)], options)
        return time.perf_counter() - begin

    def outside(turn: int) -> float:
        return server.ask(prompt(turn), tokens).whole_s

    pairs = []
    for turn in range(rounds + 1):
        first, second = (inside, outside) if turn % 2 else (outside, inside)
        times = {way: way(turn) for way in (first, second)}
        if turn:  # the first one warms both
            pairs.append((times[inside], times[outside]))
    within, over = (statistics.median(column) for column in zip(*pairs))
    low, share, high = statistics.quantiles([after / before - 1 for before, after in pairs], n=4)
    return (
        f"a lone request: {within:.3f} s of the engine, {over:.3f} s over HTTP, {share:+.1%} "
        f"(half of {rounds} pairs between {low:+.1%} and {high:+.1%})"
    )


def lasting(server: Served, requests: int) -> str:
    """Memory of the server over many short requests."""
    sizes = []
    for number in range(requests):
        server.ask(prompt(number % 64), 4)
        if number + 1 in (requests // 10, requests):
            sizes.append(resident_mb(server.pid))
        if sys.stderr.isatty() and number % 100 == 0:
            print(f"\r{number:,} of {requests:,} requests", end="", file=sys.stderr)
    early = f"{sizes[0]:.1f} MB after {requests // 10:,} requests"
    return f"memory: {early}, {sizes[-1]:.1f} MB after {requests:,}"


def rows(
    model: Decoded, options: argparse.Namespace, log: report.Report, servers: list[Served]
) -> int:
    """A row for each number of clients and each server; how many answers were wrong."""
    most, wrong = max(options.clients), 0
    right = {one.name: lone(one, most, options.tokens) for one in servers}
    of_one: dict[str, float] = {}
    for clients in options.clients:
        rates: dict[str, float] = {}
        for server in servers:  # in turns, round by round
            found = [
                measured(server, clients, options.tokens, right[server.name])
                for _ in range(options.rounds)
            ]
            row = {key: statistics.median(one[key] for one in found) for key in found[0]}
            row["wrong"] = sum(one["wrong"] for one in found)
            rates[server.name] = row["tokens_per_s"]
            of_one.setdefault(server.name, row["tokens_per_s"] / (1 if clients == 1 else clients))
            row["ratio_one"] = row["tokens_per_s"] / of_one[server.name]
            if server.name != servers[-1].name or len(servers) == 1:
                wrong += row["wrong"]
            named = {"model": model.name, "provider": server.name, "clients": clients}
            if len(servers) > 1 and server is servers[-1]:
                log.rows[-1]["ratio_peer"] = rates[servers[0].name] / rates[server.name]
                named["ratio_peer"] = log.rows[-1]["ratio_peer"]
            log.add(named | row)
    return wrong


def run(options: argparse.Namespace) -> int:
    kernels.set_threads(options.threads)
    settle(options)
    if options.against:
        look = [options.peer_python, "-c", PACKAGES]
        if subprocess.run(look, capture_output=True, check=False).returncode:
            print("llama-cpp-python[server] is not installed, left out")
            options.against = None
    model = resolve(options.model[0], options.cache)
    most = max(options.clients)
    log = report.Report(options, COLUMNS)
    with closing(ours(str(model.path), options.threads, most)) as server:
        servers = [server]
        if options.against:
            peer = llama_cpp(options.peer_python, str(model.path), options.threads, CONTEXT)
            servers.append(peer)
        try:
            wrong = rows(model, options, log, servers)
        finally:
            for other in servers[1:]:
                other.close()
        print()
        print(overhead(str(model.path), server, options.tokens, max(3, options.rounds)))
        if options.requests:
            print(lasting(server, options.requests))
    log.finish()
    if wrong:
        print(f"WRONG: {wrong} answers lost, or not those of a client alone", file=sys.stderr)
    return 1 if wrong else 0
