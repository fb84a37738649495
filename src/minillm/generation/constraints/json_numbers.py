"""Numbers between bounds, digit by digit."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from functools import cache, lru_cache

from minillm.generation.constraints.json_text import DIGITS
from minillm.generation.constraints.language import (
    EMPTY,
    NOTHING,
    Choice,
    Node,
    characters,
    series,
    text,
)

MOST_REMAINDERS = 256  # of multipleOf, powers of ten left out
_UNBOUNDED = 9  # digits before the point where one side has no bound


def integers(low: int | None, high: int | None, multiple: int = 1) -> Node:
    """The multiples of `multiple` from `low` to `high`; without a bound, of some 15 digits.

    ValueError for a multiple that has too many remainders.
    """
    if low is None:
        low = -(10 ** max(DIGITS, len(str(abs(high or 0))) + 1)) + 1
    if high is None:
        high = 10 ** max(DIGITS, len(str(abs(low))) + 1) - 1
    zeros = 0
    while multiple % 10 == 0:
        multiple, zeros = multiple // 10, zeros + 1
    if multiple > MOST_REMAINDERS:
        raise ValueError(f"{multiple} remainders, at most {MOST_REMAINDERS} are possible")
    options: list[Node] = [text("0")] if low <= 0 <= high else []
    if high > 0:
        options.append(_positive(max(low, 1), high, multiple, zeros))
    if low < 0:
        options.append(series((text("-"), _positive(max(-high, 1), -low, multiple, zeros))))
    return Choice(options)


def _positive(low: int, high: int, multiple: int, zeros: int) -> Node:
    scale = 10**zeros
    low, high = -(-low // scale), high // scale
    options: list[Node] = []
    for digits in range(len(str(low)), len(str(high)) + 1):
        least, most = max(low, 10 ** (digits - 1)), min(high, 10**digits - 1)
        if least <= most:
            options.append(_of_length(str(least), str(most), multiple))
    return series((Choice(options), text("0" * zeros)))


def _of_length(low: str, high: str, multiple: int) -> Node:
    """Numbers of one length, `low` to `high`."""

    @cache
    def rest(at: int, above: bool, below: bool, remainder: int) -> Node:
        if above and below:
            return _multiples(len(low) - at, multiple, remainder)
        if at == len(low):
            return EMPTY if remainder == 0 else NOTHING
        first = 0 if above else int(low[at])
        last = 9 if below else int(high[at])

        def after(digit: int) -> Node:
            return rest(
                at + 1,
                above or digit > int(low[at]),
                below or digit < int(high[at]),
                (remainder * 10 + digit) % multiple,
            )

        return _digits(first, last, after)

    return rest(0, False, False, 0)


@lru_cache(maxsize=1 << 14)
def _multiples(digits: int, multiple: int, remainder: int) -> Node:
    """So many digits, any of them that complete a multiple after what left `remainder`."""
    if digits == 0:
        return EMPTY if remainder == 0 else NOTHING
    return _digits(
        0, 9, lambda digit: _multiples(digits - 1, multiple, (remainder * 10 + digit) % multiple)
    )


def _digits(first: int, last: int, after: Callable[[int], Node]) -> Node:
    """A digit from `first` to `last` and what comes after it, equal ways together."""
    ways: dict[Node, list[int]] = {}
    for digit in range(first, last + 1):
        node = after(digit)
        if node is not NOTHING:
            ways.setdefault(node, []).append(digit)
    found = [series((characters(tuple(_runs(digits))), node)) for node, digits in ways.items()]
    return Choice(found) if found else NOTHING


def _runs(digits: list[int]) -> list[tuple[int, int]]:
    runs: list[tuple[int, int]] = []
    for digit in digits:
        point = ord("0") + digit
        if runs and runs[-1][1] == point - 1:
            runs[-1] = runs[-1][0], point
        else:
            runs.append((point, point))
    return runs


def decimals(
    low: Decimal | None, high: Decimal | None, above: bool = False, below: bool = False
) -> Node:
    """Numbers without exponent from `low` to `high`; `above`, `below`: not the bound itself.

    They have 15 digits at most, so that different ones are different floats, and a float is on the
    side of a bound that its digits say. ValueError for bounds of more digits before the point.
    """
    known = [abs(bound) for bound in (low, high) if bound is not None]
    whole = len(str(int(max(known))))
    if low is None or high is None:
        whole = max(whole + 1, _UNBOUNDED)
    if whole > DIGITS:
        raise ValueError(f"{whole} digits before the point, at most {DIGITS} are possible")
    limit = Decimal(10**whole)
    low, above = (-limit, True) if low is None else (low, above)
    high, below = (limit, True) if high is None else (high, below)
    places = DIGITS - whole
    options: list[Node] = []
    if high >= 0 and (high > 0 or not below):
        start, over = (low, above) if low >= 0 else (Decimal(0), False)
        options.append(_magnitudes(start, high, over, below, places))
    if low < 0:
        start, over = (-high, below) if high < 0 else (Decimal(0), True)
        options.append(series((text("-"), _magnitudes(start, -low, over, above, places))))
    return Choice(options)


def _magnitudes(low: Decimal, high: Decimal, above: bool, below: bool, places: int) -> Node:
    if low > high:
        return NOTHING
    (first, from_), (last, to) = _split(low), _split(high)
    if first == last:
        return series((text(str(first)), _fraction(from_, to, above, below, places)))
    options = [
        series((text(str(first)), _fraction(from_, None, above, False, places))),
        series((text(str(last)), _fraction("", to, False, below, places))),
    ]
    if last - first > 1:
        between = integers(first + 1, last - 1)
        options.append(series((between, _fraction("", None, False, False, places))))
    return Choice(options)


def _split(number: Decimal) -> tuple[int, str]:
    whole = int(number)
    return whole, format(number - whole, "f")[2:].rstrip("0")


def _fraction(low: str, high: str | None, above: bool, below: bool, places: int) -> Node:
    """Nothing, or a point and digits, between two fractions; `high` None: any."""

    @cache
    def rest(at: int, over: bool, under: bool) -> Node:
        """Digits from place `at`; `over`, `under`: those before decide that side already."""
        options: list[Node] = [EMPTY] if at and stops(at, over, under) else []
        if at < places:
            first = 0 if over else _digit(low, at)
            last = 9 if under else _digit(high or "", at)

            def after(digit: int) -> Node:
                return rest(at + 1, over or digit > first, under or digit < last)

            options.append(_digits(first, last, after))
        return Choice(options)

    def stops(at: int, over: bool, under: bool) -> bool:
        enough = over or (not low[at:] and not above)
        return enough and (under or bool((high or "")[at:]) or not below)

    under = high is None
    ways: list[Node] = [EMPTY] if stops(0, False, under) else []
    return Choice((*ways, series((text("."), rest(0, False, under)))))


def _digit(digits: str, at: int) -> int:
    return int(digits[at]) if at < len(digits) else 0
