"""Time decoding, prompts and the first token of whole models, each round in fresh processes."""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
from collections.abc import Callable, Mapping
from contextlib import closing
from functools import partial
from typing import Any

import numpy

from bench import report
from bench.decoded_models import CONTEXT, DEFAULTS, Decoded, resolve
from bench.limits import Work, rates
from bench.limits import measure as measure_limits
from bench.line import Process
from minillm.arrays import new_generator

PROMPT, WARM, GENERATED, LONG = 32, 16, 128, 512  # tokens
COLUMNS = (
    "model precision provider tokens_per_s spread gb_per_s limit share prompt_per_s first_s rss_mb "
    "beyond_mb ratio_decode ratio_prompt ratio_first"
)
PEERS = {  # name: (module of the far end, package, relative distance of the logits in f32)
    "llama.cpp": ("bench.peer_llama", "llama_cpp", 0.25),  # it rounds activations to eight bits
    "torch": ("bench.peer_torch_decode", "torch", 1e-3),
}
Start = Callable[[], Process]


def contenders(model: Decoded, options: argparse.Namespace) -> dict[str, Start]:
    """What starts each contender's process."""
    given: dict[str, Any] = {
        "path": str(model.path),
        "threads": options.threads,
        "context": CONTEXT,
        "precision": options.precision,
        "vocabulary": model.vocabulary,
    }
    found: dict[str, Start] = {}
    for provider in options.provider:
        off = {"MINILLM_KERNELS": "off"} if provider == "reference" else {}
        module = "bench.decode_ours"
        found[provider] = partial(Process, provider, sys.executable, module, given, off)
    if options.against:
        module = PEERS[options.against][0]
        name = options.against
        found[name] = partial(Process, name, options.peer_python, module, given)
    return found


def prompts(vocabulary: int) -> tuple[list[int], list[int]]:
    """A short and a long prompt, random and the same for every contender."""
    ids = new_generator(1).integers(0, vocabulary, LONG).tolist()
    return ids[:PROMPT], ids


def disagreements(
    starts: Mapping[str, Start], ids: list[int], tolerated: Mapping[str, float]
) -> list[str]:
    """Contenders whose logits after the prompt are not those of the first.

    The distance is the root of the mean square of what differs, as a share of the logits' spread.
    These first processes also fill the page cache.
    """
    logits = {}
    for name, start in starts.items():
        with closing(start()) as process:
            logits[name] = numpy.array(process(ids, logits=True)["logits"])
    first = next(iter(logits))
    found = []
    for name, values in logits.items():
        off = numpy.sqrt(numpy.mean((values - logits[first]) ** 2)) / logits[first].std()
        if not off <= tolerated[name]:
            found.append(
                f"{name}: logits off by {off:.3g} of their spread, {tolerated[name]} allowed"
            )
    return found


def round_of(start: Start, short: list[int], long: list[int]) -> dict[str, float]:
    """All figures of one fresh process."""
    with closing(start()) as process:
        found = {"first_s": process(short)["since_start_s"]}
        process(short, WARM)
        found["tokens_per_s"] = GENERATED / process(short, GENERATED)["more_s"]
        found |= {name: mb for name, mb in process.resident_mb().items() if name == "rss_mb"}
        process(long)
        return found | {"prompt_per_s": LONG / process(long)["read_s"]}


def alternate(
    starts: Mapping[str, Start], rounds: int, short: list[int], long: list[int]
) -> dict[str, dict[str, list[float]]]:
    """By contender and figure, what each round gave: A B A B ..."""
    found: dict[str, dict[str, list[float]]] = {name: {} for name in starts}
    for _ in range(rounds):
        for name, start in starts.items():
            for figure, value in round_of(start, short, long).items():
                found[name].setdefault(figure, []).append(value)
    return found


def ratio(own: Mapping[str, list[float]], rival: Mapping[str, list[float]], name: str) -> float:
    """Median over the rounds of how many times as large `own` is."""
    return statistics.median(a / b for a, b in zip(own[name], rival[name]))


def row_of(
    provider: str, figures: Mapping[str, list[float]], rival: Mapping[str, list[float]] | None
) -> dict[str, Any]:
    """Medians, the spread of the decoding speed, and ratios above 1 where `provider` is better."""
    row: dict[str, Any] = {"provider": provider}
    row |= {name: statistics.median(values) for name, values in figures.items()}
    for name in ("tokens_per_s", "prompt_per_s", "first_s"):
        values = figures[name]
        suffix = "" if name == "tokens_per_s" else f"_{name.partition('_')[0]}"
        row[f"spread{suffix}"] = (max(values) - min(values)) / row[name]
    if rival is not None:
        row["ratio_decode"] = ratio(figures, rival, "tokens_per_s")
        row["ratio_prompt"] = ratio(figures, rival, "prompt_per_s")
        row["ratio_first"] = ratio(rival, figures, "first_s")
    return row


def measure(
    model: Decoded, options: argparse.Namespace, log: report.Report
) -> tuple[list[str], list[str]]:
    """Add the rows of one model: what is wrong (then no row), and the verdict."""
    starts = contenders(model, options)
    short, long = prompts(model.vocab_size)
    tolerated = dict.fromkeys(starts, 0.001 if options.precision == "f32" else 0.1)
    if options.against and options.precision == "f32":
        tolerated[options.against] = PEERS[options.against][2]
    wrong = disagreements(starts, short, tolerated)
    if wrong:
        return [f"{model.name} {fault}" for fault in wrong], []
    found = alternate(starts, options.rounds, short, long)
    rival = found.get(options.against)
    lines = []
    for provider, figures in found.items():
        row: dict[str, Any] = {"model": model.name, "precision": options.precision}
        row |= row_of(provider, figures, rival) | {"threads": options.threads}
        row |= rates([Work(model.flop, model.read)], 1e3 / row["tokens_per_s"], "f32", log.limits)
        if "rss_mb" in row:
            row["beyond_mb"] = row["rss_mb"] - model.bytes / 1e6
        log.add(row)
        if rival is not None and provider != options.against:
            lines.append(verdict(row, options.against))
    return [], lines


def verdict(row: Mapping[str, Any], against: str) -> str:
    line = (
        f"{row['model']}, {row['provider']}: {row['ratio_decode']:.2f} x {against} decoding, "
        f"{row['ratio_prompt']:.2f} x reading a prompt of {LONG}, first token after "
        f"{row['first_s']:.2f} s"
    )
    if "beyond_mb" in row:
        line += f", {row['rss_mb']:.0f} MB resident, {row['beyond_mb']:+.0f} MB beside the file"
    return line


def settle(options: argparse.Namespace) -> None:
    """Find the peer's interpreter and the models. A peer that is not installed is left out."""
    options.peer_python = options.peer_python or os.environ.get("MINILLM_PEER_PYTHON")
    options.peer_python = options.peer_python or sys.executable
    if options.against:
        package = PEERS[options.against][1]
        look = [options.peer_python, "-c", f"import {package}"]
        if subprocess.run(look, capture_output=True, check=False).returncode:
            print(
                f"{options.against}: {package} is not installed for {options.peer_python}, left "
                "out; --peer-python names another interpreter"
            )
            options.against = None
    options.model = options.model or DEFAULTS[options.against]


def run(options: argparse.Namespace) -> int:
    settle(options)
    models = [resolve(name, options.cache) for name in options.model]
    if options.against == "torch" and any(model.path.is_file() for model in models):
        raise ValueError("model: PyTorch takes XS, S and gpt2-124m, no GGUF files")
    if options.against == "llama.cpp" and any(model.path.is_dir() for model in models):
        raise ValueError("model: llama.cpp takes GGUF files; name a type, as in gpt2-124m:q8_0")
    log = report.Report(options, COLUMNS, measure_limits(options.threads))
    wrong, verdicts = [], []
    for model in models:
        faults, lines = measure(model, options, log)
        wrong += faults
        verdicts += lines
    for line in wrong:
        print(f"WRONG, model not timed: {line}", file=sys.stderr)
    if verdicts:
        print("", *verdicts, sep="\n")
    log.finish()
    return 1 if wrong else 0
