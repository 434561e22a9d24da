"""The course as a reader uses it: JupyterLab in a browser. Screenshots stay in `.browser/`, for people to look at."""

import re
from collections.abc import Callable
from pathlib import Path

import nbformat
import pytest
from playwright.sync_api import Locator, Page, expect

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted(str(path.relative_to(ROOT / "notebooks")) for path in (ROOT / "notebooks").rglob("*.ipynb"))
SCREENSHOTS = ROOT / ".browser"
WIDTHS, HEIGHT = {"wide": 1600, "narrow": 700}, 1600  # the highest widget fits
ERRORS = "[data-mime-type='application/vnd.jupyter.error'], [data-mime-type='application/vnd.jupyter.stderr']"
Open = Callable[[str], Page]

pytestmark = pytest.mark.browser


def photograph(page: Page, name: str, *parts: Locator) -> None:
    """Keep how the page looks at its top, or at each of the parts: light and dark, wide and narrow."""
    for theme, is_light in (("light", "true"), ("dark", "false")):
        page.emulate_media(color_scheme=theme)
        expect(page.locator("body")).to_have_attribute("data-jp-theme-light", is_light)
        for width, pixels in WIDTHS.items():
            page.set_viewport_size({"width": pixels, "height": HEIGHT})
            for number, part in enumerate(parts or [page], 1):
                part.screenshot(path=SCREENSHOTS / f"{name}-{number:02}-{theme}-{width}.png")


def figures(page: Page) -> list[Locator]:
    return page.locator(".jp-OutputArea-output[data-mime-type='image/png']").all()


def menu(page: Page, *entries: str) -> None:
    for entry in entries:
        page.get_by_role("menuitem", name=entry, exact=True).click()


def run_all(page: Page) -> None:
    """Every cell, from cleared outputs; returns when all have run, without an error."""
    menu(page, "Edit", "Clear Outputs of All Cells")
    menu(page, "Run", "Run All Cells")
    prompts = page.locator(".jp-CodeCell .jp-InputPrompt")
    expect(prompts).to_have_text([re.compile(rf"^\[{i}\]:$") for i in range(1, prompts.count() + 1)], timeout=120_000)
    assert page.locator(ERRORS).all_inner_texts() == []


@pytest.mark.parametrize("path", NOTEBOOKS)
def test_a_notebook_opens(open_notebook: Open, path: str):
    """Catches a notebook that JupyterLab cannot show, or shows with complaints, and links that lead nowhere there."""
    page = open_notebook(path)
    title = nbformat.read(ROOT / "notebooks" / path, as_version=4).cells[0].source.splitlines()[0]
    expect(page.locator(".jp-RenderedMarkdown h1")).to_have_text(re.compile(re.escape(title.removeprefix("# "))))
    assert page.locator(ERRORS).all_inner_texts() == []
    links = page.locator(".jp-RenderedMarkdown a[href*='/files/']")
    targets = {link.get_attribute("href") for link in links.all()}
    assert [target for target in targets if not page.request.head(target).ok] == []
    photograph(page, path.removesuffix(".ipynb"))


def test_a_slider_redraws_its_picture(open_notebook: Open):
    """Catches a notebook that runs only cell by cell, and a slider that is not heard."""
    page = open_notebook("01_softmax.ipynb")
    run_all(page)
    explorer = page.locator(".widget-vbox", has=page.get_by_role("slider")).last
    picture, slider = explorer.locator("img"), explorer.get_by_role("slider").first
    for key in ("ArrowRight", "ArrowLeft"):
        before = picture.get_attribute("src")
        slider.press(key)
        expect(picture).not_to_have_attribute("src", before)
    photograph(page, "01_softmax-outputs", *figures(page), explorer)


def test_a_chat_streams_and_stops(open_notebook: Open):
    """Catches text that comes all at once, a button that does nothing, and a view of the answer that stays empty."""
    page = open_notebook("11_llama_generator.ipynb")
    run_all(page)
    chat = page.locator(".chat")
    generate, stop = (chat.get_by_role("button", name=name, exact=True) for name in ("generate", "stop"))
    answer = chat.locator(".chat-answer")
    expect(stop).to_be_disabled()

    chat.locator("textarea").first.fill("Count from one to one hundred.")
    generate.click()
    expect(generate).to_be_disabled()
    lengths: list[int] = []
    for _ in range(3):
        expect(answer).to_have_text(re.compile(rf"^.{{{lengths[-1] + 1 if lengths else 1},}}$", re.DOTALL))
        lengths.append(len(answer.inner_text()))
    stop.click()
    expect(generate).to_be_enabled(timeout=30_000)
    expect(stop).to_be_disabled()
    expect(chat.locator(".chat-bars")).not_to_be_empty()
    expect(chat.locator(".chat-attention")).to_be_visible()
    photograph(page, "11_llama_generator-outputs", *figures(page), chat)
