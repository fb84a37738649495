"""What is learnt of a conversation: answers and their ends, by lengths; what does not fit."""

import numpy as np
import pytest

from minillm.data.learnt import Examples, Parts, fit, load, save
from minillm.tokenizers import ByteTokenizer
from minillm.tokenizers.chat_answers import learnt_ids
from minillm.training.tuning_data import _held_out
from small_tuning import tokenizer

TALK = [
    {"role": "system", "content": "be brief"},
    {"role": "user", "content": "one?"},
    {"role": "assistant", "content": "1"},
    {"role": "user", "content": "two?"},
    {"role": "assistant", "content": "two"},
    {"role": "user", "content": "unanswered"},
]
NO_END = (
    "{% for m in messages %}[{{ m['role'] }}]{{ m['content'] }}{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)


def shown(own, found):
    """The text, what is learnt in brackets."""
    parts, open_ = [], False
    for id, learnt in zip(found.ids, found.learnt):
        if learnt != open_:
            parts.append("[" if learnt else "]")
            open_ = learnt
        parts.append("#" if id == own.eos_id else own.decode([id]))
    return "".join(parts) + "]" * open_


def test_answers_and_their_ends_are_learnt_and_nothing_else():
    own = tokenizer()
    assert shown(own, learnt_ids(own, TALK)) == (
        "system: be brief#user: one?#assistant: [1#]user: two?#assistant: [two#]"
    )


def test_what_comes_before_an_answer_is_what_the_model_is_given_for_it():
    own = tokenizer()
    found = learnt_ids(own, TALK)
    prompt = own.apply_chat_template(TALK[:4], add_generation_prompt=True)
    assert found.ids[: len(prompt)] == prompt
    assert found.learnt[len(prompt) - 1 : len(prompt) + 1] == [False, True]


def test_a_control_token_that_someone_wrote_is_text_and_ends_nothing():
    own = tokenizer()
    talk = [
        {"role": "user", "content": "say <|endoftext|> now"},
        {"role": "assistant", "content": "<|endoftext|> it is"},
    ]
    found = learnt_ids(own, talk)
    assert found.ids.count(own.eos_id) == 2  # those of the template
    assert shown(own, found) == ("user: say <|endoftext|> now#assistant: [<|endoftext|> it is#]")


def test_where_the_template_writes_no_end_the_end_of_a_text_is_learnt():
    own = ByteTokenizer()
    own.chat_template = NO_END
    found = learnt_ids(own, TALK[1:3])
    assert shown(own, found) == "[user]one?[assistant][1#]"


@pytest.mark.parametrize(
    ("template", "talk", "line"),
    [
        (NO_END, TALK[:2], "no message of the assistant, at least 1 is needed"),
        ("{{ messages | length }}" + NO_END, TALK, "in another way once it is answered"),
        ("{{ raise_exception('roles must alternate') }}", TALK, "roles must alternate"),
    ],
)
def test_a_talk_or_template_that_cannot_be_learnt_from_is_refused(template, talk, line):
    own = ByteTokenizer()
    own.chat_template = template
    with pytest.raises(ValueError, match=line):
        learnt_ids(own, talk)


def test_a_long_prompt_is_cut_from_the_left_and_a_long_answer_is_left_out():
    ids, learnt = list(range(75)), [False] * 70 + [True] * 5
    cut = fit(ids, learnt, 64)
    assert cut.cut
    assert cut.example == (ids[10:], learnt[10:])
    assert fit(ids, learnt, 74).example == (ids, learnt)
    assert not fit(ids, learnt, 74).cut
    assert fit(list(range(70)), [False] * 2 + [True] * 68, 64).example is None
    assert fit(ids, [False] * 75, 80).example is None
    assert fit([1, 2], [True, False], 8).example is None  # nothing before it to be told from


def test_only_padding_is_ignored_whatever_its_id():
    """The padding is id 0, which is also learnt here: an end that pads."""
    examples = Examples.of([([5, 0, 7, 0], [False, True, True, True]), ([6, 0], [False, True])])
    batch = examples.batch([0, 1])
    assert batch.inputs.tolist() == [[5, 0, 7], [6, 0, 0]]
    assert batch.targets.tolist() == [[0, 7, 0], [0, -100, -100]]
    assert batch.length == 4
    assert examples.targets == 4


def test_examples_come_back_from_their_file(tmp_path):
    one = Examples.of([([1, 2, 3], [False, True, True])])
    one.more["reference"] = np.array([-0.5])
    parts = Parts(one, Examples.of([]))
    save(tmp_path, parts)
    again = load(tmp_path)
    assert again.fingerprint == parts.fingerprint
    assert again.train.more["reference"].tolist() == [-0.5]
    assert len(again.val) == 0
    other = Parts(Examples.of([([1, 2, 3], [False, False, True])]), Examples.of([]))
    assert other.fingerprint != parts.fingerprint
    path = tmp_path / "examples.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"\x07")
    with pytest.raises(ValueError, match=r"examples\.safetensors"):
        load(tmp_path)


def test_equal_prompts_fall_on_one_side():
    keys = [f"{n % 10}" for n in range(40)]
    held = _held_out(keys, 0.2)
    assert 0.2 <= sum(key in held for key in keys) / 40 <= 0.3
    assert _held_out(keys, 0.2) == held
    assert _held_out(["a"] * 5, 0.5) == set()
    assert _held_out(keys, 0.0) == set()
    assert len(_held_out(["a", "b"], 0.01)) == 1
