"""The report in a real browser, without a display or a network: it opens, sorts, filters, and works by keyboard."""

import itertools
from pathlib import Path

import pytest
from test_report import run  # noqa: F401 - the fixture

from plica import runs
from plica.report import write_report

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed (extra 'dev')")
CHROMIUM = "/usr/bin/chromium"
pytestmark = pytest.mark.skipif(
    not Path(CHROMIUM).is_file(), reason=f"{CHROMIUM} is not installed (Debian: apt-get install chromium)"
)
FLAGS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
]  # fmt: skip


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def report(run, tmp_path_factory):  # noqa: F811
    file = tmp_path_factory.mktemp("report") / "report.html"
    write_report([runs.load(run)], file)
    return file.as_uri()


@pytest.fixture(params=[(1280, "light"), (390, "dark")], ids=["desktop-light", "phone-dark"])
def page(browser, report, request):
    """The report opened; anything the console says, or any request beyond the file, fails the test."""
    wide, scheme = request.param
    opened = browser.new_page(viewport={"width": wide, "height": 900}, color_scheme=scheme)
    said, asked = [], []
    opened.on("console", lambda message: said.append(message.text))
    opened.on("pageerror", lambda error: said.append(str(error)))
    opened.on("request", lambda asking: asked.append(asking.url))
    opened.goto(report)
    yield opened
    assert said == []
    assert [url for url in asked if not url.startswith(("data:", report))] == []
    opened.close()


def shown(page):
    return page.eval_on_selector_all("#cards li:not([hidden])", "all => all.map(one => ({...one.dataset}))")


def test_opens_with_the_first_question_by_radius(page):
    cards = shown(page)
    assert len(cards) == 60
    assert {card["question"] for card in cards} == {"Smallest l2 distance"}
    radii = [float(card["radius"]) for card in cards]
    assert radii == sorted(radii)
    assert page.locator("#count").inner_text() == "60 of 190 shown"
    assert page.title() == "Robustness of even, split"  # and not what the plan's text tried to make of it


def test_sorts_and_filters(page):
    page.select_option("#sort", "-radius")
    radii = [float(card["radius"]) for card in shown(page)]
    assert radii == sorted(radii, reverse=True)
    page.select_option("#f-label", "<b>dog</b>")
    page.select_option("#f-model", "even")
    cards = shown(page)
    assert {(card["label"], card["model"]) for card in cards} == {("<b>dog</b>", "even")}
    assert len(cards) == 30  # 10, 13, ... 97
    page.fill("#low", "0.5")
    page.fill("#high", "0.8")
    radii = [float(card["radius"]) for card in shown(page)]
    assert radii == [rank / 100 for rank in range(79, 50, -3)]
    page.click("button[type=reset]")
    page.wait_for_function("document.getElementById('count').textContent === '60 of 190 shown'")


def test_the_pictures_are_there_and_have_words(page):
    pictures = page.eval_on_selector_all(
        "#cards li:not([hidden]) img", "all => all.map(one => [one.complete && one.naturalWidth, one.alt])"
    )
    assert len(pictures) == 3 * 60
    assert all(width == 8 and words for width, words in pictures)


def test_by_keyboard_alone(page):
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "main"
    page.locator("#more").focus()
    page.keyboard.press("Enter")
    assert len(shown(page)) == 120
    assert page.evaluate("[...document.activeElement.parentElement.children].indexOf(document.activeElement)") == 60
    page.locator("#sort").focus()
    page.keyboard.press("ArrowDown")
    radii = [float(card["radius"]) for card in shown(page)]
    assert radii == sorted(radii, reverse=True)


def test_nothing_is_wider_than_the_screen(page):
    assert page.evaluate("document.documentElement.scrollWidth") <= page.viewport_size["width"]


CONTRAST = """
() => {
  const part = (v) => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
  const light = (colour) => {
    const [r, g, b] = colour.match(/[\\d.]+/g).slice(0, 3).map(v => part(v / 255));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = (one) => {
    for (; one; one = one.parentElement) {
      const colour = getComputedStyle(one).backgroundColor;
      if (!colour.startsWith("rgba(0, 0, 0, 0")) return colour;
    }
    return "rgb(255, 255, 255)";
  };
  const contrast = (colour, one) => {
    const [low, high] = [light(colour), light(behind(one))].sort((a, b) => a - b);
    return [(high + 0.05) / (low + 0.05), one.outerHTML.slice(0, 80)];
  };
  const text = [], walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walk.nextNode()) {
    const one = walk.currentNode.parentElement;
    if (!walk.currentNode.textContent.trim() || ["script", "style", "title", "desc"].includes(one.localName)) continue;
    const style = getComputedStyle(one);
    text.push(contrast(one.closest("svg") ? style.fill : style.color, one));
  }
  const marks = [...document.querySelectorAll(".line, .bar, .dot")].map(one => {
    const style = getComputedStyle(one);
    return contrast(style.stroke !== "none" ? style.stroke : style.fill, one);
  });
  const least = (all) => all.sort((a, b) => a[0] - b[0])[0];
  return [least(text), least(marks)];
}
"""  # after WCAG 2: relative luminance, 4.5 to 1 for text and 3 to 1 for what charts are made of


def test_contrast_is_that_of_wcag_aa(page):
    text, marks = page.evaluate(CONTRAST)
    assert text[0] >= 4.5, text
    assert marks[0] >= 3, marks


def test_what_a_screen_reader_needs(page):
    assert page.evaluate("document.documentElement.lang") == "en"
    levels = page.eval_on_selector_all("h1, h2, h3, h4", "all => all.map(one => +one.tagName[1])")
    assert levels[0] == 1
    assert all(b - a <= 1 for a, b in itertools.pairwise(levels))
    nameless = page.eval_on_selector_all(
        "select, input, button, svg[role=img], img, [role=region]",
        """all => all.filter(one => !(one.labels?.length || one.textContent.trim() || one.alt
             || one.getAttribute("aria-label") || document.getElementById(one.getAttribute("aria-labelledby"))))
             .map(one => one.outerHTML.slice(0, 80))""",
    )
    assert nameless == []
    assert page.locator("main").count() == page.locator("nav").count() == page.locator("h1").count() == 1


def test_prints_without_the_controls(page):
    page.emulate_media(media="print", color_scheme="dark")
    assert not page.locator("#controls").is_visible()
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert page.pdf(format="A4")[:5] == b"%PDF-"


def test_without_scripts_every_card_is_there(browser, report):
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(report)
    assert page.locator("#cards li").count() == 190 == page.locator("#cards li:visible").count()
    assert not page.locator("#controls").is_visible()
    context.close()
