"""BERT, RoBERTa and DistilBERT: what transformers gave, files, losses, masks."""

import itertools
import math
import time

import numpy as np
import pytest

from minillm import manual_seed, nn, no_grad, ops
from minillm.formats import hf
from minillm.models import FAMILIES
from minillm.models.folder import load_model, save_model
from small_encoders import IDS, KINDS, MASK, TASKS, batch, small, targets

CASES = list(itertools.product(KINDS, TASKS))
BASE = {"max_position_embeddings": 514, "type_vocab_size": 1}  # roberta-base
HEADS = [case for case in CASES if case[1] != "Model"]
DROPOUTS = [
    (kind, task, f"{which}_dropout{'' if which == 'classifier' else '_prob'}")
    for kind, task in HEADS
    for which in ("hidden", "attention_probs", "classifier")
    if which != "classifier"
    or task == "ForSequenceClassification"
    or (task == "ForTokenClassification" and kind != "distilbert")
]

# What transformers 5.24 gives for small() in float64. Model: the hidden state at [1, 2], then the
# pooler's output for row 0; others: the loss, then the logits of row 1 (at token 2).
FROZEN = {
    ("bert", "Model"): """
        1.5106957312 -0.330637438017 0.33600693926 -1.37198002506 -0.901638474868 -0.090006830136
        -0.648329768968 0.307710452181 0.131630483151 0.178289480723 -0.339733455791 0.0136782596546
    """,
    ("bert", "ForMaskedLM"): """
        3.69005597431 0.330239223822 1.27609712112 -0.0610456407602 0.626416637736 -1.79222427643
        0.992334914982 2.8825930195 -0.285707671279 -0.744719197723 -0.00600562574399 0.938721539655
    """,
    ("bert", "ForSequenceClassification"): """
        1.46227938707 0.389768670941 1.01695294973 -0.130084942525
    """,
    ("bert", "ForTokenClassification"): """
        1.05348949785 -0.715012086539 -0.204745533913 -0.0479644997042
    """,
    ("bert", "ForQuestionAnswering"): """
        1.63944410230 -0.7150120865393104 -0.2047455339131684
    """,
    ("roberta", "ForQuestionAnswering"): """
        1.86865584221 -0.7702153008164474 -0.20208484475221605
    """,
    ("distilbert", "ForQuestionAnswering"): """
        1.63050028916 -0.987798352927199 0.8735802202526091
    """,
    ("roberta", "Model"): """
        1.50743948045 -0.354454101445 0.387771282833 -1.28352585501 -0.941409937144 -0.137248193883
        -0.706051954193 0.384778228296 0.0809856449502 0.100216338038 -0.407185397967
        -0.000372256613049
    """,
    ("roberta", "ForMaskedLM"): """
        3.54508719166 0.354826797956 1.31892012792 -0.127219693026 0.647748501161 -1.75929573168
        1.01522940755 2.91419635239 -0.256935963115 -0.772561926381 0.0542742506083 0.945955758797
    """,
    ("roberta", "ForSequenceClassification"): """
        1.54623136963 0.288895065456 1.15837460451 -0.198282038729
    """,
    ("roberta", "ForTokenClassification"): """
        1.13987223725 -0.770215300816 -0.202084844752 -0.0330350726172
    """,
    ("distilbert", "Model"): """
        1.44073570565 2.27261368651 0.418925322371 -1.49427731548 -0.844839290775 -1.07588910997
    """,
    ("distilbert", "ForMaskedLM"): """
        1.83246676398 -0.14566820595 -0.454990114958 -1.94040631752 1.16285762767 -1.50459090904
        -0.430450811033 0.667846209654 2.04680612446 -1.47954595911 -2.25922869107 0.898858979672
    """,
    ("distilbert", "ForSequenceClassification"): """
        1.01539954458 0.12429412194 -0.158728043531 0.0749847486538
    """,
    ("distilbert", "ForTokenClassification"): """
        1.35269308801 -0.987798352927 0.873580220253 -0.7987684892
    """,
}

# ... and the norms of all gradients, in the order of their names in files.
FROZEN_NORMS = {
    ("bert", "ForSequenceClassification"): """
        0.161386575024 0.128621756523 0.154029081911 0.168367584827 0.117981176263 0.223925339902
        0.195004844056 0.165366006976 0.197016383145 0 0.0350359154926 0.02091118237 0.0290080540878
        0.17931472416 0.160557933322 0.153533050207 0.180211664268 0.335771765735 0.183090413265
        0.180632553244 0.235461180491 0.350249320291 0.325340124254 0.289516988326 0.420854349732 0
        0.0349746320155 0.0194081682924 0.0313363815467 0.309963529148 0.396218122665 0.144516372646
        0.280758950586 0.545233129579 0.408519660707 0.343609164253 0.289798025513 0.552165707446
        1.33476487547 0.646662931615 0.537459624075
    """,
    ("roberta", "ForMaskedLM"): """
        0.662269486288 0.444986193616 1.02307658251 0.72206087372 0.741267072385 0.174794285319
        0.137972097994 0.132450112329 0.144797404242 2.09373241577 0.137084305714 0.15078748344
        0.14241299997 0.158692286428 0 0.0126068665535 0.0104871363111 0.0133346065302
        0.149666692569 0.116086175453 0.0461301602892 0.0608830930258 0.158991852591 0.176504625048
        0.110073047776 0.155001808001 0.148556351083 0.192625755006 0.135588291608 0.2004631044 0
        0.00957221044403 0.00578456898193 0.0096967958102 0.123019956364 0.161595009367
        0.0933691885094 0.17263563559 0.324143308016 0.399488684114 0.174224233495 0.226259453094
    """,
    ("distilbert", "ForMaskedLM"): """
        0.449760468341 0.431788601122 1.67606387826 2.5214523309 0 0.150286025727 0.327649892722
        0.682162215569 0.0569768889739 0.15866619709 0.342349371315 0.786753426115 0.187261940407
        0.787661736919 0.330270067939 0.354025195345 0.306727521962 0.572056535393 0.34135170274
        0.410288957228 0 0.504163474207 0.397482651864 0.77822684478 0.152923427834 0.418045150851
        0.398675620793 0.867481768546 0.332788311313 1.02731569785 0.523486075004 0.625708624034
        1.02391551705 1.22502046251 0.643997566164 0.593052851117 0.320381002182 0.120239195548
        0.354215944687 1.21610095549 4.02383164632
    """,
}


def frozen(table, *case):
    return np.array(table[case].split(), float)


def run(model, *given):
    with no_grad():
        return model(*given).numpy()


def files_of(model, arrays=None):
    family = FAMILIES[model.config.model_type]
    return family.to_files(model.state_dict() if arrays is None else arrays, model.config)


def from_files(model, arrays):
    return FAMILIES[model.config.model_type].from_files(arrays, model.config)


def gradients(model):
    return {name: parameter.grad.data for name, parameter in model.named_parameters()}


@pytest.mark.parametrize("dtype, tolerance", [("float64", 1e-10), ("float32", 2e-5)])
@pytest.mark.parametrize("kind, task", CASES)
def test_outputs_are_what_transformers_gave(kind, task, dtype, tolerance):
    model = small(kind, task).astype(dtype)
    out = run(model, *batch(kind))
    assert out.dtype == dtype
    right = frozen(FROZEN, kind, task)
    if task == "Model":
        np.testing.assert_allclose(out[1, 2], right[:6], rtol=0, atol=tolerance)
        if kind != "distilbert":
            with no_grad():
                pooled = model.pooled(*batch(kind)).numpy()
            np.testing.assert_allclose(pooled[0], right[6:], rtol=0, atol=tolerance)
        return
    ids, *rest = batch(kind)
    loss = model.loss(ids, targets(task), *rest).item()
    got = out[1] if out.ndim == 2 else out[1, 2]
    np.testing.assert_allclose([loss, *got], right, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("dtype, tolerance", [("float64", 1e-9), ("float32", 1e-4)])
@pytest.mark.parametrize("kind, task", FROZEN_NORMS)
def test_gradients_are_what_transformers_gave(kind, task, dtype, tolerance, recompute):
    model = small(kind, task).astype(dtype)
    model.recompute = recompute
    ids, *rest = batch(kind)
    model.loss(ids, targets(task), *rest).backward()
    got = sorted(files_of(model, gradients(model)).items())
    norms = [np.linalg.norm(array) for _, array in got]
    right = frozen(FROZEN_NORMS, kind, task)
    np.testing.assert_allclose(norms, right, rtol=tolerance, atol=tolerance / 10)


@pytest.mark.parametrize("task", TASKS)
def test_xlm_roberta_is_roberta_by_another_name(tmp_path, task):
    model = small("roberta", task)
    save_model(tmp_path, model)
    content = model.config.to_hf() | {"model_type": "xlm-roberta"}
    content["architectures"] = [f"XLMRoberta{task}"]
    hf.write_json(tmp_path / "config.json", content)
    again = load_model(tmp_path)
    assert again.config.to_hf() == content
    assert np.array_equal(run(again, *batch("roberta")), run(model, *batch("roberta")))


class TestMask:
    @pytest.mark.parametrize("kind", KINDS)
    def test_a_padded_row_gives_what_it_gives_alone(self, kind):
        model = small(kind).astype("float64")
        alone = run(model, IDS[:1, :4])
        np.testing.assert_allclose(run(model, IDS, MASK)[:1, :4], alone, rtol=1e-12)
        assert np.abs(run(model, IDS)[:1, :4] - alone).max() > 0.01

    def test_roberta_counts_text_only(self):
        ids = np.array([[1, 1, 4, 1, 5], [6, 7, 8, 9, 1]])
        expected = [[1, 1, 2, 1, 3], [2, 3, 4, 5, 1]]
        assert np.array_equal(small("roberta").positions(ids), expected)
        shifted = small("roberta", pad_token_id=3).positions(np.array([[4, 3, 5]]))
        assert np.array_equal(shifted, [[4, 3, 5]])

    def test_padding_on_the_left_changes_nothing_for_roberta(self):
        model = small("roberta").astype("float64")
        left = run(model, np.array([[1, 1, 3, 5, 10, 2]]), np.array([[0, 0, 1, 1, 1, 1]]))
        np.testing.assert_allclose(left[:, 2:], run(model, IDS[:1, :4]), rtol=1e-12)

    @pytest.mark.parametrize("kind", KINDS)
    def test_a_row_of_padding_harms_nobody(self, kind):
        model = small(kind)
        mask = np.array([[0] * 6, [1] * 6], bool)
        out = run(model, IDS, mask)
        assert np.isfinite(out).all()
        np.testing.assert_allclose(out[1], run(model, IDS)[1], atol=1e-6)

    @pytest.mark.parametrize("mask", [MASK.astype(bool), MASK.astype(np.float32)])
    def test_kinds_of_masks(self, mask):
        model = small("bert")
        assert np.array_equal(run(model, IDS, mask), run(model, IDS, MASK))

    def test_impossible_input_is_refused(self):
        model = small("bert")
        for wrong, message in (
            ((IDS[0],), r"bert: ids of shape \(6,\), an array \(B, T\) is needed"),
            ((IDS, MASK[:1]), r"bert: mask of shape \(1, 6\), that of the ids, \(2, 6\), is"),
            ((IDS, MASK * 2), "bert: mask holds other numbers, 1 for text and 0 for padding"),
            ((IDS, None, IDS[:, :2]), r"bert: segments of shape \(2, 2\), that of the ids"),
            ((np.zeros((1, 10), int),), "bert: 10 tokens given, the model has positions for 9"),
        ):
            with pytest.raises(ValueError, match=message):
                run(model, *wrong)
        with pytest.raises(IndexError, match="id 2, 0 <= id < 2 is needed"):
            run(model, IDS, None, IDS * 0 + 2)
        with pytest.raises(ValueError, match="distilbert: segments given, but this family has non"):
            run(small("distilbert"), IDS, None, IDS)
        with pytest.raises(
            ValueError, match="roberta: 8 tokens given, the model has positions for 7"
        ):
            run(small("roberta"), np.full((1, 8), 2))
        assert run(small("roberta"), np.full((1, 7), 2)).shape == (1, 7, 6)


class TestFiles:
    @pytest.mark.parametrize("tied", [True, False])
    @pytest.mark.parametrize("kind, task", CASES)
    def test_they_come_back(self, kind, task, tied):
        model = small(kind, task, tie_word_embeddings=tied)
        arrays = files_of(model)
        assert sum(a.size for a in arrays.values()) >= model.parameter_count()
        back = from_files(model, arrays)
        assert back.keys() == model.state_dict().keys()
        assert all(np.array_equal(back[name], a) for name, a in model.state_dict().items())
        bare = {name.removeprefix(f"{kind}."): array for name, array in arrays.items()}
        assert (bare.keys() != arrays.keys()) == (task != "Model")
        assert from_files(model, bare).keys() == back.keys()
        if task == "Model":
            model.load_state_dict(from_files(model, {f"{kind}.{n}": a for n, a in arrays.items()}))

    def test_queries_keys_and_values_lie_apart(self):
        model = small("bert", "ForMaskedLM")
        arrays, joint = files_of(model), model.layers[1].joint.weight.data
        for place, part in enumerate(("query", "key", "value")):
            name = f"bert.encoder.layer.1.attention.self.{part}.weight"
            assert np.array_equal(arrays[name], joint[6 * place : 6 * place + 6])

    def test_old_names_and_buffers(self):
        model = small("bert")
        old = {
            name.replace("LayerNorm.weight", "LayerNorm.gamma").replace(
                "LayerNorm.bias", "LayerNorm.beta"
            ): array
            for name, array in files_of(model).items()
        }
        old["embeddings.position_ids"] = np.arange(9)[None]
        assert "encoder.layer.0.output.LayerNorm.gamma" in old
        model.load_state_dict(from_files(model, old))

    def test_what_is_missing_or_unknown_is_listed(self):
        model = small("roberta")
        arrays = files_of(model)
        del arrays["encoder.layer.0.attention.self.key.bias"]
        arrays["encoder.layer.0.adapter.weight"] = np.zeros(3)
        message = (
            r"roberta: missing encoder.layer.0.attention.self.key.bias; "
            r"unknown encoder.layer.0.adapter.weight$"
        )
        with pytest.raises(ValueError, match=message):
            from_files(model, arrays)
        twice = files_of(model) | {"roberta.pooler.dense.bias": np.zeros(6)}
        with pytest.raises(ValueError, match=r"roberta: pooler\.dense\.bias is there twice"):
            from_files(model, twice)
        with pytest.raises(ValueError, match=r"; \d+ more$"):
            from_files(model, {name: arrays[name] for name in list(arrays)[:2]})
        with pytest.raises(ValueError, match="roberta: 2 layers configured, but only 0 tensors in"):
            from_files(model, {})
        arrays = files_of(model)
        arrays["encoder.layer.1.attention.self.value.weight"] = np.zeros((3, 6))
        message = r"roberta: encoder.layer.1.attention.self.query.weight, .* \(3, 6\), \(6, 6\), eq"
        with pytest.raises(ValueError, match=message):
            from_files(model, arrays)

    def test_a_folder_that_claims_too_much_is_refused_at_once(self, tmp_path):
        model = small("bert")
        save_model(tmp_path, model)
        assert np.array_equal(run(load_model(tmp_path), IDS), run(model, IDS))
        content = model.config.to_hf() | {"num_hidden_layers": 1 << 40}
        hf.write_json(tmp_path / "config.json", content)
        begin = time.perf_counter()
        with pytest.raises(ValueError, match="layers configured, but only 39 tensors in the files"):
            load_model(tmp_path)
        assert time.perf_counter() - begin < 1

    @pytest.mark.filterwarnings("ignore:.*logits differ")
    @pytest.mark.parametrize("dtype", ["f64", "f16", "bf16"])
    def test_weights_of_other_precisions(self, tmp_path, dtype):
        model = small("roberta", "ForMaskedLM")
        save_model(tmp_path, model, dtype=dtype)
        again = load_model(tmp_path)
        exact = dtype == "f64"
        assert np.array_equal(run(again, IDS), run(model, IDS)) == exact
        np.testing.assert_allclose(run(again, IDS), run(model, IDS), atol=0.2)
        assert again.layers[0].joint.weight.dtype == np.float32

    @pytest.mark.filterwarnings("error")
    @pytest.mark.parametrize("kind, task", CASES)
    def test_they_go_through_a_folder(self, tmp_path, kind, task):
        model = small(kind, task)
        save_model(tmp_path, model)
        again = load_model(tmp_path)
        assert again.config == model.config and not again.training
        assert np.array_equal(run(again, *batch(kind)), run(model, *batch(kind)))
        plain = load_model(tmp_path, changes={"architectures": None, "add_pooling_layer": False})
        with no_grad():
            expected = model.features(*batch(kind)).numpy()
        assert np.array_equal(run(plain, *batch(kind)), expected)

    def test_heads_that_the_model_lacks_are_named(self):
        masked, plain = small("bert", "ForMaskedLM"), small("bert", add_pooling_layer=False)
        arrays = files_of(masked)
        arrays |= {"cls.seq_relationship.weight": np.zeros((2, 6)), "bert.pooler.dense.bias": 1}
        message = "bert: BertForMaskedLM does not use bert.pooler.dense.bias, cls.seq_relationship"
        with pytest.warns(UserWarning, match=message):
            back = from_files(masked, arrays)
        assert back.keys() == masked.state_dict().keys()
        assert from_files(plain, arrays).keys() == plain.state_dict().keys()  # asked for: silent

    @pytest.mark.parametrize("kind, decoder, bias, own", [
        ("bert", "cls.predictions.decoder", "cls.predictions.bias", "cls.predictions.decoder.bias"),
        ("roberta", "lm_head.decoder", "lm_head.bias", "lm_head.decoder.bias"),
        ("distilbert", "vocab_projector", "vocab_projector.bias", None),
    ])  # fmt: skip
    def test_the_decoder_is_tied_or_not(self, kind, decoder, bias, own):
        tied, apart = (small(kind, "ForMaskedLM", tie_word_embeddings=tie) for tie in (True, False))
        arrays, words = files_of(tied), f"{kind}.embeddings.word_embeddings.weight"
        assert f"{decoder}.weight" not in arrays and own not in arrays and bias in arrays
        twins = {f"{decoder}.weight": arrays[words]} | ({own: arrays[bias]} if own else {})
        from_files(tied, arrays | twins)
        without_words = {name: a for name, a in (arrays | twins).items() if name != words}
        back = from_files(tied, without_words)
        assert np.array_equal(back["embeddings.word_embeddings.weight"], arrays[words])
        with pytest.warns(UserWarning, match="differ by up to 1, but the configuration ties them"):
            from_files(tied, arrays | {f"{decoder}.weight": arrays[words] + 1})
        untied = files_of(apart)
        assert untied.keys() == arrays.keys() | twins.keys()
        if own:  # the decoder reads its own bias, or where it has none the other
            untied[bias] = untied[own] + 1
            assert np.array_equal(from_files(apart, untied)["head.bias"], untied[own])
            other = untied.pop(own) + 1
            assert np.array_equal(from_files(apart, untied)["head.bias"], other)
            del untied[bias]
            with pytest.raises(ValueError, match=f"{kind}: missing {own}"):
                from_files(apart, untied)


class TestConfig:
    @pytest.mark.parametrize("kind, task", CASES)
    def test_it_comes_back(self, kind, task):
        config = small(
            kind,
            task,
            hidden_act="gelu_new",
            problem_type="regression",
            classifier_dropout=0.25,
            eos_token_id=(2, 3),
            tie_word_embeddings=False,
        ).config
        content = config.to_hf()
        assert content["architectures"] == [KINDS[kind] + task]
        if task != "ForQuestionAnswering":
            assert content["id2label"] == {"0": "no", "1": "yes", "2": "perhaps"}
            assert content["label2id"] == {"no": 0, "yes": 1, "perhaps": 2}
        assert FAMILIES[kind].config.from_hf(content) == config
        assert FAMILIES[kind].config.from_hf(content | {"qa_dropout": 0.5}).head_dropout == (
            0.5 if (kind, task) == ("distilbert", "ForQuestionAnswering") else config.head_dropout
        )
        if kind == "distilbert":
            assert content["seq_classif_dropout"] == 0.25 and content["activation"] == "gelu_new"

    def test_distilberts_own_spelling(self):
        content = small("distilbert").config.to_hf()
        assert content["dim"] == 6 and content["n_layers"] == 2 and content["hidden_dim"] == 8
        assert "hidden_size" not in content and "type_vocab_size" not in content

    @pytest.mark.parametrize(
        "kind, architecture, options, count",
        [
            ("bert", "BertModel", {}, 109_482_240),
            ("bert", "BertForMaskedLM", {}, 109_514_298),
            ("bert", "BertForSequenceClassification", {}, 109_483_778),
            ("roberta", "RobertaModel", BASE, 124_645_632),
            ("roberta", "RobertaForMaskedLM", BASE, 124_697_433),
            ("distilbert", "DistilBertModel", {}, 66_362_880),
            ("distilbert", "DistilBertForSequenceClassification", {}, 66_955_010),
        ],
    )
    def test_the_defaults_are_the_published_models(self, kind, architecture, options, count):
        content = {"architectures": [architecture], **options}
        assert FAMILIES[kind].config.from_hf(content).parameter_count == count

    @pytest.mark.parametrize("kind, task", CASES)
    @pytest.mark.parametrize("tied", [True, False])
    def test_parameters_are_counted(self, kind, task, tied):
        model = small(kind, task, tie_word_embeddings=tied)
        assert model.config.parameter_count == model.parameter_count()

    def test_what_it_says_of_itself(self):
        assert small("bert").config.context == 9 and small("bert").config.n_layer == 2
        assert small("roberta").config.context == 7
        assert small("bert").config.kind == "encoder"
        assert small("bert", "ForTokenClassification").config.task == "token"
        from_hf = FAMILIES["bert"].config.from_hf
        assert from_hf({}).architecture == "BertModel"
        assert from_hf({"architectures": ["BertForPreTraining"]}).architecture == "BertForMaskedLM"
        assert from_hf({"num_labels": 3}).labels == ("LABEL_0", "LABEL_1", "LABEL_2")
        assert from_hf({"hidden_act": "swish", "use_cache": True}).hidden_act == "swish"

    @pytest.mark.parametrize(
        "kind, content, message",
        [
            ("bert", {"is_decoder": True}, "bert: is_decoder=True is not implemented"),
            ("bert", {"add_cross_attention": True}, "add_cross_attention=True is not impl"),
            (
                "bert",
                {"position_embedding_type": "relative_key"},
                "bert: position_embedding_type='relative_key' is not implemented",
            ),
            ("bert", {"hidden_act": "mish"}, "bert: hidden_act 'mish' is not implemented, one of"),
            ("bert", {"architectures": ["BertForMultipleChoice"]}, "architecture 'BertForMulti"),
            (
                "bert",
                {"architectures": ["BertForQuestionAnswering"], "num_labels": 3},
                "bert: 3 labels for BertForQuestionAnswering, 2 are needed",
            ),
            ("bert", {"architectures": ["RobertaModel"]}, "bert: architecture 'RobertaModel' is"),
            ("bert", {"architectures": ["BertModel", "X"]}, "bert: architectures=.* a list of 1"),
            ("bert", {"hidden_size": 10}, "bert: 12 heads do not divide the width 10"),
            ("bert", {"vocab_size": "many"}, "vocab_size is 'many', a whole number from 1 is"),
            ("bert", {"num_hidden_layers": True}, "num_hidden_layers is True, a whole number"),
            ("bert", {"type_vocab_size": 0}, "bert: type_vocab_size is 0, a whole number from 1"),
            ("bert", {"pad_token_id": 99999}, "pad_token_id is 99999, a whole number from 0 below"),
            ("bert", {"layer_norm_eps": None}, "layer_norm_eps is None, a number of at least 0"),
            ("bert", {"hidden_dropout_prob": 1}, "hidden_dropout_prob is 1, a number of at least"),
            ("bert", {"classifier_dropout": -1}, "bert: head_dropout is -1, a number of at least"),
            ("bert", {"problem_type": "ranking"}, "bert: problem_type 'ranking' is not impl"),
            ("bert", {"tie_word_embeddings": 1}, "tie_word_embeddings is 1, a boolean is needed"),
            ("bert", {"eos_token_id": [1, "2"]}, "eos_token_id is '2', a whole number from 0"),
            ("bert", {"num_labels": 0}, "bert: num_labels=0, a whole number from 1 is needed"),
            ("bert", {"id2label": {"1": "a"}}, "id2label names 1, all ids from 0 on are needed"),
            ("bert", {"id2label": ["a"]}, r"bert: id2label=\['a'\], an object is needed"),
            (
                "bert",
                {"id2label": {"0": "a"}, "num_labels": 2},
                "bert: num_labels=2 but id2label names 1, one number is needed",
            ),
            ("roberta", {"pad_token_id": None}, "roberta: pad_token_id is None, an id from 0"),
            ("roberta", {"pad_token_id": 511}, "roberta: pad_token_id is 511, an id from 0 and"),
            ("distilbert", {"dim": 10}, "distilbert: 12 heads do not divide the width 10"),
            (
                "distilbert",
                {"architectures": ["DistilBertForMultipleChoice"]},
                "distilbert: architecture 'DistilBertForMultipleChoice' is not implemented",
            ),
            ("bert", {"architectures": [None]}, r"architectures=\[None\], a list of 1 is needed"),
        ],
    )
    def test_what_cannot_be_is_refused(self, kind, content, message):
        with pytest.raises(ValueError, match=message):
            FAMILIES[kind].config.from_hf(content)


class TestLoss:
    @pytest.mark.parametrize("kind, task", HEADS)
    def test_it_is_the_cross_entropy_of_the_logits(self, kind, task):
        model = small(kind, task).astype("float64")
        ids, mask, segments = batch(kind)
        right = targets(task)
        logits = run(model, ids, mask, segments)
        if task == "ForQuestionAnswering":  # each label is a row of places
            logits = logits.transpose(0, 2, 1)
        for reduction in ("mean", "sum", "none"):
            expected = ops.cross_entropy(logits, right, reduction=reduction).data
            got = model.loss(ids, right, mask, segments, reduction).data
            assert got.shape == expected.shape
            np.testing.assert_allclose(got, expected, rtol=1e-12, atol=1e-14)

    def test_only_what_has_a_target_is_counted(self):
        model = small("bert", "ForMaskedLM")
        none = np.full(IDS.shape, -100)
        assert model.loss(IDS, none, reduction="sum").item() == 0
        with pytest.raises(ValueError, match="all 0 targets are ignored"):
            model.loss(IDS, none)
        with pytest.raises(IndexError, match="id 11, 0 <= id < 11 is needed"):
            model.loss(IDS, none + 111)

    @pytest.mark.parametrize("kind", KINDS)
    def test_numbers_and_several_labels_at_once(self, kind):
        ids, *rest = batch(kind)
        task = "ForSequenceClassification"
        several = small(kind, task, problem_type="multi_label_classification").astype("float64")
        yes = np.array([[1, 0, 1], [0, 0, 1]])
        p = 1 / (1 + np.exp(-run(several, ids, *rest)))
        expected = -(yes * np.log(p) + (1 - yes) * np.log(1 - p))
        for truth in (yes, yes.astype(np.float32)):
            loss = several.loss(ids, truth, *rest).item()
            assert math.isclose(loss, expected.mean(), rel_tol=1e-12)
        numbers = small(kind, task, problem_type="regression").astype("float64")
        square = (run(numbers, ids, *rest) - yes * 0.7) ** 2
        assert math.isclose(numbers.loss(ids, yes * 0.7, *rest).item(), square.mean())
        np.testing.assert_allclose(numbers.loss(ids, yes * 0.7, *rest, "none").data, square)

    def test_the_kind_follows_from_labels_and_targets(self):
        task = "ForSequenceClassification"
        one, three = small("bert", task, labels=("x",)), small("bert", task)
        square = (run(one, IDS)[:, 0] - np.array([0.5, 2])) ** 2
        assert math.isclose(one.loss(IDS, np.array([0.5, 2])).item(), square.mean(), rel_tol=1e-6)
        assert three.loss(IDS, np.array([0, 2]), reduction="none").shape == (2,)
        assert three.loss(IDS, np.zeros((2, 3)), reduction="none").shape == (2, 3)
        with pytest.raises(
            ValueError, match=r"targets of shape \(2,\) for multi_label_cl.*\(2, 3\)"
        ):
            three.loss(IDS, np.zeros(2))
        with pytest.raises(ValueError, match="reduction='median', 'mean', 'sum' or 'none' is need"):
            three.loss(IDS, np.zeros((2, 3)), reduction="median")

    def test_extreme_logits_do_not_overflow(self):
        from minillm.models.encoder import text_loss
        from minillm.tensor import Tensor

        logits = Tensor(np.array([[1e4, -1e4]], np.float32), requires_grad=True)
        loss = text_loss(logits, np.array([[0, 0]]), "multi_label_classification", "none")
        assert np.array_equal(loss.data, [[1e4, 0]])
        loss.sum().backward()
        assert np.array_equal(logits.grad.data, [[1, 0]])

    def test_a_plain_model_has_none(self):
        with pytest.raises(RuntimeError, match="bert: BertModel has no loss, an architecture with"):
            small("bert").loss(IDS, IDS)
        with pytest.raises(ValueError, match=r"targets of shape \(2,\), first and last places"):
            small("bert", "ForQuestionAnswering").loss(IDS, np.zeros(2, int))
        with pytest.raises(RuntimeError, match="distilbert: DistilBertModel has no pooler"):
            small("distilbert").pooled(IDS)


class TestTraining:
    @pytest.mark.parametrize("kind, task, which", DROPOUTS)
    def test_each_dropout_acts_in_training_only(self, kind, task, which):
        manual_seed(0)
        off = {"classifier_dropout": 0.0} | ({"qa_dropout": 0.0} if kind == "distilbert" else {})
        ids, *rest = batch(kind)
        right = targets(task)
        plain, none, half = (
            small(kind, task, **off | options) for options in ({}, {which: 2.0**-40}, {which: 0.5})
        )
        expected = plain.loss(ids, right, *rest).item()
        assert math.isclose(half.loss(ids, right, *rest).item(), expected, rel_tol=1e-6)
        for model in (plain, none, half):
            model.train()
        assert math.isclose(none.loss(ids, right, *rest).item(), expected, rel_tol=1e-5)
        losses = {half.loss(ids, right, *rest).item() for _ in range(8)}
        assert len(losses) > 1

    @pytest.mark.parametrize("kind, task", CASES)
    def test_dropout_acts_wherever_it_does_in_transformers(self, kind, task):
        class Counting:
            calls = 0

            def integers(self, end):
                self.calls += 1
                return 5

        options = ("hidden_dropout_prob", "attention_probs_dropout_prob", "classifier_dropout")
        model, counter = small(kind, task, **dict.fromkeys(options, 0.5)).train(), Counting()
        for module in model.modules():
            if isinstance(module, nn.Dropout):
                module.generator = counter
        model(*batch(kind))
        blocks = 2 * 3  # attention weights, and before each of two sums
        head = task in ("ForSequenceClassification", "ForTokenClassification") or (
            (kind, task) == ("distilbert", "ForQuestionAnswering")  # which has a dropout of its own
        )
        twice = (kind, task) == ("roberta", "ForSequenceClassification")
        assert counter.calls == 1 + blocks + head + twice

    def test_roberta_does_not_train_the_position_of_padding(self):
        model = small("roberta", "ForMaskedLM")
        words = np.full(IDS.shape, 3)
        model.loss(IDS, words).backward()
        got = model.embeddings.position_embeddings.weight.grad.data
        assert not got[:2].any() and got[2:6].all()

    def test_recomputation_gives_the_same_bits_with_dropout(self):
        found = []
        for recompute in (False, True):
            model = small("bert", "ForMaskedLM", hidden_dropout_prob=0.3).train()
            model.recompute = recompute
            manual_seed(5)
            model.loss(IDS, targets("ForMaskedLM"), MASK).backward()
            found.append(gradients(model))
        assert all(np.array_equal(array, found[1][name]) for name, array in found[0].items())

    @pytest.mark.parametrize("kind", KINDS)
    def test_initial_weights(self, kind):
        family = FAMILIES[kind]
        config = family.config(
            vocab_size=200,
            hidden_size=64,
            num_attention_heads=4,
            architecture=f"{KINDS[kind]}Model",
        )
        model, again, other = (family.model(config, seed) for seed in (1, 1, 2))
        for name, parameter in model.named_parameters():
            if parameter.ndim == 1:
                assert (parameter.data == (1 if name.endswith("weight") else 0)).all(), name
            elif parameter.size > 1000:
                assert abs(parameter.data.std() / 0.02 - 1) < 0.05, name
            assert np.array_equal(parameter.data, again.state_dict()[name])
        words = model.embeddings.word_embeddings.weight.data
        assert not words[config.pad_token_id].any()
        assert not np.array_equal(words, other.embeddings.word_embeddings.weight.data)

    @pytest.mark.parametrize("kind", KINDS)
    def test_it_learns(self, kind):
        from minillm.optim import AdamW

        model = small(kind, "ForSequenceClassification").train()
        optimiser = AdamW(model.parameters(), lr=0.01)
        ids, *rest = batch(kind)
        right = np.array([0, 2])
        for _ in range(100):
            optimiser.zero_grad()
            model.loss(ids, right, *rest).backward()
            optimiser.step()
        assert np.array_equal(run(model.eval(), ids, *rest).argmax(axis=1), right)
