"""The tokens of a text, against a plain list of them."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minillm.generation import Seen

ids = st.integers(0, 40)


def content(seen, size=100):
    places, counts = seen.among(size)
    assert len(set(places.tolist())) == len(places)
    return dict(zip(places.tolist(), counts.tolist()))


@given(prompt=st.lists(ids), moves=st.lists(st.one_of(ids, st.just("pop"), st.just("fork"))))
def test_any_pushes_pops_and_forks(prompt, moves):
    seen, generated, forks = Seen(prompt), [], []
    for move in moves:
        if move == "fork":
            forks.append((seen.fork(), list(generated)))
        elif move == "pop":
            if generated:
                assert seen.pop() == generated.pop()
        else:
            seen.push(move)
            generated.append(move)
    for text, ours in (*forks, (seen, generated)):
        right = dict.fromkeys(prompt, 0) | dict(Counter(ours))
        assert content(text) == right
        assert len(text) == len(ours)
        assert content(text, 20) == {id: count for id, count in right.items() if id < 20}
        assert content(Seen(prompt, ours)) == right


def test_a_fork_goes_its_own_way():
    seen = Seen([1], [2])
    fork = seen.fork()
    fork.push(3)
    fork.push(2)
    seen.pop()
    assert content(seen) == {1: 0}
    assert content(fork) == {1: 0, 2: 2, 3: 1}
    seen.push(5)
    for id in (6, 5, 2):
        fork.push(id)
    assert content(seen) == {1: 0, 5: 1}
    assert content(fork) == {1: 0, 2: 3, 3: 1, 5: 1, 6: 1}


def test_what_cannot_be_is_refused():
    for make in (lambda: Seen([3, -1]), lambda: Seen([], [-1]), lambda: Seen().push(-1)):
        with pytest.raises(ValueError, match="seen: id -1, 0 or more is needed"):
            make()
    with pytest.raises(RuntimeError, match="seen: no generated token to take back"):
        Seen([1, 2]).pop()
