"""Personal data: what is found, what is not, and what is left to read."""

import random

import pytest

from minillm.data.preparation.personal import find, iban_is_sound, luhn_is_sound, scrub

FOUND = [
    ("write to jo.doe+x@mail.example.co.uk.", "write to <EMAIL>."),
    ("a@b.de", "<EMAIL>"),
    ("card 4111 1111 1111 1111, paid", "card <CARD>, paid"),
    ("5500-0055-5555-5559", "<CARD>"),
    ("378282246310005", "<CARD>"),  # 15 digits
    ("IBAN DE89 3704 0044 0532 0130 00 and more", "IBAN <IBAN> and more"),
    ("GB82WEST12345698765432", "<IBAN>"),
    ("FR14 2004 1010 0505 0001 3M02 606", "<IBAN>"),
    ("from 8.8.8.8:53", "from <IP>:53"),
    ("2001:4860:4860::8888 answers", "<IP> answers"),
    ("call +49 (0)30 1234567 now", "call <PHONE> now"),
    ("(030) 123-4567", "<PHONE>"),
    ("555-123-4567", "<PHONE>"),
    ("1-800-555-1234", "<PHONE>"),
    ("+12125552368", "<PHONE>"),
    ("key AKIAIOSFODNN7EXAMPLE.", "key <KEY>."),
    (f"ghp_{'a1' * 18}", "<KEY>"),
    (
        f"-----BEGIN RSA PRIVATE KEY-----\n{'Ab9+/' * 30}\n-----END RSA PRIVATE KEY-----\n",
        "<KEY>\n",
    ),
]
LEFT = [
    "4111 1111 1111 1112",  # one digit off
    "DE88 3704 0044 0532 0130 00",
    "DE89 3704 0044 0532 0130",  # too short for Germany
    "in 1914-1918, on 2024-01-02 at 10:20:30, 12/10/2020, 24.12.2020",
    "1.234.567,89 or 0.123456789 or 3.14159265358979",
    "192.168.1.1, 127.0.0.1, version 1.2.3.4.5, 999.1.1.1",
    "ISBN 978-3-16-148410-0",
    "@user, a@b, x @ y.com, std::vector::size, 10:20:30:40",
    "AKIA and sk-learn, ghp_short",
    "",
]


@pytest.mark.parametrize("text, left", FOUND)
def test_what_is_found(text, left):
    assert scrub(text)[0] == left


@pytest.mark.parametrize("text", LEFT)
def test_what_is_left_alone(text):
    assert scrub(text) == (text, [])


def test_places_are_those_in_the_text():
    text = "mail a@b.de,\ncall 555-123-4567"
    assert [(text[h.start : h.end], h.kind) for h in find(text)] == [
        ("a@b.de", "email"),
        ("555-123-4567", "phone"),
    ]


def test_luhn_finds_every_single_wrong_digit():
    rng = random.Random(0)
    for _ in range(50):
        digits = [rng.randrange(10) for _ in range(15)]
        sound = [d for d in range(10) if luhn_is_sound("".join(map(str, [*digits, d])))]
        assert len(sound) == 1  # exactly one check digit fits
        whole = [*digits, sound[0]]
        for place in range(16):
            for digit in set(range(10)) - {whole[place]}:
                wrong = [*whole[:place], digit, *whole[place + 1 :]]
                assert not luhn_is_sound("".join(map(str, wrong)))


def test_iban_checksums_are_those_of_the_standard():
    """Check digits are 98 minus the rest of the account with 00 in their place, modulo 97."""
    rng = random.Random(1)
    for _ in range(50):
        account = "".join(rng.choice("0123456789ABCXYZ") for _ in range(18))
        digits = "".join(str(int(c, 36)) for c in f"{account}DE00")
        check = 98 - int(digits) % 97
        assert iban_is_sound(f"DE{check:02d}{account}")
        assert not iban_is_sound(f"DE{(check + 1) % 97:02d}{account}")


@pytest.mark.parametrize(
    "unit", ["ab", "1 ", "a@", "a.", "4111 ", "1:", "DE89 ", "+4", "eyJ", "(0"]
)
def test_long_repeats_are_read_once(unit):
    """Quadratic searches would not come to an end here."""
    find(unit * (400_000 // len(unit)))
