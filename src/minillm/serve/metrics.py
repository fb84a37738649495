"""GET /metrics: what Prometheus collects, under the names that people chart."""

from __future__ import annotations

import weakref
from collections.abc import Iterable
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Scope

from minillm.generation import Engine
from minillm.serve.catalogue import Catalogue
from minillm.serve.worker import Follow

SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)
PER_TOKEN = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5)


class Metrics:
    """Counts what ends, and looks at queues and memory when it is asked.

    Requests are counted when their answer is out, by the path's pattern and the status (499 for a
    client that left); texts when the engine is done with them, by model.
    """

    def __init__(self, catalogue: Catalogue) -> None:
        self._catalogue = catalogue
        self._names: weakref.WeakKeyDictionary[Engine, str] = weakref.WeakKeyDictionary()
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "minillm_requests", "Answers", ("path", "status"), registry=self.registry
        )
        self.prompt = self._counter("prompt_tokens", "Tokens of prompts")
        self.cached = self._counter("prompt_tokens_cached", "Those of them read before")
        self.generated = self._counter("generation_tokens", "Tokens written")
        self.cancelled = self._counter("requests_cancelled", "Requests given up before their end")
        self.first = self._histogram("time_to_first_token_seconds", "From queue to token", SECONDS)
        self.each = self._histogram("time_per_output_token_seconds", "After the first", PER_TOKEN)
        self.whole = self._histogram("e2e_request_latency_seconds", "From queue to end", SECONDS)
        self.registry.register(self)
        catalogue.worker.on_end.append(self.ended)

    def _counter(self, name: str, text: str) -> Counter:
        return Counter(f"minillm_{name}", text, ("model",), registry=self.registry)

    def _histogram(self, name: str, text: str, buckets: tuple[float, ...]) -> Histogram:
        return Histogram(
            f"minillm_{name}", text, ("model",), registry=self.registry, buckets=buckets
        )

    def name_of(self, engine: Engine) -> str:
        """Of the model that an engine runs, also once another has taken its place."""
        for served in self._catalogue.all():
            if served.engine is not None:
                self._names.setdefault(served.engine, served.name)
        return self._names.get(engine, "")

    def answered(self, scope: Scope, status: int) -> None:
        """Count an answer; paths that are none are counted together."""
        route = scope.get("route")
        path = getattr(route, "path", "other") if status != 404 else "other"
        self.requests.labels(path, str(status)).inc()

    def ended(self, follow: Follow) -> None:
        """Count the texts of a request; in the worker's thread."""
        model = self.name_of(follow.engine)
        written = sum(ticket.written for ticket in follow.tickets)
        if follow.cancelled:
            self.cancelled.labels(model).inc()
        self.generated.labels(model).inc(written)
        if follow.first is None:
            return
        self.prompt.labels(model).inc(sum(ticket.prompt_tokens for ticket in follow.tickets))
        self.cached.labels(model).inc(sum(ticket.reused for ticket in follow.tickets))
        self.first.labels(model).observe(follow.first - follow.asked)
        if follow.ended is None or follow.cancelled:
            return
        self.whole.labels(model).observe(follow.ended - follow.asked)
        texts = sum(ticket.options.rows for ticket in follow.tickets)
        if written > texts:
            self.each.labels(model).observe((follow.ended - follow.first) * texts / written)

    def collect(self) -> Iterable[Metric]:
        """What is so now."""
        running = self._gauge("num_requests_running", "Texts that are written now")
        waiting = self._gauge("num_requests_waiting", "Requests that wait for their turn")
        prefixes = self._gauge("prefix_cache_bytes", "Keys and values of prompts that are kept")
        for served in self._catalogue.all():
            if served.engine is not None:
                running.add_metric([served.name], served.engine.running)
                waiting.add_metric([served.name], served.engine.waiting)
                prefixes.add_metric([served.name], served.engine.prefixes.nbytes)
        yield from (running, waiting, prefixes)
        budget = self._catalogue.budget
        if budget is not None:
            share = GaugeMetricFamily(
                "minillm_kv_cache_usage_ratio",
                "Keys and values that running requests may need, of what they may have",
                budget.held / budget.most,
            )
            yield share

    def _gauge(self, name: str, text: str) -> GaugeMetricFamily:
        return GaugeMetricFamily(f"minillm_{name}", text, labels=["model"])


async def metrics(request: Request) -> Response:
    found: Any = request.app.state.metrics
    return Response(generate_latest(found.registry), media_type=CONTENT_TYPE_LATEST)
