"""`minillm finetune --task --method lora`: adapters of encoders, merged and in PEFT's layout."""

import json

import numpy as np
import pytest

from minillm.formats import safetensors
from minillm.models import adapter, embedding
from minillm.models.folder import load_model
from minillm.models.lora import adapted, merged
from minillm.tasks import heads
from minillm.tasks.kinds import TASKS
from minillm.training import methods, metrics
from small_encoders import small
from small_runs import minillm, result
from small_tasks import folder

LOOP = ("--precision", "f32", "--threads", 1, "--batch", 4, "--method", "lora")
TEXTS = [("good", "a good film"), ("bad", "a bad film"), ("good", "the good"), ("bad", "bad a b")]
IDS = np.array([[2, 4, 5, 9, 3], [2, 6, 7, 3, 0]])
MASK = IDS != 0


@pytest.fixture(scope="module")
def given(tmp_path_factory):
    top = tmp_path_factory.mktemp("lora")
    rows = "".join(f"{label}\t{text}\n" for label, text in TEXTS)
    (top / "texts.tsv").write_text("label\ttext\n" + rows, encoding="utf-8")
    pairs = "first\tsecond\na b\tgood film\nb c\tbad tower\nc d\tparis\n"
    (top / "pairs.tsv").write_text(pairs, encoding="utf-8")
    return top, folder(top / "base", hidden_dropout_prob=0.1)


def tune(given, task, out, *words):
    data = {"embed": "pairs.tsv"}.get(task, "texts.tsv")
    words = ("--task", task, "--out", out, *LOOP, *words)
    return minillm("finetune", given[1], given[0] / data, *words)


def trained(kind, task, rank=3):
    """A model with adapters whose matrices hold noise."""
    model = small(kind, task, max_position_embeddings=24)
    methods.train_beside(model, adapter.Lora(rank, 6.0), 1)
    generator = np.random.default_rng(0)
    for _, layer in adapted(model):
        layer.lora_B.data = generator.normal(0, 0.2, layer.lora_B.shape).astype(np.float32)
    return model.eval()


@pytest.mark.parametrize("kind", ["bert", "roberta", "distilbert"])
def test_merged_weights_give_what_the_adapters_give(kind):
    model = trained(kind, "ForSequenceClassification")
    before = model.features(IDS, MASK).numpy()
    state = {name: array.copy() for name, array in model.state_dict().items()}
    with merged(model):
        assert not list(adapted(model))
        whole = model.features(IDS, MASK).numpy()
    np.testing.assert_allclose(whole, before, rtol=0, atol=2e-6)
    after = model.state_dict()
    assert after.keys() == state.keys()
    assert all(np.array_equal(after[name], state[name]) for name in state)
    for _, layer in adapted(model):
        layer.lora_B.data = np.zeros_like(layer.lora_B.data)
    assert np.abs(model.features(IDS, MASK).numpy() - before).max() > 1e-3  # they do something


@pytest.mark.parametrize(
    ("kind", "task", "parts"),
    [
        ("bert", "ForSequenceClassification", ["classifier", "pooler"]),
        ("bert", "ForTokenClassification", ["classifier"]),
        ("bert", "ForQuestionAnswering", ["qa_outputs"]),
        ("bert", "Model", None),
        ("roberta", "ForSequenceClassification", ["classifier"]),
        ("distilbert", "ForSequenceClassification", ["classifier", "pre_classifier"]),
    ],
)
def test_the_files_are_those_of_peft(tmp_path, kind, task, parts):
    model = trained(kind, task) if task != "Model" else without_pooler(kind)
    adapter.save(tmp_path, model, adapter.Lora(3, 6.0), "base", None)
    content = json.loads((tmp_path / "adapter_config.json").read_text(encoding="utf-8"))
    assert content["modules_to_save"] == parts
    assert content["r"] == 3 and content["lora_alpha"] == 6.0
    arrays, _ = safetensors.read(tmp_path / "adapter_model.safetensors")
    names = {name.removeprefix("base_model.model.") for name in arrays}
    lora = {name for name in names if ".lora_" in name}
    assert {name.rpartition(".lora_")[0].rpartition(".")[2] for name in lora} == set(
        content["target_modules"]
    )
    head = names - lora
    for name in head:
        assert any(part in name.split(".") for part in parts)
    assert bool(head) == (parts is not None)
    if kind == "bert" and task == "ForSequenceClassification":
        first = "bert.encoder.layer.0.attention.self.query"
        assert f"{first}.lora_A.weight" in lora
        layer = model.layers[0].joint
        width = layer.weight.shape[1]
        b = arrays[f"base_model.model.{first.replace('query', 'value')}.lora_B.weight"]
        np.testing.assert_array_equal(b, layer.lora_B.numpy()[2 * width :])
        assert "bert.pooler.dense.weight" in head and "classifier.bias" in head


def without_pooler(kind):
    model = small(kind, "Model", max_position_embeddings=24, add_pooling_layer=False)
    methods.train_beside(model, adapter.Lora(3, 6.0), 1)
    return model


def test_a_run_learns_and_leaves_a_whole_model_and_its_adapter(given, tmp_path, capsys):
    words = ("--lr", 0.02, "--steps", 60, "--val", given[0] / "texts.tsv", "--dropout", 0)
    assert tune(given, "classify", tmp_path / "run", *words, "--rank", 4) == 0
    rows = metrics.read(tmp_path / "run" / "metrics.jsonl")
    assert max(row.get("val_accuracy", 0) for row in rows) == 1
    ready = heads.load(TASKS["classify"], tmp_path / "run")
    predictions, _ = ready.predict([text for _, text in TEXTS])
    assert [one.label for one in predictions] == [label for label, _ in TEXTS]
    before = heads.with_new_head(TASKS["classify"], given[1], ("bad", "good"), 0).state_dict()
    after = load_model(tmp_path / "run").state_dict()
    moved = {name for name, array in after.items() if not np.array_equal(array, before[name])}
    assert not any("embeddings" in name or "norm" in name for name in moved)
    assert any("layers.0.joint.weight" in name for name in moved)
    assert all(name.endswith("weight") for name in moved if name.startswith("layers"))
    arrays, _ = safetensors.read(tmp_path / "run" / "adapter" / "adapter_model.safetensors")
    first = "base_model.model.bert.encoder.layer.0.output.dense"
    a, b = (arrays[f"{first}.lora_{one}.weight"] for one in "AB")
    delta = (
        after["layers.0.feed_forward.second.weight"] - before["layers.0.feed_forward.second.weight"]
    )
    np.testing.assert_allclose(delta, 16 / 4 * b @ a, atol=1e-6)
    assert "of them trained (lora)" in capsys.readouterr().err


def test_an_adapter_of_vectors_goes_beside_its_base(given, tmp_path):
    words = ("--lr", 0.01, "--steps", 10, "--val-fraction", 0)
    assert tune(given, "embed", tmp_path / "run", *words) == 0
    texts = ["a b", "good film", "paris"]
    whole = embedding.load(tmp_path / "run").encode(texts)
    base = embedding.load(given[1])
    assert np.abs(base.encode(texts) - whole).max() > 1e-4
    adapter.load(base.model, tmp_path / "run" / "adapter")
    np.testing.assert_allclose(base.encode(texts), whole, atol=1e-5)


@pytest.mark.parametrize("task", ["classify", "embed"])
def test_a_run_that_is_cut_goes_on_bit_for_bit(given, tmp_path, task):
    words = ("--steps", 9, "--accumulate", 2, "--eval-every", 3, "--save-every", 4)
    words += ("--val-fraction", 0.3, "--lora-dropout", 0.2, "--rslora")
    assert tune(given, task, tmp_path / "whole", *words) == 0
    assert tune(given, task, tmp_path / "cut", *words, "--stop-after", 5) == 0
    assert minillm("finetune", "--resume", tmp_path / "cut") == 0
    assert result(tmp_path / "cut") == result(tmp_path / "whole")


def test_what_goes_with_lora_only_is_refused_elsewhere(given, tmp_path, capsys):
    words = ("--task", "classify", "--out", tmp_path / "run", "--rank", 4)
    assert minillm("finetune", given[1], given[0] / "texts.tsv", *words) == 2
    assert "--rank goes with --method lora only" in capsys.readouterr().err
    assert tune(given, "classify", tmp_path / "run", "--targets", "query,nothing") == 2
    assert "lora: no layer is called 'nothing', some of dense," in capsys.readouterr().err
