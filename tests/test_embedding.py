"""Sentence embeddings: pooling, batches, long texts, the files of sentence-transformers."""

import json
import math

import numpy as np
import pytest

from minillm.formats import hf
from minillm.models import embedding
from minillm.models.embedding import MODES, Embedder, pool, settings
from minillm.tensor import Tensor
from real_models import minilm
from small_encoders import IDS, KINDS, MASK, small

CLS, SEP = 2, 0
TEXTS = ["a", "b c d", "c a", "h", "d d d d e"]

# The texts of sbert.net's first example, and the cosines it gives.
SENTENCES = ["The weather is lovely today.", "It's so sunny outside!", "He drove to the stadium."]
SENTENCE_IDS = [
    [101, 1996, 4633, 2003, 8403, 2651, 1012, 102],
    [101, 2009, 1005, 1055, 2061, 11559, 2648, 999, 102],
    [101, 2002, 5225, 2000, 1996, 3346, 1012, 102],
]
COSINES = [[1, 0.6660, 0.1046], [0.6660, 1, 0.1411], [0.1046, 0.1411, 1]]


class Letters:
    """Ids 3 to 10 for the letters a to h, control tokens around them."""

    def encode(self, text):
        return [3 + "abcdefgh".index(word) for word in text.split()]

    def around(self, ids):
        return [CLS, *ids, SEP]


def embedder(kind="bert", **options):
    return Embedder(small(kind), Letters(), **options)


class TestPooling:
    x = np.random.default_rng(0).standard_normal((2, 6, 4))

    @pytest.mark.parametrize("mode", MODES)
    def test_each_kind_by_its_formula(self, mode):
        got = pool(Tensor(self.x), MASK, [mode], normalize=False).data
        for row, mask, vector in zip(self.x, MASK, got):
            text = row[mask == 1]
            expected = {
                "cls": row[0],
                "max": text.max(axis=0),
                "mean": text.mean(axis=0),
                "mean_sqrt_len": text.sum(axis=0) / math.sqrt(len(text)),
            }[mode]
            np.testing.assert_allclose(vector, expected, rtol=1e-14)

    def test_several_are_joined_in_the_order_given(self):
        apart = [pool(Tensor(self.x), MASK, [mode], False).data for mode in ("max", "cls")]
        joined = pool(Tensor(self.x), MASK, ["max", "cls"], False).data
        assert np.array_equal(joined, np.concatenate(apart, axis=1))

    def test_normalised_vectors_have_length_1(self):
        out = pool(Tensor(self.x), MASK).data
        np.testing.assert_allclose(np.linalg.norm(out, axis=1), 1, rtol=1e-14)
        nothing = pool(Tensor(self.x * 0), MASK).data
        assert not nothing.any()

    @pytest.mark.parametrize("mode", MODES)
    def test_gradients_reach_the_text_only(self, mode):
        x = Tensor(self.x, requires_grad=True)
        (pool(x, MASK, [mode]) ** 3).sum().backward()
        assert not x.grad.data[MASK == 0].any()
        place = (1, 0, 2) if mode == "cls" else (1, int(np.argmax(self.x[1, :3, 2])), 2)
        step, losses = 1e-6, []
        for sign in (1, -1):
            moved = self.x.copy()
            moved[place] += sign * step
            losses.append((pool(Tensor(moved), MASK, [mode]).data ** 3).sum())
        slope = (losses[0] - losses[1]) / (2 * step)
        assert math.isclose(x.grad.data[place], slope, rel_tol=1e-6, abs_tol=1e-8)


class TestEmbedder:
    @pytest.mark.parametrize("kind", KINDS)
    @pytest.mark.parametrize("mode", MODES)
    def test_company_and_order_change_nothing(self, kind, mode):
        made = embedder(kind, modes=[mode])
        together = made.encode(TEXTS)
        assert together.shape == (5, 6) and together.dtype == np.float32
        for batch_size in (1, 2):
            np.testing.assert_allclose(made.encode(TEXTS, batch_size), together, atol=2e-6)
        backwards = made.encode(TEXTS[::-1])[::-1]
        np.testing.assert_allclose(backwards, together, atol=2e-6)
        alone = np.concatenate([made.encode([text]) for text in TEXTS])
        np.testing.assert_allclose(alone, together, atol=2e-6)

    def test_batches_hold_texts_of_like_length(self):
        lengths = [5, 1, 2, 90, 4, 3, 91, 2]
        batches = embedding.alike(lengths, 3)
        assert [[lengths[place] for place in batch] for batch in batches] == [
            [1, 2, 2],
            [3, 4, 5],
            [90, 91],
        ]
        assert embedding.alike([], 3) == []

    def test_a_long_text_is_cut_between_its_control_tokens(self):
        made = embedder(max_length=5)
        assert made.tokenize("a b c") == ([CLS, 3, 4, 5, SEP], 0)
        assert made.tokenize("a b c d e f") == ([CLS, 3, 4, 5, SEP], 3)
        with pytest.warns(UserWarning, match="embed: 2 of 3 texts have more than 5 tokens"):
            cut = made.encode(["a b c d", "a b c", "a b c h h"])
        np.testing.assert_allclose(cut, cut[[1, 1, 1]], atol=1e-6)
        assert embedder("roberta", max_length=99).max_length == 7
        with pytest.raises(ValueError, match="embed: 4 tokens cannot be cut to 2, room for the"):
            embedder(max_length=2).encode(["a b"])

    def test_what_goes_before_the_text(self):
        plain = embedder().encode(["b a"])
        assert np.array_equal(embedder(prompt="b ").encode(["a"]), plain)
        assert np.array_equal(embedder(lowercase=True).encode([" B A\n"]), plain)

    def test_impossible_input_is_refused(self):
        with pytest.raises(TypeError, match="embed: one text given, a list of texts is needed"):
            embedder().encode("a")
        with pytest.raises(ValueError, match="embed: pooling 'last', one of cls, max, mean"):
            embedder(modes=["last"])
        with pytest.raises(ValueError, match="embed: no pooling given"):
            embedder(modes=[])
        assert embedder().encode([]).shape == (0, 6)

    def test_it_can_be_trained(self):
        made = embedder()
        ids, mask = made.batch([IDS[0, :4], IDS[1]])
        vectors = made.vectors(ids, mask)
        ((vectors[0] - vectors[1]) ** 2).sum().backward()
        assert all(p.grad is not None for p in made.model.layers.parameters())


class TestSettings:
    """What sentence-transformers writes beside a model."""

    def write(self, folder, **files):
        for name, content in files.items():
            path = folder / {
                "pooling": "1_Pooling/config.json",
                "modules": "modules.json",
                "lengths": "sentence_bert_config.json",
                "prompts": "config_sentence_transformers.json",
            }.get(name, name)
            path.parent.mkdir(exist_ok=True)
            hf.write_json(path, content)
        return settings(folder)

    def modules(self, *names):
        return [
            {"idx": place, "path": f"{place}_{name}" if place else "", "type": f"x.models.{name}"}
            for place, name in enumerate(names)
        ]

    def test_without_any_the_mean_is_normalised(self, tmp_path):
        made = Embedder(small("bert"), Letters(), **settings(tmp_path))
        assert (made.modes, made.normalize, made.max_length) == (("mean",), True, 9)

    @pytest.mark.parametrize(
        "pooling, modes",
        [
            ({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}, ("cls",)),
            ({"pooling_mode_mean_tokens": True, "pooling_mode_lasttoken": False}, ("mean",)),
            ({"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": True}, ("cls", "mean")),
            ({"pooling_mode_max_tokens": True}, ("max", "mean")),
            ({"word_embedding_dimension": 6}, ("mean",)),
            ({"pooling_mode": "cls"}, ("cls",)),
            ({"pooling_mode": ["mean", "max"]}, ("max", "mean")),
        ],
    )
    def test_pooling(self, tmp_path, pooling, modes):
        modules = self.modules("Transformer", "Pooling")
        found = self.write(tmp_path, modules=modules, pooling=pooling)
        assert found == {"modes": modes, "normalize": False, "prompt": ""}
        modules = self.modules("Transformer", "Pooling", "Normalize")
        assert self.write(tmp_path, modules=modules)["normalize"] is True

    def test_lengths_case_and_prompts(self, tmp_path):
        found = self.write(
            tmp_path,
            lengths={"max_seq_length": 4, "do_lower_case": True},
            prompts={"prompts": {"query": "ask: "}, "default_prompt_name": "query"},
        )
        expected = {"max_length": 4, "lowercase": True, "prompt": "ask: ", "normalize": True}
        assert found == expected
        assert self.write(tmp_path, prompts={"prompts": {"a": "b"}})["prompt"] == ""

    @pytest.mark.parametrize(
        "files, message",
        [
            ({"pooling": {"pooling_mode_lasttoken": True}}, "pooling pooling_mode_lasttoken in"),
            ({"pooling": {"pooling_mode_mean_tokens": False}}, "embed: pooling nothing in"),
            ({"pooling": {"pooling_mode": "weightedmean"}}, "embed: pooling weightedmean in"),
            ({"modules": ["Transformer", "Dense"]}, "modules Transformer, Dense in .*needed"),
            ({"modules": [{"type": 3}, "x"]}, r"modules.json holds no list of modules"),
            ({"modules": {"0": "Transformer"}}, "a JSON array is needed, this is a dict"),
            ({"lengths": {"max_seq_length": 0}}, "embed: max_seq_length=0 in .*, an int from 1"),
            ({"prompts": {"default_prompt_name": "q"}}, "names the prompt 'q', a text is needed"),
            (
                {
                    "pooling": {"include_prompt": False},
                    "prompts": {"prompts": {"q": "ask"}, "default_prompt_name": "q"},
                },
                "embed: include_prompt=false in .* is not implemented",
            ),
        ],
    )
    def test_what_is_not_implemented_is_refused(self, tmp_path, files, message):
        if files.get("modules") == ["Transformer", "Dense"]:
            files = {"modules": self.modules(*files["modules"])}
        with pytest.raises(ValueError, match=message):
            self.write(tmp_path, **files)

    def test_a_module_outside_the_folder_is_refused(self, tmp_path):
        modules = self.modules("Transformer", "Pooling")
        for place in ("../1_Pooling", "/etc", "..", 3):
            modules[1]["path"] = place
            with pytest.raises(ValueError, match=f"names the folder {place!r}, one beside it is"):
                self.write(tmp_path, modules=modules)


def test_minilm_gives_the_published_cosines():
    folder = minilm()
    model = embedding.load_model(folder, changes={"add_pooling_layer": False})
    made = Embedder(model, None, **settings(folder))
    assert (made.modes, made.normalize, made.max_length) == (("mean",), True, 256)
    vectors = made.vectors(*made.batch(SENTENCE_IDS)).data
    np.testing.assert_allclose(vectors @ vectors.T, COSINES, atol=5e-5)
    assert model.config.parameter_count == 22_565_376
    assert json.loads((folder / "config.json").read_text())["architectures"] == ["BertModel"]
