"""CTranslate2 folders: bytes written here from the format's description, and a published model."""

import json
import struct

import numpy as np
import pytest

import minillm
from minillm import no_grad
from minillm.formats import ctranslate2
from minillm.formats.ctranslate2_file import read
from minillm.generation.encoder_decoder import generate_ids
from minillm.models.folder import load_config, load_model, save_model
from minillm.tokenizers import SourceTargetTokenizer, load
from small_runs import minillm as command
from small_transformer import IDS, MASK, small

SOURCE = ["<blank>", "<s>", "</s>", *"abcdefghi", "<unk>"]  # 13
TARGET = ["<blank>", "<s>", "</s>", *"klmnopq", "<unk>"]  # 11
KINDS = {"f4": 0, "i1": 1, "i2": 2, "i4": 3, "f2": 4, "bf16": 5}


def string(text):
    data = text.encode("utf-8")
    return struct.pack("<H", len(data) + 1) + data + b"\0"


def tensor(name, array, version, kind=None):
    array = np.asarray(array)
    kind = kind or array.dtype.str[1:]
    head = (
        string(name) + struct.pack("<B", array.ndim) + struct.pack(f"<{array.ndim}I", *array.shape)
    )
    if version < 4:
        return head + struct.pack("<BI", array.itemsize, array.size) + array.tobytes()
    return head + struct.pack("<BI", KINDS[kind], array.nbytes) + array.tobytes()


def model_bin(arrays, version=2, aliases=None, architecture="TransformerSpec", revision=3):
    data = struct.pack("<I", version) + string(architecture) + struct.pack("<I", revision)
    data += struct.pack("<I", len(arrays))
    data += b"".join(tensor(name, array, version) for name, array in arrays.items())
    if version >= 3:
        data += struct.pack("<I", len(aliases or {}))
        data += b"".join(string(a) + string(name) for a, name in (aliases or {}).items())
    return data


def theirs(model):
    """The weights of a small model of ours under CTranslate2's names."""
    parts = {"self_attn": "self_attention", "multihead_attn": "attention"}
    arrays = {}
    for name, array in model.state_dict().items():
        first, *rest = name.split(".")
        last = {"weight": "weight", "bias": "bias"}.get(rest[-1], rest[-1])
        norm = {"weight": "gamma", "bias": "beta"}
        if first.endswith("_embeddings"):
            side = {"source": "encoder", "target": "decoder"}[first.removesuffix("_embeddings")]
            arrays[f"{side}/embeddings/weight"] = array
        elif first == "output":
            arrays[f"decoder/projection/{last}"] = array
        elif rest[0] == "norm":
            arrays[f"{first}/layer_norm/{norm[last]}"] = array
        else:
            layer, part = f"{first}/layer_{rest[1]}", rest[2]
            order = ["self_attention", "attention", "ffn"]
            if part.startswith("norm"):
                at = order[int(part[4]) - 1] if first == "decoder" else order[2 * int(part[4]) - 2]
                arrays[f"{layer}/{at}/layer_norm/{norm[last]}"] = array
            elif part.startswith("linear"):
                arrays[f"{layer}/ffn/linear_{int(part[6]) - 1}/{last}"] = array
            else:
                place, last = f"{layer}/{parts[part]}", last.removeprefix("in_proj_")
                joint = rest[3].startswith("in_proj_")
                if part == "self_attn":
                    arrays[f"{place}/linear_{0 if joint else 1}/{last}"] = array
                elif joint:
                    arrays[f"{place}/linear_0/{last}"] = array[:12]
                    arrays[f"{place}/linear_1/{last}"] = array[12:]
                else:
                    arrays[f"{place}/linear_2/{last}"] = array
    heads = np.int16(3)
    settings = {"num_heads": heads, "pre_norm": np.int8(1), "activation": np.int8(3)}
    for stack in ("encoder", "decoder"):
        arrays |= {f"{stack}/{name}": value for name, value in settings.items()}
    return arrays


@pytest.fixture
def model():
    return small("norm first")


@pytest.fixture
def folder(tmp_path, model):
    """A version 2 folder of `model`."""
    return written(tmp_path / "model", model_bin(theirs(model)))


def written(folder, data, source=SOURCE, target=TARGET):
    folder.mkdir()
    (folder / "model.bin").write_bytes(data)
    for side, tokens in (("source", source), ("target", target)):
        text = "".join(f"{token}\n" for token in tokens)
        (folder / f"{side}_vocabulary.txt").write_text(text, encoding="utf-8")
    return folder


def logits(model, *inputs):
    with no_grad():
        return model(*inputs).numpy()


def open_state(folder):
    """The state of a folder, decoded."""
    return {name: np.asarray(array) for name, array in ctranslate2.open(folder)[1].items()}


class TestOpening:
    def test_a_folder_of_version_2(self, folder, model):
        opened = load_model(folder)
        assert np.array_equal(
            logits(opened, IDS, IDS % 11, MASK), logits(model, IDS, IDS % 11, MASK)
        )
        assert opened.config == model.config == load_config(folder)
        assert ctranslate2.is_folder(folder)

    def test_a_folder_of_version_6(self, tmp_path):
        """Kinds by number, an alias, config.json, vocabularies as JSON."""
        model = small("norm first", tie_word_embeddings=True, layer_norm_eps=1e-3)
        arrays = theirs(model)
        arrays["encoder/embeddings_0/weight"] = arrays.pop("encoder/embeddings/weight")
        arrays["encoder/scale_embeddings"] = np.int8(1)
        arrays["decoder/scale_embeddings"] = np.float32(12**0.5)
        arrays["decoder/alignment_layer"] = np.int16(-1)
        aliases = {"decoder/projection/weight": "decoder/embeddings/weight"}
        folder = written(tmp_path / "model", model_bin(arrays, 6, aliases))
        for side, tokens in (("source", SOURCE), ("target", TARGET)):
            (folder / f"{side}_vocabulary.txt").unlink()
            (folder / f"{side}_vocabulary.json").write_text(json.dumps(tokens), encoding="utf-8")
        about = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>",
                 "decoder_start_token": "</s>", "add_source_eos": True, "add_source_bos": False,
                 "layer_norm_epsilon": 1e-3, "multi_query_attention": False}  # fmt: skip
        (folder / "config.json").write_text(json.dumps(about), encoding="utf-8")
        opened, tokenizer = minillm.load(folder)
        assert np.array_equal(logits(opened, IDS, IDS % 11), logits(model, IDS, IDS % 11))
        assert opened.output.weight is opened.target_embeddings.weight
        assert opened.config.decoder_start_token_id == 2
        assert tokenizer.encode("ab", add_special_tokens=True) == [3, 4, 2]

    def test_integers_are_divided_by_their_scale(self, tmp_path, model):
        arrays = theirs(model)
        whole = np.arange(144, dtype=np.int8).reshape(12, 12) - 70
        scales = np.linspace(1, 3, 12, dtype=np.float32)
        arrays["encoder/layer_0/self_attention/linear_1/weight"] = whole
        arrays["encoder/layer_0/self_attention/linear_1/weight_scale"] = scales
        arrays["decoder/embeddings/weight"] = np.full((11, 12), 500, np.int16)
        arrays["decoder/embeddings/weight_scale"] = np.float32(1000)
        for version in (2, 6):
            folder = written(tmp_path / str(version), model_bin(arrays, version))
            state = open_state(folder)
            np.testing.assert_array_equal(
                state["encoder.layers.0.self_attn.out_proj.weight"],
                whole.astype(np.float32) / scales[:, None],
            )
            assert (state["target_embeddings.weight"] == 0.5).all()
            load_model(folder)

    def test_half_precision(self, tmp_path, model):
        arrays = theirs(model)
        arrays["decoder/projection/bias"] = np.linspace(-1, 1, 11).astype("<f2")
        data = model_bin(arrays, 6)
        state = open_state(written(tmp_path / "f2", data))
        np.testing.assert_array_equal(state["output.bias"], arrays["decoder/projection/bias"])
        wide = np.linspace(-1, 1, 11, dtype=np.float32)
        words = (wide.view(np.uint32) >> 16).astype("<u2")
        old = tensor("decoder/projection/bias", arrays["decoder/projection/bias"], 6)
        new = tensor("decoder/projection/bias", words, 6, "bf16")
        state = open_state(written(tmp_path / "bf16", data.replace(old, new)))
        right = (words.astype(np.uint32) << 16).view(np.float32)
        np.testing.assert_array_equal(state["output.bias"], right)

    def test_biases_left_out_are_0(self, tmp_path, model):
        arrays = theirs(model)
        for name in (
            "encoder/layer_1/ffn/linear_0/bias",
            "decoder/layer_0/attention/linear_2/bias",
        ):
            del arrays[name]
        state = open_state(written(tmp_path / "model", model_bin(arrays)))
        assert (state["encoder.layers.1.linear1.bias"] == 0).all()
        assert state["decoder.layers.0.multihead_attn.out_proj.bias"].shape == (12,)

    def test_heads_are_the_architectures_where_nothing_is_said(self, tmp_path):
        model = small("norm first", d_model=16, nhead=8)
        arrays = theirs(model)
        arrays = {n: a for n, a in arrays.items() if not n.endswith("num_heads")}
        for part in ("weight", "bias"):  # `theirs` splits queries off at 12
            joint = model.state_dict()[f"decoder.layers.0.multihead_attn.in_proj_{part}"]
            arrays[f"decoder/layer_0/attention/linear_0/{part}"] = joint[:16]
            arrays[f"decoder/layer_0/attention/linear_1/{part}"] = joint[16:]
        folder = written(tmp_path / "model", model_bin(arrays, architecture="TransformerBase"))
        assert np.array_equal(logits(load_model(folder), IDS), logits(model, IDS))


class TestCommands:
    def test_info(self, folder, capsys):
        assert command("info", folder, "--json") == 0
        found = json.loads(capsys.readouterr().out)
        assert found["format"] == "ctranslate2" and found["files"] == ["model.bin"]
        assert (found["family"], found["kind"], found["heads"]) == (
            "transformer",
            "encoder-decoder",
            3,
        )
        assert found["tokenizer"] == {"kind": "source-target", "vocab_size": 11}

    def test_generate_prints_the_target_alone(self, folder, model, capsys):
        ids = np.array([[3, 4, 5]])
        text = SourceTargetTokenizer(SOURCE, TARGET).decode(
            generate_ids(model, ids, max_tokens=6)[0]
        )
        assert len(text) > 2
        assert command("generate", folder, "--prompt", "abc", "--temperature", 0,
                       "--max-tokens", 6) == 0  # fmt: skip
        assert capsys.readouterr().out == f"{text}\n"

    def test_convert_gives_a_folder_in_hugging_face_layout(self, folder, model, tmp_path, capsys):
        assert command("convert", folder, tmp_path / "out") == 0
        opened, tokenizer = minillm.load(tmp_path / "out")
        assert np.array_equal(logits(opened, IDS), logits(model, IDS))
        assert tokenizer.encode("abc") == [3, 4, 5]


class TestRefused:
    @pytest.mark.parametrize(
        "change, message",
        [
            ({"decoder/alibi": np.int8(1)}, "decoder/alibi=1 is not implemented"),
            ({"decoder/start_from_zero_embedding": np.int8(1)}, "start_from_zero_embedding=1"),
            ({"encoder/layernorm_embedding/gamma": np.ones(12, "f4")},
             "encoder/layernorm_embedding/gamma is not implemented"),
            ({"encoder/position_encodings/encodings": np.ones((9, 12), "f4")},
             "encoder/position_encodings/encodings is not implemented"),
            ({"encoder/layer_0/ffn/linear_0_noact/bias": np.ones(10, "f4")}, "linear_0_noact/bias"),
            ({"decoder/activation": np.int8(0)}, "activation differs between encoder and decoder"),
            ({"encoder/activation": np.int8(9), "decoder/activation": np.int8(9)}, "activation 9"),
            ({"encoder/scale_embeddings": np.float32(2), "decoder/scale_embeddings": np.float32(2)},
             "scale_embeddings=2.0 is not implemented"),
            ({"encoder/num_heads": np.ones(2, "i2")}, r"encoder/num_heads has shape \(2,\)"),
            ({"decoder/layer_0/attention/linear_1/weight": np.ones((24, 9), "f4")}, "be joined"),
        ],
    )  # fmt: skip
    def test_what_the_family_has_not(self, tmp_path, model, change, message):
        folder = written(tmp_path / "model", model_bin(theirs(model) | change))
        with pytest.raises(ValueError, match=rf"model\.bin: .*{message}"):
            load_model(folder)

    @pytest.mark.parametrize(
        "name",
        ["encoder/embeddings/weight", "decoder/embeddings/weight", "decoder/projection/weight"],
    )
    def test_a_model_without_one_of_its_ends(self, tmp_path, model, name):
        arrays = theirs(model)
        del arrays[name]
        folder = written(tmp_path / "model", model_bin(arrays))
        with pytest.raises(ValueError, match=r"no matrix .*, an encoder-decoder is needed"):
            load_model(folder)

    def test_a_missing_part_is_listed(self, tmp_path, model):
        arrays = theirs(model)
        del arrays["encoder/layer_1/ffn/layer_norm/gamma"]
        folder = written(tmp_path / "model", model_bin(arrays))
        with pytest.raises(ValueError, match=r"missing encoder\.layers\.1\.norm2\.weight"):
            load_model(folder)

    @pytest.mark.parametrize(
        "options, message",
        [
            ({"architecture": "WhisperSpec"}, "architecture 'WhisperSpec', one of TransformerBase"),
            ({"revision": 1}, "revision 1 of TransformerSpec, 2 to 7 is needed"),
            ({"revision": 8}, "revision 8"),
        ],
    )
    def test_other_models(self, tmp_path, model, options, message):
        folder = written(tmp_path / "model", model_bin(theirs(model), **options))
        with pytest.raises(ValueError, match=message):
            load_model(folder)

    @pytest.mark.parametrize(
        "content, message",
        [
            ({"quantization_type": 1}, "quantization_type=1 is not implemented"),
            ({"multi_query_attention": True}, "multi_query_attention=True is not implemented"),
            ({"decoder_start_token": None}, "None is none of the target tokens"),
            ({"eos_token": "<end>"}, "'<end>' is none of the target tokens"),
        ],
    )
    def test_settings_of_config_json(self, folder, content, message):
        (folder / "config.json").write_text(json.dumps(content), encoding="utf-8")
        with pytest.raises(ValueError, match=message):
            load_model(folder)

    @pytest.mark.parametrize(
        "name, data, message",
        [
            ("source_vocabulary.txt", b"a\nb\n", "3 source tokens and 13 embeddings"),
            ("target_vocabulary.txt", b"\xff\n", "not UTF-8"),
            ("target_vocabulary.json", b"{", "not valid JSON"),
            ("target_vocabulary.json", b'["a", 1]', "a list of strings is needed"),
            ("shared_vocabulary.txt", b"a\n", "2 source tokens and 13 embeddings"),
        ],
    )
    def test_vocabularies(self, folder, name, data, message):
        (folder / name).write_bytes(data)
        with pytest.raises(ValueError, match=message):
            load_model(folder)

    def test_missing_files(self, folder):
        (folder / "target_vocabulary.txt").unlink()
        with pytest.raises(FileNotFoundError, match=r"no target_vocabulary\.txt or \.json in"):
            load_model(folder)
        with pytest.raises(FileNotFoundError, match=r"ctranslate2: no model\.bin in"):
            ctranslate2.open(folder.parent)


def test_lines_may_end_as_on_windows(folder):
    for side in ("source", "target"):
        path = folder / f"{side}_vocabulary.txt"
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n"))
    assert ctranslate2.open(folder)[2].target == TARGET


class TestDamage:
    """Every file that is not whole is refused, before anything of its size is allocated."""

    def test_a_file_cut_anywhere(self, tmp_path):
        arrays = {"a": np.ones((2, 3), "f4"), "b": np.ones(4, "i1"), "b_scale": np.float32(2)}
        path = tmp_path / "model.bin"
        for version, aliases in ((2, None), (6, {"c": "b"})):
            data = model_bin(arrays, version, aliases)
            path.write_bytes(data)
            names = {"a", "b"} | set(aliases or {})
            assert read(path).arrays.keys() == names
            for length in range(len(data)):
                path.write_bytes(data[:length])
                with pytest.raises(ValueError, match=r"model\.bin: .* the file is truncated"):
                    read(path)
            path.write_bytes(data + b"\0")
            with pytest.raises(ValueError, match="the last tensor is followed by 1 byte"):
                read(path)

    @pytest.mark.parametrize(
        "data, message",
        [
            (struct.pack("<I", 1), "CTranslate2 version 1, 2 to 6 is needed"),
            (struct.pack("<I", 7), "CTranslate2 version 7"),
            (struct.pack("<IH", 2, 0), "the architecture at byte 6 has no end"),
            (struct.pack("<IH", 2, 2) + b"\xff\0", "the architecture at byte 8 is not UTF-8"),
            (struct.pack("<I", 2) + string("x") + struct.pack("<II", 2, 2**32 - 1),
             "the name of tensor 0 needs 2 bytes, 0 are left"),
            (model_bin({"a": np.ones((1,) * 9, "f4")}), "'a' has 9 axes, at most 8"),
            (model_bin({"a": np.ones(2)}), "'a' has items of kind 8, which is not known"),
            (model_bin({"a": np.ones(2, "f4")}).replace(
                struct.pack("<IBI", 2, 4, 2), struct.pack("<IBI", 3, 4, 2)),
             r"'a' has 8 bytes for shape \(3,\), 12 are needed"),
            (model_bin({"a": np.ones((2, 2), "f4")}).replace(
                struct.pack("<IIBI", 2, 2, 4, 4), struct.pack("<IIBI", 2**31, 2**31, 4, 4)),
             "18446744073709551616 are needed"),
            (model_bin({"a": np.ones(2, "f4")}).replace(
                struct.pack("<IBI", 2, 4, 2), struct.pack("<IBI", 2**31, 4, 2**31)),
             "tensor 'a' needs 8,589,934,592 bytes, 8 are left"),
            (model_bin({"a": np.ones((1, 1), "i1")}), "'a' holds integers, 'a_scale' is needed"),
            (model_bin({"a": np.ones((2, 1), "i1"), "a_scale": np.ones(3, "f4")}),
             r"'a_scale' \(3,\) cannot scale 'a' \(2, 1\)"),
            (model_bin({"a": np.ones((2, 1), "i1"), "a_scale": np.zeros(2, "f4")}), "cannot scale"),
            (model_bin({"a": np.ones(1, "f4")}, 3, {"b": "c"}), "alias 'b' of 'c'"),
            (model_bin({"a": np.ones(1, "f4")}, 3, {"a": "a"}), "alias 'a' of 'a'"),
        ],
    )  # fmt: skip
    def test_bytes_that_cannot_be(self, tmp_path, data, message):
        path = tmp_path / "model.bin"
        path.write_bytes(data)
        with pytest.raises(ValueError, match=rf"model\.bin: .*{message}"):
            read(path)

    def test_a_name_that_occurs_twice(self, tmp_path):
        one = tensor("a", np.ones(2, "f4"), 2)
        data = model_bin({"a": np.ones(2, "f4")}).replace(one, one + one)
        data = data.replace(struct.pack("<II", 3, 1), struct.pack("<II", 3, 2))
        (tmp_path / "model.bin").write_bytes(data)
        with pytest.raises(ValueError, match="tensor 'a' is there twice"):
            read(tmp_path / "model.bin")


class TestTokenizer:
    def test_characters_in_and_out(self):
        tokenizer = SourceTargetTokenizer(SOURCE, TARGET, before=["<s>"], after=["</s>"])
        assert tokenizer.encode("abz") == [3, 4, 12]
        assert tokenizer.encode("a", add_special_tokens=True) == [1, 3, 2]
        assert tokenizer.decode([1, 3, 4, 10, 2]) == "kl"
        assert tokenizer.decode([3, 2], skip_special_tokens=False) == "k</s>"
        assert (tokenizer.vocab_size, tokenizer.source_vocab_size, tokenizer.eos_id) == (11, 13, 2)

    def test_control_tokens_in_a_text_are_characters(self):
        tokenizer = SourceTargetTokenizer(SOURCE, TARGET)
        assert tokenizer.encode("<s>a") == [12, 12, 12, 3]
        with pytest.raises(ValueError, match="encode: control tokens in a source text are always"):
            tokenizer.encode("<s>a", split_special_tokens=False)

    def test_it_comes_back(self, tmp_path):
        tokenizer = SourceTargetTokenizer(SOURCE, TARGET, after=["</s>"])
        tokenizer.save(tmp_path)
        again = load(tmp_path)
        assert again.to_dict() == tokenizer.to_dict()
        assert again.fingerprint == tokenizer.fingerprint

    @pytest.mark.parametrize(
        "source, target, options, message",
        [
            (["the", "<unk>"], TARGET, {}, "source token 'the' is neither one character"),
            (SOURCE, ["</s>", "▁the"], {}, "target token '▁the' is neither"),
            (["a", "a", "<unk>"], TARGET, {}, "a source token occurs twice"),
            (SOURCE, ["k", "k", "</s>"], {}, "token 'k' occurs twice"),
            (["a"], TARGET, {}, "'<unk>' is none of the source tokens"),
            (SOURCE, TARGET, {"after": ["<e>"]}, "'<e>' is none of the source tokens"),
            (SOURCE, TARGET, {"eos": "<e>"}, "the end token '<e>' is none of the control tokens"),
        ],
    )
    def test_what_is_refused(self, source, target, options, message):
        with pytest.raises(ValueError, match=message):
            SourceTargetTokenizer(source, target, **options)

    def test_pieces_of_words_are_no_characters(self, tmp_path, model):
        words = [*SOURCE[:-2], "the", "<unk>"]
        folder = written(tmp_path / "model", model_bin(theirs(model)), source=words)
        load_model(folder)
        with pytest.raises(ValueError, match="how a text is cut into such tokens is not known"):
            minillm.load(folder)


class TestPublishedModel:
    """aren-transliteration: six and six layers, trained. Its words and scores are CTranslate2's."""

    WORDS = (("آتزمون", "atzmon"), ("آتشيسون", "achison"), ("آرثر", "arther"), ("آزا", "azza"))
    SCORES = (
        ("آتزمون", "atzmon", [-0.106023, -0.065411, -0.056003, -0.447953, -0.230714, -0.092183,
                              -0.063463]),
        ("آتشيسون", "achison", [-0.07266, -0.300309, -0.181187, -0.395671, -0.025632, -0.123466,
                                -0.002034, -0.012639]),
        ("آرثر", "arthur", [-0.076704, -0.036038, -0.029253, -0.030273, -4.599912, -0.005436,
                            -0.032272]),
    )  # fmt: skip

    @pytest.fixture
    def published(self, shared_data):
        return minillm.load(shared_data / "models" / "aren-transliteration")

    def test_it_transliterates(self, published, tmp_path):
        model, tokenizer = published
        save_model(tmp_path, model, tokenizer)
        for some, names in (published, minillm.load(tmp_path)):
            for arabic, latin in self.WORDS:
                ids = np.array([names.encode(arabic, add_special_tokens=True)])
                assert names.decode(generate_ids(some, ids)[0]) == latin
        assert model.parameter_count() == 182_731

    def test_text_to_text(self, published):
        for arabic, latin in self.WORDS:
            for options in ({"temperature": 0}, {"temperature": 0, "use_cache": False}):
                assert minillm.generate(*published, arabic, **options) == latin
            pieces = list(minillm.stream(*published, arabic, temperature=0, max_tokens=3))
            assert "".join(pieces) == latin[:3]
        drawn = {minillm.generate(*published, "آزا", seed=seed) for seed in range(20)}
        assert len(drawn) > 2
        assert minillm.generate(*published, "آزا", seed=3) in drawn
        with pytest.raises(ValueError, match="generate: a source of 0 tokens, at least 1 is"):
            minillm.generate(*published, "")

    def test_rows_of_a_batch_are_as_alone(self, published):
        model, tokenizer = published
        rows = [tokenizer.encode(arabic) for arabic, _ in self.WORDS]
        width = max(map(len, rows))
        ids = np.array([row + [0] * (width - len(row)) for row in rows])
        mask = np.array([[1] * len(row) + [0] * (width - len(row)) for row in rows])
        for use_cache in (True, False):
            got = generate_ids(model, ids, mask=mask, use_cache=use_cache)
            assert [tokenizer.decode(row) for row in got] == [latin for _, latin in self.WORDS]

    def test_scores(self, published):
        model, tokenizer = published
        for arabic, latin, right in self.SCORES:
            targets = np.array([[*(tokenizer.token_to_id(c) for c in latin), tokenizer.eos_id]])
            with no_grad():
                loss = model.loss(np.array([tokenizer.encode(arabic)]), targets, reduction="none")
            np.testing.assert_allclose(-loss.numpy()[0], right, rtol=1e-4, atol=2e-5)
