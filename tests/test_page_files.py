"""The files of the web page: small, whole, safe to serve, legible."""

import re
from itertools import product
from pathlib import Path

import pytest

pytest.importorskip("starlette", reason="starlette, of the extra `serve`, is not installed")

from minillm.serve import page
from minillm.serve.settings import digest_of
from minillm.tokenizers import ByteTokenizer
from small_gpt2 import small
from small_server import serving

STEPS = ("p1", "p2", "p3", "p4", "p5")  # of the probabilities
FOLDER = Path(page.__file__).parent
FILES = sorted(path for path in FOLDER.iterdir() if path.suffix in page.KINDS)


@pytest.fixture(scope="module")
def client():
    model = ("small", small(vocab_size=257), ByteTokenizer())
    with serving(model, keys=(digest_of("k" * 16),)) as found:
        yield found


def test_the_page_stays_under_200_kb():
    assert len(FILES) > 10
    assert sum(path.stat().st_size for path in FILES) < 200_000


def test_every_file_is_served_without_a_key_and_the_api_is_not(client):
    for path in FILES:
        answer = client.get("/" if path.name == "index.html" else f"/page/{path.name}")
        assert answer.content == path.read_bytes()
        assert answer.headers["content-type"].startswith(page.KINDS[path.suffix])
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["content-security-policy"] == page.POLICY
        same = {"if-none-match": answer.headers["etag"]}
        assert client.get(answer.url.path, headers=same).status_code == 304
    assert client.get("/v1/models").status_code == 401
    assert client.get("/page/__init__.py").status_code == 404


def test_the_policy_lets_nothing_in_that_is_not_ours():
    rules = dict(rule.strip().split(" ", 1) for rule in page.POLICY.split(";"))
    assert rules.pop("require-trusted-types-for") == "'script'"
    assert set(rules.values()) == {"'none'", "'self'"}
    assert rules["default-src"] == "'none'"


def test_the_files_name_no_other_host_and_make_no_html():
    for path in FILES:
        text = path.read_text(encoding="utf-8").replace("http://www.w3.org/2000/svg", "")
        assert "//" not in re.sub(r"^\s*//.*$|\s// .*$", "", text, flags=re.M), path.name
        assert not re.search(r"innerHTML|outerHTML|insertAdjacent|document\.write|eval\(", text), (
            path.name
        )
        assert not re.search(r"<[^>]*\s(style|on\w+)=", text) or path.suffix == ".js", path.name


def colours(dark):
    """The custom properties of one theme, as (red, green, blue)."""
    text = (FOLDER / "page.css").read_text(encoding="utf-8")
    pattern = r':root\[data-theme="dark"\] \{(.*?)\n\}' if dark else r"^:root \{(.*?)\n\}"
    block = re.search(pattern, text, re.S | re.M)[1]
    found = re.findall(r"--([\w-]+): #(\w{6});", block)
    return {name: tuple(bytes.fromhex(value)) for name, value in found}


def contrast(one, other):
    """The ratio of WCAG 2.2, 1 to 21."""

    def luminance(colour):
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4
                  for c in (part / 255 for part in colour)]  # fmt: skip
        return sum(share * part for share, part in zip((0.2126, 0.7152, 0.0722), linear))

    light, dim = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dim + 0.05)


def test_the_ratio_is_that_of_the_standard():
    assert contrast((255, 255, 255), (0, 0, 0)) == 21
    assert round(contrast((255, 255, 255), (118, 118, 118)), 2) == 4.54


@pytest.mark.parametrize("dark", [False, True])
def test_text_can_be_read_on_every_ground(dark):
    of = colours(dark)
    grounds = ("paper", "panel", "raised", "wash")
    pairs = [*product(("ink", "quiet", "accent"), grounds), *product(("ink",), STEPS),
             ("on-accent", "accent"), ("wrong", "wrong-wash"), ("wrong", "raised")]  # fmt: skip
    low = {pair: round(contrast(of[pair[0]], of[pair[1]]), 2) for pair in pairs}
    assert {pair: ratio for pair, ratio in low.items() if ratio < 4.5} == {}
    assert contrast(of["edge"], of["paper"]) >= 3 and contrast(of["edge"], of["raised"]) >= 3


def test_both_ways_to_the_dark_theme_have_the_same_colours():
    text = (FOLDER / "page.css").read_text(encoding="utf-8")
    blocks = re.findall(r":root(?:\[data-theme=\"dark\"\]|:not\(.*?\)) \{(.*?)\}", text, re.S)
    first, second = ([line.strip() for line in block.strip().splitlines()] for block in blocks)
    assert first == second
