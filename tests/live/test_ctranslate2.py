"""CTranslate2 folders against CTranslate2: models it wrote, scored by it."""

import json

import numpy as np
import pytest

from minillm import no_grad
from minillm.formats import ctranslate2 as ours
from minillm.generation.encoder_decoder import generate_ids
from minillm.models.transformer import FAMILY

ctranslate2 = pytest.importorskip("ctranslate2")
specs = pytest.importorskip("ctranslate2.specs")
Activation = specs.common_spec.Activation

SOURCE = ["<blank>", "<s>", "</s>", *"abcdefghij", "<unk>"]
TARGET = ["<blank>", "<s>", "</s>", *"klmnopq", "<unk>"]
WIDTH, HIDDEN = 24, 40
MODELS = {
    "norm first": {},
    "norm after": {"pre_norm": False},
    "gelu": {"activation": Activation.GELU},
    "gelu_tanh": {"activation": Activation.GELUTanh},
    "silu": {"activation": Activation.SWISH, "pre_norm": False},
    "deeper decoder": {"num_layers": (1, 3)},
    "six heads": {"num_heads": 6},
    "unscaled": {"scale_embeddings": False},
    "scaled by a number": {"scale_embeddings": WIDTH**0.5},
    "tied": {"tied": True},
    "shared": {"shared": True},
    "no biases": {"biases": False},
    "end starts": {"decoder_start_token": "</s>", "add_source_eos": True},
    "int8": {"quantization": "int8"},
    "int16": {"quantization": "int16"},
    "int8, tied": {"quantization": "int8", "tied": True},
    "float16": {"quantization": "float16"},
}


def saved(folder, num_layers=2, num_heads=4, scale_embeddings=True, quantization=None, tied=False,
          shared=False, decoder_start_token="<s>", add_source_eos=False, biases=True,
          **options):  # fmt: skip
    """A random model, written by CTranslate2."""
    spec = specs.TransformerSpec.from_config(num_layers, num_heads, **options)
    draw, target = np.random.default_rng(3), SOURCE if shared else TARGET
    sizes = {"linear_0": (HIDDEN, WIDTH), "linear_1": (WIDTH, HIDDEN)}

    def fill(part, name, value):
        *_, where, kind, last = f"//{name}".split("/")
        if value is not None and not (last == "bias" and biases):  # a setting, or optional
            return
        if last == "relative_attention_bias":
            array = draw.normal(size=(8, num_heads))
        elif "max_distance" in last:
            array = np.array(9)
        elif "norm" in kind:
            array = draw.normal(last == "gamma", 0.3, WIDTH)
        elif kind.startswith("embeddings") or kind == "projection":
            rows = len(SOURCE if name.startswith("encoder") else target)
            array = draw.normal(0, 0.3, (rows, WIDTH) if last == "weight" else rows)
        else:
            parts = {"self_attention": {"linear_0": 3}, "attention": {"linear_1": 2}}
            count = parts.get(where, {}).get(kind, 1)
            shape = (count * WIDTH, WIDTH)
            if where == "ffn":
                shape = sizes[kind.removesuffix("_noact")]
            array = draw.normal(0, 0.3, shape if last == "weight" else shape[:1])
        setattr(part, last, array.astype(np.float32))

    specs.model_spec.visit_spec(spec, fill)
    spec.encoder.scale_embeddings = spec.decoder.scale_embeddings = scale_embeddings
    if shared:
        spec.decoder.embeddings.weight = spec.encoder.embeddings[0].weight
    if tied or shared:
        spec.decoder.projection.weight = spec.decoder.embeddings.weight
    spec.register_source_vocabulary(SOURCE)
    spec.register_target_vocabulary(target)
    spec.config.decoder_start_token = decoder_start_token
    spec.config.add_source_eos = add_source_eos
    spec.validate()
    spec.optimize(quantization)
    folder.mkdir()
    spec.save(str(folder))
    return str(folder)


def opened(folder):
    content, arrays, vocabularies = ours.open(folder)
    config = FAMILY.config.from_hf(content)
    model = FAMILY.model(config).eval()
    model.load_state_dict(FAMILY.from_files(arrays, config))
    return model, vocabularies


def scores(model, vocabularies, source, target):
    """Log-probabilities of the target's tokens and its end."""
    ids = [vocabularies.source.index(t) for t in (*source, *vocabularies.after)]
    targets = np.array([[*(vocabularies.target.index(t) for t in target), 2]])
    with no_grad():
        logits = model(np.array([ids]), model.shift_right(targets)).numpy()[0].astype(float)
    table = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    return table[np.arange(targets.shape[1]), targets[0]]


@pytest.mark.parametrize("options", MODELS.values(), ids=MODELS)
def test_scores_and_translations_equal_ctranslate2(tmp_path, options):
    folder = saved(tmp_path / "model", **options)
    model, vocabularies = opened(folder)
    theirs = ctranslate2.Translator(folder, compute_type="float32", intra_threads=1)
    target = vocabularies.target[3:-1]
    texts = [list("abcdefg"), list("j"), list("ihgfedcbaabcdefghij")]
    for source, wanted in zip(texts, (target[:5], target[::-1], [])):
        right = theirs.score_batch([source], [wanted])[0].log_probs
        np.testing.assert_allclose(
            scores(model, vocabularies, source, wanted), right, rtol=2e-5, atol=2e-5
        )
        (result,) = theirs.translate_batch(
            [source], beam_size=1, max_decoding_length=9, min_decoding_length=0
        )
        ids = np.array([[SOURCE.index(t) for t in (*source, *vocabularies.after)]])
        got = [vocabularies.target[i] for i in generate_ids(model, ids, max_tokens=9)[0]]
        assert got == result.hypotheses[0]
    assert model.config.tie_word_embeddings == bool(options.get("tied") or options.get("shared"))
    assert model.config.share_embeddings == bool(options.get("shared"))


@pytest.mark.parametrize(
    "options, message",
    [
        ({"rms_norm": True}, "is not implemented|missing"),
        ({"ffn_glu": True}, "linear_0_noact/bias, .* is not implemented"),
        ({"layernorm_embedding": True}, "layernorm_embedding/beta, .* is not implemented"),
        ({"relative_attention_bias": True}, "relative_attention"),
    ],
)
def test_what_the_family_has_not_is_refused_by_name(tmp_path, options, message):
    folder = saved(tmp_path / "model", **options)
    with pytest.raises(ValueError, match=message):
        opened(folder)


def test_the_published_model_scores_as_in_ctranslate2(shared_data):
    folder = shared_data / "models" / "aren-transliteration"
    model, vocabularies = opened(folder)
    theirs = ctranslate2.Translator(str(folder), compute_type="float32", intra_threads=1)
    for source, target in (("آتزمون", "atzmon"), ("آتشيسون", "achison"), ("آرثر", "arthur")):
        right = theirs.score_batch([list(source)], [list(target)])[0].log_probs
        got = scores(model, vocabularies, list(source), list(target))
        np.testing.assert_allclose(got, right, rtol=1e-4, atol=1e-5)
    assert json.dumps(vocabularies.source).count("unk") == 1
