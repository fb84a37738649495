"""Text as it is kept: one form of Unicode, no control characters, no boilerplate lines."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter

FORMS = ("nfc", "nfkc", "none")
_CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_LONGEST_BOILERPLATE = 200

# Lines of web pages that are about the page, in the manner of C4 (Raffel et al. 2020, section 2.2).
_BOILERPLATE = re.compile(
    r"lorem ipsum|javascript (is|must be|has been) |(enable|disable|turn on) (java ?script|cookies)"
    r"|\b(this|our) (web)?site uses cookies|\bcookie (policy|settings|preferences|notice)\b"
    r"|\bprivacy policy\b|\bterms of (use|service)\b|\ball rights reserved\b"
    r"|^(share|tweet|like) (this|it|us) on \w+|^(click|tap) here to |^skip to (main )?content$"
    r"|\bsubscribe to (our|the) newsletter\b|^(sign|log) (in|up|out)( (now|here|free))?$"
    r"|^(home|menu|search|next|previous|back to top|read more|advertisement)$"
    r"|^leave a (comment|reply)$"
    r"|^(copyright )?(©|\(c\)) ?(copyright )?\d{4}\b",
    re.IGNORECASE,
)


def clean(text: str, form: str, drop_boilerplate: bool, counts: Counter[str]) -> str:
    """The text to be kept; `counts` is told what was done.

    form               "nfc", "nfkc" or "none": the form of Unicode
    drop_boilerplate   leave out lines of at most 200 characters that speak of the page

    Control characters other than tabs and line ends go always.
    """
    if form != "none" and not text.isascii():
        normal = form.upper()
        if not unicodedata.is_normalized(normal, text):  # type: ignore[arg-type]
            counts["texts normalised"] += 1
            text = unicodedata.normalize(normal, text)  # type: ignore[arg-type]
    text, removed = _CONTROLS.subn("", text)
    if removed:
        counts["control characters removed"] += removed
    if drop_boilerplate and _BOILERPLATE.search(text):
        text = _without_boilerplate(text, counts)
    return text


def _without_boilerplate(text: str, counts: Counter[str]) -> str:
    kept = []
    for line in text.splitlines(keepends=True) if "\n" in text else [text]:
        bare = line.strip()
        if len(bare) <= _LONGEST_BOILERPLATE and _BOILERPLATE.search(bare):
            counts["boilerplate lines removed"] += 1
        else:
            kept.append(line)
    return "".join(kept)
