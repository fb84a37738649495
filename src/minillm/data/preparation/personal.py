"""Personal data in texts: found by form and, where there is one, by checksum; put out of sight.

What is found: e-mail addresses, telephone numbers, payment cards (Luhn's checksum, ISO/IEC 7812),
IBANs (length of the country, modulus 97, ISO 13616), public IP addresses, keys of known services.
Names and postal addresses have no form, and are not found.
"""

from __future__ import annotations

import ipaddress
import re
from bisect import bisect_right
from collections.abc import Callable, Iterator
from typing import NamedTuple

KINDS = ("key", "iban", "email", "card", "ip", "phone")

_LOCAL = re.compile(r"[A-Za-z0-9._%+\-]{1,64}\Z")
_DOMAIN = re.compile(r"(?:[A-Za-z0-9\-]{1,63}\.){1,8}[A-Za-z]{2,24}(?![A-Za-z0-9\-])")
_KEYS = re.compile(
    r"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b|\bgh[opsur]_[A-Za-z0-9]{36}\b|\bgithub_pat_\w{22,255}"
    r"|\bglpat-[\w\-]{20,64}|\bxox[abprs]-[\w\-]{10,250}|\bAIza[\w\-]{35}"
    r"|\bsk-(?:ant-|proj-)?[A-Za-z0-9_\-]{20,200}|\b[rs]k_live_[A-Za-z0-9]{16,100}"
    r"|\bhf_[A-Za-z]{30,40}\b|\bnpm_[A-Za-z0-9]{36}\b|\bpypi-[\w\-]{50,250}"
    r"|\beyJ[\w\-]{10,4000}\.eyJ[\w\-]{10,4000}\.[\w\-]{10,1000}"
    r"|-----BEGIN (?:[A-Z]{2,10} ){0,2}PRIVATE KEY-----[A-Za-z0-9+/=\s\-:,]{20,8000}?"
    r"-----END (?:[A-Z]{2,10} ){0,2}PRIVATE KEY-----"
)
_KEY_SIGNS = re.compile(
    "AKIA|ASIA|gh[opsur]_|github_pat_|glpat-|xox[abprs]-|AIza|sk-|[rs]k_live_|hf_|npm_|pypi-|eyJ"
    "|PRIVATE KEY"
)
_IBAN = re.compile(r"\b[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,3})?\b")
_IBAN_LENGTHS = {
    country: int(length)
    for country, length in (
        pair.split(":")
        for pair in "AD:24 AE:23 AL:28 AT:20 AZ:28 BA:20 BE:16 BG:22 BH:22 BR:29 BY:28 CH:21 CR:22 "
        "CY:28 CZ:24 DE:22 DK:18 DO:28 EE:20 EG:29 ES:24 FI:18 FO:18 FR:27 GB:22 GE:22 GI:23 GL:18 "
        "GR:27 GT:28 HR:21 HU:28 IE:22 IL:23 IQ:23 IS:26 IT:27 JO:30 KW:30 KZ:20 LB:28 LI:21 LT:20 "
        "LU:20 LV:21 MC:27 MD:24 ME:22 MK:19 MR:27 MT:31 MU:30 NL:18 NO:15 PK:24 PL:28 PS:29 PT:25 "
        "QA:29 RO:24 RS:22 SA:24 SE:24 SI:19 SK:24 SM:27 TN:24 TR:26 UA:29 VA:22 XK:20".split()
    )
}
_CARD = re.compile(r"(?<![\w.\-])[2-6]\d{3}(?:[ \-]?\d{2,6}){2,4}(?![\w\-])")
_CARD_LENGTHS = range(13, 20)
_IP4 = re.compile(r"(?<![\w.])\d{1,3}(?:\.\d{1,3}){3}(?![\w]|\.\d)")
_IP6 = re.compile(r"(?<![\w:.])(?:[0-9A-Fa-f]{1,4}:{1,2}){2,7}[0-9A-Fa-f]{1,4}(?![\w:])")
_PHONE = re.compile(
    r"(?<![\w.\-/+(])(?<!\d )(?:\+[1-9]\d{0,2}|00[1-9]\d|\(0?\d{2,5}\)|0\d{1,4}"
    r"|(?:1[ .\-])?\d{3}(?=[ .\-]\d{3}[ .\-]\d{4}\b))"
    r"(?:[ .\-/]{0,2}\(?\d{1,8}\)?){1,6}(?![\w\-/]|[.,]\d)"
)
_PHONE_DIGITS = range(8, 16)
_DATE = re.compile(r"\d{1,4}([.\-/])\d{1,2}\1\d{1,4}\Z")


class Hit(NamedTuple):
    """Where something was found, in characters."""

    start: int
    end: int
    kind: str


def find(text: str) -> list[Hit]:
    """All that was found, in order; of what overlaps, the kind that stands first in KINDS."""
    taken: list[Hit] = []
    for kind, search in _SEARCHES.items():
        found = [Hit(start, end, kind) for start, end in search(text)]
        if found and taken:
            starts = [hit.start for hit in taken]
            found = [hit for hit in found if not _overlaps(hit, taken, starts)]
        if found:
            taken = sorted([*taken, *found])
    return taken


def scrub(text: str) -> tuple[str, list[Hit]]:
    """The text with `<EMAIL>` for an e-mail address and so on, and where it was, in `text`."""
    hits = find(text)
    if not hits:
        return text, hits
    kept, end = [], 0
    for hit in hits:
        kept += [text[end : hit.start], f"<{hit.kind.upper()}>"]
        end = hit.end
    return "".join([*kept, text[end:]]), hits


def _overlaps(hit: Hit, taken: list[Hit], starts: list[int]) -> bool:
    at = bisect_right(starts, hit.start)
    before = at > 0 and taken[at - 1].end > hit.start
    return before or (at < len(taken) and starts[at] < hit.end)


def _emails(text: str) -> Iterator[tuple[int, int]]:
    at = text.find("@")
    while at >= 0:
        local, domain = _LOCAL.search(text, max(0, at - 64), at), _DOMAIN.match(text, at + 1)
        if local and domain:
            yield local.start(), domain.end()
        at = text.find("@", at + 1)


def _keys(text: str) -> Iterator[tuple[int, int]]:
    if _KEY_SIGNS.search(text):
        yield from (match.span() for match in _KEYS.finditer(text))


def _ibans(text: str) -> Iterator[tuple[int, int]]:
    for match in _IBAN.finditer(text):
        length = _IBAN_LENGTHS.get(match[0][:2])
        if length is None:
            continue
        end, seen = match.start(), 0
        while end < match.end() and seen < length:
            seen += text[end] != " "
            end += 1
        account = text[match.start() : end].replace(" ", "")
        whole = end == len(text) or not text[end].isalnum()
        if seen == length and whole and iban_is_sound(account):
            yield match.start(), end


def iban_is_sound(account: str) -> bool:
    """Whether letters as numbers (A is 10), the first four characters last, are 1 modulo 97."""
    turned = account[4:] + account[:4]
    return int("".join(str(int(character, 36)) for character in turned)) % 97 == 1


def _cards(text: str) -> Iterator[tuple[int, int]]:
    for match in _CARD.finditer(text):
        digits = re.sub(r"\D", "", match[0])
        if len(digits) in _CARD_LENGTHS and luhn_is_sound(digits):
            yield match.span()


def luhn_is_sound(digits: str) -> bool:
    """Whether every second digit from the right, doubled, and the others add up to tens."""
    total = 0
    for place, digit in enumerate(reversed(digits)):
        value = int(digit) * (1 + place % 2)
        total += value - 9 * (value > 9)
    return total % 10 == 0


def _ips(text: str) -> Iterator[tuple[int, int]]:
    for pattern, sign in ((_IP4, "."), (_IP6, ":")):
        if sign not in text:
            continue
        for match in pattern.finditer(text):
            try:
                if ipaddress.ip_address(match[0]).is_global:
                    yield match.span()
            except ValueError:
                continue


def _phones(text: str) -> Iterator[tuple[int, int]]:
    for match in _PHONE.finditer(text):
        found = match[0]
        digits = sum(character.isdigit() for character in found)
        if digits in _PHONE_DIGITS and not _DATE.match(found):
            yield match.span()


_SEARCHES: dict[str, Callable[[str], Iterator[tuple[int, int]]]] = {
    "key": _keys,
    "iban": _ibans,
    "email": _emails,
    "card": _cards,
    "ip": _ips,
    "phone": _phones,
}
