"""Files: whole or not there; read back exactly, or refused in one line."""

import hashlib
import json
import struct
import subprocess
import sys
import tracemalloc

import numpy as np
import pytest

from minillm.formats import hf, safetensors
from minillm.formats.files import atomic_write, atomic_write_text, remove_leftovers

ARRAYS = {
    "b": np.array([[1.5, -2.0, 0.25], [3.0, 4.0, 5.0]], np.float32),
    "a": np.array([7, -8], np.int64),
}


def file_of(header, data=b"", length=None):
    """The bytes of a safetensors file with this header, true or not."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode("utf-8")
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def entry(dtype, shape, begin, end):
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def written(path, content):
    path.write_bytes(content)
    return path


class TestSafetensors:
    @pytest.mark.parametrize(
        "array",
        [
            np.array(3.5, np.float32),
            np.zeros((0, 4), np.float64),
            np.array([True, False]),
            np.arange(6, dtype=np.float16).reshape(2, 3),
            np.arange(6.0).reshape(2, 3).T,
            np.arange(10, dtype=np.uint16)[::-2],
            np.array([-(2**63), 2**63 - 1]),
            np.array([np.nan, -np.inf, -0.0], np.float32),
        ],
        ids=str,
    )
    def test_arrays_come_back_bit_for_bit(self, tmp_path, array):
        safetensors.write(tmp_path / "f", {"x": array}, {"note": "é\n"})
        arrays, metadata = safetensors.verify(tmp_path / "f")
        assert arrays["x"].dtype == array.dtype
        assert arrays["x"].shape == array.shape
        assert arrays["x"].tobytes() == array.tobytes()
        assert metadata["note"] == "é\n"

    def test_the_library_reads_what_was_written_and_the_reverse(self, tmp_path):
        numpy_io = pytest.importorskip("safetensors.numpy")
        safetensors.write(tmp_path / "ours", ARRAYS, {"format": "pt"})
        for name, array in numpy_io.load_file(tmp_path / "ours").items():
            assert np.array_equal(array, ARRAYS[name])
        numpy_io.save_file(ARRAYS, tmp_path / "theirs", {"k": "v"})
        arrays, metadata = safetensors.read(tmp_path / "theirs")
        assert metadata == {"k": "v"}
        assert all(np.array_equal(arrays[name], ARRAYS[name]) for name in ARRAYS)

    def test_the_same_content_is_the_same_bytes(self, tmp_path):
        for name, arrays in (("1", ARRAYS), ("2", dict(reversed(ARRAYS.items())))):
            safetensors.write(tmp_path / name, arrays, {"k": "v"})
        assert (tmp_path / "1").read_bytes() == (tmp_path / "2").read_bytes()

    def test_data_start_at_a_multiple_of_8(self, tmp_path):
        for count in range(9):
            safetensors.write(tmp_path / "f", {"x" * (count + 1): np.ones(2)})
            (length,) = struct.unpack("<Q", (tmp_path / "f").read_bytes()[:8])
            assert length % 8 == 0

    def test_arrays_are_mapped_not_read(self, tmp_path):
        safetensors.write(tmp_path / "f", {"x": np.zeros(1 << 20, np.float32)})
        tracemalloc.start()
        try:
            arrays, _ = safetensors.read(tmp_path / "f")
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert peak < 1 << 20 < arrays["x"].nbytes
        with pytest.raises(ValueError, match="read-only"):
            arrays["x"][0] = 1

    def test_bfloat16_is_the_upper_half_of_a_float(self, tmp_path):
        words = struct.pack("<6H", 0x3FC0, 0xC000, 0x7F80, 0x7FC0, 0x8000, 0x0001)
        path = written(tmp_path / "f", file_of({"x": entry("BF16", [2, 3], 0, 12)}, words))
        mapped = safetensors.read(path)[0]["x"]
        assert (mapped.dtype, mapped.shape, mapped.nbytes) == (np.float32, (2, 3), 12)
        x = np.asarray(mapped)
        assert x.ravel()[[0, 1, 2, 4]].tolist() == [1.5, -2.0, np.inf, 0.0]
        assert np.isnan(x[1, 0]) and np.signbit(x[1, 1]) and x[1, 2] == 2.0**-133

    @pytest.mark.parametrize(
        ("number", "word"),
        [(1.00390625, 0x3F80), (1.01171875, 0x3F82), (1.5, 0x3FC0), (-2.0, 0xC000),
         (np.inf, 0x7F80), (3.4e38, 0x7F80), (-0.0, 0x8000), (1e-45, 0x0000)],
    )  # fmt: skip
    def test_bfloat16_is_written_rounded_to_nearest_even(self, tmp_path, number, word):
        safetensors.write(tmp_path / "f", {"x": np.full((2, 2), number)}, dtype="bf16")
        content = (tmp_path / "f").read_bytes()
        assert content[-8:] == struct.pack("<4H", *[word] * 4)
        x = np.asarray(safetensors.verify(tmp_path / "f")[0]["x"])
        assert x.tobytes() == struct.pack("<4H", *[0, word] * 2) * 2

    def test_nan_stays_nan_in_bfloat16(self, tmp_path):
        nan = np.array([0x7F800001, 0xFFFFFFFF], np.uint32).view(np.float32)
        safetensors.write(tmp_path / "f", {"x": nan}, dtype="bf16")
        assert np.isnan(np.asarray(safetensors.read(tmp_path / "f")[0]["x"])).all()

    @pytest.mark.parametrize("dtype", ["f64", "f32", "f16", "bf16"])
    def test_only_floating_point_numbers_change_their_dtype(self, tmp_path, dtype):
        arrays = ARRAYS | {"c": np.array([True]), "d": np.zeros((0, 3)), "e": np.array(0.5)}
        safetensors.write(tmp_path / "f", arrays, dtype=dtype)
        entries, _ = safetensors.header(tmp_path / "f")
        assert [entries[name].dtype for name in "abcde"] == (
            ["I64", dtype.upper(), "BOOL", dtype.upper(), dtype.upper()]
        )
        found, _ = safetensors.verify(tmp_path / "f")
        for name, array in arrays.items():
            assert np.array_equal(np.asarray(found[name]), array), name
            assert found[name].shape == array.shape

    def test_what_float16_cannot_hold_is_refused(self, tmp_path):
        with pytest.raises(ValueError, match=r"x has values up to 7e\+04, which f16 cannot hold"):
            safetensors.write(tmp_path / "f", {"x": np.array([7e4])}, dtype="f16")
        with pytest.raises(ValueError, match="dtype 'f8', one of f64, f32, f16, bf16 is needed"):
            safetensors.write(tmp_path / "f", ARRAYS, dtype="f8")
        assert not list(tmp_path.iterdir())
        safetensors.write(tmp_path / "f", {"x": np.array([np.inf, 6e4])}, dtype="f16")

    @pytest.mark.parametrize("dtype", ["f32", "bf16"])
    def test_what_float32_cannot_hold_is_refused(self, tmp_path, dtype):
        with pytest.raises(ValueError, match=rf"values up to 1e\+300, which {dtype} cannot hold"):
            safetensors.write(tmp_path / "f", {"x": np.array([1e300])}, dtype=dtype)
        safetensors.write(tmp_path / "f", {"x": np.array([np.inf, 1e30])}, dtype=dtype)

    def test_the_bytes_of_a_file_are_these(self, tmp_path):
        """Files of earlier versions keep their digest."""
        more = {"t": np.array([True]), "s": np.array(2.5, np.float16), "e": np.zeros((0, 3))}
        safetensors.write(tmp_path / "f", ARRAYS | more, {"step": "17"})
        assert hashlib.sha256((tmp_path / "f").read_bytes()).hexdigest() == (
            "ab7cc7cc62bad7937ca49fe8170b8f11c101dc92f9b1ff4427e4f0881784368d"
        )

    def test_an_empty_file_of_arrays(self, tmp_path):
        safetensors.write(tmp_path / "f", {})
        assert safetensors.verify(tmp_path / "f")[0] == {}

    @pytest.mark.parametrize("dtype", ["complex64", "object", ">f4", "U3", "longdouble"])
    def test_what_the_format_cannot_hold_is_refused(self, tmp_path, dtype):
        with pytest.raises(ValueError, match=r"x has dtype .*, which cannot be written"):
            safetensors.write(tmp_path / "f", {"x": np.zeros(2, dtype)})
        assert not list(tmp_path.iterdir())

    def test_a_file_cut_anywhere_is_refused(self, tmp_path):
        safetensors.write(tmp_path / "whole", ARRAYS)
        whole = (tmp_path / "whole").read_bytes()
        for length in range(len(whole)):
            path = written(tmp_path / "cut", whole[:length])
            with pytest.raises(ValueError, match="cut: not a readable safetensors file"):
                safetensors.read(path)

    def test_a_file_with_more_at_its_end_is_refused(self, tmp_path):
        safetensors.write(tmp_path / "f", ARRAYS)
        with open(tmp_path / "f", "ab") as file:
            file.write(b"\0")
        with pytest.raises(ValueError, match="not a readable safetensors file"):
            safetensors.read(tmp_path / "f")

    @pytest.mark.parametrize(
        "content",
        [
            file_of({}, length=2**63),
            file_of({}, length=2**64 - 1),
            file_of({}, length=2**40),
            file_of({}, length=1),
            file_of(b"not json"),
            file_of(b"[1]"),
            file_of(b"\xff\xfe"),
            file_of({"x": 3}),
            file_of({"x": {"dtype": "F32"}}),
            file_of({"x": entry("F32", [2], 0, 4)}, bytes(4)),
            file_of({"x": entry("F32", [1], 0, 8)}, bytes(8)),
            file_of({"x": entry("F32", [1], 4, 0)}, bytes(4)),
            file_of({"x": entry("F32", [1], -4, 0)}, bytes(4)),
            file_of({"x": entry("F32", [-1], 0, 4)}, bytes(4)),
            file_of({"x": entry("F32", [1], 0, 4), "y": entry("F32", [1], 0, 4)}, bytes(4)),
            file_of({"x": entry("F32", [2], 0, 8), "y": entry("F32", [2], 4, 12)}, bytes(12)),
            file_of({"x": entry("F32", [1], 4, 8)}, bytes(8)),
            file_of({"x": entry("F32", [2**40, 2**40], 0, 4)}, bytes(4)),
            file_of({"x": entry("F32", [2**62], 0, 2**64)}, bytes(4)),
            file_of({"x": entry("F32", [2**38], 0, 2**40)}, bytes(4)),
            file_of({"x": entry("Q99", [1], 0, 4)}, bytes(4)),
            file_of({"__metadata__": {"k": 1}}),
            file_of(b'{"x":' * 5000 + b"1" + b"}" * 5000),
            file_of(
                b'{"x":{"dtype":"U8","shape":[2],"data_offsets":[0,2]},'
                b'"x":{"dtype":"U8","shape":[2],"data_offsets":[0,2]}}',
                bytes(2),
            ),
        ],
    )
    def test_a_header_that_lies_is_refused_before_anything_is_allocated(self, tmp_path, content):
        path = written(tmp_path / "f", content)
        safetensors.write(tmp_path / "warm", ARRAYS)
        safetensors.read(tmp_path / "warm")
        tracemalloc.start()
        try:
            with pytest.raises(ValueError, match="f: not a readable safetensors file") as error:
                safetensors.read(path)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert "\n" not in str(error.value)
        assert peak < 1 << 20

    def test_a_header_of_absurd_size_is_not_even_read(self, tmp_path):
        content = file_of(b'{"x":"' + bytes(1 << 24) + b'"}')
        path = written(tmp_path / "f", content)
        tracemalloc.start()
        try:
            with pytest.raises(ValueError, match="header of 16,777,224 bytes, at most 16,777,216"):
                safetensors.read(path)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert peak < 1 << 20

    def test_a_type_that_numpy_lacks_is_named(self, tmp_path):
        path = written(tmp_path / "f", file_of({"x": entry("F8_E4M3", [4], 0, 4)}, bytes(4)))
        with pytest.raises(ValueError, match="x has dtype F8_E4M3, which is not supported"):
            safetensors.read(path)

    def test_a_missing_file_is_just_missing(self, tmp_path):
        with pytest.raises(FileNotFoundError):
            safetensors.read(tmp_path / "none")

    def test_a_change_of_any_byte_is_noticed(self, tmp_path):
        """In the data, the names, shapes and types, and in the metadata."""
        safetensors.write(tmp_path / "f", ARRAYS, {"step": "17"})
        whole, right = (tmp_path / "f").read_bytes(), safetensors.verify(tmp_path / "f")
        silent = []
        for place in range(len(whole)):
            for flip in (1, 64, ord("F") ^ ord("I")):
                changed = bytearray(whole)
                changed[place] ^= flip
                try:
                    got = safetensors.verify(written(tmp_path / "changed", changed))
                except ValueError:
                    continue
                if not same(got, right):
                    silent.append((place, flip))
        assert silent == []

    def test_a_foreign_file_has_no_digest(self, tmp_path):
        path = written(tmp_path / "f", file_of({"x": entry("F32", [1], 0, 4)}, bytes(4)))
        safetensors.read(path)
        with pytest.raises(ValueError, match="holds no digest"):
            safetensors.verify(path)


def same(one, other):
    return (
        one[1] == other[1]
        and one[0].keys() == other[0].keys()
        and all(
            one[0][name].dtype == array.dtype and np.array_equal(one[0][name], array)
            for name, array in other[0].items()
        )
    )


def run(code, *arguments, **options):
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, encoding="utf-8", **options,
    )  # fmt: skip


class TestAtomicWrite:
    def test_the_file_appears_complete(self, tmp_path):
        path = tmp_path / "f"
        with atomic_write(path) as file:
            file.write(b"one")
            file.flush()
            assert not path.exists()
        assert path.read_bytes() == b"one"
        assert [p.name for p in tmp_path.iterdir()] == ["f"]

    def test_text_is_utf_8_without_translation(self, tmp_path):
        atomic_write_text(tmp_path / "f", "é\r\n\n")
        assert (tmp_path / "f").read_bytes() == b"\xc3\xa9\r\n\n"

    @pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
    def test_an_exception_leaves_the_old_file_and_nothing_else(self, tmp_path, error):
        path = written(tmp_path / "f", b"old")
        with pytest.raises(error), atomic_write(path) as file:
            file.write(b"new")
            raise error
        assert path.read_bytes() == b"old"
        assert [p.name for p in tmp_path.iterdir()] == ["f"]

    def test_a_target_that_cannot_be_replaced_leaves_nothing(self, tmp_path):
        (tmp_path / "f").mkdir()
        with pytest.raises(OSError) as caught, atomic_write(tmp_path / "f") as file:
            file.write(b"new")
        assert caught.value.filename == str(tmp_path / "f")
        assert [p.name for p in tmp_path.iterdir()] == ["f"]
        with pytest.raises(FileNotFoundError) as caught, atomic_write(tmp_path / "none" / "f"):
            pass
        assert caught.value.filename == str(tmp_path / "none" / "f")

    @pytest.mark.skipif(sys.platform == "win32", reason="no limit on file sizes on Windows")
    def test_a_full_disk_leaves_the_old_file_and_nothing_else(self, tmp_path):
        code = """
import resource, sys
import numpy as np
from minillm.formats import safetensors
resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, 1 << 16))
try:
    safetensors.write(sys.argv[1], {"x": np.zeros(1 << 16)})
except OSError as error:
    print(error.strerror)
"""
        safetensors.write(tmp_path / "f", ARRAYS)
        before = (tmp_path / "f").read_bytes()
        with run(code, tmp_path / "f") as process:
            assert process.communicate()[0] == "File too large\n"
        assert (tmp_path / "f").read_bytes() == before
        assert [p.name for p in tmp_path.iterdir()] == ["f"]

    def test_a_killed_writer_leaves_the_old_file(self, tmp_path):
        code = """
import sys
from minillm.formats.files import atomic_write
with atomic_write(sys.argv[1]) as file:
    file.write(b"new")
    file.flush()
    print("written", flush=True)
    sys.stdin.readline()
"""
        path = written(tmp_path / "f", b"old")
        with run(code, path) as process:
            assert process.stdout.readline() == "written\n"
            process.kill()
        assert path.read_bytes() == b"old"
        assert len(list(tmp_path.iterdir())) == 2
        remove_leftovers(tmp_path)
        assert [p.name for p in tmp_path.iterdir()] == ["f"]

    def test_only_leftovers_of_ours_are_removed(self, tmp_path):
        for name in ("notes.tmp", "f.1234abcd.tmp.txt", "f.12345678", "f.xyzwxyzw.tmp", "a.tmp"):
            written(tmp_path / name, b"mine")
        written(tmp_path / "model.safetensors.01abcdef.tmp", b"")
        remove_leftovers(tmp_path)
        assert len(list(tmp_path.iterdir())) == 5

    def test_two_writers_do_not_mix(self, tmp_path):
        path = tmp_path / "f"
        with atomic_write(path) as first, atomic_write(path) as second:
            first.write(b"first")
            second.write(b"second")
        assert path.read_bytes() == b"first"
        assert [p.name for p in tmp_path.iterdir()] == ["f"]


class TestJson:
    def test_it_is_utf_8_and_ends_in_a_line_end(self, tmp_path):
        hf.write_json(tmp_path / "f", {"k": "é"})
        assert (tmp_path / "f").read_bytes() == b'{\n  "k": "\xc3\xa9"\n}\n'
        assert hf.read_json(tmp_path / "f") == {"k": "é"}

    @pytest.mark.parametrize("content", [b"", b"{", b'{"k": "\xff"}', b"[" * 100_000])
    def test_what_is_no_json_is_refused(self, tmp_path, content):
        with pytest.raises(ValueError, match="f: not valid JSON"):
            hf.read_json(written(tmp_path / "f", content))

    def test_reference_logits_are_compared(self):
        def stored(values):
            return {hf.REFERENCE: json.dumps(values)}

        def logits(ids):
            assert ids.shape == (1, 4) and ids.max() < 9
            return np.array([[[0.0] * 3] * 3 + [[1.0, 2.0, 3.0]]])

        assert hf.reference_difference({}, logits, 9, 4) is None
        assert hf.reference_difference(stored([1.0, 2.5]), logits, 9, 4) == 0.5
        assert hf.reference_difference(stored([1.0] * 4), logits, 9, 4) == float("inf")
        wild = lambda ids: logits(ids) * np.nan  # noqa: E731
        assert hf.reference_difference(stored([1.0]), wild, 9, 4) == float("inf")
        assert not hf.reference_difference(stored([float("nan")]), logits, 9, 4) < 1
