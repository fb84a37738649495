"""`minillm finetune --task embed`: the losses by their formulas, runs that learn and go on."""

import json

import numpy as np
import pytest

from minillm.formats import hf
from minillm.models import embedding
from minillm.models.folder import load_model
from minillm.tasks.contrast import Likeness, PairedTexts, scale_of
from minillm.tasks.parts import shared
from minillm.tasks.similarity import Pair
from minillm.training import metrics
from small_runs import minillm, result
from small_tasks import folder

LOOP = ("--precision", "f32", "--threads", 1, "--batch", 4)
PAIRS = [
    ("a b", "good film"),
    ("b c", "bad tower"),
    ("c d", "built in paris"),
    ("d e", "who was it"),
    ("e f", "the eiffel ."),
    ("f g", "1889 ?"),
    ("g h", "rome or"),
    ("h a", "film , film"),
]


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return folder(tmp_path_factory.mktemp("contrast") / "base", hidden_dropout_prob=0.0)


def pairs(scores=None, negatives=None):
    n = len(PAIRS)
    columns = zip(PAIRS, scores or [None] * n, negatives or [None] * n, strict=True)
    return [Pair(k, *texts, score, text) for k, (texts, score, text) in enumerate(columns, 1)]


def goal(base, train, batch=4, **options):
    return PairedTexts(embedding.load(base), train, [], batch=batch, seed=0, **options)


def vectors(objective, texts):
    """Of length 1, one text at a time, in float64."""
    found = [objective.embedder.encode([text])[0].astype(np.float64) for text in texts]
    return np.array([vector / np.linalg.norm(vector) for vector in found])


def info_nce(first, candidates, allowed, temperature):
    """- log of the share of exp(cosine / t) that the own second text has, summed."""
    logits = np.where(allowed, first @ candidates.T / temperature, -np.inf)
    own = logits[np.arange(len(first)), np.arange(len(first))]
    return float((np.log(np.exp(logits).sum(axis=1)) - own).sum())


def test_either_text_of_a_pair_can_be_on_both_sides():
    one, equal, other = Pair(1, "a", "b", None), Pair(2, "b", "c", None), Pair(3, "a c", "d", None)
    assert shared(Likeness(), [one], [equal, other, Pair(4, "e", "b", None)]) == 2


def test_the_loss_is_that_of_info_nce(base):
    objective = goal(base, pairs(), temperature=0.1)
    batch = objective.batch(0, 4)
    chosen = [PAIRS[k] for k in objective.order.samples(0, 4)]
    first, second = (vectors(objective, texts) for texts in zip(*chosen, strict=True))
    right = info_nce(first, second, np.ones((4, 4), bool), 0.1)
    assert objective.targets(batch) == 4
    assert objective.loss(objective.embedder.model, batch).item() == pytest.approx(right, rel=1e-5)


def test_a_hard_negative_is_one_more_candidate(base):
    negatives = [f"{first} tower" for first, _ in PAIRS]
    objective = goal(base, pairs(negatives=negatives))
    batch = objective.batch(0, 4)
    places = objective.order.samples(0, 4)
    first, second = (vectors(objective, [PAIRS[k][side] for k in places]) for side in (0, 1))
    candidates = np.concatenate([second, vectors(objective, [negatives[k] for k in places])])
    right = info_nce(first, candidates, np.ones((4, 8), bool), 0.05)
    assert objective.loss(objective.embedder.model, batch).item() == pytest.approx(right, rel=1e-5)


def test_what_belongs_to_an_equal_text_is_no_negative(base):
    train = [
        Pair(1, "a", "good", None),
        Pair(2, "b", "good", None),  # the same second text
        Pair(3, "a", "bad", None),  # the same first text
        Pair(4, "c", "film", None),
    ]
    objective = goal(base, train)
    batch = objective.batch(0, 4)
    places = objective.order.samples(0, 4).tolist()
    first, second = (vectors(objective, [train[k][side] for k in places]) for side in (1, 2))
    alike = {0: {0}, 1: {1}, 2: {2}, 3: {3}}
    alike[0] |= {1, 2}
    alike[1] |= {0}
    alike[2] |= {0, 1}
    allowed = np.array([[b == a or b not in alike[a] for b in places] for a in places])
    right = info_nce(first, second, allowed, 0.05)
    assert objective.loss(objective.embedder.model, batch).item() == pytest.approx(right, rel=1e-5)


def test_scores_are_learnt_as_cosines(base):
    scores = [0.5 * k for k in range(len(PAIRS))]  # at most 3.5: divided by it
    objective = goal(base, pairs(scores=scores))
    batch = objective.batch(0, 4)
    places = objective.order.samples(0, 4)
    first, second = (vectors(objective, [PAIRS[k][side] for k in places]) for side in (0, 1))
    wanted = np.array([scores[k] for k in places]) / 3.5
    right = (((first * second).sum(axis=1) - wanted) ** 2).sum()
    assert objective.loss(objective.embedder.model, batch).item() == pytest.approx(right, rel=1e-5)


def test_scores_that_can_be_cosines_stay_as_they_are():
    assert scale_of([-1, 0.5, 1]) == 1
    assert scale_of([0, 5]) == 5
    for scores, told in (([-1, 5], "from -1 to 5"), ([-3, 0], "from -3 to 0")):
        with pytest.raises(ValueError, match=f"embed: scores {told}, -1 to 1 or 0 to any"):
            scale_of(scores)


@pytest.mark.parametrize("scores", [None, [0, 1, 0.5, 0.25, 0, 1, 1, 0.5]])
def test_the_gradient_is_that_of_finite_differences(base, scores):
    objective = goal(base, pairs(scores=scores), temperature=0.2)
    model = objective.embedder.model
    for parameter in model.parameters():
        parameter.data = parameter.data.astype(np.float64)
    batch = objective.batch(0, 4)
    if scores is not None:
        batch = batch._replace(scores=batch.scores.astype(np.float64))
    objective.loss(model, batch).backward()
    weight = model.layers[0].joint.weight
    for place in ((0, 0), (3, 1), (9, 4)):
        values = []
        for step in (1e-5, -1e-5):
            moved = weight.data.copy()
            moved[place] += step
            kept, weight.data = weight.data, moved
            values.append(objective.loss(model, batch).item())
            weight.data = kept
        slope = (values[0] - values[1]) / 2e-5
        assert weight.grad.numpy()[place] == pytest.approx(slope, rel=1e-5, abs=1e-8)


def write(path, rows=PAIRS, header="first\tsecond"):
    lines = ["\t".join(map(str, row)) for row in rows]
    path.write_text("\n".join([header, *lines]) + "\n", encoding="utf-8")
    return path


def tune(base, data, out, *words):
    return minillm("finetune", base, data, "--task", "embed", "--out", out, *LOOP, *words)


def test_a_run_learns_which_texts_belong_together(base, tmp_path, capsys):
    data = write(tmp_path / "pairs.tsv")
    words = ("--lr", 0.005, "--steps", 120, "--val", data, "--eval-every", 20, "--batch", 8)
    assert tune(base, data, tmp_path / "run", *words) == 0
    assert f"  minillm task embed {tmp_path / 'run'} " in capsys.readouterr().err
    rows = metrics.read(tmp_path / "run" / "metrics.jsonl")
    assert max(row.get("val_mrr", 0) for row in rows) == 1
    before, after = (embedding.load(place) for place in (base, tmp_path / "run"))
    a, b = (list(texts) for texts in zip(*PAIRS, strict=True))
    found = (after.encode(a) @ after.encode(b).T).argmax(axis=1)
    assert found.tolist() == list(range(len(PAIRS)))
    assert (before.encode(a) @ before.encode(b).T).argmax(axis=1).tolist() != found.tolist()
    words = ("--task", "embed", "--data", data, "--json")
    assert minillm("eval", tmp_path / "run", *words, "--resamples", 10) == 0
    [found] = json.loads(capsys.readouterr().out)["sets"]
    assert found["metrics"]["mrr"]["value"] == 1


@pytest.mark.parametrize("kind", ["pairs", "negatives", "scores"])
def test_a_run_that_is_cut_goes_on_bit_for_bit(base, tmp_path, capsys, kind):
    header = "first\tsecond" + {"pairs": "", "negatives": "\tnegative", "scores": "\tscore"}[kind]
    extra = {"pairs": [()], "negatives": [("rome",), ("paris",)], "scores": [(0,), (1,), (0.5,)]}
    rows = [(*row, *extra[kind][k % len(extra[kind])]) for k, row in enumerate(PAIRS)]
    data = write(tmp_path / "data.tsv", rows, header)
    words = ("--steps", 11, "--accumulate", 2, "--eval-every", 3, "--save-every", 4)
    words += ("--val-last", 3, "--dropout", 0.1)
    assert tune(base, data, tmp_path / "whole", *words) == 0
    assert tune(base, data, tmp_path / "cut", *words, "--stop-after", 5) == 0
    assert minillm("finetune", "--resume", tmp_path / "cut") == 0
    assert result(tmp_path / "cut") == result(tmp_path / "whole")
    assert "resumed" in capsys.readouterr().err


def test_the_folder_says_how_vectors_are_made(base, tmp_path):
    place = folder(tmp_path / "asked")
    hf.write_json(place / "sentence_bert_config.json", {"max_seq_length": 7, "do_lower_case": True})
    (place / "1_Pooling").mkdir()
    hf.write_json(place / "1_Pooling" / "config.json", {"pooling_mode_cls_token": True})
    prompts = {"prompts": {"query": "the "}, "default_prompt_name": "query"}
    hf.write_json(place / "config_sentence_transformers.json", prompts)
    data = write(tmp_path / "pairs.tsv")
    assert tune(place, data, tmp_path / "run", "--steps", 1, "--max-length", 6) == 0
    made, given = embedding.load(tmp_path / "run"), embedding.load(place)
    assert made.modes == given.modes == ("cls", "mean")
    assert (made.max_length, made.lowercase, made.prompt) == (6, True, "the ")
    assert made.normalize is given.normalize is True
    modules = hf.read_json(tmp_path / "run" / "modules.json", list)
    assert [module["type"].rpartition(".")[2] for module in modules] == [
        "Transformer",
        "Pooling",
        "Normalize",
    ]
    assert hf.read_json(tmp_path / "run" / "1_Pooling" / "config.json") == {
        "word_embedding_dimension": made.dimensions,
        "pooling_mode_cls_token": True,
        "pooling_mode_max_tokens": False,
        "pooling_mode_mean_tokens": True,
        "pooling_mode_mean_sqrt_len_tokens": False,
    }


@pytest.mark.parametrize("method", ["full", "last-n", "lora"])
def test_a_pooler_that_nothing_reads_stays_as_it_is(base, tmp_path, method):
    data = write(tmp_path / "pairs.tsv")
    assert tune(base, data, tmp_path / "run", "--steps", 2, "--method", method) == 0
    before, after = (load_model(place).state_dict() for place in (base, tmp_path / "run"))
    moved = {name for name in before if not np.array_equal(before[name], after[name])}
    assert moved and not any(name.startswith("pooler") for name in moved)
    assert before.keys() == after.keys() and "pooler.weight" in before
    assert minillm("info", tmp_path / "run") == 0


@pytest.mark.parametrize(
    "rows, words, told",
    [
        ([("a", "b"), ("c", "b")], (), "all 2 pairs have the second text 'b', at least 2 differ"),
        (PAIRS, ("--batch", 1), "a batch of 1 pair has no other second text to tell its own from"),
        (PAIRS, ("--method", "head"), "--method head trains what comes after the blocks, vectors"),
        (PAIRS, ("--cloze", 2), "--cloze 2 goes with --task qa only"),
    ],
)
def test_what_cannot_be_tuned_is_refused(base, tmp_path, capsys, rows, words, told):
    data = write(tmp_path / "pairs.tsv", rows)
    words = ("--val-fraction", 0, "--steps", 1, *words)
    assert tune(base, data, tmp_path / "run", *words) == 2
    assert told in capsys.readouterr().err.splitlines()[-1]
    assert not (tmp_path / "run").exists()


def test_a_temperature_has_no_use_where_scores_are_learnt(base, tmp_path, capsys):
    rows = [(*row, 1) for row in PAIRS]
    scored = write(tmp_path / "scored.tsv", rows, "first\tsecond\tscore")
    words = ("--val-fraction", 0, "--steps", 1, "--temperature", 0.2)
    assert tune(base, scored, tmp_path / "run", *words) == 2
    assert "minillm: temperature: 0.2 with a column score" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
    assert minillm("finetune", base, scored, "--out", tmp_path / "run") == 2
    assert "name what an encoder is to do with --task" in capsys.readouterr().err


def test_pairs_to_validate_on_are_of_the_same_kind(base, tmp_path, capsys):
    data = write(tmp_path / "pairs.tsv")
    rows = [(*row, 1) for row in PAIRS]
    scored = write(tmp_path / "scored.tsv", rows, "first\tsecond\tscore")
    for train, val in ((data, scored), (scored, data)):
        assert tune(base, train, tmp_path / "run", "--val", val, "--steps", 1) == 2
        assert "embed: pairs with and without score" in capsys.readouterr().err


def test_files_of_two_kinds_do_not_mix():
    with pytest.raises(ValueError, match="embed: pairs with and without score or negative"):
        Likeness().labels([*pairs(), *pairs(scores=[1] * len(PAIRS))])
