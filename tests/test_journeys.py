"""The explorer's and the engineer's way through the dashboard in a real browser, before, finished and gone wrong."""

import re
from io import BytesIO

import pytest
from browsing import click_mark, idle, metric, pick, press_threshold, settled, shot, visit
from PIL import Image
from playwright.sync_api import Browser, Page, expect

from core.checkpoints import list_models, load_card

pytestmark = [
    pytest.mark.browser,
    pytest.mark.timeout(600),
    pytest.mark.skipif(len(list_models()) < 2, reason="checkpoints/ holds fewer than two models"),
]


def go_to(page: Page, name: str) -> None:
    page.get_by_test_id("stSidebar").get_by_role("link", name=name, exact=True).click()
    page.get_by_role("heading", name=name, exact=True).first.wait_for()
    settled(page)


def choose(page: Page, label: str, option: str) -> None:
    """Chooses a filter of the gallery that leaves another number of examples."""
    before = page.get_by_text(re.compile("kept examples match"))
    words = before.inner_text()
    pick(page, label, option)
    expect(before).not_to_have_text(words)
    idle(page)


def matching(page: Page) -> int:
    """How many kept examples the gallery says match."""
    words = page.get_by_text(re.compile(r"of [\d,]+ kept examples match")).inner_text()
    return int(re.match(r"[\d,]+", words)[0].replace(",", ""))


def test_explorer_goes_from_an_empty_gallery_to_one_example_and_its_command(browser: Browser, server: str) -> None:
    """Gallery: nothing kept; kept from the lab; filtered; one example with its command; its link; a wrong link."""
    # Mutants: a gallery that waits for a restart to show what was kept; filters drawn and not applied; an example that
    # its link does not open, or opens without the command that remakes it; a stack trace for a wrong link.
    page, problems = visit(browser, f"{server}/gallery")
    expect(page.get_by_text("Nothing is kept here yet")).to_be_visible()
    shot(page, "explorer-before")

    page.get_by_test_id("stMain").get_by_role("link", name="Open the attack lab").click()
    metric(page, "Fooled")
    settled(page)
    page.get_by_role("button", name="Keep in the gallery").click()
    expect(page.get_by_text(re.compile(r"\d+ examples are kept"))).to_be_visible()
    page.get_by_test_id("stMain").get_by_role("link", name="Open the gallery").click()
    page.get_by_role("heading", name="Gallery").wait_for()
    settled(page)
    every = matching(page)
    assert every == 16, "eight images attacked on two models"

    choose(page, "Made on", "● ResNet-56 early-exit")
    assert matching(page) == 8
    choose(page, "True class", "ship")
    assert 0 < matching(page) < 8
    assert "by_class=ship" in page.url
    shot(page, "explorer-filtered")
    page.locator("[class*='st-key-open-'] button").first.click()
    page.get_by_role("heading", name="How it was made").wait_for()
    settled(page)
    expect(page.get_by_text("true class ship")).to_be_visible()
    expect(page.get_by_text("checked just now")).to_be_visible()
    command = page.locator("code", has_text="python -m core attack").inner_text()
    assert "--model cifar10-resnet56-early-exit" in command and re.search(r"cifar10:samples:\d+\b", command)
    shot(page, "explorer-finished")

    heading = page.get_by_role("heading", level=2).first.inner_text()
    second, second_problems = visit(browser, page.url)
    second.get_by_role("heading", name="How it was made").wait_for()
    assert second.get_by_role("heading", level=2).first.inner_text() == heading
    second.get_by_role("button", name="All examples").click()
    idle(second)
    assert 0 < matching(second) < 8, "the way back keeps the filters of the link"

    wrong, wrong_problems = visit(browser, f"{server}/gallery?example=0123456789abcdef:cifar10/test/0:nobody")
    expect(wrong.get_by_test_id("stAlert")).to_have_count(1)
    expect(wrong.get_by_text("is not kept here")).to_be_visible()
    shot(wrong, "explorer-error")
    wrong.get_by_role("button", name="All examples").click()
    wrong.get_by_text("kept examples match").wait_for()
    assert problems == second_problems == wrong_problems == []


def test_engineer_follows_one_attack_from_page_to_page(browser: Browser, server: str) -> None:
    """Models, exit shift, confidence, transfer: one threshold all the way; a cell of the matrix opens its images."""
    # Mutants: a threshold or a result that is forgotten between pages; a cell that shows other images, or the lab
    # opened with the images of before; a stack trace for a selection that cannot be read.
    page, problems = visit(browser, f"{server}/models")
    metric(page, "Mean cost")
    settled(page)
    press_threshold(page, "ArrowLeft", "at T = 0.89")
    shot(page, "engineer-before")

    go_to(page, "Exit shift")
    expect(page.get_by_text("judged at T = 0.89").first).to_be_visible()
    expect(page.get_by_text(re.compile(r"of 8\D.* once attacked")).first).to_be_visible()
    go_to(page, "Confidence")
    expect(page.get_by_text("judged at T = 0.89").first).to_be_visible()
    expect(page.get_by_text(re.compile(r"When clean, the answers are"))).to_be_visible()
    go_to(page, "Transfer")
    expect(page.get_by_text(re.compile("fool ")).first).to_be_visible()
    expect(page.get_by_text("Does what fools one model")).to_be_visible()

    # Source in the second row, target in the first column.
    size = sum(load_card(name).shares is None for name in list_models())
    click_mark(page, "transfer-matrix", size)
    title = page.get_by_text(re.compile(r"Made on .*, fooled .*: \d+ image")).first
    expect(title).to_be_visible()
    count = int(re.search(r": (\d+) image", title.inner_text())[1])
    pictures = page.locator(".st-key-transfer-cell-linked img")
    expect(pictures).to_have_count(count)
    indices = [int(alt.split()[1].rstrip(",")) for alt in pictures.evaluate_all("all => all.map(each => each.alt)")]
    shot(page, "engineer-finished")
    page.get_by_role("link", name="Attack these alone, in the lab").click()
    page.get_by_role("heading", name="Attack lab").wait_for()
    settled(page)
    picked = page.get_by_role("textbox", name="Picked images, by official index").input_value()
    assert numbers(picked) == sorted(indices)
    expect(page.get_by_text(f"cifar10:samples:{picked} · n = {count}").first).to_be_visible()
    # The matrix shows images that both models get right, so every one of them is attackable on the one in the lab.
    assert metric(page, "Fooled").endswith(f" of {count}")

    box = page.get_by_role("textbox", name="Picked images, by official index")
    box.fill("5-3")
    box.press("Enter")
    expect(page.get_by_test_id("stAlert")).to_have_count(1)
    idle(page)
    shot(page, "engineer-error")
    assert "Traceback" not in page.inner_text("body")
    box.fill("0-7")
    box.press("Enter")
    metric(page, "Fooled")
    go_to(page, "Exit shift")
    expect(page.get_by_text(re.compile(r"of 8\D.* once attacked")).first).to_be_visible()
    assert problems == []


def numbers(selection: str) -> list[int]:
    """The indices that a selection such as ``0-2,9`` names."""
    parts = [part.split("-") for part in selection.split(",")]
    return [index for part in parts for index in range(int(part[0]), int(part[-1]) + 1)]


def focused(page: Page) -> str:
    """What the keyboard would press: role or tag, and name."""
    return page.evaluate(
        """() => {
          let element = document.activeElement;
          while (element && element.shadowRoot && element.shadowRoot.activeElement)
            element = element.shadowRoot.activeElement;
          const name = element.getAttribute('aria-label') || element.innerText || '';
          return (element.getAttribute('role') || element.tagName.toLowerCase()) + ' ' + name.trim();
        }"""
    )


def tab_to(page: Page, wanted: str, key: str = "Tab") -> None:
    seen = []
    for _ in range(150):
        page.keyboard.press(key)
        seen.append(focused(page))
        if re.search(wanted, seen[-1]):
            return
    raise AssertionError(f"Nothing like {wanted!r} was reached: {seen}")


def test_one_journey_by_keyboard_alone(browser: Browser, server: str) -> None:
    """Lab by link; threshold; run; copied link; another page: no mouse."""
    # Mutants: a control that Tab does not reach; a shortcut that runs nothing; a copy button that only mice press.
    page = browser.new_context(
        viewport={"width": 1440, "height": 1000}, permissions=["clipboard-read", "clipboard-write"]
    ).new_page()
    page.set_default_timeout(90_000)
    page.goto(f"{server}/attack_lab?images=0-3")
    metric(page, "Fooled")
    settled(page)
    tab_to(page, "^(slider|input) Threshold")
    page.keyboard.press("ArrowLeft")
    expect(page.get_by_text("judged at T = 0.89").first).to_be_visible()
    settled(page)
    tab_to(page, "^(textbox|input) Picked images")
    page.keyboard.press("ControlOrMeta+a")
    page.keyboard.type("0-2")
    page.keyboard.press("Enter")
    expect(page.get_by_text("controls have changed")).to_be_visible()
    page.keyboard.press("Control+Enter")
    expect(page.get_by_text("cifar10:samples:0-2 · n = 3").first).to_be_visible()
    settled(page)
    tab_to(page, "^button Copy link")
    page.keyboard.press("Enter")
    expect(page.get_by_text("Copied")).to_be_visible()
    link = page.evaluate("navigator.clipboard.readText()")
    assert link == page.url and "threshold=0.89" in link and "images=0-2" in link
    tab_to(page, "^a Exit shift|^link Exit shift", key="Shift+Tab")
    page.keyboard.press("Enter")
    page.get_by_role("heading", name="From exit to exit").wait_for()
    expect(page.get_by_text("cifar10:samples:0-2 · n = 3").first).to_be_visible()


def picture() -> bytes:
    buffer = BytesIO()
    Image.radial_gradient("L").resize((120, 90)).convert("RGB").save(buffer, "PNG")
    return buffer.getvalue()


def test_own_pictures_are_attacked_and_a_broken_one_gets_one_kind_sentence(browser: Browser, server: str) -> None:
    # Mutants: a stack trace for a broken file, or the whole result lost with it; uploads that get into a link; no word
    # of how a picture was resized.
    page, problems = visit(browser, f"{server}/attack_lab")
    metric(page, "Fooled")
    settled(page)
    page.get_by_role("radio", name="my own pictures").or_(page.get_by_text("my own pictures", exact=True)).first.click()
    expect(page.get_by_text(re.compile("They stay on this machine"))).to_be_visible()
    shot(page, "upload-before")
    upload = page.locator("input[type=file]")
    upload.set_input_files([{"name": "mine.png", "mimeType": "image/png", "buffer": picture()}])
    expect(page.get_by_text("mine.png shows")).to_be_visible()
    expect(page.get_by_text(re.compile("resized|cut to"))).not_to_have_count(0)
    page.get_by_role("button", name="Run attack").click()
    expect(page.get_by_text(re.compile(r"cifar10:upload-\w+ · n = 1")).first).to_be_visible()
    settled(page)
    expect(page.get_by_text("Your own pictures are in no link")).to_be_visible()
    assert "upload-" not in page.url and page.get_by_role("button", name="Copy link").count() == 0
    shot(page, "upload-finished")

    upload.set_input_files([{"name": "broken.png", "mimeType": "image/png", "buffer": picture()[:60]}])
    alerts = page.get_by_test_id("stAlert").filter(has_text="broken.png")
    expect(alerts).to_have_count(1)
    words = alerts.inner_text()
    assert words.count("\n") == 0 and 20 < len(words) < 250 and "Traceback" not in page.inner_text("body")
    expect(page.get_by_text("mine.png shows")).to_be_visible()
    shot(page, "upload-error")
    assert problems == []
