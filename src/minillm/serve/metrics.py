"""GET /metrics: what Prometheus collects, under the names that people chart."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterable, Mapping
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Scope

from minillm import __version__
from minillm.serve.catalogue import Catalogue
from minillm.serve.follow import Follow

SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)
LENGTHS = (1, 4, 16, 64, 256, 1024, 4096, 16384, 65536)
PER_TOKEN = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5)


class Metrics:
    """Counts what ends, and looks at queues and memory when it is asked.

    Requests are counted when their answer is out, by the path's pattern and the status (499 for a
    client that left); tokens while they are written, texts when the engine is done with them, by
    model. A model that finishes its requests after a reload counts under its name.
    """

    def __init__(self, catalogue: Catalogue, admitted: Mapping[Any, int]) -> None:
        """`admitted` are requests that were let in, by engine or encoder."""
        self._catalogue, self._admitted = catalogue, admitted
        self._lock = threading.Lock()
        self._seen: dict[Follow, tuple[int, int, int]] = {}  # tokens that were counted already
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "minillm_requests", "Answers", ("path", "status"), registry=self.registry
        )
        self.prompt = self._counter("prompt_tokens", "Tokens of prompts")
        self.cached = self._counter("prompt_tokens_cached", "Those of them read before")
        self.generated = self._counter("generation_tokens", "Tokens written")
        self.cancelled = self._counter("requests_cancelled", "Requests given up before their end")
        self.finished = Counter(
            "minillm_request_success", "Texts by why they ended", ("model", "finished_reason"),
            registry=self.registry,
        )  # fmt: skip
        self.first = self._histogram("time_to_first_token_seconds", "From queue to token", SECONDS)
        self.each = self._histogram("time_per_output_token_seconds", "After the first", PER_TOKEN)
        self.whole = self._histogram("e2e_request_latency_seconds", "From queue to end", SECONDS)
        self.read = self._histogram("request_prompt_tokens", "Of each request", LENGTHS)
        self.texts = self._histogram("request_generation_tokens", "Of each request", LENGTHS)
        self.reloads = Counter(
            "minillm_reloads", "By outcome: switched, refused", ("outcome",), registry=self.registry
        )
        for outcome in ("switched", "refused"):
            self.reloads.labels(outcome)
        self.registry.register(self)
        ProcessCollector(registry=self.registry)
        catalogue.worker.on_end.append(self.ended)

    def _counter(self, name: str, text: str) -> Counter:
        return Counter(f"minillm_{name}", text, ("model",), registry=self.registry)

    def _histogram(self, name: str, text: str, buckets: tuple[float, ...]) -> Histogram:
        return Histogram(
            f"minillm_{name}", text, ("model",), registry=self.registry, buckets=buckets
        )

    def answered(self, scope: Scope, status: int) -> None:
        """Count an answer; paths that are none are counted together."""
        route = scope.get("route")
        path = getattr(route, "path", "other") if status != 404 else "other"
        self.requests.labels(path, str(status)).inc()
        read = scope.get("state", {}).get("read")  # by an encoder
        if read is not None:
            self.prompt.labels(scope["state"]["model"]).inc(read)

    def reloaded(self, switched: bool) -> None:
        self.reloads.labels("switched" if switched else "refused").inc()

    def ended(self, follow: Follow) -> None:
        """Count the texts of a request; in the worker's thread."""
        model = follow.model
        with self._lock:
            self._count(follow)
            read, _, written = self._seen.pop(follow)
        self.cancelled.labels(model).inc(follow.cancelled)
        for reason, texts in follow.ends.items():
            self.finished.labels(model, reason).inc(texts)
        if follow.first is None:
            return
        self.first.labels(model).observe(follow.first - follow.asked)
        if follow.ended is None or follow.cancelled:
            return
        self.whole.labels(model).observe(follow.ended - follow.asked)
        self.read.labels(model).observe(read)
        self.texts.labels(model).observe(written)
        rows = sum(ticket.options.rows for ticket in follow.tickets)
        if written > rows:
            took = (follow.ended - follow.first) * rows
            self.each.labels(model).observe(took / (written - rows))

    def _count(self, follow: Follow) -> None:
        """Add the tokens of a request that were not added yet; its prompt once it is read."""
        before = self._seen.get(follow, (0, 0, 0))
        begun = [one for one in follow.tickets if one.written or (one.done and not one.cancelled)]
        now = (
            max(before[0], sum(ticket.prompt_tokens for ticket in begun)),
            max(before[1], sum(ticket.reused for ticket in begun)),
            sum(ticket.written for ticket in follow.tickets),
        )
        counters = (self.prompt, self.cached, self.generated)
        for counter, new, old in zip(counters, now, before, strict=True):
            counter.labels(follow.model).inc(new - old)
        self._seen[follow] = now

    def exposition(self) -> bytes:
        """All of it, tokens up to now."""
        with self._lock:
            for follow in self._catalogue.worker.follows:
                if follow.ended is None:  # else `ended` counts the rest
                    self._count(follow)
        return generate_latest(self.registry)

    def collect(self) -> Iterable[Metric]:
        """What is so now."""
        yield from self._engines()
        worker, budget = self._catalogue.worker, self._catalogue.budget
        began, now = worker.step_began, time.monotonic()
        yield self._gauge("engine_up", "Whether the engine works", float(worker.failure is None))
        took = 0.0 if began is None else now - began
        yield self._gauge("engine_step_seconds", "That the step has taken which runs now", took)
        if budget is not None:
            used = "Keys and values that running requests may need, of what they may have"
            yield self._gauge("kv_cache_usage_ratio", used, budget.held / budget.most)
            yield self._gauge("kv_cache_limit_bytes", "What they may have", budget.most)
        info = GaugeMetricFamily(
            "minillm_model_info", "Models that are served",
            labels=["model", "kind", "adapter", "fingerprint", "version"],
        )  # fmt: skip
        for one in self._catalogue.all():
            values = [one.name, one.kind, one.adapter or "", one.fingerprint, __version__]
            info.add_metric(values, 1)
        yield info

    def _engines(self) -> Iterable[Metric]:
        told = "Texts that are written now, or requests of an encoder"
        running = self._gauge("num_requests_running", told)
        waiting = self._gauge("num_requests_waiting", "Prompts that wait for their turn")
        held = self._gauge("kv_cache_bytes", "Keys and values that begun requests may need")
        tokens = self._gauge("kv_cache_tokens", "Of begun requests, read and written")
        prefixes = self._gauge("prefix_cache_bytes", "Keys and values of prompts that are kept")
        follows = self._catalogue.worker.follows
        for served in self._catalogue.all():
            if served.engine is None:
                running.add_metric([served.name], self._admitted.get(served, 0))
                continue
            name, mine = served.name, [one for one in follows if one.model == served.name]
            engines = {served.engine, *(one.engine for one in mine)}  # old ones, too
            begun = [one for each in mine for one in each.tickets if one.written and not one.done]
            late = sum(len(one.later) for one in mine)
            running.add_metric([name], sum(one.running for one in engines))
            waiting.add_metric([name], sum(one.waiting for one in engines) + late)
            held.add_metric([name], sum(one.held for one in engines))
            tokens.add_metric([name], sum(one.prompt_tokens + one.written for one in begun))
            prefixes.add_metric([name], sum(one.prefixes.nbytes for one in engines))
        yield from (running, waiting, held, tokens, prefixes)

    def _gauge(self, name: str, text: str, value: float | None = None) -> GaugeMetricFamily:
        """One number, or one for each model that are added to it."""
        labels = ["model"] if value is None else None
        return GaugeMetricFamily(f"minillm_{name}", text, value, labels)


async def metrics(request: Request) -> Response:
    """In a thread, for a scrape must not hold requests up."""
    found: Any = request.app.state.metrics
    return Response(await asyncio.to_thread(found.exposition), media_type=CONTENT_TYPE_LATEST)
