"""`minillm train --objective translate`: what is learnt, masks, smoothing, going on bit for bit."""

import numpy as np
import pytest

from minillm.arrays import new_generator
from minillm.formats import hf
from minillm.tasks.translation.decoding import open_translator
from minillm.tasks.translation.halving import Halving
from minillm.tasks.translation.objective import Translating
from minillm.tasks.translation.pairs import Pair
from minillm.training import metrics
from small_runs import minillm, result
from small_translation import PAIRS, model, tokenizer, written

LOOP = ("--objective", "translate", "--precision", "f32", "--threads", 1, "--layers", 1)
SMALL = ("--width", 32, "--heads", 2, "--vocab-size", 300, "--batch", 4)
EVERYTHING = [Pair(line, *row) for line, row in enumerate(PAIRS, 1)]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return written(tmp_path_factory.mktemp("pairs") / "pairs.tsv")


def objective(**options):
    defaults = {"batch": 4, "seed": 3}
    return Translating(tokenizer(), EVERYTHING, EVERYTHING[:5], **defaults | options)


def refused(capsys, *words):
    assert minillm(*words) == 2
    return capsys.readouterr().err.splitlines()[-1].removeprefix("minillm: ")


@pytest.mark.parametrize("family", ["transformer", "t5"])
def test_twenty_pairs_are_learnt_by_heart(tmp_path, family):
    path = written(tmp_path / "more.tsv", [*PAIRS, ("Never learnt.", "Jamais appris.")])
    words = ("--steps", 200, "--batch", 20, "--lr", 0.01, "--dropout", 0, "--subword-dropout", 0)
    words += ("--label-smoothing", 0, "--val-last", 1, "--eval-every", 200, *SMALL[:6])
    words += ("--family", family, "--optimizer", "muon" if family == "t5" else "adamw")
    assert minillm("train", path, *LOOP, *words, "--out", tmp_path / "run") == 0
    rows = metrics.read(tmp_path / "run" / "metrics.jsonl")
    assert rows[-1]["loss"] < 0.1 < 3 < rows[0]["loss"]
    assert {"val_loss", "val_chrf", "val_bleu"} <= rows[-1].keys()
    found = open_translator(tmp_path / "run")([source for source, _ in PAIRS])
    assert found == [(target, True) for _, target in PAIRS]


def test_what_is_validated_on_is_not_learnt_from(data, tmp_path, capsys):
    words = ("train", data, *LOOP, "--val", data, "--out", tmp_path / "none")
    told = "train: no pair to learn from, at least 1 whose source is not held out is needed"
    assert refused(capsys, *words) == told
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("family", ["transformer", "t5"])
def test_a_run_that_is_cut_goes_on_bit_for_bit(data, tmp_path, family):
    words = (
        data,
        *LOOP,
        *SMALL,
        "--family",
        family,
        "--steps",
        13,
        "--accumulate",
        2,
        "--eval-every",
        3,
    )
    words += ("--save-every", 4, "--val-last", 3)
    assert minillm("train", *words, "--out", tmp_path / "whole") == 0
    assert minillm("train", *words, "--out", tmp_path / "cut", "--stop-after", 5) == 0
    assert minillm("train", "--resume", tmp_path / "cut", "--stop-after", 8) == 0
    assert minillm("train", "--resume", tmp_path / "cut") == 0
    assert result(tmp_path / "cut") == result(tmp_path / "whole")
    assert minillm("task", "translate", tmp_path / "cut", "I am here.") == 0
    report = (tmp_path / "cut" / "report.html").read_text(encoding="utf-8")
    assert "minillm task translate" in report


class TestLoss:
    def test_padding_changes_nothing(self):
        """The loss of a batch is the sum of those of its pairs, each without padding."""
        goal, known = objective(), tokenizer()
        trained = model(known)
        together = goal.stacked(goal.rows)
        assert not together.mask.all() and (together.targets < 0).any()
        alone = [goal.loss(trained, goal.stacked([row])).item() for row in goal.rows]
        assert goal.loss(trained, together).item() == pytest.approx(sum(alone), rel=1e-5)
        wider = together._replace(
            ids=np.pad(together.ids, ((0, 0), (0, 5)), constant_values=7),
            mask=np.pad(together.mask, ((0, 0), (0, 5))),
            targets=np.pad(together.targets, ((0, 0), (0, 5)), constant_values=-100),
        )
        assert goal.loss(trained, wider).item() == pytest.approx(sum(alone), rel=1e-5)
        assert goal.targets(wider) == sum(len(target) for _, target in goal.rows)
        assert goal.tokens(wider) == sum(len(s) + len(t) for s, t in goal.rows)

    def test_the_end_token_is_learnt(self):
        goal, known = objective(), tokenizer()
        batch = goal.batch(0, 4)
        for row in batch.targets:
            used = row[row >= 0]
            assert used[-1] == known.eos_id and known.eos_id not in used[:-1]

    def test_label_smoothing_is_the_mixture_with_the_uniform_distribution(self):
        goal, trained = objective(label_smoothing=0.2), model(tokenizer())
        batch = goal.batch(0, 4)
        logits = trained(batch.ids, trained.shift_right(batch.targets), batch.mask).numpy()
        logs = logits.astype(np.float64)
        logs -= np.log(np.exp(logs).sum(axis=-1, keepdims=True))
        used = batch.targets >= 0
        of_target = np.take_along_axis(logs[used], batch.targets[used][:, None], axis=1)
        expected = -(0.8 * of_target.sum() + 0.2 * logs[used].mean(axis=1).sum())
        assert goal.loss(trained, batch).item() == pytest.approx(expected, rel=1e-5)
        plain = goal.evaluate(trained.eval(), 5)["val_loss"]
        other = objective().evaluate(trained, 5)["val_loss"]
        assert plain == other  # validation is not smoothed

    def test_a_token_is_not_seen_before_it_is_asked_for(self):
        goal, trained = objective(), model(tokenizer())
        batch = goal.batch(0, 4)
        inputs = trained.shift_right(batch.targets)
        before = trained(batch.ids, inputs, batch.mask).numpy()
        inputs[:, 3:] = 5
        after = trained(batch.ids, inputs, batch.mask).numpy()
        assert np.array_equal(before[:, :3], after[:, :3])
        assert not np.allclose(before[:, 3:], after[:, 3:])


class TestBatches:
    def test_they_are_a_function_of_the_seed_and_the_sample(self):
        one, two, other = (objective(subword_dropout=0.3, seed=seed) for seed in (3, 3, 4))
        two.batch(40, 4)  # whatever came before
        for first in (0, 8, 36):
            a, b = one.batch(first, 4), two.batch(first, 4)
            assert all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))
        assert any(
            not np.array_equal(one.batch(first, 4).ids, other.batch(first, 4).ids)
            for first in (0, 4)
        )

    def test_each_pair_once_in_a_pass(self):
        goal = objective()
        seen = [
            tuple(row[row >= 0].tolist())
            for first in range(0, 20, 4)
            for row in goal.batch(first, 4).targets
        ]
        assert sorted(seen) == sorted(tuple(target) for _, target in goal.rows)


class TestHalving:
    def test_the_text_stays_and_tokens_become_shorter(self):
        known = tokenizer(400)
        ids = [id for source, target in PAIRS for id in known.encode(f"{source} {target}", True)]
        halved = Halving(known, 0.5)(ids, new_generator(1))
        assert known.decode(halved) == known.decode(ids)
        assert len(halved) > len(ids)
        assert Halving(known, 0.0)(ids, new_generator(1)) == ids

    def test_each_merge_is_undone_as_often_as_asked(self):
        known = tokenizer(400)
        halving = Halving(known, 0.3)
        made = next(id for id, parts in halving.halves.items()
                    if not any(part in halving.halves for part in parts))  # fmt: skip
        found = halving([made] * 20_000, new_generator(0))
        undone = len(found) - 20_000
        assert abs(undone - 6000) < 4 * (20_000 * 0.3 * 0.7) ** 0.5

    def test_no_character_is_taken_apart(self):
        known = tokenizer(600, [("é全字é", "全字é" * 3)] * 9)
        ids = known.encode("é全字é")
        halved = Halving(known, 0.95)(ids, new_generator(2))
        assert all("\ufffd" not in known.decode([id]) for id in halved)
        assert known.decode(halved) == "é全字é"

    def test_what_is_refused(self, data, capsys, tmp_path):
        words = ("train", data, *LOOP, "--tokenizer", "unigram", "--out", tmp_path / "run")
        told = refused(capsys, *words)
        assert told == (
            "train: --subword-dropout 0.1 undoes merges, which --tokenizer unigram has not; add "
            "--subword-dropout 0"
        )


class TestSettings:
    def test_long_pairs_are_counted_and_left_out(self, tmp_path, capsys):
        rows = [*PAIRS, ("long " * 40, "b"), ("c", "lang " * 40)]
        path = written(tmp_path / "p.tsv", rows)
        words = (*LOOP, *SMALL, "--steps", 1, "--max-length", 30, "--val-fraction", 0)
        assert minillm("train", path, *words, "--out", tmp_path / "run") == 0
        err = capsys.readouterr().err
        assert "data: 2 pairs to learn from left out: longer than 30 tokens\n" in err
        kept = hf.read_json(tmp_path / "run" / "training" / "pairs.json")
        assert [one[1:] for one in kept["train"]] == [list(row) for row in PAIRS]

    def test_sources_held_out_are_not_learnt(self, tmp_path, capsys):
        rows = [("WHO is  here?", "x"), *PAIRS[:7]]
        path = written(tmp_path / "p.tsv", rows)
        words = (*LOOP, *SMALL, "--steps", 1, "--val-last", 2)
        assert minillm("train", path, *words, "--out", tmp_path / "run") == 0
        told = "data: 1 pair left out: the source is among those held out\n"
        assert told in capsys.readouterr().err

    @pytest.mark.parametrize(
        "words, told",
        [
            (("--passes", 2, "--steps", 3), "train: both --steps and --passes given, one of"),
            (("--val-last", 2, "--val-fraction", 0.2), "train: both --val-last and --val-fraction"),
            (("--heads", 3), "train: 3 heads do not divide the width 32"),
            (("--document-mask",), "train: --document-mask does not go with --objective translate"),
            (("--max-length", 3), "max-length: 3, but all 19 pairs to learn from are longer"),
            (("--columns", "source=en"), "read: "),
            (("--width", 65536, "--layers", 64), "train: about "),
            (("--label-smoothing", 1.0), "label-smoothing: 1.0, 0.95 or less is needed"),
        ],
    )
    def test_what_is_refused(self, data, tmp_path, capsys, words, told):
        out = tmp_path / "run"
        found = refused(capsys, "train", data, *LOOP, "--width", 32, "--out", out, *words)
        assert found.startswith(told)
        assert not out.exists()

    def test_options_of_pairs_go_with_pairs_only(self, data, tmp_path, capsys):
        found = refused(capsys, "train", data, "--val-last", 2, "--out", tmp_path / "run")
        assert found == "train: --val-last goes with --objective translate only; leave it out"

    def test_a_file_of_options_does_as_well(self, data, tmp_path):
        config = tmp_path / "c.toml"
        config.write_text(
            f'objective = "translate"\nfiles = {str(data)!r}\nout = {str(tmp_path / "run")!r}\n'
            "width = 32\nlayers = 1\nsteps = 2\nval-last = 2\nthreads = 1\nprecision = 'f32'\n",
            encoding="utf-8",
        )
        assert minillm("train", "--config", config) == 0
        assert open_translator(tmp_path / "run").model.config.n_layer == 1
