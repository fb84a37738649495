"""chrF and BLEU against frozen values of sacreBLEU 2.6.0, and against it where it is installed."""

import numpy as np
import pytest

from minillm.tasks import overlap, significance

FRENCH = [  # reference, given, sacreBLEU's chrF and BLEU of this sentence alone
    ("Elle a une jolie poupée.", "Elle a une belle poupée.", 62.362401100791196, 37.99178428257963),
    ("Je n'ai pas faim.", "Je n’ai pas faim !", 63.04898804898804, 23.643540225079384),
    (
        "Il habite au 12-14, rue de l'Église (2e étage).",
        "Il vit au 12-14 rue de l'Église.",
        47.55624222601275,
        24.537401377330276,
    ),
    ("Merci & au revoir", "Merci &amp; au revoir", 77.82733245204128, 100.00000000000004),
    (
        "Cela coûte 3,5 euros, voire 1.000.",
        "Ça coûte 3.5 euros, voire 1,000.",
        64.06898042258776,
        23.356898886410015,
    ),
    ("Oui.", "", 0.0, 0.0),
    ("À demain", "à demain", 73.45238095238095, 0.0),
]
CHINESE = [
    ("我在北京大学学习中文。", "我在北京學習中文。", 27.696441973403907, 34.56543232731582),
    ("他有３个 iPhone-7。", "他有3个iPhone-7。", 74.58916083916085, 37.99178428257963),
    ("你好！", "你好吗？", 36.008230452674894, 31.947155212313625),
    ("「很好」，他说。", "很好，她说。", 16.016500305561213, 17.39350277271197),
]
TOGETHER = {  # chrF and BLEU of all sentences
    "french": (FRENCH, 59.500911585431226, 27.427073266033055),
    "chinese": (CHINESE, 45.79517614337451, 25.840346757491357),
}


@pytest.mark.parametrize("language", TOGETHER)
def test_both_are_those_of_sacrebleu(language):
    rows, chrf, bleu = TOGETHER[language]
    references, given, *_ = zip(*rows, strict=True)
    assert overlap.chrf(references, given).value == pytest.approx(chrf, abs=1e-12)
    assert overlap.bleu(references, given).value == pytest.approx(bleu, abs=1e-12)
    for reference, text, own_chrf, own_bleu in rows:
        cut = overlap.chinese_words if language == "chinese" else overlap.words
        assert overlap.chrf([reference], [text]).value == pytest.approx(own_chrf, abs=1e-12)
        assert overlap.bleu([reference], [text], cut).value == pytest.approx(own_bleu, abs=1e-12)


def test_words_of_another_language_are_cut_at_signs_only():
    references, given, *_ = zip(*CHINESE, strict=True)
    assert overlap.bleu(references, given, overlap.words).value == 0.0


def test_a_resample_has_the_value_of_its_sentences():
    references, given, *_ = zip(*FRENCH, strict=True)
    weights = np.array([0, 2, 1, 0, 3, 1, 0])
    repeated = [place for place, n in enumerate(weights) for _ in range(n)]
    for score in (overlap.chrf, overlap.bleu):
        metric = score(references, given)
        found = metric.finish(weights @ metric.statistics)
        again = score([references[k] for k in repeated], [given[k] for k in repeated])
        assert found == pytest.approx(again.value, rel=1e-14)
        one = significance.interval(metric, 400)
        assert one.low < one.value < one.high


@pytest.mark.parametrize(
    "texts, chinese",
    [
        (["你好吗？", "OK"], True),
        (["Tom 说 yes", "no"], False),
        (["これは本です", "東京大学"], False),
        (["...", ""], False),
        (["한국어"], False),
    ],
)
def test_which_references_are_chinese(texts, chinese):
    assert overlap.are_chinese(texts) == chinese


def test_every_character_is_cut_as_sacrebleu_cuts_it():
    sacrebleu = pytest.importorskip("sacrebleu", reason="sacrebleu is not installed")
    from sacrebleu.tokenizers.tokenizer_13a import Tokenizer13a
    from sacrebleu.tokenizers.tokenizer_zh import TokenizerZh

    western, chinese = Tokenizer13a(), TokenizerZh()
    for code in [*range(1, 0xD800), *range(0xE000, 0x30000)]:
        text = f"a{chr(code)}b 1{chr(code)}2"
        assert overlap.words(text) == western(text).split(), hex(code)
        assert overlap.chinese_words(text) == chinese(text).split(), hex(code)
    for rows, chrf, bleu in TOGETHER.values():
        references, given, *_ = zip(*rows, strict=True)
        kind = "zh" if rows is CHINESE else "13a"
        assert sacrebleu.corpus_chrf(given, [references]).score == pytest.approx(chrf)
        assert sacrebleu.corpus_bleu(given, [references], tokenize=kind).score == pytest.approx(
            bleu
        )
