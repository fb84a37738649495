"""Questions made of texts."""

from minillm.tasks import cloze as made_of
from minillm.tasks.cloze import cloze
from minillm.tasks.examples import Question

LONG = (
    "The tower of iron was built in 1889 by Gustave Eiffel for a fair (its height is 330.5 m now).",
    "It stands in Paris and is seen by seven million people each year!",
)
TEXT = f"Short one. {LONG[0]} {LONG[1]}\n" * 6
EXAMPLES = [
    Question(3, "q", TEXT, ("iron",), (24,)),
    Question(9, "q", "Too short.", ("Too",), (0,)),
]


def test_each_asks_for_what_its_sentence_has_more(monkeypatch):
    monkeypatch.setattr(made_of, "KEPT", 1.0)  # every word but those of the answer
    for question in cloze(EXAMPLES, 60, seed=1):
        [answer], [start] = question.answers, question.starts
        assert question.line == 3
        assert question.context in TEXT
        assert question.context[start : start + len(answer)] == answer
        assert 1 <= len(answer.split()) <= made_of.LONGEST_ANSWER
        asked = question.question.removeprefix("how many ").split()
        whole = asked if asked[0] not in made_of.ASKED else asked[1:]
        assert bare([*whole, *answer.split()]) in [bare(sentence.split()) for sentence in LONG]


def bare(words):
    """The words in order of the alphabet, without what may end a sentence."""
    return sorted(word.rstrip(".!?") for word in words)


def test_they_are_those_of_the_seed():
    found = cloze(EXAMPLES, 5, seed=1)
    assert len(found) == 5  # none of a text without a sentence long enough
    assert found == cloze(EXAMPLES, 5, seed=1) != cloze(EXAMPLES, 5, seed=2)


def test_no_word_of_the_context_is_cut_at_its_begin():
    words = set(TEXT.split())
    contexts = [question.context for question in cloze(EXAMPLES, 60, seed=1)]
    assert all(context.split()[0] in words for context in contexts)
    assert len(set(contexts)) > 5 and max(map(len, contexts)) < len(TEXT)
