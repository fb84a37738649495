"""The example stories agree with their cast, and facts.py counts what a text states."""

import itertools
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
sys.path.insert(0, str(EXAMPLES))

import facts  # noqa: E402
import phrases  # noqa: E402
import stories  # noqa: E402
import verse  # noqa: E402

FIXED = {"home", "wears", "food", "fear", "hobby"}  # facts whose words mean nothing else


@pytest.fixture(scope="module")
def committed() -> list[str]:
    return (EXAMPLES / "tiny.txt").read_text(encoding="ascii").rstrip("\n").split("\n\n")


@pytest.mark.parametrize("hash_seed", ["0", "4711"])
def test_generator_writes_the_committed_bytes(hash_seed: str) -> None:
    written = subprocess.run(
        [sys.executable, str(EXAMPLES / "stories.py")],
        check=True,
        capture_output=True,
        env={**os.environ, "PYTHONHASHSEED": hash_seed},
    ).stdout
    assert written == (EXAMPLES / "tiny.txt").read_bytes()


def test_another_seed_writes_other_stories(committed: list[str]) -> None:
    assert not set(stories.stories(50, seed=2)) & set(committed)


def test_committed_text_is_small_clean_and_free_of_repeats(committed: list[str]) -> None:
    data = (EXAMPLES / "tiny.txt").read_bytes()
    assert 300_000 <= len(data) <= 450_000
    assert b"\r" not in data and data.endswith(b".\n")
    assert len(set(committed)) == len(committed)
    assert all("\n" not in story and "  " not in story for story in committed)
    assert all(60 <= len(story.split()) <= 150 for story in committed)
    assert not any(mark in data for mark in b"{}")


def test_every_hero_is_met_and_every_opening_used(committed: list[str]) -> None:
    firsts = [story.split(". ")[0] for story in committed]
    for name in stories.CAST:
        assert sum(name in first for first in firsts) >= 40
    for lead in phrases.LEADS:
        assert sum(first.startswith(lead.partition("{")[0]) for first in firsts) >= 20


def test_cast_values_are_unique_and_friends_mutual() -> None:
    for fact in phrases.FACTS:
        assert len({getattr(c, fact) for c in stories.CAST.values()}) == len(stories.CAST) == 12
    for c in stories.CAST.values():
        assert c.friend != c.name and stories.CAST[c.friend].friend == c.name


def test_words_of_a_fact_stand_near_their_owner_only(committed: list[str]) -> None:
    """A second way to see that the text is consistent: plain search, without any pattern."""
    for story in committed:
        sentences = story.split(". ")
        for i, sentence in enumerate(sentences):
            near = " ".join(sentences[max(0, i - 1) : i + 1])
            for c in stories.CAST.values():
                for fact in FIXED:
                    if getattr(c, fact) in sentence:
                        assert c.name in near, (fact, near)


def test_every_statement_of_every_story_is_right(committed: list[str]) -> None:
    checks = [facts.check_story(story) for story in committed]
    assert sum(check.wrong for check in checks) == 0
    assert min(check.right for check in checks) >= 5
    stated = [(s.name, s.fact) for check in checks for s in check.statements]
    for name, fact in itertools.product(stories.CAST, phrases.FACTS):
        assert stated.count((name, fact)) >= 40, (name, fact)


@pytest.mark.parametrize("fact", sorted(FIXED | {"species"}))
def test_altered_story_is_caught(committed: list[str], fact: str) -> None:
    changed = 0
    for story in committed[:120]:
        said = [s for s in facts.check_story(story).statements if s.fact == fact]
        for name in {s.name for s in said}:
            right = getattr(stories.CAST[name], fact)
            wrong = next(getattr(c, fact) for c in stories.CAST.values() if c.name not in story)
            check = facts.check_story(re.sub(rf"\b{right}\b", wrong, story))
            caught = [s for s in check.statements if not s.right]
            assert [(s.name, s.fact) for s in caught] == [(name, fact)] * len(caught)
            assert len(caught) == sum(s.name == name for s in said)
            changed += 1
    assert changed > 50


def test_check_story_on_a_story_written_by_hand() -> None:
    check = facts.check_story(
        "Once upon a time, there was a fox named Mira. She lived in the old mill and always wore a "
        "blue cap. Mira's best friend was Rufus. He loved to eat plum pie. Rufus the bear smiled. "
        "Mira ran to the mossy cave, where Rufus was counting stars. "
        '"Go," said Mira, and then Mira feared nothing. Rufus lived in the moss'
    )
    assert [(s.name, s.fact, s.right) for s in check.statements] == [
        ("Mira", "species", True),
        ("Mira", "home", True),
        ("Mira", "wears", False),
        ("Mira", "friend", True),
        ("Rufus", "food", False),
        ("Rufus", "species", True),
        ("Rufus", "home", True),
        ("Rufus", "hobby", False),
    ]
    assert (check.right, check.wrong) == (5, 3)


def test_unknown_value_and_longer_word_are_wrong() -> None:
    for text in (
        "Mira lived in the castle.",
        "Mira lived in the old millhouse.",
        "Mira lived in the old",
        "Mira lived in the stone cottage.",
    ):
        check = facts.check_story(text)
        assert (check.right, check.wrong) == ((0, 0) if text.endswith("old") else (0, 1)), text
    assert facts.check_story("") == facts.check_story("She sat down.") == ((), 0, 0)


def test_sentence_without_owner_is_refused() -> None:
    with pytest.raises(ValueError, match="name its hero"):
        list(facts.statement_patterns("The kitchen smelled of {hero.food}."))


def test_prompts_are_held_out(committed: list[str]) -> None:
    text = "\n".join(committed)
    tasks = facts.prompts()
    assert len({task.text for task in tasks}) == len(tasks)
    for name, fact in itertools.product(stories.CAST, phrases.FACTS):
        right = " " + getattr(stories.CAST[name], fact)
        mine = [task for task in tasks if task.fact == fact and task.right == right]
        assert len(mine) >= 3
        assert all(right not in task.text and name in task.text for task in mine)
        assert all(len(set(task.wrongs) - {right}) == 11 for task in mine)
    assert not [task.text for task in tasks if task.text in text]


def test_sentences_of_prompts_are_sentences_of_the_stories(committed: list[str]) -> None:
    text = "\n".join(committed)
    ends = [task.text.split(". ")[1] + task.right for task in facts.prompts()]
    assert sum(end in text for end in ends) >= 0.95 * len(ends)
    for sentence in itertools.chain(*phrases.FACTS.values()):
        told = [stories.fill(sentence, {}, hero=c) in text for c in stories.CAST.values()]
        assert sum(told) >= 6, sentence


def test_no_story_begins_with_a_held_out_combination(committed: list[str]) -> None:
    def wordings(sentence: str, hero: stories.Character) -> set[str]:
        slots = [slot for slot in phrases.FILLINGS if f"{{{slot}}}" in sentence]
        every = itertools.product(*(phrases.FILLINGS[slot] for slot in slots))
        return {stories.fill(sentence, dict(zip(slots, texts)), hero=hero) for texts in every}

    leads, facts_of = {}, {}
    for c in stories.CAST.values():
        for i, lead in enumerate(phrases.LEADS):
            leads |= dict.fromkeys(wordings(lead, c), i)
        for j, sentence in itertools.chain(*map(enumerate, phrases.FACTS.values())):
            for form in (sentence, stories.with_pronoun(sentence)):
                facts_of |= dict.fromkeys(wordings(form, c), j)
    pairs = set()
    for story in committed:
        first, second = facts.SENTENCE_END.split(story)[:2]
        pairs.add((leads[first], facts_of[second]))
    assert not [pair for pair in pairs if stories.held_out(*pair)]
    assert len(pairs) == sum(not stories.held_out(i, j) for i in range(10) for j in range(4))


def test_cloze_scores_an_oracle_a_constant_and_silence() -> None:
    tasks = facts.prompts()
    answers = {task.text: task.right for task in tasks}
    of_mira = {fact: " " + getattr(stories.CAST["Mira"], fact) for fact in phrases.FACTS}
    kinds = {task.text: task.fact for task in tasks}
    oracle = facts.cloze(lambda text, n: (answers[text] + ". And")[:n], tasks)
    constant = facts.cloze(lambda text, n: (of_mira[kinds[text]] + ".")[:n], tasks)
    silence = facts.cloze(lambda text, n: "", tasks)
    longer = facts.cloze(lambda text, n: (answers[text] + "s")[:n], tasks)
    assert set(oracle) == set(phrases.FACTS)
    assert set(oracle.values()) == {facts.Score(1.0, 0.0)}
    assert set(silence.values()) == set(longer.values()) == {facts.Score(0.0, 0.0)}
    assert {s.right for s in constant.values()} == set(facts.chance(tasks).values()) == {1 / 12}
    assert all(score.mixed_up == pytest.approx(11 / 12) for score in constant.values())


def test_free_stories_begin_without_a_fact_and_end_with_the_line() -> None:
    texts = facts.free_stories(lambda start, n: " Mira lived in the old mill.\n\nOnce", 24)
    assert len(set(texts)) == 24
    for text in texts:
        assert [s.fact for s in facts.check_story(text).statements] == ["home"]
        assert text.endswith("mill.")


def test_table_has_a_row_for_each_fact_and_the_mean() -> None:
    score = {"home": facts.Score(0.5, 0.25), "food": facts.Score(1.0, 0.0)}
    rows = facts.table(score, {"home": 0.1, "food": 0.1}, score).split("\n")
    assert [row.split() for row in rows] == [
        ["fact", "trained", "mixed", "up", "chance", "untrained"],
        ["home", "50.0%", "25.0%", "10.0%", "50.0%"],
        ["food", "100.0%", "0.0%", "10.0%", "100.0%"],
        ["all", "75.0%", "12.5%", "10.0%", "75.0%"],
    ]


def test_consistency_counts_a_repeated_sentence_once() -> None:
    text = "Mira was afraid of thunder. Mira was afraid of thunder. Mira was afraid of bees."
    assert facts.consistency([text, text]) == (
        "2 free stories: 4 statements of facts, 2 right (50.0%)"
    )
    assert facts.consistency(["Mira slept."]) == "1 free stories: 0 statements of facts, 0 right"


FIVE = "白日依山盡，黃河入海流。\n欲窮千里目，更上一層樓。"


@pytest.mark.parametrize(
    ("poem", "kept"),
    [
        (FIVE, True),
        (f"{FIVE}\n{FIVE}", True),
        (f"{FIVE}\n白日依山盡，黃河入海流。", False),  # 6 phrases
        (FIVE.replace("黃河", "黃"), False),
        (FIVE.replace("，", "？").replace("。", "！"), True),
        ("一二三四五六七，一二三四五六七。\n一二三四五六七，一二三四五六七。", True),
        ("一二三四五六，一二三四五六。\n一二三四五六，一二三四五六。", False),
        ("", False),
    ],
)
def test_the_form_of_verse(poem: str, kept: bool) -> None:
    assert verse.keeps_form(poem) is kept


def test_verse_is_measured_by_hand() -> None:
    text = f"登鸛雀樓 王之渙\n{FIVE}\n\n題 名\n一二三，四五。"
    poems = verse.poems_of(text)
    assert poems == [FIVE, "一二三，四五。"]
    known = verse.phrases_of(FIVE)
    found = verse.measure([FIVE, "白日依山盡，一二三四五。", "一二，三"], known)
    assert found == verse.Form(1 / 3, 5 / 8, 1 / 3)


def test_bigram_verse_follows_the_text() -> None:
    written = verse.bigram_poems([FIVE, "白雲"], 30, seed=1)
    assert written == verse.bigram_poems([FIVE, "白雲"], 30, seed=1)
    pairs = {pair for poem in (FIVE, "白雲") for pair in itertools.pairwise(poem)}
    assert all(poem.startswith("白") for poem in written)
    assert {pair for poem in written for pair in itertools.pairwise(poem)} <= pairs
    assert any(poem == "白雲" for poem in written)


def test_verse_as_documents(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "poems.txt").write_text(f"題 名\n{FIVE}\n\n題 名\n一二三，四五。", encoding="utf-8")
    verse.main([str(tmp_path / "poems.txt"), "--jsonl", str(tmp_path / "verses.jsonl")])
    rows = (tmp_path / "verses.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(row)["text"] for row in rows] == [FIVE, "一二三，四五。"]
    assert "50.0% of 2 poems keep the form" in capsys.readouterr().out
