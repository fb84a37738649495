"""Token files: what was written comes back, and what is damaged is refused."""

import hashlib
import struct

import numpy as np
import pytest

from minillm.data import TokenFile, TokenWriter

FINGERPRINT = "0123456789abcdef" * 4


def write(path, ids, vocab_size, dtype=np.int64):
    with TokenWriter(path, vocab_size, FINGERPRINT) as writer:
        for part in np.array_split(np.array(ids, dtype), 3):
            writer.write(part)
    return path


@pytest.mark.parametrize(
    "ids, vocab_size, width",
    [
        ([50256, 65535, 65536, 119546], 119547, 4),
        ([0, 50256, 65535], 65536, 2),
        ([65536], 65537, 4),
        ([2**32 - 1, 0], 2**32, 4),
        ([], 5, 2),
    ],
)
def test_ids_survive_in_the_type_the_vocabulary_needs(tmp_path, ids, vocab_size, width):
    path = write(tmp_path / "a.bin", ids, vocab_size)
    tokens = TokenFile.open(path, verify=True)
    assert tokens.ids.tolist() == ids
    assert (len(tokens), tokens.vocab_size, tokens.fingerprint) == (
        len(ids),
        vocab_size,
        FINGERPRINT,
    )
    assert tokens.ids.dtype.itemsize == width
    assert path.stat().st_size == 128 + width * len(ids)
    assert not tokens.ids.flags.writeable
    assert [file.name for file in tmp_path.iterdir()] == ["a.bin"]


def test_the_file_is_laid_out_as_documented(tmp_path):
    data = write(tmp_path / "a.bin", [1, 258], 300).read_bytes()
    ids = b"\x01\x00\x02\x01"
    assert data == (
        b"MINILLMT"
        + struct.pack("<IIQQ", 1, 2, 2, 300)
        + FINGERPRINT.encode()
        + hashlib.sha256(ids).digest()
        + ids
    )


@pytest.mark.parametrize(
    "at, damage, message",
    [
        (0, b"X", "begins with b'XINILLMT', a token file"),
        (8, b"\x02", "has version 2, version 1 is needed"),
        (12, b"\x04", "states 4 bytes an id, a vocabulary of 300 needs 2"),
        (12, b"\x00", "states 0 bytes an id"),
        (16, b"\x03", "states 3 ids of 2 bytes, 134 bytes are needed but it has 132"),
        (
            16,
            b"\xff" * 8,
            "states 18,446,744,073,709,551,615 ids of 2 bytes, 36,893,488,147,419,",
        ),
        (16, b"\x00", "states 0 ids of 2 bytes, 128 bytes are needed but it has 132"),
        (24, b"\x00" * 8, "states a vocabulary of 0"),
        (24, b"\xff" * 8, "states a vocabulary of 18446744073709551615, 1 to 4294967296"),
        (32, b"\xff", "has a damaged tokenizer fingerprint"),
        (32, b"\n", "has a damaged tokenizer fingerprint"),
    ],
)
def test_hostile_headers_are_refused(tmp_path, at, damage, message):
    path = write(tmp_path / "a.bin", [1, 2], 300)
    data = bytearray(path.read_bytes())
    data[at : at + len(damage)] = damage
    path.write_bytes(data)
    with pytest.raises(ValueError) as caught:
        TokenFile.open(path)
    assert str(caught.value).startswith(f"tokens: {path} {message}")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("size", [0, 1, 127, 128, 131, 133])
def test_cut_or_grown_files_are_refused(tmp_path, size):
    path = write(tmp_path / "a.bin", [1, 2], 300)
    path.write_bytes((path.read_bytes() + b"\0")[:size])
    with pytest.raises(ValueError, match=r"^tokens: .* needed"):
        TokenFile.open(path)


def test_changed_ids_are_found_by_verifying(tmp_path):
    path = write(tmp_path / "a.bin", [1, 2], 300)
    data = bytearray(path.read_bytes())
    data[-2] = 3
    path.write_bytes(data)
    tokens = TokenFile.open(path)
    with pytest.raises(ValueError, match=r"is damaged .* is needed; prepare the data again"):
        tokens.verify()
    data[-1] = 255
    path.write_bytes(data)
    with pytest.raises(ValueError, match="holds id 65283, ids below 300 are needed"):
        TokenFile.open(path, verify=True)


@pytest.mark.parametrize(
    "ids, kind, message",
    [
        ([1, 300], IndexError, "id 300, ids from 0 to 299 are needed"),
        ([-1, 2], IndexError, "id -1, ids from 0 to 299 are needed"),
        ([1.0], TypeError, "ids are float64, integers are needed"),
        ([True], TypeError, "ids are bool, integers are needed"),
    ],
)
def test_wrong_ids_leave_the_former_file(tmp_path, ids, kind, message):
    path = write(tmp_path / "a.bin", [7], 300)
    with pytest.raises(kind, match=message), TokenWriter(path, 300, FINGERPRINT) as writer:
        writer.write(np.array([1, 2]))
        writer.write(np.array(ids))
    assert TokenFile.open(path, verify=True).ids.tolist() == [7]
    assert [file.name for file in tmp_path.iterdir()] == ["a.bin"]


def test_a_writer_outside_its_block_and_bad_headers_are_refused(tmp_path):
    writer = TokenWriter(tmp_path / "a.bin", 300, FINGERPRINT)
    with pytest.raises(RuntimeError, match="not open"):
        writer.write(np.array([1]))
    for vocab_size in (0, 2**32 + 1):
        with pytest.raises(ValueError, match=f"a vocabulary of {vocab_size}, 1 to 4294967296"):
            TokenWriter(tmp_path / "a.bin", vocab_size, FINGERPRINT)
    with pytest.raises(ValueError, match="fingerprint 'abc', 64 ASCII characters are needed"):
        TokenWriter(tmp_path / "a.bin", 300, "abc")


def test_big_endian_and_strided_ids_are_written_as_numbers(tmp_path):
    with TokenWriter(tmp_path / "a.bin", 300, FINGERPRINT) as writer:
        writer.write(np.arange(10, dtype=">i4")[::3])
    assert TokenFile.open(tmp_path / "a.bin", verify=True).ids.tolist() == [0, 3, 6, 9]
