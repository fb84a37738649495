"""The completion tab of the web page: tokens, their probabilities, and writing on with others."""

import pytest

from small_page import expect, opened, without_models


@pytest.fixture
def page(chromium, url):
    """The tab with the most probable continuation of q, which is abe or, as probable, cd."""
    with opened(chromium, url, path="/#/completion") as found:
        found.locator("#model").select_option("base")
        found.locator("#open-settings").click()
        found.get_by_label("Temperature").fill("0")
        found.get_by_label("Most tokens").fill("3")
        found.get_by_label("Text to continue").fill("q")
        yield found


def write(page):
    page.get_by_label("Text to continue").press("Control+Enter")
    whole(page)


def whole(page):
    expect(page.get_by_label("Write on", exact=True)).to_be_visible()
    expect(page.locator("#tokens")).to_have_attribute("aria-busy", "false")
    expect(page.locator("#completion-count")).to_contain_text("token")


def tokens(page):
    return [text.strip() for text in page.locator(".token").all_text_contents()]


def test_each_token_has_its_probability_as_colour_and_in_words(page):
    write(page)
    assert tokens(page) == ["a", "b", "e"]
    expect(page.locator("#given")).to_have_text("q")
    expect(page.locator("#completion-count")).to_contain_text("3 tokens")
    first, second = page.locator(".token").nth(0), page.locator(".token").nth(1)
    expect(first).to_have_attribute("aria-label", "a, 50.0%")
    expect(second).to_have_attribute("aria-label", "b, 100%")
    colours = [
        one.evaluate("node => getComputedStyle(node).backgroundColor") for one in (first, second)
    ]
    assert colours == ["rgb(255, 228, 168)", "rgba(0, 0, 0, 0)"]


def test_a_click_shows_the_alternatives_and_one_of_them_goes_another_way(page):
    write(page)
    page.locator(".token").first.click()
    detail = page.get_by_label("The chosen token")
    expect(detail).to_contain_text("Token 1 of 3")
    expect(detail).to_contain_text("50.0% probable")
    with page.expect_request("**/v1/completions") as request:
        detail.get_by_role("button", name="Write on with c 50").click()
    assert request.value.post_data_json["prompt"] == "qc"
    whole(page)
    assert tokens(page) == ["c", "d", "↵", "f"]
    page.get_by_role("button", name="Go back").click()
    assert tokens(page) == ["a", "b", "e"]
    page.reload()
    assert tokens(page) == ["a", "b", "e"]


def test_the_end_of_a_text_is_shown_and_is_not_text(page):
    page.get_by_label("Most tokens").fill("9")
    page.get_by_label("Text to continue").fill("qc")
    write(page)
    assert tokens(page) == ["d", "↵", "f", "<|endoftext|>"]
    expect(page.locator(".outside")).to_have_text("<|endoftext|>")
    with page.expect_request("**/v1/completions") as request:
        page.get_by_role("button", name="Write more").click()
    assert request.value.post_data_json["prompt"] == "qcd\nf"
    whole(page)


def test_the_prompt_can_be_coloured_too(page):
    page.get_by_label("Text to continue").fill("qa")
    page.get_by_label("Colour my own text too").check()
    write(page)
    assert tokens(page)[:3] == ["q", "a", "b"]
    expect(page.locator(".token").nth(1)).to_have_attribute("aria-label", "a, 50.0%")
    page.locator(".token").nth(0).click()
    expect(page.get_by_label("The chosen token")).to_contain_text("nothing before it")


def test_arrow_keys_walk_the_tokens_and_their_alternatives(page):
    write(page)
    chosen = page.locator("[aria-selected=true].token")
    page.locator("#tokens").focus()
    page.keyboard.press("Home")
    expect(chosen).to_have_text("a")
    page.keyboard.press("ArrowRight")
    expect(chosen).to_have_text("b")
    page.keyboard.press("End")
    expect(chosen).to_have_text("e")
    assert page.locator("#tokens").get_attribute("aria-activedescendant") == chosen.get_attribute(
        "id"
    )
    page.keyboard.press("Home")
    page.keyboard.press("Enter")
    expect(page.get_by_role("button", name="Write on with c 50")).to_be_focused()
    page.keyboard.press("Escape")
    expect(page.locator("#tokens")).to_be_focused()
    page.keyboard.press("Escape")
    expect(page.get_by_label("The chosen token")).to_be_hidden()


def test_up_and_down_go_by_lines(page):
    page.locator("#model").select_option("endless")
    page.get_by_label("Text to continue").fill("\n")
    page.get_by_label("Most tokens").fill("300")
    write(page)
    page.locator(".token").nth(3).click()
    box = page.locator("[aria-selected=true].token").bounding_box()
    page.keyboard.press("ArrowDown")
    below = page.locator("[aria-selected=true].token").bounding_box()
    assert below["y"] > box["y"] + box["height"] / 2
    assert abs(below["x"] - box["x"]) < box["width"]
    page.keyboard.press("ArrowUp")
    assert page.locator("[aria-selected=true].token").bounding_box() == box


def test_a_text_begun_before_the_models_are_known_waits_for_them(page):
    page.add_init_script("localStorage.clear()")  # also what the page keeps as it is left
    tell = without_models(page)
    page.get_by_label("Text to continue").fill("x")
    page.get_by_label("Text to continue").press("Control+Enter")
    expect(page.locator("#tokens")).to_have_attribute("aria-busy", "true")
    tell()
    expect(page.locator(".token").first).to_be_attached()


@pytest.mark.parametrize("stop", ["Escape", "button"])
def test_the_writing_can_be_stopped(page, stop):
    page.locator("#model").select_option("endless")
    page.get_by_label("Text to continue").fill("a")
    page.get_by_label("Most tokens").fill("200000")
    page.get_by_label("Text to continue").press("Control+Enter")
    expect(page.locator(".token").nth(20)).to_be_attached()
    if stop == "Escape":
        page.get_by_label("Text to continue").press("Escape")
    else:
        page.get_by_label("Stop", exact=True).click()
    whole(page)
    expect(page.locator("#completion-count")).to_contain_text("stopped by you")


def test_characters_of_several_tokens_show_as_themselves(page):
    shown = page.evaluate(
        r"""async () => {
          const { Joiner, places } = await import("./page/places.js");
          const joiner = new Joiner();
          const names = ["a", "\\xf0\\x9f", "\\x99", "\\x82", "b\\xc3", "\\xa9", "\\xff", "c"];
          const tokens = names.map((text) => joiner.join({ text }));
          return [tokens.map(({ text }) => text), places("a🙂bé\ufffdc", tokens)];
        }"""
    )
    assert shown == [
        ["a", "", "", "🙂", "b", "é", "\ufffd", "c"],
        [[0, 1], [1, 1], [1, 1], [1, 3], [3, 4], [4, 5], [5, 6], [6, 7]],
    ]
