"""Writing GGUF: the bytes are those that the `gguf` package 0.19.0 writes."""

import hashlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minillm.formats import gguf, gguf_writing
from minillm.formats.block_encoding import ENCODERS, encode, round_bf16
from minillm.formats.deferred import Blocks
from small_gguf import FOREIGN, METADATA, numbers

ENCODED = {  # numbers() in two blocks; of the plain kinds the start of the sha256
    "F16": "c8cce7a38d0ea05cef87f5b014c49c25",
    "BF16": "558d7eb0a02c7655c721481d407bd7b0",
    "Q4_0": "0030f0f2163a6fa5eb43bc25af3ad683411f0a15de9c7c5c4d4f41659acf055cb42da721",
    "Q4_1": "223000bcf0f215396e94eb43ab25af3ad683410f09150aa1de9c7c5c4d4f41659acf055cb42da721",
    "Q8_0": "082081a7da1c6bca36b138ce7124e4b38f776f758baddc1a65c0289f22b55302bf89"
    "140561473a3c4d6b95d0186fd245c453ee975116eaccbbb9c6e0083e81d434a11ea7",
}
WHOLE = "d760aa066c4d2beb095a83c1269ca341ba43fa2603c58f71b747be630df6be76"


def encoded(kind, array):
    return b"".join(piece.tobytes() for piece in encode(kind, np.asarray(array, np.float32)))


def decoded(kind, array):
    array = np.asarray(array, np.float32)
    return Blocks(np.frombuffer(encoded(kind, array), np.uint8), kind, array.shape).decode()


class TestEncoding:
    @pytest.mark.parametrize("kind", ENCODED)
    def test_the_bytes_are_those_of_the_package(self, kind):
        got = encoded(kind, numbers())
        assert (got.hex() if kind[0] == "Q" else hashlib.sha256(got).hexdigest()[:32]) == ENCODED[
            kind
        ]

    @pytest.mark.parametrize("kind", ENCODERS)
    def test_zeros_come_back_as_zeros(self, kind, recwarn):
        assert not decoded(kind, np.zeros(256)).any()
        assert not np.frombuffer(encoded(kind, np.zeros(256)), np.uint8)[:2].view("<f2").any()
        assert not recwarn.list

    @pytest.mark.parametrize("kind, levels", [("Q8_0", 254), ("Q4_0", 16), ("Q4_1", 15)])
    @given(st.lists(st.floats(-9, 9, width=16), min_size=32, max_size=32))
    def test_no_number_moves_by_more_than_its_block_allows(self, kind, levels, values):
        x = np.array(values, np.float32)
        span = np.ptp(x) if kind == "Q4_1" else 2 * np.abs(x).max()
        step = span / levels
        # an even count of levels lacks one end; scales are rounded to float16
        allowed = step * (1.01 if kind == "Q4_0" else 0.52) + 0.0011 * np.abs(x).max() + 1e-5
        assert np.abs(decoded(kind, x) - x).max() <= allowed

    def test_bfloat16_rounds_to_even_and_keeps_nan(self):
        given_ = np.array([1.00390625, 1.01171875, 3.3e38, -np.inf, 1.5], np.float32)
        assert [hex(word) for word in round_bf16(given_)] == [
            "0x3f80",
            "0x3f82",
            "0x7f78",
            "0xff80",
            "0x3fc0",
        ]
        nans = np.array([0x7FFFFFFF, 0xFFFFFFFF, 0x7F800001], np.uint32).view(np.float32)
        assert np.isnan((round_bf16(nans).astype(np.uint32) << 16).view(np.float32)).all()

    @pytest.mark.parametrize("kind", ["F32", "F16", "BF16"])
    def test_plain_kinds_hold_what_is_not_finite(self, kind):
        strange = [np.nan, np.inf, -np.inf, -0.0]
        np.testing.assert_array_equal(decoded(kind, strange), strange)

    @pytest.mark.parametrize("kind", ["Q8_0", "Q4_0", "Q4_1"])
    @pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf, 1e9])
    def test_a_block_whose_scale_would_not_be_finite_is_refused(self, kind, wrong):
        x = numbers()
        x[40] = wrong
        with pytest.raises(ValueError, match=f"cannot be held in {kind}"):
            encoded(kind, x)

    def test_half_precision_refuses_what_would_become_infinite(self):
        assert decoded("F16", [65519.0]) == 65504
        with pytest.raises(ValueError, match=r"numbers up to 6.552e\+04 cannot be held in F16"):
            encoded("F16", [np.inf, 65520.0])


class TestWriting:
    def write(self, path, **tensors):
        gguf_writing.write(path, {}, tensors)

    def test_a_whole_file_has_the_bytes_of_the_package(self, tmp_path):
        x = numbers(192).reshape(3, 64)
        metadata = {
            "general.architecture": "gpt2",
            "gpt2.block_count": 7,
            "gpt2.eps": 1e-5,
            "general.name": "é",
            "yes": True,
            "words": ["a", "Ġb"],
            "ints": [1, -1],
            "floats": [0.1, 2.0],
            "pairs": [["a"], ["b", "c"]],
        }
        kinds = ("F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1")
        tensors = {f"t.{kind}": (x, kind) for kind in kinds}
        gguf_writing.write(tmp_path / "a", metadata, tensors | {"odd": (x[:1, :3], "F32")})
        assert hashlib.sha256((tmp_path / "a").read_bytes()).hexdigest() == WHOLE

    def test_metadata_keep_their_types_and_values(self, tmp_path):
        (tmp_path / "foreign").write_bytes(FOREIGN)
        metadata, tensors = gguf.read(tmp_path / "foreign")
        metadata.pop("general.alignment")
        gguf_writing.write(
            tmp_path / "a", metadata, {"four": (tensors["four"], "F32"), "x": (numbers(), "Q8_0")}
        )
        again, written = gguf.read(tmp_path / "a")
        assert list(again) == [key for key in METADATA if key != "general.alignment"]
        for key, value in metadata.items():
            if isinstance(value, np.ndarray):
                assert again[key].dtype == value.dtype
            if key not in ("a.f64", "a.nested"):  # a Python float is written as float32
                assert np.array_equal(again[key], value), key
        np.testing.assert_array_equal(written["four"].decode(), tensors["four"].decode())

    def test_numpy_numbers_keep_their_type(self, tmp_path):
        values = {
            "big": np.uint64(5),
            "byte": np.int8(-5),
            "double": np.float64(0.1),
            "floats": np.array([0.1, 0.2]),
            "swapped": np.array([1, 2], ">i4"),
            "long": -5,
            "longer": 1 << 40,
            "none": [],
        }
        gguf_writing.write(tmp_path / "a", values, {})
        metadata, tensors = gguf.read(tmp_path / "a")
        assert metadata["floats"].dtype == np.float64 and metadata["double"] == 0.1
        assert metadata["swapped"].tolist() == [1, 2] and metadata["longer"] == 1 << 40
        assert (metadata["big"], metadata["byte"], metadata["long"]) == (5, -5, -5)
        assert metadata["none"] == [] and tensors == {}

    @pytest.mark.parametrize(
        "value", [None, {"a": 1}, 1j, 1 << 64, [1, "a"], [1, 2.0], [1 << 31], np.float16(1), b"a"]
    )
    def test_values_without_a_type_in_the_format_are_refused(self, tmp_path, value):
        with pytest.raises(TypeError, match=r"metadata key is .*GGUF has no type for it"):
            gguf_writing.write(tmp_path / "a", {"key": value}, {})

    @pytest.mark.parametrize(
        "array, kind, complaint",
        [
            (np.zeros((4, 48)), "Q8_0", "name has rows of 48, Q8_0 needs multiples of 32"),
            (np.zeros((4, 256)), "Q2_K", "name as Q2_K, one of F32, F16, BF16, Q8_0, Q4_0, Q4_1"),
            (np.zeros(()), "F32", r"name has shape \(\), 1 to 4 sizes"),
            (np.zeros((1,) * 5), "F32", "1 to 4 sizes"),
            (np.zeros((3, 0)), "F32", "sizes from 1"),
            (np.full(32, np.nan), "Q8_0", "gguf: name: numbers up to nan"),
        ],
    )
    def test_what_the_format_cannot_hold_leaves_nothing(self, tmp_path, array, kind, complaint):
        with pytest.raises(ValueError, match=complaint):
            gguf_writing.write(
                tmp_path / "a", {}, {"first": (numbers(), "F32"), "name": (array, kind)}
            )
        assert not list(tmp_path.iterdir())

    def test_the_alignment_cannot_be_chosen(self, tmp_path):
        with pytest.raises(ValueError, match=r"general.alignment cannot be chosen, it is 32"):
            gguf_writing.write(tmp_path / "a", {"general.alignment": 64}, {})

    def test_rows_in_any_order_of_memory_and_pieces_make_no_difference(self, tmp_path, monkeypatch):
        x = numbers(32 * 96).reshape(32, 96).astype(np.float64)
        monkeypatch.setattr("minillm.formats.block_encoding.CHUNK", 64)
        gguf_writing.write(tmp_path / "a", {}, {"x": (np.asfortranarray(x), "Q8_0")})
        monkeypatch.undo()
        gguf_writing.write(tmp_path / "b", {}, {"x": (x, "Q8_0")})
        assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
        np.testing.assert_allclose(gguf.read(tmp_path / "a")[1]["x"].decode(), x, atol=0.005)
