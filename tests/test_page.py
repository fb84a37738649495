"""The chat of the web page, in a browser, as a person uses it."""

import pytest

pytest.importorskip("starlette", reason="starlette, of the extra `serve`, is not installed")

from minillm.serve.settings import digest_of
from small_page import CANARY, answer, expect, opened, say, served, without_models

REFUSED = ("status of 400",)  # the browser's own line about an answer that the test asks for


@pytest.fixture
def page(chromium, url):
    with opened(chromium, url) as found:
        yield found


def test_an_answer_streams_and_shows_as_text(page):
    say(page, "Is <b>this</b> safe?")
    article = answer(page)
    expect(article.locator("em")).to_have_text("dear")
    expect(article.locator("pre")).to_have_text("int x;")
    expect(article.locator("li")).to_have_text(["one", "two"])
    expect(article.locator(".body")).to_contain_text(CANARY)
    assert page.locator(".message script, .message img, .message b").count() == 0
    assert page.title() == "minillm"
    expect(page.locator(".message.user .body")).to_have_text("Is <b>this</b> safe?")
    expect(article.locator(".meta")).to_contain_text("8 tokens")  # seven pieces and the turn's end
    expect(article.locator(".meta")).to_contain_text("seed")
    expect(page.locator("#chat-count")).to_contain_text("of 4,096 tokens")
    expect(page.locator("#said")).to_contain_text("Hello, *dear* reader.")  # for screen readers


def test_escape_stops_and_what_came_is_kept(page):
    page.locator("#model").select_option("endless")
    page.locator("#open-settings").click()
    page.get_by_label("Most tokens").fill("200000")
    say(page, "Go on")
    expect(page.get_by_label("Stop", exact=True)).to_be_visible()
    expect(page.locator(".assistant .body")).to_contain_text("abcabc")
    page.get_by_label("Message", exact=True).press("Escape")
    expect(answer(page).locator(".meta")).to_contain_text("stopped by you")
    expect(page.get_by_label("Send", exact=True)).to_be_visible()
    before = answer(page).locator(".body").text_content()
    page.reload()
    assert answer(page).locator(".body").text_content() == before


def test_what_is_sent_before_the_models_are_known_waits_for_them(page):
    tell = without_models(page)
    say(page, "hi")
    expect(page.get_by_label("Stop", exact=True)).to_be_visible()
    tell()
    expect(answer(page).locator(".body")).to_contain_text("Hello")
    expect(answer(page)).to_have_attribute("aria-label", "hello")


def test_settings_go_with_the_request_and_empty_ones_do_not(page):
    page.locator("#open-settings").click()
    page.get_by_label("System prompt").fill("Be kind")
    page.get_by_label("Temperature").fill("0.5")
    page.get_by_label("Seed").fill("7")
    page.get_by_label("Stop before").fill("\\n\nreader")
    with page.expect_request("**/v1/chat/completions") as request:
        say(page, "hi")
    assert request.value.post_data_json == {
        "model": "hello",
        "temperature": 0.5,
        "seed": 7,
        "stop": ["\n", "reader"],
        "messages": [
            {"role": "system", "content": "Be kind"},
            {"role": "user", "content": "hi"},
        ],
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    assert answer(page).locator(".body").text_content().strip() == "Hello, dear"


def test_a_full_context_is_refused_or_told_as_chosen(chromium, url):
    with opened(chromium, url, expected=REFUSED) as page:
        say(page, "long " * 900)
        expect(answer(page).get_by_role("alert")).to_contain_text("context")
        page.locator("#open-settings").click()
        page.get_by_label("When the context is full").select_option("truncate")
        page.get_by_label("Answer again").click()
        expect(answer(page).locator(".body")).to_contain_text("Hello")
        expect(answer(page).locator(".meta")).to_contain_text("is too long, its last")


def test_what_is_no_number_is_told_and_not_sent(page):
    page.locator("#open-settings").click()
    page.get_by_label("Top k").fill("many")
    expect(page.get_by_label("Top k")).to_have_attribute("aria-invalid", "true")
    asked = []
    page.on("request", lambda request: asked.append(request.url))
    say(page, "hi")
    expect(answer(page).get_by_role("alert")).to_contain_text("Top k: “many” is not a number.")
    assert [url for url in asked if "completions" in url] == []


def test_a_refusal_is_shown_in_the_servers_words_and_can_be_retried(chromium, url):
    with opened(chromium, url, expected=REFUSED) as page:
        page.locator("#open-settings").click()
        page.get_by_label("Temperature").fill("9")
        say(page, "hi")
        error = answer(page).get_by_role("alert")
        expect(error).to_contain_text("temperature: 9, 0 to 2 is needed")
        expect(error).to_contain_text("HTTP 400")
        page.get_by_label("Temperature").fill("1")
        page.get_by_label("Answer again").click()
        expect(answer(page).locator(".body")).to_contain_text("Hello")
        expect(page.get_by_role("article")).to_have_count(2)


def test_a_new_answer_stands_beside_the_one_before(page):
    page.locator("#model").select_option("endless")
    page.locator("#open-settings").click()
    page.get_by_label("Most tokens").fill("3")
    say(page, "hi")
    expect(answer(page).locator(".body")).to_have_text("abc")
    page.get_by_label("Most tokens").fill("5")
    page.get_by_label("Answer again").click()
    expect(answer(page).locator(".body")).to_have_text("abcab")
    expect(page.locator(".take")).to_have_text("2 of 2")
    page.reload()
    page.get_by_label("The answer before").click()
    expect(answer(page).locator(".body")).to_have_text("abc")
    expect(page.get_by_label("The answer before")).to_be_focused()
    with page.expect_request("**/v1/chat/completions") as request:
        say(page, "and now?")
    assert [one["content"] for one in request.value.post_data_json["messages"]] == [
        "hi", "abc", "and now?",
    ]  # fmt: skip
    answer(page, 2)


def test_editing_a_message_takes_back_what_followed(page):
    page.get_by_label("Message", exact=True).fill("first")
    page.get_by_label("Send", exact=True).click()
    answer(page)
    say(page, "second")
    answer(page, 2)
    page.locator(".message.user").first.hover()
    page.get_by_label("Edit and send again").first.click()
    field = page.get_by_label("Edit your message")
    field.fill("gone")
    field.press("Escape")
    expect(page.locator(".message.user .body")).to_have_text(["first", "second"])
    page.get_by_label("Edit and send again").first.click()
    page.get_by_label("Edit your message").fill("changed")
    page.get_by_label("Edit your message").press("Enter")
    expect(page.locator(".message.user .body")).to_have_text(["changed"])
    answer(page)


def test_conversations_are_kept_over_a_reload_and_deletion_can_be_undone(page):
    say(page, "about apples")
    answer(page)
    page.get_by_role("button", name="New conversation").click()
    say(page, "about pears")
    answer(page)
    talks = page.locator(".talk")
    expect(talks).to_have_text(["about pears", "about apples"])
    page.reload()
    expect(page.locator(".message.user .body")).to_have_text("about pears")
    talks.get_by_text("about apples").click()
    expect(page.locator(".message.user .body")).to_have_text("about apples")
    page.go_back()
    expect(page.locator(".message.user .body")).to_have_text("about pears")
    page.get_by_label("Delete “about apples”").click(force=True)
    expect(talks).to_have_text(["about pears"])
    page.get_by_role("button", name="Undo").click()
    expect(talks).to_have_count(2)


def test_a_full_storage_is_told(page):
    page.evaluate(
        """() => { for (let size = 1 << 20; size; size >>= 1)
                 for (let i = 0; ; i++)
                   try { localStorage.setItem(`junk-${size}-${i}`, "x".repeat(size)); }
                   catch { break; } }"""
    )
    say(page, "does this fit?")
    expect(answer(page).locator(".body")).to_contain_text("Hello")
    expect(page.locator("#notice")).to_contain_text("storage for this page is full")


def test_a_broken_stream_is_told_and_its_text_kept(page):
    chunk = '{"choices":[{"index":0,"delta":{"content":"half"},"finish_reason":null}]}'
    body = f": a comment\r\n\r\ndata: {chunk}\r\n\r\n"
    page.route("**/v1/chat/completions", lambda route: route.fulfill(body=body))
    say(page, "hi")
    expect(answer(page).locator(".body")).to_have_text("half")
    expect(answer(page).get_by_role("alert")).to_contain_text("ended before the answer did")


def test_an_error_within_a_stream_is_told(page):
    body = 'data: {"error":{"message":"not whole after 600 s","code":"deadline_exceeded"}}\n\n'
    page.route("**/v1/chat/completions", lambda route: route.fulfill(body=body))
    say(page, "hi")
    expect(answer(page).get_by_role("alert")).to_have_text("not whole after 600 sdeadline_exceeded")


def test_a_server_that_is_gone_is_told(chromium, url):
    with opened(chromium, url, expected=("Failed to load resource",)) as page:
        page.route("**/v1/**", lambda route: route.abort())
        page.reload()
        expect(page.locator("#notice")).to_contain_text("cannot be reached")
        page.unroute("**/v1/**")
        page.get_by_role("button", name="Try again").click()
        expect(page.locator("#notice")).to_be_hidden()
        expect(page.locator("#model")).to_have_value("hello")


def test_a_key_is_asked_for_where_the_server_wants_one(chromium):
    key = "only for this test"
    with served(keys=(digest_of(key),)) as url, opened(chromium, url, expected=("of 401",)) as page:
        page.get_by_label("API key").fill("another key of some length")
        page.get_by_label("API key").press("Enter")
        expect(page.locator("#key-why")).to_contain_text("no valid key")
        page.get_by_label("API key").fill(key)
        page.get_by_label("API key").press("Enter")
        expect(page.locator("#key-form")).to_be_hidden()
        page.reload()
        say(page, "hi")
        expect(answer(page).locator(".body")).to_contain_text("Hello")
        assert key not in page.evaluate("JSON.stringify(localStorage)")
        page.locator("#open-settings").click()
        page.get_by_role("button", name="Forget the API key").click()
        expect(page.get_by_label("API key", exact=True)).to_be_focused()
        page.get_by_label("API key", exact=True).fill(key)
        page.get_by_label("Keep it in this browser").check()
        page.get_by_role("button", name="Use the key").click()
        expect(page.locator("#key-form")).to_be_hidden()
        assert key in page.evaluate("JSON.stringify(localStorage)")


def test_a_late_refusal_of_an_earlier_key_is_passed_over(chromium):
    key, held = "only for this test", []
    with served(keys=(digest_of(key),)) as url, opened(chromium, url, expected=("of 401",)) as page:
        page.route("**/v1/models", lambda route: held.append(route))
        for tried in ("another key of some length", key):
            page.get_by_label("API key").fill(tried)
            with page.expect_request("**/v1/models"):
                page.get_by_label("API key").press("Enter")
        earlier, later = held
        with page.expect_response("**/v1/models"):
            later.continue_()
        expect(page.locator("#key-form")).to_be_hidden()
        with page.expect_response(lambda response: response.status == 401):
            earlier.continue_()
        say(page, "hi")
        expect(answer(page).locator(".body")).to_contain_text("Hello")
        expect(page.locator("#key-form")).to_be_hidden()


def test_a_model_that_is_served_no_more_stays_what_it_is(chromium, url):
    gone = {"id": "pirate", "kind": "decoder", "chat": True, "context": 64, "adapter": "a/folder"}
    with opened(chromium, url, expected=("of 404",)) as page:
        page.route("**/v1/models", lambda route: route.fulfill(json={"data": [gone]}))
        page.reload()
        expect(page.locator("#model option")).to_have_text(["pirate (adapter)"])
        say(page, "ahoy")
        expect(answer(page).get_by_role("alert")).to_contain_text("'pirate' is not served here")
        page.unroute("**/v1/models")
        page.reload()
        expect(page.locator("#model option").first).to_have_text("pirate (not served)")
        expect(page.locator("#model")).to_have_value("pirate")
        page.locator("#model").select_option("hello")
        page.get_by_label("Answer again").click()
        expect(answer(page).locator(".body")).to_contain_text("Hello")


def test_a_model_without_a_template_says_where_to_go(page):
    page.locator("#model").select_option("base")
    expect(page.locator("#messages")).to_contain_text("no chat template")
    page.get_by_role("button", name="Open the completion tab").click()
    expect(page.get_by_label("Text to continue")).to_be_visible()


@pytest.mark.parametrize(
    "scheme, paper", [("light", "rgb(255, 255, 255)"), ("dark", "rgb(21, 24, 28)")]
)
def test_colours_follow_the_system_or_the_choice(chromium, url, scheme, paper):
    with opened(chromium, url, scheme=scheme) as page:
        expect(page.locator("body")).to_have_css("background-color", paper)
        other = "dark" if scheme == "light" else "light"
        page.locator("#open-settings").click()
        page.get_by_label("Colours").select_option(other)
        page.reload()
        expect(page.locator("html")).to_have_attribute("data-theme", other)
        expect(page.locator("body")).not_to_have_css("background-color", paper)


def test_a_phone_shows_all_of_it_in_360_pixels(chromium, url):
    with opened(chromium, url, width=360, height=640) as page:
        say(page, "hello " * 40 + "x" * 200)
        answer(page)
        for tab in ("Chat", "Completion"):
            page.get_by_role("tab", name=tab).click()
            assert page.evaluate("document.documentElement.scrollWidth") == 360
            outside = page.evaluate(
                """() => [...document.querySelectorAll("button, textarea, select, .message")]
                     .filter((node) => node.checkVisibility())
                     .map((node) => [node, node.getBoundingClientRect()])
                     .filter(([, box]) => box.left < 0 || box.right > innerWidth)
                     .map(([node]) => node.outerHTML)"""
            )
            assert outside == []
        page.get_by_role("tab", name="Chat").click()
        page.locator("#open-side").click()
        expect(page.get_by_label("Close the conversations")).to_be_focused()
        page.keyboard.press("Escape")
        expect(page.locator("#open-side")).to_be_focused()
        expect(page.locator("#side")).to_be_hidden()


def test_all_of_it_works_by_keyboard(page):
    page.keyboard.press("Tab")
    expect(page.get_by_text("Skip to the text field")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.get_by_label("Message", exact=True)).to_be_focused()
    page.keyboard.type("one")
    page.keyboard.press("Shift+Enter")
    page.keyboard.type("two")
    page.keyboard.press("Enter")
    answer(page)
    assert page.locator(".message.user .body").text_content() == "one\ntwo"
    expect(page.get_by_label("Message", exact=True)).to_be_focused()
    page.keyboard.press("ArrowUp")
    expect(page.get_by_label("Edit your message")).to_be_focused()
    page.keyboard.press("Escape")
    expect(page.get_by_label("Message", exact=True)).to_be_focused()
    page.get_by_role("tab", name="Chat").focus()
    page.keyboard.press("ArrowRight")
    expect(page.get_by_role("tab", name="Completion")).to_be_focused()
    expect(page.get_by_role("tab", name="Completion")).to_have_attribute("aria-selected", "true")
