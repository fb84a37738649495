"""Where in a pattern something stands: the parser of `re` does not keep it."""

from __future__ import annotations

import re
from re import _constants as codes  # type: ignore[attr-defined]
from typing import Any

# One element of a pattern, as far as places are concerned.
_ELEMENT = re.compile(r"\\.|\[\^?\]?(?:\\.|[^\]\\])*\]|\(\?#[^)]*\)|.", re.DOTALL)
_FORMS = {
    codes.GROUPREF: r"\\[1-9]|\(\?P=",
    codes.GROUPREF_EXISTS: r"\(\?\(",
    codes.ASSERT: r"\(\?<?=",
    codes.ASSERT_NOT: r"\(\?<?!",
    codes.AT: r"\\[AZbB]|\^|\$",
    codes.ATOMIC_GROUP: r"\(\?>",
    codes.POSSESSIVE_REPEAT: r"[*+?}]\+",
}


def place_of(pattern: str, op: Any, verbose: bool) -> int:
    """The position of the first thing of the kind `op` in a pattern that has one."""
    form, at = re.compile(_FORMS[op]), 0
    while at < len(pattern):
        if form.match(pattern, at):
            return at
        if verbose and pattern[at] == "#":
            at = (pattern + "\n").index("\n", at)
            continue
        element = _ELEMENT.match(pattern, at)
        assert element is not None
        at = element.end()
    return 0
