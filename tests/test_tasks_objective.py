"""Examples of a task as what a run trains for: order, loss, figures, fingerprint."""

import numpy as np
import pytest

from minillm import no_grad
from minillm.data.order import AlikeInLength, Order
from minillm.tasks import heads
from minillm.tasks.examples import Labelled, Question, Tagged
from minillm.tasks.kinds import TASKS
from minillm.tasks.objective import LabelledExamples
from small_tasks import LABELS, folder

EXAMPLES = {
    "classify": [
        Labelled(0, "bad film", "no"),
        Labelled(1, "the film", "perhaps"),
        Labelled(2, "a good film , it was good", "yes"),
        Labelled(3, "it was bad", "no"),
        Labelled(4, "it was the film", "perhaps"),
        Labelled(5, "good", "yes"),
    ],
    "tag": [
        Tagged(1, ["Pariss", "a", "tower"], ["B-place", "O", "B-thing"]),
        Tagged(2, ["the"], ["O"]),
        Tagged(3, ["ab", "rome", "b", "c"], ["O", "B-place", "I-place", "O"]),
    ],
    "qa": [
        Question(1, "who ?", "it was a tower in paris", ("a tower",), (7,)),
        Question(2, "who built it ?", "a b", ("b",), (2,)),
    ],
}


@pytest.fixture(scope="module")
def ready(tmp_path_factory):
    top = tmp_path_factory.mktemp("tasks")
    return {name: heads.load(task, folder(top / name, name)) for name, task in TASKS.items()}


def objective(made, batch=2, **changes):
    name = made.task.name
    parts = {"train": EXAMPLES[name], "val": EXAMPLES[name]} | changes
    return LabelledExamples(
        made.task, made.encoding, LABELS[name], parts["train"], parts["val"], batch=batch, seed=4
    )


def log_softmax(x):
    return x - np.log(np.exp(x).sum(axis=-1, keepdims=True))


@pytest.mark.parametrize("name", TASKS)
def test_the_loss_is_the_sum_over_targets_and_the_metrics_those_of_predictions(ready, name):
    made = ready[name]
    goal = objective(made, batch=len(EXAMPLES[name]))
    batch = goal.batch(0, len(EXAMPLES[name]))
    ids, mask, segments = batch.given
    with no_grad():
        logits = made.model(ids, mask, segments).numpy().astype(np.float64)
    if name == "qa":
        logits = logits.transpose(0, 2, 1)
    chosen = batch.targets != -100
    nats = -log_softmax(logits)[chosen, :][np.arange(chosen.sum()), batch.targets[chosen]].sum()
    assert goal.loss(made.model, batch).item() == pytest.approx(nats, rel=1e-5)
    assert goal.targets(batch) == {"classify": 6, "tag": 8, "qa": 4}[name]
    assert goal.tokens(batch) == mask.sum() == sum(len(row.ids) for row in goal.rows)
    measured = goal.evaluate(made.model, None)
    if name != "qa":  # whose logits of padding belong to its loss
        assert measured["val_loss"] == pytest.approx(nats / goal.targets(batch), rel=1e-5)
    predictions, _ = made.predict([made.task.input(one) for one in EXAMPLES[name]])
    for metric, value in made.task.metrics(EXAMPLES[name], predictions).items():
        assert measured[f"val_{metric}"] == value.value
    assert goal.best.metric in measured and goal.best.highest
    assert goal.sample(made.model, 8) is None
    assert isinstance(goal.excerpt(batch), str) and goal.excerpt(batch)


def test_fewer_are_spread_over_all(ready):
    made, seen = ready["classify"], []
    goal = objective(made)
    measure = made.task.metrics
    made.task.metrics = lambda chosen, found: seen.append(chosen) or measure(chosen, found)
    try:
        goal.evaluate(made.model, 3)
        goal.evaluate(made.model, 99)
    finally:
        del made.task.metrics
    assert [[example.line for example in chosen] for chosen in seen] == [
        [0, 2, 4],
        [0, 1, 2, 3, 4, 5],
    ]


def test_batches_are_a_function_of_seed_and_sample_number(ready):
    one, other = objective(ready["tag"]), objective(ready["tag"])
    later = [one.batch(start, 2) for start in (0, 2, 4)][2]
    again = other.batch(4, 2)
    assert np.array_equal(later.given.ids, again.given.ids)
    assert np.array_equal(later.targets, again.targets)


def test_other_data_have_another_fingerprint(ready):
    made = ready["classify"]
    some = EXAMPLES["classify"]
    found = {
        objective(made, train=train, val=val).fingerprint
        for train, val in [(some, some), (some[:5], some), (some, some[:5]), (some[::-1], some)]
    }
    assert len(found) == 4
    assert objective(made).fingerprint == objective(made).fingerprint


class TestAlikeInLength:
    LENGTHS = np.random.default_rng(0).integers(1, 60, 301)

    def epochs(self, batch, count=3, seed=1):
        order = AlikeInLength(self.LENGTHS, batch, seed)
        return order, [order.samples(e * 301, 301) for e in range(count)]

    @pytest.mark.parametrize("batch", [1, 8, 32, 500])
    def test_every_epoch_is_a_permutation_of_its_own(self, batch):
        _, epochs = self.epochs(batch)
        assert all(sorted(epoch) == list(range(301)) for epoch in epochs)
        assert not np.array_equal(epochs[0], epochs[1])
        again = AlikeInLength(self.LENGTHS, batch, 1)
        assert np.array_equal(again.samples(602, 301), epochs[2])
        assert np.array_equal(again.samples(0, 301), epochs[0])
        assert not np.array_equal(AlikeInLength(self.LENGTHS, batch, 2).samples(0, 301), epochs[0])

    def test_little_of_a_batch_is_padding(self):
        order, plain = AlikeInLength(self.LENGTHS, 8, 1), Order(301, 1)

        def padding(made):
            batches = [self.LENGTHS[made.samples(k * 8, 8)] for k in range(100)]
            return 1 - sum(b.sum() for b in batches) / sum(8 * b.max() for b in batches)

        assert padding(order) < 0.12 < 0.4 < padding(plain)

    def test_batches_do_not_come_by_length(self):
        order = AlikeInLength(self.LENGTHS, 8, 1)
        means = [self.LENGTHS[order.samples(k * 8, 8)].mean() for k in range(301 * 5)]
        places = np.arange(301 * 5) * 8 % 301
        assert abs(np.corrcoef(means, places)[0, 1]) < 0.1


def test_a_model_learns_the_examples_of_each_task(ready):
    from minillm.optim import AdamW

    for name, made in ready.items():
        goal = objective(made)
        model = load_model_again(made).train()
        optimiser = AdamW(model.parameters(), lr=0.02, weight_decay=0.0)
        for step in range(150):
            batch = goal.batch(2 * step, 2)
            optimiser.zero_grad()
            loss = goal.loss(model, batch)
            loss.backward(np.asarray(1 / goal.targets(batch), loss.dtype))
            optimiser.step()
        measured = goal.evaluate(model.eval(), None)
        assert measured[goal.best.metric] == 1, name


def load_model_again(made):
    from minillm.models import FAMILIES

    model = FAMILIES["bert"].model(made.model.config, seed=0)
    model.load_state_dict(made.model.state_dict())
    return model
