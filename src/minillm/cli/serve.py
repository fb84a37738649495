"""Serve models over HTTP, for OpenAI's clients (extra: serve)."""

from __future__ import annotations

import argparse
import os
from importlib.util import find_spec
from typing import Any

from minillm.cli.machine_flags import add_machine, settle
from minillm.cli.main import FAILED, OK, tell
from minillm.quantities import counted

FLAGS: dict[str, tuple[type, str, str]] = {  # fields of serve.settings.Settings
    "host": (str, "ADDRESS", "to listen on (127.0.0.1)"),
    "port": (int, "N", "to listen on, 0 for a free one (8000)"),
    "max_concurrency": (int, "N", "texts written at a time (8)"),
    "max_queue": (int, "N", "requests that wait beside; more get a 429 (64)"),
    "max_context": (int, "N", "tokens of a prompt and its answer (as many as the model has)"),
    "cache_bytes": (
        int,
        "N",
        "of keys and values that running requests may need (half the free)",
    ),
    "prefix_bytes": (int, "N", "of keys and values of prompts that are kept, a model (256 MB)"),
    "max_tokens": (int, "N", "of a chat's answer where the request does not say (1,024)"),
    "request_seconds": (float, "S", "a request may take (600)"),
    "shutdown_seconds": (float, "S", "running requests are given at the end (30)"),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "models", metavar="MODEL", nargs="+", help="folder, .gguf file or pulled name"
    )
    parser.add_argument(
        "--name",
        metavar="NAME",
        action="append",
        help="that requests call a model by, for each in turn (the last word of its path)",
    )
    parser.add_argument(
        "--adapter",
        metavar="NAME=DIR",
        action="append",
        default=[],
        help="a LoRA adapter as a model of its own, beside the weights of the first MODEL",
    )
    parser.add_argument(
        "--draft",
        metavar="MODEL",
        help="a smaller model that guesses ahead for the first MODEL: for one user at a time",
    )
    parser.add_argument(
        "--api-key-file", metavar="FILE", help="keys that are let in, one a line; none: everybody"
    )
    parser.add_argument(
        "--allow-host",
        metavar="NAME",
        action="append",
        default=[],
        help="that a proxy on this machine calls the server by, beside localhost",
    )
    parser.add_argument(
        "--open-to-all", action="store_true", help="listen on a network address without a key"
    )
    parser.add_argument(
        "--reload", action="store_true", help="watch the files, and open the models anew beside"
    )
    parser.add_argument(
        "--admin-key-file", metavar="FILE", help="keys that POST /admin/reload is let in with"
    )
    parser.add_argument("--metrics", action="store_true", help="answer Prometheus at /metrics")
    parser.add_argument(
        "--log", choices=("text", "json"), default="text", help="form of the lines for requests"
    )
    parser.add_argument(
        "--log-texts", action="store_true", help="log what is asked, too: prompts of people"
    )
    for name, (kind, word, text) in FLAGS.items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=kind, metavar=word, help=text)
    parser.add_argument(
        "--share-prefixes",
        action="store_true",
        help="what was read of prompts serves requests with other keys, too",
    )
    add_machine(parser)


def run(arguments: argparse.Namespace) -> int:
    needed = ("starlette", "uvicorn", *(("prometheus_client",) if arguments.metrics else ()))
    missing = [name for name in needed if find_spec(name) is None]
    if missing:
        raise RuntimeError(
            f"serve: {missing[0]} is not installed, it is needed; install the extra serve, in the "
            "checkout: pip install '.[serve]'"
        )
    from minillm.generation.budget import Budget
    from minillm.serve import app, running
    from minillm.serve.catalogue import Catalogue
    from minillm.serve.logs import write_logs

    settle(arguments)
    settings = _settings(arguments)
    with running.bind(settings) as listener:
        catalogue = Catalogue(Budget(1))
        reloader = _fill(catalogue, arguments, settings)
        server = running.Server(
            app.build(settings, catalogue, reloader),
            settings,
            lambda text: tell(f"minillm: {text}"),
        )
        host, port = listener.getsockname()[:2]
        shown = f"[{host}]" if ":" in host else host
        names = ", ".join(served.name for served in catalogue.all())
        tell(f"minillm: {names} on http://{shown}:{port}, Ctrl-C ends")
        write_logs(arguments.log)
        server.run(sockets=[listener])
        if catalogue.worker.alive:  # a step hangs, and with it the end of the interpreter would
            tell("minillm: the engine hangs, leaving it")
            os._exit(FAILED)
    return OK


def _settings(arguments: argparse.Namespace) -> Any:
    from minillm.serve.settings import Settings, read_keys

    given = {
        name: getattr(arguments, name) for name in FLAGS if getattr(arguments, name) is not None
    }
    given["share_prefixes"] = arguments.share_prefixes
    given |= {name: getattr(arguments, name) for name in ("metrics", "log_texts", "reload")}
    given["allowed_hosts"] = tuple(name.lower() for name in arguments.allow_host)
    if arguments.api_key_file is not None:
        given["keys"] = read_keys(arguments.api_key_file)
    if arguments.admin_key_file is not None:
        given["admin_keys"] = read_keys(arguments.admin_key_file, "admin-key-file")
    settings = Settings(**given)
    if not settings.is_loopback and not settings.keys and not arguments.open_to_all:
        raise ValueError(
            f"host: {settings.host} is reached from other machines and no key is asked for, "
            "--api-key-file FILE is needed; or --open-to-all, to serve everybody"
        )
    return settings


def _names(arguments: argparse.Namespace) -> tuple[list[str], dict[str, str]]:
    """What the models are called, and the paths of adapters by name. ValueError for wrong ones."""
    from minillm.serve.loading import name_of

    names = arguments.name or [name_of(path) for path in arguments.models]
    if len(names) != len(arguments.models):
        raise ValueError(
            f"name: {len(names)} given for {counted(len(arguments.models), 'model')}, one for each "
            "is needed"
        )
    pairs = [(adapter, *adapter.partition("=")) for adapter in arguments.adapter]
    for adapter, name, _, path in pairs:
        if not name or not path:
            raise ValueError(f"adapter: {adapter!r}, NAME=DIR is needed")
    return names, {name: path for _, name, _, path in pairs}


def _opened(arguments: argparse.Namespace, settings: Any, budget: Any) -> list[Any]:
    """Every model, then every adapter."""
    from minillm.serve.loading import add_draft, open_adapter, open_served

    names, adapters = _names(arguments)
    found = [open_served(*one, settings, budget) for one in zip(names, arguments.models)]
    if arguments.draft is not None:
        add_draft(found[0], arguments.draft)
    for name, path in adapters.items():
        found.append(open_adapter(name, found[0], path, settings, budget))
    return found


def _fill(catalogue: Any, arguments: argparse.Namespace, settings: Any) -> Any:
    """Open and serve all; what reloads them."""
    from minillm.models.opening import find
    from minillm.serve.loading import cache_bytes
    from minillm.serve.reload import Reloader

    names, adapters = _names(arguments)
    catalogue.require_free([*names, *(name.partition("=")[0] for name in arguments.adapter)])
    budget = catalogue.budget

    def open_all() -> list[Any]:
        return _opened(arguments, settings, budget)

    for served in open_all():
        catalogue.add(served)
    budget.most = cache_bytes(settings)  # once the models have theirs
    paths = [*arguments.models, *adapters.values()]
    if arguments.draft is not None:
        paths.append(arguments.draft)
    return Reloader(catalogue, open_all, [find(path) for path in paths])
