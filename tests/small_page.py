"""The web page in a browser without a window, against a real server of small models."""

import shutil
from contextlib import contextmanager

import pytest

sync_api = pytest.importorskip(
    "playwright.sync_api", reason="playwright, of the extra `dev`, is not installed"
)
pytest.importorskip("jinja2", reason="jinja2, of the extra `serve`, is not installed")

from small_bigram import CHATML, SPECIALS, TURN, bigram, tokenizer  # noqa: E402
from small_server import serving  # noqa: E402

expect = sync_api.expect
expect.set_options(timeout=30_000)  # as of what the page is asked to do: machines may be busy
CANARY = "<script>document.title='hit'</script><img src=x onerror=\"document.title='hit'\">"
PIECES = ("Hello, ", "*dear* ", "reader. ", CANARY, "\n\n```c\nint x;\n```\n", "- one\n", "- two")
BROWSERS = ("chromium", "chromium-browser", "google-chrome")


def chromium():
    """Where the browser is; the test is skipped where there is none."""
    found = [path for path in map(shutil.which, BROWSERS) if path]
    if not found:
        pytest.skip("no chromium on this machine: the page is not tried in a browser")
    return found[0]


def pieces(*texts):
    """Ids of pieces, of control tokens and of single bytes."""
    first = 256 + len(SPECIALS)
    known = {piece: first + at for at, piece in enumerate(PIECES)} | SPECIALS
    return [known[text] if text in known else ord(text) for text in texts]


def models():
    """One that recites, one that does not end, one without a chat template."""
    talk = pieces("\n", *PIECES, TURN)
    reciting = bigram(talk, pieces=len(PIECES)), tokenizer(CHATML, PIECES)
    endless = bigram("\nabca", context=1 << 18), tokenizer()
    base = bigram("qabe", "qcd\nf<|endoftext|>"), tokenizer(None)
    return ("hello", *reciting), ("endless", *endless), ("base", *base)


@contextmanager
def browser():
    path = chromium()
    with sync_api.sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        try:
            yield found
        finally:
            found.close()


@contextmanager
def opened(browser, url, *, width=1280, height=800, scheme="light", expected=(), path=""):
    """The page in a profile of its own. It must ask nobody else, and complain of nothing.

    `expected` are parts of complaints that the test brings about, such as the 400 of a request.
    """
    context = browser.new_context(
        viewport={"width": width, "height": height}, color_scheme=scheme, reduced_motion="reduce"
    )
    page = context.new_page()
    page.set_default_timeout(30_000)
    complaints, foreign = [], []
    page.on("console", lambda m: m.type in ("error", "warning") and complaints.append(m.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("request", lambda r: r.url.startswith(url) or foreign.append(r.url))
    try:
        page.goto(url + path)
        yield page
        rest = [text for text in complaints if not any(part in text for part in expected)]
        assert not foreign and not rest, (foreign, rest)
    finally:
        context.close()


@contextmanager
def served(**settings):
    """The address of a server of the three models."""
    with serving(*models(), **settings) as client:
        yield str(client.base_url).rstrip("/")


def without_models(page):
    """Load the page again; the server tells its models only once the result is called."""
    held = []
    page.route("**/v1/models", lambda route: held.append(route))
    with page.expect_request("**/v1/models"):
        page.reload()
    return lambda: held.pop().continue_()


def say(page, text):
    """Write a message and send it by Enter."""
    page.get_by_label("Message", exact=True).fill(text)
    page.keyboard.press("Enter")


def answer(page, number=1):
    """The article of an answer, once it is whole."""
    article = page.locator(".message.assistant").nth(number - 1)
    expect(article).to_have_attribute("aria-busy", "false")
    return article
