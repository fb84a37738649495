"""Adapters made here, opened by peft: the same logits."""

import numpy as np
import pytest

from minillm.models import adapter
from minillm.models.folder import logits_of, save_model
from minillm.training import methods
from small_encoders import small as small_encoder
from small_gpt2 import small as small_gpt2
from small_llama import small as small_llama

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
peft = pytest.importorskip("peft")

IDS = np.array([[1, 5, 2, 7, 0]])


@pytest.mark.parametrize("rslora", [False, True])
@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_an_adapter_made_here_gives_the_same_logits_in_peft(tmp_path, family, rslora):
    model = small_llama("llama") if family == "llama" else small_gpt2()
    save_model(tmp_path / "base", model)
    base = logits_of(model)(IDS)
    lora = adapter.Lora(rank=3, alpha=5.0, rslora=rslora)
    adapter.attach(model, lora, seed=1)
    rng = np.random.default_rng(0)
    for _, layer in adapter.adapted(model):
        layer.lora_B.data[...] = rng.normal(size=layer.lora_B.shape)
    found = logits_of(model)(IDS)
    adapter.save(tmp_path / "adapter", model, lora, str(tmp_path / "base"), base)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    theirs = peft.PeftModel.from_pretrained(theirs, tmp_path / "adapter").eval()
    with torch.no_grad():
        right = theirs(torch.tensor(IDS)).logits.numpy()
    np.testing.assert_allclose(found, right, atol=1e-5 * np.abs(right).max())
    assert np.abs(found - base).max() > 0.1


@pytest.mark.parametrize(
    ("kind", "task"),
    [
        ("bert", "SequenceClassification"),
        ("bert", "TokenClassification"),
        ("bert", "QuestionAnswering"),
        ("roberta", "SequenceClassification"),
        ("distilbert", "SequenceClassification"),
    ],
)
def test_an_adapted_encoder_and_its_head_give_the_same_in_peft(tmp_path, kind, task):
    model = small_encoder(kind, f"For{task}", max_position_embeddings=24)
    save_model(tmp_path / "base", model)
    lora = adapter.Lora(rank=3, alpha=5.0)
    methods.train_beside(model, lora, 1)
    rng = np.random.default_rng(0)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data[...] = rng.normal(0, 0.3, parameter.shape)
    found = model.eval()(IDS).numpy()
    adapter.save(tmp_path / "adapter", model, lora, str(tmp_path / "base"), None)
    theirs = getattr(transformers, f"AutoModelFor{task}").from_pretrained(tmp_path / "base")
    theirs = peft.PeftModel.from_pretrained(theirs, tmp_path / "adapter").eval()
    with torch.no_grad():
        out = theirs(torch.tensor(IDS))
    spans = [out.get("start_logits"), out.get("end_logits")]
    right = (torch.stack(spans, -1) if task == "QuestionAnswering" else out.logits).numpy()
    np.testing.assert_allclose(found, right, atol=1e-5 * np.abs(right).max())
