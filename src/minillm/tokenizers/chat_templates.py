"""The sandbox that chat templates run in, with what Hugging Face's templates expect to find."""

from __future__ import annotations

import json
from functools import cache
from typing import Any


@cache
def environment() -> Any:
    """The jinja2 environment of chat templates; RuntimeError, naming the extra, without jinja2.

    Templates are programs of strangers: they see no attribute that begins with an underscore and
    change nothing that they are given. Beyond jinja2 they have raise_exception, {% break %} and
    {% continue %}, a tojson that keeps < and &, and {% generation %}, which marks what a model is
    trained on and changes no text. No text or list is multiplied: that takes any amount of memory.
    """
    try:
        from jinja2.exceptions import TemplateError
        from jinja2.ext import Extension, loopcontrols
        from jinja2.nodes import Scope
        from jinja2.sandbox import ImmutableSandboxedEnvironment
    except ImportError:
        raise RuntimeError(
            "chat template: jinja2 is not installed, it is needed; install the extra chat, "
            "in the checkout: pip install '.[chat]'"
        ) from None

    class Sandbox(ImmutableSandboxedEnvironment):
        intercepted_binops = frozenset(("*", "**"))

        def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
            if operator == "**" or not all(isinstance(one, int | float) for one in (left, right)):
                raise TemplateError(
                    f"{operator} makes values of any size, it is not supported here"
                )
            return super().call_binop(context, operator, left, right)

    class Generation(Extension):
        tags = {"generation"}  # noqa: RUF012

        def parse(self, parser: Any) -> Any:
            line = next(parser.stream).lineno
            body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            return Scope(body, lineno=line)

    def raise_exception(message: str) -> None:
        raise TemplateError(message)

    made = Sandbox(trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols])
    made.globals["raise_exception"] = raise_exception
    made.filters["tojson"] = _to_json
    return made


def one_line(error: BaseException) -> str:
    """What an exception says, in one line of at most 300 characters."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 300 else text[:297] + "..."


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    return json.dumps(
        value,
        ensure_ascii=ensure_ascii,
        indent=indent,
        separators=separators,
        sort_keys=sort_keys,
    )
