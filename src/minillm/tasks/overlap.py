"""How much of a translation its reference has: chrF (Popovic 2015), BLEU (Papineni et al. 2002).

Both, 0 to 100, are what sacreBLEU (Post 2018) gives with its defaults: counts are summed over all
sentences before anything is divided.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy

from minillm.tasks.metrics import Metric

CHARACTERS, WORDS = 6, 4  # longest n-grams
BETA = 2  # recall counts so many times as much as precision
HAN = re.compile(r"[\u3400-\u4db5\u4e00-\u9fff\uf900-\ufad9\U00020000-\U0002fa1f]")
KANA = re.compile(r"[\u3040-\u30ff]")
ENTITIES = (("&quot;", '"'), ("&amp;", "&"), ("&lt;", "<"), ("&gt;", ">"))
SIGNS = (  # mteval-v13a: most signs stand alone; stops, commas and dashes do except in numbers
    (re.compile(r"([{-~\[-` -&(-+:-@/])"), r" \1 "),
    (re.compile(r"([^0-9])([.,])"), r"\1 \2 "),
    (re.compile(r"([.,])([^0-9])"), r" \1 \2"),
    (re.compile(r"([0-9])(-)"), r"\1 \2 "),
)
# What sacreBLEU takes for Chinese, U+2001 to U+2A6D included: there two bounds beyond 16 bits are
# spelled as one character and a digit, and compared as such.
CHINESE = re.compile(
    "([\u2001-\u2a6d\u2e80-\u2fdf\u2ff0-\u303f\u3100-\u312f\u31a0-\u31bf\u31c0-\u31ef\u3200-\u33ff"
    "\u3400-\u4db5\u4e00-\u9fbb\uf900-\ufa2d\ufa30-\ufa6a\ufa70-\ufad9\ufe10-\ufe1f\ufe30-\ufe4f"
    "\uff00-\uffef])"
)


def chrf(references: Sequence[str], given: Sequence[str]) -> Metric:
    """chrF2: F of n-grams of 1 to 6 characters, white space left out.

    Precision and recall are means over the lengths of which both sides have n-grams.
    """
    counts = numpy.zeros((len(references), CHARACTERS, 3))
    for row, wanted, found in zip(counts, references, given, strict=True):
        wanted, found = ("".join(text.split()) for text in (wanted, found))
        for n in range(1, CHARACTERS + 1):
            one, other = ngrams(wanted, n), ngrams(found, n)
            row[n - 1] = other.total() if one else 0, one.total(), (one & other).total()

    def finish(sums: numpy.ndarray) -> numpy.ndarray:
        found, wanted, common = numpy.moveaxis(sums.reshape(*sums.shape[:-1], -1, 3), -1, 0)
        both = (found > 0) & (wanted > 0)
        lengths = numpy.maximum(both.sum(axis=-1), 1)
        precision, recall = (
            numpy.where(both, common / numpy.where(both, whole, 1), 0).sum(axis=-1) / lengths
            for whole in (found, wanted)
        )
        weighted = BETA**2 * precision + recall
        return 100 * (1 + BETA**2) * precision * recall / numpy.where(weighted > 0, weighted, 1)

    return Metric(counts.reshape(len(counts), -1), finish)


def bleu(
    references: Sequence[str], given: Sequence[str], cut: Callable[[str], list[str]] | None = None
) -> Metric:
    """BLEU-4 of one reference each, exponential smoothing; `cut` gives the words of a text.

    None: `chinese_words` if most letters of the references are Chinese, else `words`.
    """
    cut = cut or (chinese_words if are_chinese(references) else words)
    counts = numpy.zeros((len(references), 2 + 2 * WORDS))
    for row, wanted, found in zip(counts, map(cut, references), map(cut, given), strict=True):
        row[:2] = len(found), len(wanted)
        for n in range(1, WORDS + 1):
            one, other = ngrams(wanted, n), ngrams(found, n)
            row[1 + n], row[1 + WORDS + n] = (one & other).total(), other.total()

    def finish(sums: numpy.ndarray) -> numpy.ndarray:
        length, wanted = sums[..., 0], sums[..., 1]
        right, whole = sums[..., 2 : 2 + WORDS], sums[..., 2 + WORDS :]
        possible = numpy.asarray(right.any(axis=-1) & whole.all(axis=-1))
        whole = numpy.where(possible[..., None], whole, 1)
        halved = 2.0 ** (right == 0).cumsum(axis=-1)  # once more for each length without a match
        precision = numpy.where(right > 0, right, 1 / halved) / whole
        brief = numpy.minimum(1 - wanted / numpy.maximum(length, 1), 0)
        score = 100 * numpy.exp(brief + numpy.log(precision).mean(axis=-1))
        return numpy.where(possible, score, 0.0)

    return Metric(counts, finish)


def ngrams(sequence: Any, n: int) -> Counter[Any]:
    """How often each run of n occurs in a text or a list of words."""
    kind = str if isinstance(sequence, str) else tuple
    return Counter(kind(sequence[k : k + n]) for k in range(len(sequence) - n + 1))


def words(text: str) -> list[str]:
    """As sacreBLEU's 13a cuts a text, which is what the script mteval-v13a does."""
    text = text.rstrip().replace("<skipped>", "").replace("-\n", "").replace("\n", " ")
    for name, sign in ENTITIES:
        text = text.replace(name, sign)
    return _apart(f" {text} ")


def chinese_words(text: str) -> list[str]:
    """As sacreBLEU's zh does: each Chinese character alone, what stands between them as usual."""
    return _apart(CHINESE.sub(r" \1 ", text.strip()))


def _apart(text: str) -> list[str]:
    for sign, alone in SIGNS:
        text = sign.sub(alone, text)
    return text.split()


def are_chinese(texts: Sequence[str]) -> bool:
    """Whether most letters are Chinese characters, and none Japanese."""
    whole = "".join(texts)
    letters = sum(map(str.isalpha, whole))
    return not KANA.search(whole) and 2 * len(HAN.findall(whole)) > letters
