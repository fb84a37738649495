"""The page's small Markdown: what a model writes becomes text, lists and code, and nothing else."""

import random

import pytest

from small_page import browser, opened, served

SHOW = """async (texts) => {
  const { show } = await import("./page/markdown.js");
  return texts.map((text) => {
    const node = document.createElement("div");
    for (let end = 1; end < text.length; end += 7) show(node, text.slice(0, end));
    show(node, text);
    const whole = document.createElement("div");
    show(whole, text);
    const tags = [...whole.querySelectorAll(":not(figcaption *)")].map((one) => one.localName);
    return [whole.innerHTML, tags, node.innerHTML === whole.innerHTML];
  });
}"""
TAGS = {"p", "em", "strong", "code", "pre", "ul", "ol", "li", "blockquote", "hr", "figure",
        "figcaption", "h3", "h4", "h5", "h6"}  # fmt: skip


@pytest.fixture(scope="module")
def show():
    with served() as url, browser() as chromium, opened(chromium, url) as page:
        yield lambda *texts: page.evaluate(SHOW, list(texts))


@pytest.mark.parametrize(
    "text, html",
    [
        ("one\ntwo\n\nthree", "<p>one\ntwo</p><p>three</p>"),
        (
            "a *b* **c *d*** `e*f*`",
            "<p>a <em>b</em> <strong>c <em>d</em></strong> <code>e*f*</code></p>",
        ),
        ("snake_case_name and 2 * 3 * 4", "<p>snake_case_name and 2 * 3 * 4</p>"),
        (r"\*no\* `` a`b ``", "<p>*no* <code>a`b</code></p>"),
        ("# One\n###### Six", "<h3>One</h3><h6>Six</h6>"),
        ("> quoted\n> so\n\n---", "<blockquote><p>quoted\nso</p></blockquote><hr>"),
        (
            "3. a\n   - b\n\n   c\n4. d",
            '<ol class="" start="3"><li><p>a</p><ul class="tight"><li><p>b</p></li></ul>'
            "<p>c</p></li><li><p>d</p></li></ol>",
        ),
        ("[x](http://y) ![i](j) http://z", "<p>[x](http://y) ![i](j) http://z</p>"),
        ("<b>&amp;</b>", "<p>&lt;b&gt;&amp;amp;&lt;/b&gt;</p>"),
    ],
)
def test_text_becomes_what_it_says(show, text, html):
    assert show(text)[0][0] == html


def test_code_keeps_every_character_open_or_closed(show):
    for text in ("```py\n  <x> *y*\n\n# z\n```", "~~~\n  <x> *y*\n\n# z"):
        assert "<pre" in show(text)[0][0]
        assert "><code>  &lt;x&gt; *y*\n\n# z</code></pre>" in show(text)[0][0]


def test_any_text_gives_known_elements_and_growing_it_gives_the_same(show):
    rng = random.Random(5)
    parts = ["*", "**", "_", "__", "`", "```", "~~~", "\n", "\n\n", "- ", "1. ", "> ", "# ", "  ",
             "---", "a", "b c", "<script>", "<img src=x>", "\\", "[x](http://y)", "é",
             "😀"]  # fmt: skip
    texts = ["".join(rng.choices(parts, k=rng.randrange(1, 30))) for _ in range(400)]
    texts += ["*a " * 600, "> " * 600 + "x", "- " * 600 + "x", "`a " * 600]
    for text, (_, tags, same) in zip(texts, show(*texts), strict=True):
        assert set(tags) <= TAGS, text
        assert same, text
