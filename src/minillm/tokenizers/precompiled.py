"""SentencePiece's compiled tables of replacements (`precompiled_charsmap`)."""

from __future__ import annotations

from collections.abc import Callable

from .reading import Unsupported


def grapheme_normalizer(encoded: str) -> Callable[[str], str]:
    """Placeholder."""
    raise Unsupported('normalizer.type "Precompiled"')
