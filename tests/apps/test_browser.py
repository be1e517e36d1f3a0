"""The page in a real browser. What it looks like is for eyes; what it does is for these tests."""

import shutil
from collections.abc import Callable, Iterator

import pytest
from serving import Pace, serving, small

from minillama.tokenizer import Tokenizer

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
Browser, Page, expect = sync_api.Browser, sync_api.Page, sync_api.expect
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = pytest.mark.skipif(not CHROMIUM, reason="there is no Chromium on this machine")
SIZES = {"wide": (1280, 900), "narrow": (390, 844)}


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def home(tokenizer: Tokenizer) -> Iterator[str]:
    with serving(small(tokenizer)) as address:
        yield address


@pytest.fixture
def visit(browser: Browser, home: str) -> Iterator[Callable[..., Page]]:
    """Opens the page; when the test ends, nothing may have gone wrong unseen."""
    pages, wrong = [], []

    def visit(size: str = "wide", **options: object) -> Page:
        width, height = SIZES[size]
        page = browser.new_page(viewport={"width": width, "height": height}, **options)
        pages.append(page)
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("console", lambda told: told.type == "error" and wrong.append(told.text))
        page.on("request", lambda r: r.url.startswith(home) or wrong.append(r.url))
        page.goto(home)
        expect(page.locator("#model")).to_contain_text("tiny · ")
        return page

    yield visit
    for page in pages:
        page.close()
    refusals = [words for words in wrong if "status of 413" in words]
    assert [words for words in wrong if words not in refusals] == []


def generate(page: Page, prompt: str = "the old miller", tokens: int = 24) -> None:
    page.fill("#prompt", prompt)
    page.fill("#max_new_tokens", str(tokens))
    page.click("#go")
    expect(page.locator("#status")).to_contain_text(f"{tokens} tokens · ")
    expect(page.locator("#status")).to_contain_text("tokens/s · max tokens reached")


def test_the_page_says_what_the_model_is(visit: Callable[..., Page]) -> None:
    page = visit()
    expect(page).to_have_title("tiny · minillama")
    expect(page.locator("#model")).to_contain_text("context of 200 tokens · validation loss 4.50")
    expect(page.locator(".lede")).to_contain_text("It is no assistant")
    expect(page.locator('output[for="max_new_tokens"]')).to_have_text("128")
    expect(page.locator('output[for="top_k"]')).to_have_text("all")


def test_generates_and_tells_about_a_token(visit: Callable[..., Page]) -> None:
    page = visit()
    generate(page)
    assert page.locator(".token").count() == 24
    first = page.locator("#text").inner_text()
    expect(page.locator("#tip")).to_be_hidden()
    page.locator(".token").nth(5).hover()
    expect(page.locator("#tip")).to_contain_text("chosen: ")
    assert page.locator("#tip li").count() == 5
    shown = [float(p.strip("%")) for p in page.locator("#tip li span").all_inner_texts()]
    assert shown == sorted(shown, reverse=True) and 0 < sum(shown) <= 100.1
    page.mouse.move(1, 1)
    expect(page.locator("#tip")).to_be_hidden()
    generate(page)  # the same seed
    assert page.locator("#text").inner_text() == first
    page.fill("#seed", "5")
    generate(page)
    assert page.locator("#text").inner_text() != first


def test_everything_by_keyboard(visit: Callable[..., Page]) -> None:
    page = visit()
    page.fill("#max_new_tokens", "8")
    page.focus("#prompt")
    page.keyboard.press("Control+Enter")
    expect(page.locator("#status")).to_contain_text("max tokens reached")
    page.locator(".token").first.focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    expect(page.locator(".token").nth(2)).to_be_focused()
    expect(page.locator("#tip")).to_be_visible()
    expect(page.locator("#spoken")).to_contain_text("Likeliest: ")
    page.keyboard.press("Escape")
    expect(page.locator("#tip")).to_be_hidden()
    page.keyboard.press("End")
    page.keyboard.press("ArrowRight")
    expect(page.locator(".token").nth(7)).to_be_focused()
    page.focus("#layer")
    page.keyboard.press("Tab")
    expect(page.locator("canvas").first).to_be_focused()
    page.keyboard.press("ArrowUp")
    page.keyboard.press("ArrowRight")
    expect(page.locator("#readout")).to_contain_text("Head 1:")


def pixels(page: Page) -> list[list[int]]:
    read = "(c) => [...c.getContext('2d').getImageData(0, 0, c.width, c.height).data]"
    return [canvas.evaluate(read) for canvas in page.locator("canvas").element_handles()]


def test_attention_pictures(visit: Callable[..., Page]) -> None:
    page = visit()
    generate(page)
    expect(page.locator("canvas")).to_have_count(4)
    seen = page.locator("canvas").first.evaluate("(c) => c.width")
    assert seen > 24  # the prompt's tokens too
    before = pixels(page)
    assert len({tuple(picture) for picture in before}) == 4
    for picture in before:
        last_of_first_row = picture[4 * (seen - 1) : 4 * seen]
        assert last_of_first_row == [0, 0, 0, 0]  # nobody looks ahead
        assert picture[3] == 255
    box = page.locator("canvas").nth(2).bounding_box()
    page.locator("canvas").nth(2).hover(
        position={"x": box["width"] / 2 / seen, "y": box["height"] / 2 / seen}
    )
    expect(page.locator("#readout")).to_have_text("Head 3: <s> (1) takes 100.00% from <s> (1)")
    assert page.locator("#strip .from").count() == 1
    page.mouse.move(1, 1)
    page.select_option("#layer", "1")
    expect(page.locator("#pictures")).to_have_attribute("data-layer", "1")
    assert pixels(page) != before


def test_stops(visit: Callable[..., Page], monkeypatch: pytest.MonkeyPatch) -> None:
    pace = Pace(monkeypatch)
    page = visit()
    expect(page.locator("#stop")).to_be_disabled()
    page.fill("#max_new_tokens", "190")
    page.click("#go")
    expect(page.locator(".token").nth(2)).to_be_visible()
    page.click("#stop")
    expect(page.locator("#status")).to_contain_text("stopped by you")
    expect(page.locator("#go")).to_be_enabled()
    expect(page.locator("canvas")).to_have_count(4)  # of what was written until then
    assert pace.choices < 190


def test_errors_are_shown(visit: Callable[..., Page]) -> None:
    page = visit()
    for prompt, words in [("x" * 17_000, "17,000 characters"), ("word " * 300, "Shorten it")]:
        page.fill("#prompt", prompt)
        page.click("#go")
        expect(page.locator("#error")).to_contain_text(words)
        expect(page.locator("#go")).to_be_enabled()
    generate(page)
    expect(page.locator("#error")).to_be_hidden()


def test_text_is_never_markup(visit: Callable[..., Page]) -> None:
    page = visit()
    generate(page, "<img src=x onerror=alert(1)><b>bold</b>")
    assert page.locator("#text img, #text b, #strip img").count() == 0
    expect(page.locator("#text .given")).to_have_text("<img src=x onerror=alert(1)><b>bold</b>")


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_fits_and_has_names(size: str, scheme: str, visit: Callable[..., Page]) -> None:
    page = visit(size, color_scheme=scheme)
    generate(page)
    expect(page.locator("canvas")).to_have_count(4)
    assert page.evaluate("() => document.documentElement.scrollWidth") == SIZES[size][0]
    ground = page.evaluate("() => getComputedStyle(document.body).backgroundColor")
    levels = [int(part) for part in ground.strip("rgb()").split(",")]
    assert (max(levels) < 60) == (scheme == "dark")
    nameless = page.evaluate(
        "() => [...document.querySelectorAll('input, select, textarea')]"
        ".filter((field) => !field.labels.length).map((field) => field.id)"
    )
    assert nameless == []
    page.locator(".token").nth(3).hover()
    tip = page.locator("#tip").bounding_box()
    assert tip["x"] >= 0 and tip["x"] + tip["width"] <= SIZES[size][0]
    assert len(page.screenshot(full_page=True)) > 20_000
