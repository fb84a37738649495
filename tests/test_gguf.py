"""GGUF: the container and its blocks, against bytes that the `gguf` package 0.19.0 made."""

import hashlib
import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minillm import blocks
from minillm.formats import gguf
from minillm.formats.deferred import Blocks
from small_gguf import FOREIGN, METADATA, TENSORS, numbers

SIZES = {  # ggml's id, numbers and bytes of a block
    "F32": (0, 1, 4),
    "F16": (1, 1, 2),
    "Q4_0": (2, 32, 18),
    "Q4_1": (3, 32, 20),
    "Q5_0": (6, 32, 22),
    "Q5_1": (7, 32, 24),
    "Q8_0": (8, 32, 34),
    "Q4_K": (12, 256, 144),
    "Q5_K": (13, 256, 176),
    "Q6_K": (14, 256, 210),
    "BF16": (30, 1, 2),
}
DECODED = {  # of the bytes below: the start of the sha256, the first and the last number
    "F32": ("bf5b5be8837f8542225ce61b8f9a1186", -7.217926326349435e-22, 4.200726102545194e24),
    "F16": ("45ea325b14bd7a93d2d815e6ee965332", 0.0234375, 0.036071777),
    "BF16": ("3ed6afa1584db232e23391d5b9a95297", 4.440892098500626e-16, 1.7541524e-14),
    "Q4_0": ("682cc0d8ccac517ac4743d864385fa9e", 0.046875, 0.18933105),
    "Q4_1": ("69d02368b5969048fa367c542c1dc69f", 0.27700042724609375, 2.433693),
    "Q5_0": ("3b1560df82d944cde8ce128f19fd66ef", -0.234375, -9.796875),
    "Q5_1": ("c11c0bd9a93222c511e036d45c88509e", 0.18325042724609375, 0.29605103),
    "Q8_0": ("7d7f58cffcedb91b9be32d1d27faba2a", 2.109375, 42.539062),
    "Q4_K": ("dc13e8548469e4e5c95c38ee85995464", 0.23797607421875, 2.836914),
    "Q5_K": ("f36ff9da8c52159efdf5af0a3f0afcf3", 0.23797607421875, 1141.7886),
    "Q6_K": ("cdd084761397f5a9e266bfeec16c3acd", 792.0, -961.54297),
}


def block_bytes(kind):
    """Two blocks (32 of the plain kinds), whose scales are finite."""
    _, elements, size = SIZES[kind]
    place = np.arange(size * (32 if elements == 1 else 2))
    return ((place * place * 7 + place * 31) % 256).astype(np.uint8)


def decoded(kind, raw, shape=(-1,)):
    elements, size = SIZES[kind][1:]
    raw = np.frombuffer(bytes(raw), np.uint8)
    return Blocks(raw, kind, (raw.size // size * elements,)).decode().reshape(shape)


class TestBlocks:
    def test_types_have_ggmls_ids_and_sizes(self):
        assert {
            name: (kind.id, kind.elements, kind.block_bytes) for name, kind in blocks.KINDS.items()
        } == SIZES

    @pytest.mark.parametrize("kind", SIZES)
    def test_every_number_is_what_the_package_decodes(self, kind):
        digest, first, last = DECODED[kind]
        out = decoded(kind, block_bytes(kind))
        assert out.dtype == np.float32
        np.testing.assert_allclose(out[[0, -1]], [first, last], rtol=1e-6)
        assert hashlib.sha256(out.astype("<f4").tobytes()).hexdigest()[:32] == digest

    @pytest.mark.parametrize("kind", SIZES)
    def test_rows_and_chunks_do_not_matter(self, kind, monkeypatch):
        raw = np.concatenate([block_bytes(kind)] * 3)
        elements, size = SIZES[kind][1:]
        tensor = Blocks(raw, kind, (3, raw.size // size // 3 * elements))
        whole = tensor.decode()
        for rows in (slice(1, 2), slice(None), slice(2, 9), slice(3, 1)):
            np.testing.assert_array_equal(tensor[rows], whole[rows])
        np.testing.assert_array_equal(tensor[1], whole[1])
        np.testing.assert_array_equal(tensor.T.decode(), whole.T)
        assert tensor.T.shape == whole.T.shape and tensor.T.T is tensor
        assert np.asarray(tensor, np.float64).dtype == np.float64
        monkeypatch.setattr(blocks, "CHUNK", elements)
        out = np.full(whole.shape, np.nan, np.float32)
        assert tensor.decode(out) is out
        np.testing.assert_array_equal(out, whole)

    def test_what_is_filled_has_to_fit(self):
        tensor = Blocks(block_bytes("Q8_0"), "Q8_0", (2, 32))
        for out in (np.empty((2, 33), np.float32), np.empty((32, 2), np.float32).T):
            with pytest.raises(ValueError, match=r"decode: .* numbers wanted of 2 Q8_0 blocks"):
                tensor.decode(out)

    def test_q4_0_keeps_low_halves_first_and_takes_eight_away(self):
        raw = np.float16(1).tobytes() + bytes(j | (15 - j) << 4 for j in range(16))
        assert decoded("Q4_0", raw).tolist() == [*range(-8, 8), *range(7, -9, -1)]

    def test_bfloat16_is_the_upper_half_of_a_float(self):
        words = np.array([0x3FC0, 0xC000, 0x7F80, 0x7FC0], "<u2")
        np.testing.assert_array_equal(decoded("BF16", words), [1.5, -2, np.inf, np.nan])

    @pytest.mark.parametrize("kind", ["Q4_0", "Q5_1", "Q8_0", "Q4_K", "Q6_K"])
    def test_a_scale_that_is_nan_gives_nan_without_a_warning(self, kind, recwarn):
        raw = block_bytes(kind).copy()
        layout = blocks.KINDS[kind].layout
        raw.view(layout)["d"][1] = np.nan
        out = decoded(kind, raw, (2, -1))
        assert np.isfinite(out[0]).all() and np.isnan(out[1]).all()
        raw[:] = 0
        raw.view(layout)["d"] = np.inf  # times 0
        assert not np.isfinite(decoded(kind, raw)).any() and not recwarn.list


@pytest.fixture
def foreign(tmp_path):
    path = tmp_path / "foreign.gguf"
    path.write_bytes(FOREIGN)
    return path


class TestReading:
    def test_metadata_and_tensors_are_those_that_were_written(self, foreign):
        metadata, tensors = gguf.read(foreign)
        plain = {k: v.tolist() if hasattr(v, "tolist") else v for k, v in metadata.items()}
        plain["a.nested"] = [part.tolist() for part in plain["a.nested"]]
        assert plain == METADATA
        assert [type(plain[key]) for key in METADATA] == [type(v) for v in METADATA.values()]
        assert {name: tensor.kind for name, tensor in tensors.items()} == {
            name: kind for name, (kind, _) in TENSORS.items()
        }
        for name, (_, right) in TENSORS.items():
            if right is not None:
                np.testing.assert_array_equal(tensors[name].decode(), right)
        four = tensors["four"]
        assert (four.shape, four.nbytes) == ((2, 32), 36)
        np.testing.assert_allclose(four.decode(), numbers().reshape(2, 32), atol=1 / 14)

    def test_version_2_differs_in_its_number_alone(self, foreign):
        right = gguf.read(foreign)[1]["four"].decode()
        foreign.write_bytes(FOREIGN[:4] + struct.pack("<I", 2) + FOREIGN[8:])
        np.testing.assert_array_equal(gguf.read(foreign)[1]["four"].decode(), right)

    def test_nothing_is_decoded_and_nothing_copied_before_it_is_asked_for(self, foreign):
        tensors = gguf.read(foreign)[1]
        assert not any(tensor.raw.flags.owndata for tensor in tensors.values())
        assert not tensors["plain"].decode().flags.writeable
        for tensor in tensors.values():
            out = np.full(tensor.shape, np.nan, np.float32)
            np.testing.assert_array_equal(tensor.decode(out), tensor.decode())


def string(text):
    data = text if isinstance(text, bytes) else text.encode()
    return struct.pack("<Q", len(data)) + data


def entry(key, kind, value):
    return string(key) + struct.pack("<I", kind) + value


def info(name, dims=(4,), kind=0, offset=0):
    sizes = struct.pack(f"<I{len(dims)}Q", len(dims), *dims)
    return string(name) + sizes + struct.pack("<IQ", kind, offset)


def file(*tensors, entries=(), data=b"\0" * 64, version=3, counts=None):
    counts = counts or (len(tensors), len(entries))
    head = b"GGUF" + struct.pack("<IQQ", version, *counts) + b"".join((*entries, *tensors))
    return head + b"\0" * (-len(head) % 32) + data


BIG = 1 << 62
HOSTILE = {
    "empty": (b"", "only 0 bytes"),
    "short": (b"GGUF\3\0\0\0", "only 8 bytes"),
    "magic": (b"GGML" + bytes(60), "begins with b'GGML'"),
    "version 1": (file(version=1), "version 1, 2 or 3"),
    "version 4": (file(version=4), "version 4, 2 or 3"),
    "big-endian": (file(version=3 << 24), "big-endian"),
    "tensors": (file(counts=(BIG, 0)), f"{BIG:,} tensors are announced"),
    "entries": (file(counts=(0, BIG)), f"{BIG:,} metadata entries are announced"),
    "key length": (file(entries=[struct.pack("<Q", BIG) + bytes(8)]), f"of {BIG:,} bytes"),
    "key twice": (file(entries=[entry("a", 0, b"\1")] * 2), "'a' occurs twice"),
    "key bytes": (file(entries=[entry(b"\xff", 0, b"\1")]), "not UTF-8"),
    "key lines": (file(entries=[entry("a\nb", 0, b"\1")]), r"metadata key is 'a\\nb'"),
    "text bytes": (file(entries=[entry("a", 8, string(b"a\xff"))]), "metadata 'a' is not UTF-8"),
    "type": (file(entries=[entry("a", 13, bytes(8))]), "type 13, 0 to 12"),
    "string": (file(entries=[entry("a", 8, struct.pack("<Q", BIG))]), f"of {BIG:,} bytes"),
    "numbers": (
        file(entries=[entry("a", 9, struct.pack("<IQ", 4, BIG))]),
        f"of {4 * BIG:,} bytes",
    ),
    "strings": (
        file(entries=[entry("a", 9, struct.pack("<IQ", 8, BIG))]),
        f"{BIG:,} strings in metadata 'a' are announced",
    ),
    "second string": (
        file(entries=[entry("a", 9, struct.pack("<IQ", 8, 2) + string("x") + bytes(7) + b"\7")]),
        "string 1 of 2",
    ),
    "strings bytes": (
        file(entries=[entry("a", 9, struct.pack("<IQ", 8, 1) + string(b"\xff"))]),
        "a string in metadata 'a' is not UTF-8",
    ),
    "arrays": (
        file(entries=[entry("a", 9, struct.pack("<IQ", 9, BIG))]),
        f"{BIG:,} arrays in metadata 'a' are announced",
    ),
    "nested": (
        file(entries=[entry("a", 9, struct.pack("<IQ", 9, 1) * 9)]),
        "more than 4 deep",
    ),
    "no dimension": (file(info("t", ())), "0 dimensions, 1 to 4"),
    "five dimensions": (file(info("t", (1,) * 5)), "5 dimensions, 1 to 4"),
    "size 0": (file(info("t", (4, 0))), "sizes from 1"),
    "overflow": (file(info("t", (1 << 33, 1 << 33))), "sizes from 1"),
    "wraps to 0": (file(info("t", (1 << 32, 1 << 32))), "sizes from 1"),
    "huge": (file(info("t", (1 << 60,))), f"{1 << 62:,} bytes at 0, the file holds 64"),
    "unknown type": (file(info("t", kind=99)), r"'t' has type 99 \(unknown\)"),
    "named type": (file(info("t", (256,), kind=10)), r"'t' has type 10 \(Q2_K\)"),
    "row": (file(info("t", (48,), kind=2)), "rows of 48, Q4_0 needs multiples of 32"),
    "misaligned": (file(info("t", offset=4)), "lies at 4, a multiple of 32"),
    "out of range": (file(info("t", (9,), offset=32)), "36 bytes at 32, the file holds 64"),
    "far": (file(info("t", offset=1 << 63)), f"16 bytes at {1 << 63}"),
    "overlap": (file(info("s", (9,)), info("t", offset=32)), "'s' and 't' overlap at 32"),
    "same place": (file(info("s"), info("t")), "overlap at 0"),
    "name lines": (file(info("t\n")), r"tensor is 't\\n'"),
    "name twice": (file(info("t"), info("t", offset=32)), "'t' occurs twice"),
    "truncated": (file(info("t"), data=b"\0" * 15), "16 bytes at 0, the file holds 15"),
    "alignment 0": (file(entries=[entry(gguf.ALIGNMENT, 4, bytes(4))]), "is 0, a power of two"),
    "alignment 24": (
        file(entries=[entry(gguf.ALIGNMENT, 4, b"\x18\0\0\0")]),
        "is 24, a power of two",
    ),
    "alignment text": (
        file(entries=[entry(gguf.ALIGNMENT, 8, string("32"))]),
        "is '32', a power of two",
    ),
}


class TestHostileFiles:
    @pytest.mark.parametrize("case", HOSTILE)
    def test_a_file_that_claims_what_it_has_not_is_refused(self, case, tmp_path):
        data, complaint = HOSTILE[case]
        path = tmp_path / "hostile.gguf"
        path.write_bytes(data)
        with pytest.raises(ValueError, match=complaint) as caught:
            gguf.read(path)
        assert str(path) in str(caught.value) and "\n" not in str(caught.value)

    def test_the_whole_of_what_the_cases_are_made_from_is_accepted(self, tmp_path):
        path = tmp_path / "right.gguf"
        path.write_bytes(
            file(info("s", (8,)), info("t", offset=32), entries=[entry("a", 0, b"\1")])
        )
        metadata, tensors = gguf.read(path)
        assert metadata == {"a": 1} and list(tensors) == ["s", "t"]

    def test_every_truncation_is_refused(self, foreign):
        for length in range(len(FOREIGN) - 28):  # the last tensor has 36 of 64 bytes
            foreign.write_bytes(FOREIGN[:length])
            with pytest.raises(ValueError):
                gguf.read(foreign)
        foreign.write_bytes(FOREIGN[:-28])
        gguf.read(foreign)

    @settings(max_examples=300)
    @given(st.lists(st.tuples(st.integers(0, len(FOREIGN) - 1), st.integers(0, 255)), max_size=6))
    def test_damage_gives_a_value_error_or_tensors_within_the_file(self, tmp_path_factory, damage):
        data = bytearray(FOREIGN)
        for place, value in damage:
            data[place] = value
        path = tmp_path_factory.getbasetemp() / "damaged.gguf"
        path.write_bytes(data)
        try:
            _, tensors = gguf.read(path)
        except ValueError as error:
            assert "\n" not in str(error)
        else:
            assert sum(tensor.decode().size for tensor in tensors.values()) <= 2 * len(data)
