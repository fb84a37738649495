"""Blocks of small whole numbers: the bytes are those that the C library of ggml 0.25.3 gives."""

import hashlib

import numpy as np
import pytest

from minillm.blocks import CHUNK, KINDS
from minillm.formats.block_encoding import ENCODERS, encode
from minillm.formats.deferred import Blocks
from small_gguf import awkward, numbers

SHARED = [kind for kind in ENCODERS if kind[0] == "Q"]
SUPER = [kind for kind in SHARED if kind[-1] == "K"]
FIVE = {  # of numbers()
    "Q5_0": "002c588d6335e0f51b64ce39d786574a4e75bd06821f"
    "0a113f2b0353ac39d7987a7d93ca138e0aa9784a4e53",
    "Q5_1": "002c00bc588d6335e0f51b64ce39d786574a4e75bd06821f"
    "df100aa13f2b0353bd3ae8a88b7e93ca249f0bb9794b4e53",
}
AWKWARD = {  # of awkward(), the start of the sha256
    "Q4_0": "7f91b296ea85951d21efda179876dba5",
    "Q4_1": "0c7daa4359644f4c4a380b4290095c9b",
    "Q5_0": "d7b305ed4c4d1d453727ba99cf11d1ad",
    "Q5_1": "9f5df9d6b2c0968c5f9dd8c4f562110d",
    "Q8_0": "ceaf3090b7d53bb86c2dd2fd8b4dc628",
    "Q4_K": "1491c7c8e87a2fa82e602e4bc3022d13",
    "Q5_K": "86ade4bd65cb145ed3894f4b7e010404",
    "Q6_K": "8c02119a8cdd3937ed78b61a3cb458e9",
}
STEPS = {
    "Q4_0": 16,
    "Q4_1": 15,
    "Q5_0": 32,
    "Q5_1": 31,
    "Q8_0": 254,
    "Q4_K": 15,
    "Q5_K": 31,
    "Q6_K": 63,
}


def encoded(kind, array):
    return b"".join(piece.tobytes() for piece in encode(kind, np.asarray(array, np.float32)))


def decoded(kind, array):
    array = np.asarray(array, np.float32)
    return Blocks(np.frombuffer(encoded(kind, array), np.uint8), kind, array.shape).decode()


@pytest.mark.parametrize("kind", FIVE)
def test_five_bits_have_the_bytes_of_ggml(kind):
    assert encoded(kind, numbers()).hex() == FIVE[kind]


@pytest.mark.parametrize("kind", SHARED)
def test_awkward_numbers_have_the_bytes_of_ggml(kind):
    assert hashlib.sha256(encoded(kind, awkward())).hexdigest()[:32] == AWKWARD[kind]


@pytest.mark.parametrize("kind", SHARED)
def test_a_block_does_not_depend_on_those_beside_it(kind):
    rows = awkward()
    together, size = encoded(kind, rows), 256 // KINDS[kind].elements * KINDS[kind].block_bytes
    for place, row in enumerate(rows):
        assert encoded(kind, row) == together[place * size : (place + 1) * size]


@pytest.mark.parametrize("kind", SUPER)
def test_pieces_of_a_large_array_follow_each_other(kind):
    x = np.resize(awkward(), (CHUNK + 512) // 256 * 256)
    pieces = list(encode(kind, x))
    assert len(pieces) == 2
    assert b"".join(piece.tobytes() for piece in pieces) == encoded(kind, x)
    assert encoded(kind, x)[-2 * KINDS[kind].block_bytes :] == encoded(kind, x[-512:])


@pytest.mark.parametrize("kind", SHARED)
def test_numbers_come_back_within_a_step(kind):
    x = np.random.default_rng(1).normal(0, 0.02, (64, 256)).astype(np.float32)
    error = decoded(kind, x) - x
    steps = 2 * np.abs(x.reshape(-1, 32)).max(axis=1) / STEPS[kind]
    assert np.abs(error).max() < 1.05 * steps.max()
    rms = np.sqrt(np.mean(error**2)) / np.sqrt(np.mean(steps**2))
    assert 0.2 < rms < 0.33  # 1 / sqrt(12) = 0.29 of a step for even rounding


@pytest.mark.parametrize("kind", SHARED)
@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf, 1e9])
def test_what_cannot_share_a_scale_is_refused(kind, wrong):
    x = numbers(512)
    x[300] = wrong
    with pytest.raises(ValueError, match=f"cannot be held in {kind}"):
        encoded(kind, x)
