"""Near duplicates and languages: against exact sets of words, and texts whose language is known."""

import re

import numpy as np
import pytest

from minillm.data.preparation.alphabets import LANGUAGES
from minillm.data.preparation.measures import Measures
from minillm.data.preparation.minhash import BANDS, groups, near_pairs, similarity, sketches
from small_texts import BYTES, documents_of, prepared, records, sentences


def jaccard(one: str, other: str) -> float:
    sets = []
    for text in (one, other):
        words = re.findall(r"\w+", text.lower())
        sets.append({tuple(words[i : i + 5]) for i in range(len(words) - 4)})
    return len(sets[0] & sets[1]) / len(sets[0] | sets[1])


def changed(words: list[str], share: float, rng) -> str:
    words = list(words)
    for place in np.flatnonzero(rng.random(len(words)) < share):
        words[place] = f"new{int(rng.integers(10**9))}"
    return " ".join(words)


def test_sketches_estimate_the_similarity_of_sets_of_words():
    rng = np.random.default_rng(0)
    texts, truths = [], []
    for pair in range(150):
        words = [f"w{pair}x{i}" for i in range(int(rng.integers(40, 600)))]
        texts += [" ".join(words), changed(words, float(rng.choice([0.005, 0.02, 0.06])), rng)]
        truths.append(jaccard(*texts[-2:]))
    found = sketches(Measures(texts))
    errors = similarity(found.values[::2], found.values[1::2]) - truths
    assert abs(errors.mean()) < 0.015
    assert errors.std() < 0.06
    unlike = similarity(found.values[0:-2:2], found.values[2::2])
    assert np.abs(unlike).max() < 0.08
    pairs = near_pairs(found, np.ones(len(texts), bool))
    alike = {pair for pair, truth in enumerate(truths) if truth > 0.9}
    joined = {int(one) // 2 for one, other in pairs if other == one + 1 and one % 2 == 0}
    assert alike <= joined
    assert len(pairs) == len(joined)
    assert all(truths[pair] > 0.65 for pair in joined)
    assert found.bands.shape == (300, BANDS)


def test_the_sketch_of_a_text_does_not_depend_on_its_neighbours():
    texts = [sentences(i) for i in range(8)] + ["", "one", "two words", "我们在这里吃饭"]
    together = sketches(Measures(texts))
    for place, text in enumerate(texts):
        alone = sketches(Measures([text]))
        assert (alone.values[0] == together.values[place]).all()
        assert (alone.bands[0] == together.bands[place]).all()


def test_groups_are_connected_components():
    rng = np.random.default_rng(3)
    for _ in range(30):
        n = int(rng.integers(1, 40))
        pairs = rng.integers(0, n, (int(rng.integers(0, n + 1)), 2))
        labels = groups(n, pairs)
        wanted = list(range(n))
        for _ in range(n):
            for a, b in pairs.tolist():
                wanted[a] = wanted[b] = min(wanted[a], wanted[b])
        assert labels.tolist() == wanted


def test_near_duplicates_go_and_the_first_stays(tmp_path):
    base = [sentences(i, 40) for i in range(30)]
    near = [text.replace("river", "rivers", 2) for text in base[:10]]
    texts = [*base, *near, base[3]]
    kept = {}
    for dedup in ("none", "exact", "near"):
        source = records(tmp_path / "a.jsonl", texts)
        out = prepared(source, tmp_path / dedup, dedup=dedup, val_fraction=0)
        kept[dedup] = documents_of(out.dataset(BYTES).train)
    assert kept == {"none": texts, "exact": texts[:-1], "near": base}
    removed = (tmp_path / "near/removed.jsonl").read_text(encoding="utf-8")
    assert removed.count('"near duplicate"') == 10
    assert f'{{"document": "{source} line 41", "reason": "exact duplicate"}}' in removed


def test_near_duplicates_are_on_one_side_of_the_split(tmp_path):
    texts = []
    for i in range(30):
        text = sentences(i, 40)
        texts += [text, text.replace("moon", "sun", 1), text + "One more line.\n", text]
    out = prepared(records(tmp_path / "a.jsonl", texts), tmp_path / "out", val_fraction=0.3)
    data = out.dataset(BYTES)
    numbers = [
        {re.findall(r"(\d+)\.", text)[0] for text in documents_of(side)}
        for side in (data.train, data.val)
    ]
    assert numbers[0].isdisjoint(numbers[1])
    assert len(numbers[0] | numbers[1]) == 30
    assert len(numbers[1]) > 5


TEXTS = {
    "English": "The house was not what he had thought it to be, and the garden was full.",
    "German": "Das Haus war nicht das, was er sich gedacht hatte, und der Garten war voll.",
    "French": "La maison n'est pas dans la rue que vous avez cherchée, et le jardin ne va pas.",
    "Spanish": "La casa no está en la calle que se busca, y el jardín es más grande de lo que era.",
    "Portuguese": "A casa não é como ele pensava, mas o jardim está cheio de ervas que são más.",
    "Italian": "La casa non è quella che si cercava, ma il giardino è più grande di questo.",
    "Dutch": "Het huis was niet wat hij had gedacht, en de tuin is vol met onkruid dat er groeit.",
    "Polish": "Dom nie jest w mieście, ale ogród jest tak duży, że się go nie da obejść za dzień.",
    "Turkish": "Bu ev çok büyük ve bahçe de güzel ama bir yol için daha ne gibi bir şey var.",
    "Russian": "Дом был не такой, как он думал, и в саду росло всё, что только можно.",
    "Ukrainian": "Дім був не такий, як він думав, але у саду росло все, що можна, та це від них.",
    "Greek": "Το σπίτι δεν ήταν αυτό που νόμιζε.",
    "Korean": "집은 그가 생각했던 것과 달랐다.",
    "Japanese": "家は彼が思っていたものではなかった。",
    "Chinese": "学而时习之，不亦说乎？有朋自远方来，不亦乐乎？",
    "Arabic script": "لم يكن البيت كما ظن.",
    "unclear": "xyzzy plugh 1234",
}


def test_languages_are_told_by_script_and_frequent_words():
    found = Measures(list(TEXTS.values())).languages
    assert [LANGUAGES[place] for place in found] == list(TEXTS)


@pytest.mark.parametrize("language", ["English", "Chinese"])
def test_real_texts_are_of_their_language(shared_data, language):
    name = {"English": "text/botchan.txt", "Chinese": "zh/tang300.txt"}[language]
    text = (shared_data / name).read_text(encoding="utf-8-sig")
    parts = [text[at : at + 2000] for at in range(0, len(text), 2000)]
    found = Measures(parts).languages
    assert np.mean(found == LANGUAGES.index(language)) > 0.95
