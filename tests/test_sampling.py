"""The sampler: settings, edges, its one draw a token, and what it explains."""

import itertools
import math
import re
import runpy
from pathlib import Path

import numpy as np
import pytest

from minillm.arrays import default_generator, new_generator
from minillm.generation import Sampler, Seen
from minillm.generation.sampling import draw


def logits_of(probabilities):
    with np.errstate(divide="ignore"):
        return np.log(np.array(probabilities))


def kept(sampler, values):
    return np.flatnonzero(sampler.probabilities(np.array(values))).tolist()


class Draw:
    """A generator that gives one known number."""

    def __init__(self, number):
        self.number = number

    def random(self):
        return self.number


class TestSampler:
    def test_temperature_1_is_the_softmax(self):
        got = Sampler().probabilities(np.array([2.0, 1.0, 0.0], np.float32))
        np.testing.assert_allclose(got, [0.6652410, 0.2447285, 0.0900306], atol=1e-7)
        assert got.dtype == np.float64

    def test_temperature_divides_the_logits(self):
        hot, cold = (Sampler(t).probabilities(np.array([2.0, 1.0, 0.0])) for t in (2, 0.5))
        np.testing.assert_allclose(hot, [0.5064804, 0.3071959, 0.1863237], atol=1e-7)
        np.testing.assert_allclose(cold, [0.8668133, 0.1173104, 0.0158762], atol=1e-7)

    @pytest.mark.parametrize("temperature", [0, 1e-8, 9e-6])
    def test_temperature_0_takes_the_best_and_of_equals_the_first(self, temperature):
        sampler = Sampler(temperature)
        for values, best in (([0, 3, 1], 1), ([2, 5, 5, 5], 1), ([-math.inf, -1e30], 1)):
            assert kept(sampler, values) == [best]
            assert sampler.pick(np.array(values), Draw(0.999)) == best

    @pytest.mark.parametrize(
        "name, values, needed",
        [
            (
                "temperature",
                [-1, -1e-9, math.nan, math.inf, "1", None, True, 10**400],
                "a finite number of 0 or more",
            ),
            ("top_k", [-1, 1.0, math.nan, "4", None, True], r"0 \(all\) or more"),
            ("top_p", [-0.1, 1.1, math.nan, "1", None], "0 <= p <= 1"),
            ("min_p", [-0.1, 1.1, math.nan, [0.1]], "0 <= p <= 1"),
            ("typical", [-0.1, 1.1, math.nan, 1j], "0 <= p <= 1"),
            (
                "repetition_penalty",
                [0, -1, math.nan, math.inf, "1", 1e-308],
                "a finite number of 2.2e-308 or more",
            ),
            ("frequency_penalty", [-2.1, 2.1, math.nan, math.inf], "a number from -2 to 2"),
            ("presence_penalty", [-2.1, 2.1, math.nan, math.inf], "a number from -2 to 2"),
        ],
    )
    def test_impossible_settings_are_refused(self, name, values, needed):
        for value in values:
            shown = f"{name.replace('_', '-')}: {value!r}"
            with pytest.raises(ValueError, match=f"^{re.escape(shown)}, {needed} is needed$"):
                Sampler(**{name: value})

    def test_numbers_of_numpy_are_numbers(self):
        ours, theirs = (
            Sampler(0.5, 3, 0.75),
            Sampler(np.float32(0.5), np.int64(3), np.float32(0.75)),
        )
        values = np.arange(5, dtype=np.float32)
        assert np.array_equal(ours.probabilities(values), theirs.probabilities(values))

    @pytest.mark.parametrize(
        "probabilities, top_p, count",
        [
            ([0.5, 0.41, 0.09], 0.9, 2),
            ([0.4, 0.3, 0.2, 0.1], 0.8, 3),
            ([0.5, 0.3, 0.2], 0.8, 2),
            ([0.25, 0.25, 0.25, 0.25], 0.5, 2),
            ([0.5, 0.3, 0.2], 0, 1),
            ([0.5, 0.3, 0.2], 1e-8, 1),
            ([0.5, 0.3, 0.2], 1, 3),
            ([0.5, 0.5, 0.0], 1, 2),
        ],
    )
    def test_the_nucleus_is_what_stands_before_top_p(self, probabilities, top_p, count):
        assert kept(Sampler(top_p=top_p), logits_of(probabilities)) == list(range(count))

    def test_what_is_left_is_normalised_again(self):
        got = Sampler(top_p=0.8).probabilities(logits_of([0.2, 0.5, 0.3]))
        np.testing.assert_allclose(got, [0, 0.625, 0.375], atol=1e-12)

    def test_the_nucleus_is_that_of_the_narrowed_distribution(self):
        sampler = Sampler(top_k=2, top_p=0.6)  # of 0.5 / 0.8 and 0.3 / 0.8
        assert kept(sampler, logits_of([0.5, 0.3, 0.2])) == [0]

    @pytest.mark.parametrize(
        "top_k, ids", [(1, [1]), (2, [1, 2]), (3, [1, 2, 3]), (9, [1, 2, 3, 4]), (0, [1, 2, 3, 4])]
    )
    def test_top_k_keeps_the_first_of_equals_and_never_what_is_ruled_out(self, top_k, ids):
        assert kept(Sampler(top_k=top_k), [-math.inf, 2, 1, 1, 1]) == ids

    def test_among_many_equals_the_lowest_ids_stay(self):
        values = np.zeros(1000)
        values[::3] = 1
        assert kept(Sampler(top_k=5), values) == [0, 3, 6, 9, 12]
        assert kept(Sampler(top_k=400), values) == sorted({*range(0, 1000, 3), *range(99)})

    def test_the_tail_of_a_large_vocabulary_can_occur(self):
        """Summed in float32, the last tokens could not."""
        flat = np.zeros(50257, np.float32)
        assert Sampler().pick(flat, Draw(0.9999999)) == int(0.9999999 * 50257)
        assert Sampler().pick(flat, Draw(np.nextafter(1, 0))) == 50256
        assert Sampler().pick(flat, Draw(0.0)) == 0

    @pytest.mark.parametrize("number", [0.0, 0.5, np.nextafter(0.5, 0), np.nextafter(1, 0)])
    def test_what_has_no_probability_is_never_drawn(self, number):
        values = logits_of([0, 0.5, 0, 0, 0.5, 0])
        assert Sampler().pick(values, Draw(number)) in (1, 4)

    @pytest.mark.parametrize("temperature", [0, 1])
    @pytest.mark.parametrize("values", [[math.nan, 1], [-math.inf, -math.inf], [math.inf, 1]])
    def test_logits_that_are_no_distribution_are_refused(self, values, temperature):
        with pytest.raises(ValueError, match="sampling: the logits hold"):
            Sampler(temperature).pick(np.array(values), new_generator(0))


def test_a_nucleus_of_everything_keeps_the_most_improbable():
    assert (Sampler().probabilities(np.array([0.0, -40.0, -50.0])) > 0).all()


class TestDraws:
    """Ids drawn before the sampler had steps: the same seed gives the same text."""

    @pytest.mark.parametrize(
        "options, ids",
        [
            ({}, [7, 19, 9, 5, 13, 16, 11, 16, 3, 2, 3, 8]),
            ({"temperature": 0.7, "top_k": 9}, [7, 17, 9, 5, 13, 16, 11, 16, 3, 2, 3, 8]),
            ({"temperature": 1.3, "top_p": 0.8}, [7, 20, 9, 5, 13, 16, 11, 16, 5, 2, 3, 8]),
            ({"top_k": 12, "top_p": 0.9}, [7, 17, 9, 5, 13, 16, 11, 16, 3, 2, 3, 8]),
        ],
    )
    def test_the_same_seed_gives_the_same_ids(self, options, ids):
        assert drawn(Sampler(**options), new_generator(7), 12) == ids

    def test_one_request_does_not_change_another(self):
        samplers = [Sampler(), Sampler(0.7, top_k=9), Sampler(0), Sampler(top_p=0.8, typical=0.9)]
        alone = [drawn(s, new_generator(seed), 40) for seed, s in enumerate(samplers)]
        generators = [new_generator(seed) for seed in range(4)]
        together = [[], [], [], []]
        for values in waves(40):
            for place in (2, 0, 3, 1):
                together[place].append(samplers[place].pick(values, generators[place]))
        assert together == alone

    def test_only_its_own_generator_is_used(self):
        ours = default_generator.bit_generator.state["state"]["counter"].tolist()
        theirs = np.random.get_state()[2]
        drawn(Sampler(), new_generator(1), 5)
        assert default_generator.bit_generator.state["state"]["counter"].tolist() == ours
        assert np.random.get_state()[2] == theirs

    @pytest.mark.parametrize(
        "options, numbers",
        [({}, 12), ({"top_k": 1}, 12), ({"typical": 0, "top_p": 0.5}, 12), ({"temperature": 0}, 0)],
    )
    def test_one_number_a_token_and_none_for_the_greedy_choice(self, options, numbers):
        ours, theirs = new_generator(3), new_generator(3)
        drawn(Sampler(**options), ours, 12)
        theirs.random(numbers)
        assert ours.random() == theirs.random()

    def test_a_place_without_weight_is_never_drawn(self):
        for number in (0.0, 0.3, 0.5, np.nextafter(1, 0)):
            assert draw(np.array([0, 3.0, 0, 5e-324, 0]), Draw(number)) == 1
        assert draw(np.array([0.0, 5e-324]), Draw(0.0)) == 1
        last = Draw(np.nextafter(1, 0))  # times 5e-324 is 5e-324 again
        assert draw(np.array([0.0, 5e-324, 0.0]), last) == 1

    @pytest.mark.parametrize("shift", [-5000, 5000])
    def test_a_shift_of_all_logits_changes_nothing(self, shift):
        sampler = Sampler(0.5, top_p=0.9, min_p=0.01, typical=0.95)
        for values in waves(20):
            values = (values * 8).round().astype(np.float64)
            plain, shifted = sampler.probabilities(values), sampler.probabilities(values + shift)
            assert np.array_equal(plain, shifted)
            picked = sampler.pick(values + shift, Draw(0.6))
            assert picked == sampler.pick(values, Draw(0.6))


def waves(count):
    """Logits (23,) of `count` tokens."""
    return [(np.sin(np.arange(23) * (n + 1.0)) * 3).astype(np.float32) for n in range(count)]


def drawn(sampler, generator, count):
    return [sampler.pick(values, generator) for values in waves(count)]


ALL = Sampler(
    0.8, 12, 0.9, min_p=0.02, typical=0.9,
    repetition_penalty=1.2, frequency_penalty=0.3, presence_penalty=0.2,
)  # fmt: skip
ORDER = [
    "repetition_penalty", "frequency_penalty", "presence_penalty",
    "temperature", "top_k", "top_p", "min_p", "typical",
]  # fmt: skip


class TestSteps:
    def test_their_order(self):
        assert [step.name for step in ALL.steps] == ORDER
        assert [step.name for step in Sampler().steps] == ["temperature"]
        greedy = Sampler(0, 5, 0.5, min_p=0.1, presence_penalty=1)
        assert [step.name for step in greedy.steps] == ["presence_penalty", "greedy"]

    @pytest.mark.parametrize("sampler", [ALL, Sampler(), Sampler(0), Sampler(top_k=5, top_p=0.5)])
    @pytest.mark.parametrize("constrained", [False, True])
    def test_an_explanation_ends_where_the_draw_begins(self, sampler, constrained):
        allowed = np.arange(23) % 3 == 1 if constrained else None
        for values in waves(8):
            seen = Seen([1, 2], [4, 4, 7])
            explained = sampler.explain(values, seen, allowed)
            names = ["allowed"] * constrained + [step.name for step in sampler.steps]
            assert [step.name for step in explained] == names
            own = np.exp(values.astype(float)) / np.exp(values.astype(float)).sum()
            np.testing.assert_allclose(explained[0].before, own, rtol=1e-12)
            for earlier, later in itertools.pairwise(explained):
                assert earlier.after is later.before
            last = explained[-1].after
            assert np.array_equal(last, sampler.probabilities(values, seen, allowed))
            assert all(abs(step.after.sum() - 1) < 1e-12 for step in explained)
            assert explained[-1].kept == np.count_nonzero(last)
            drawable = {sampler.pick(values, Draw(n / 60), seen, allowed) for n in range(60)}
            assert drawable <= set(np.flatnonzero(last).tolist())

    def test_steps_by_hand_are_the_sampler(self):
        for values in waves(20):
            seen, logits = Seen([1, 2], [4, 4, 7]), values
            for step in ALL.steps:
                logits = step(logits, seen)
            right = np.exp(logits - logits.max())
            got = ALL.probabilities(values, seen)
            np.testing.assert_allclose(got, right / right.sum(), rtol=1e-12)

    def test_nothing_is_written_to(self):
        values, allowed = waves(1)[0], np.ones(23, bool)
        for width in (np.float32, np.float64):
            logits = values.astype(width)
            logits.flags.writeable = allowed.flags.writeable = False
            for sampler in (ALL, Sampler(), Sampler(0), Sampler(top_k=3)):
                seen = Seen([1], [2])
                sampler.pick(logits, new_generator(0), seen, allowed)
                sampler.pick(logits, new_generator(0), seen)
                sampler.explain(logits, seen)

    def test_a_penalty_needs_the_text(self):
        sampler = Sampler(0, presence_penalty=0.5)
        assert sampler.needs_seen and not Sampler().needs_seen
        with pytest.raises(ValueError, match="presence-penalty: the tokens of the text so far"):
            sampler.pick(np.zeros(3), new_generator(0))

    def test_the_penalties_reach_the_greedy_choice(self):
        sampler, seen, logits = Sampler(0, frequency_penalty=1), Seen([0]), np.array([2.5, 2, 1])
        for best in (0, 1, 0, 1, 2):  # 2.5 2 1, 1.5 2 1, 1.5 1 1, .5 1 1: the first of equals
            assert sampler.pick(logits, None, seen) == best
            seen.push(best)


class TestAllowed:
    @pytest.mark.parametrize("sampler", [Sampler(), Sampler(0), Sampler(0.8, 3, 0.9, typical=0.9)])
    def test_it_is_the_sampler_of_the_tokens_that_are_allowed(self, sampler):
        for values in waves(20):
            allowed = np.arange(23) % 2 == 0
            got = sampler.probabilities(values, allowed=allowed)
            assert np.array_equal(got[allowed], sampler.probabilities(values[allowed]))
            assert not got[~allowed].any()
            picked = sampler.pick(values, Draw(0.4), allowed=allowed)
            assert picked == 2 * sampler.pick(values[allowed], Draw(0.4))

    def test_the_best_may_be_ruled_out_and_one_may_be_left(self):
        logits = np.array([5, -40, -math.inf, -50])
        for options in ({"temperature": 0}, {"top_k": 1}, {"top_p": 0}, {"min_p": 1}):
            allowed = np.array([False, True, True, True])
            assert Sampler(**options).pick(logits, Draw(0.99), allowed=allowed) == 1
            allowed[1] = False
            assert Sampler(**options).pick(logits, Draw(0.99), allowed=allowed) == 3

    @pytest.mark.parametrize("options", [{}, {"temperature": 0}, {"top_k": 2}])
    def test_where_nothing_is_left_is_refused(self, options):
        logits = np.array([1, -math.inf, -math.inf])
        for allowed, count in (([False] * 3, 0), ([False, True, True], 2)):
            with pytest.raises(ValueError, match=f"sampling: of {count} allowed tokens none has"):
                Sampler(**options).pick(logits, Draw(0), allowed=np.array(allowed))

    @pytest.mark.parametrize("allowed", [np.ones(3), np.ones(4, bool), np.ones((1, 3), bool)])
    def test_another_kind_of_mask_is_refused(self, allowed):
        with pytest.raises(ValueError, match=r"sampling: allowed is .*, bool \(3,\)"):
            Sampler().pick(np.zeros(3), Draw(0), allowed=allowed)


@pytest.mark.parametrize("options", [{}, {"temperature": 0}, {"top_k": 2}])
@pytest.mark.parametrize("shape", [(0,), (1, 3), ()])
def test_logits_of_another_shape_are_refused(options, shape):
    with pytest.raises(ValueError, match=r"sampling: logits of shape \(.*\), \(V,\) is needed"):
        Sampler(**options).pick(np.zeros(shape, np.float32), Draw(0))


def test_the_page_about_sampling_shows_what_runs(tmp_path, capsys):
    page = Path(__file__).resolve().parents[1] / "docs" / "sampling.md"
    code, output = re.search(
        r"```python\n(import numpy\n.*?)```\n```\n(.*?)```", page.read_text("utf-8"), re.DOTALL
    ).groups()
    (tmp_path / "shown.py").write_text(code, "utf-8")
    runpy.run_path(str(tmp_path / "shown.py"))
    assert capsys.readouterr().out == output
    order = re.findall(r"^\| `(\w+)` \|", page.read_text("utf-8"), re.MULTILINE)
    assert order == ["allowed", *ORDER]
