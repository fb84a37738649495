"""Search against transformers: random small models, beam search in every setting."""

import itertools

import numpy as np
import pytest

from minillm.generation import Reader
from minillm.generation.beams import beam_search
from minillm.generation.contrastive import contrastive_search
from minillm.models import FAMILIES
from minillm.models.folder import load_model

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytest.importorskip("safetensors.torch")  # before float32 means something else
torch.set_num_threads(1)

V = 31
SIZES = {
    "gpt2": {"vocab_size": V, "n_positions": 40, "n_embd": 24, "n_layer": 2, "n_head": 3},
    "llama": {"vocab_size": V, "hidden_size": 24, "intermediate_size": 20, "num_hidden_layers": 2,
              "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 40},
    "t5": {"vocab_size": V, "d_model": 24, "d_kv": 6, "d_ff": 20, "num_layers": 2, "num_heads": 4,
           "decoder_start_token_id": 0, "dropout_rate": 0.0},
}  # fmt: skip
PENALTIES = (-1.0, 0.0, 0.6, 1.0, 2.5)
EARLY = (False, True, "never")
PROMPT = [3, 17, 4, 25, 9]


def made(folder, kind, seed):
    """transformers' model with large random weights, and ours from the same files."""
    torch.manual_seed(seed)
    config = transformers.AutoConfig.for_model(kind, **SIZES[kind], eos_token_id=None)
    auto = transformers.AutoModelForSeq2SeqLM if kind == "t5" else transformers.AutoModelForCausalLM
    theirs = auto.from_config(config).eval()
    with torch.no_grad():
        for name, weight in theirs.named_parameters():
            weight.normal_(0, 0.35) if weight.ndim > 1 else weight.uniform_(0.5, 1.5)
            if weight.ndim == 1 and name.endswith("bias"):
                weight.normal_(0, 0.3)
    theirs.generation_config = transformers.GenerationConfig()
    theirs.save_pretrained(folder)
    return theirs, Reader(load_model(folder))


def generated(theirs, kind, **options):
    start = {"decoder_start_token_id": 0} if kind == "t5" else {}
    with torch.no_grad():
        return theirs.generate(
            torch.tensor([PROMPT]), attention_mask=torch.ones(1, len(PROMPT), dtype=torch.long),
            do_sample=False, output_scores=True, return_dict_in_generate=True, pad_token_id=V,
            **start, **options,
        )  # fmt: skip


def ids_of(sequence, kind):
    ids = sequence.tolist()[1 if kind == "t5" else len(PROMPT) :]
    return ids[: ids.index(V)] if V in ids else ids


@pytest.mark.parametrize("seed", range(4))  # each takes a fourth of the settings
@pytest.mark.parametrize("kind", SIZES)
def test_beam_search_equals_generate(tmp_path, kind, seed):
    assert kind in FAMILIES
    theirs, reader = made(tmp_path, kind, seed)
    prompt, source = ([], PROMPT) if kind == "t5" else (PROMPT, None)
    lengths, unfinished = set(), 0
    settings = itertools.product((2, 3, 7), EARLY, PENALTIES, ([5], [2, 11, 23], list(range(8))))
    for beams, early, penalty, ends in itertools.islice(settings, seed, None, 4):
        right = generated(
            theirs, kind, num_beams=beams, num_return_sequences=beams, max_new_tokens=9,
            length_penalty=penalty, early_stopping=early, eos_token_id=ends,
        )  # fmt: skip
        got = beam_search(
            reader, prompt, source=source, beams=beams, n=beams, max_tokens=9, ends=ends,
            length_penalty=penalty, early_stopping=early,
        )  # fmt: skip
        assert [text.ids for text in got] == [ids_of(ids, kind) for ids in right.sequences]
        scores = right.sequences_scores.numpy()
        np.testing.assert_allclose([text.score for text in got], scores, rtol=1e-4, atol=1e-5)
        lengths |= {len(text.ids) for text in got}
        unfinished += sum(not text.finished for text in got)
    assert len(lengths) > 3 and unfinished > 5


def contrastive(theirs, kind, count, alpha, top_k):
    """By the formula of Su et al. 2022, from transformers' logits and last hidden states."""

    def read(texts):
        with torch.no_grad():
            if kind == "t5":
                sources = torch.tensor([PROMPT] * len(texts))
                out = theirs(sources, decoder_input_ids=texts, output_hidden_states=True)
                return out.logits, out.decoder_hidden_states[-1]
            out = theirs(texts, output_hidden_states=True)
            return out.logits, out.hidden_states[-1]

    text = torch.tensor([[0] if kind == "t5" else PROMPT])
    length = text.shape[1]
    for _ in range(count):
        logits, hidden = read(text)
        probabilities, ids = logits[0, -1].softmax(0).topk(top_k)
        _, states = read(torch.cat((text.repeat(top_k, 1), ids[:, None]), 1))
        cosines = torch.cosine_similarity(states[:, -1:], hidden, dim=2).max(1).values
        best = ((1 - alpha) * probabilities - alpha * cosines).argmax()
        text = torch.cat((text, ids[best][None, None]), 1)
    return text[0, length:].tolist()


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("kind", SIZES)
def test_contrastive_search_equals_the_formula(tmp_path, kind, seed):
    theirs, reader = made(tmp_path, kind, seed)
    prompt, source = ([], PROMPT) if kind == "t5" else (PROMPT, None)
    for alpha, top_k in ((0.6, 4), (0.2, 7), (0.9, 3)):
        ids = contrastive_search(
            reader, prompt, source=source, alpha=alpha, top_k=top_k, max_tokens=20
        )
        assert list(ids) == contrastive(theirs, kind, 20, alpha, top_k)
