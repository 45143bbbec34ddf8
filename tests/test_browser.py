"""Viewers' paths through a real server in a real browser: the lab, Home, models, attribution and the story."""

import re
import time
from pathlib import Path

import pytest
from browsing import PATIENCE_MS, idle, metric, pick, settled, shot, visit
from playwright.sync_api import Browser, expect

from benchmarks.serving import newcomer, served
from core.checkpoints import list_models

STORY_MS = 2 * PATIENCE_MS  # a dozen attacks on 20 pictures
pytestmark = [
    pytest.mark.browser,
    pytest.mark.timeout(600),
    pytest.mark.skipif(not list_models(), reason="checkpoints/ holds no model"),
]


def test_explorers_journey(browser: Browser, server: str) -> None:
    """Lab opened cold by direct link; result; threshold; cancel; the link in a second browser."""
    # Mutants: a lab that waits for a click; numbers that ignore the threshold; a Cancel that only hides the
    # bar; a link that forgets a control.
    page, problems = visit(browser, f"{server}/attack_lab")
    first_cost = metric(page, "Mean cost")
    page.get_by_role("heading", name="Exit shift").wait_for()
    expect(page.get_by_text(re.compile(r"leave earlier \d, same \d, later \d"))).to_be_visible()

    slider = page.get_by_role("slider", name="Threshold")
    slider.focus()
    started = time.perf_counter()
    slider.press("Home")  # threshold 0: every image leaves at the first exit
    expect(page.get_by_text("judged at T = 0.00").first).to_be_visible()
    assert time.perf_counter() - started < 10
    idle(page)
    assert metric(page, "Mean cost") == "15 % → 15 %" != first_cost
    assert metric(page, "Mean exit") == "1.0 → 1.0"
    assert page.get_by_role("button", name="Cancel").count() == 0

    page.get_by_text("More options").click()
    steps = page.get_by_role("spinbutton", name="Steps")
    steps.fill("200")
    steps.press("Enter")
    expect(page.get_by_text("controls have changed")).to_be_visible()
    page.get_by_role("button", name="Run attack").click()
    page.get_by_text(re.compile(r"step \d+ of 200")).wait_for()
    page.get_by_role("button", name="Cancel").click()
    expect(page.get_by_text("Cancelled")).to_be_visible()
    assert metric(page, "Mean cost"), "the result before the cancelled run stays"

    steps.fill("3")
    steps.press("Enter")
    idle(page)
    page.get_by_role("button", name="Run attack").click()
    expect(page.get_by_text(re.compile(r"PGD 8/255, 3 steps of 2/255.*judged at T = 0.00")).first).to_be_visible()
    idle(page)
    shown = {label: metric(page, label) for label in ("Fooled", "Mean cost", "Mean exit")}
    link = page.url
    assert "threshold=0" in link and "steps=3" in link

    second, second_problems = visit(browser, link)
    expect(second.get_by_text(re.compile(r"PGD 8/255, 3 steps of 2/255.*judged at T = 0.00")).first).to_be_visible()
    assert {label: metric(second, label) for label in shown} == shown
    assert problems == [] and second_problems == []


def test_a_fresh_machine_shows_a_live_result_and_fills_its_gallery_meanwhile(browser: Browser, tmp_path: Path) -> None:
    # Mutants: Home without an attack never shows a metric; a job in the background that waits for ever, or unsaid.
    with served(newcomer(tmp_path)) as address:
        page, problems = visit(browser, address)
        assert re.fullmatch(r"\d+ of \d+", metric(page, "Fooled"))
        expect(page.get_by_text("20 bundled sample images").first).to_be_visible()
        expect(page.get_by_text("runs on the bundled samples done")).to_be_visible()
        page.get_by_test_id("stSidebar").get_by_role("link", name="Gallery", exact=True).click()
        page.get_by_role("heading", name="Gallery").wait_for()
        expect(page.get_by_text("kept examples match")).to_be_visible(timeout=PATIENCE_MS)
        assert problems == []


def test_engineer_weighs_accuracy_against_cost(browser: Browser, server: str) -> None:
    """Models opened cold by direct link; threshold; wall-clock."""
    # Mutants: numbers that ignore the threshold; a chart that is never drawn; a timing that never ends.
    page, problems = visit(browser, f"{server}/models")
    assert metric(page, "Mean cost")
    expect(page.get_by_text("How it was made")).to_be_visible()
    idle(page)
    expect(page.locator(".js-plotly-plot")).to_have_count(5, timeout=PATIENCE_MS)
    slider = page.get_by_role("slider", name="Threshold")
    slider.focus()
    slider.press("Home")  # threshold 0: every image leaves at the first exit
    expect(page.get_by_text(re.compile(r"is right on .* at T = 0.00")).first).to_be_visible()
    idle(page)
    assert metric(page, "Mean cost") == "15 %"
    page.get_by_role("button", name="Measure at T = 0.00").click()
    expect(page.get_by_text(re.compile(r"over 5 repeats")).first).to_be_visible(timeout=PATIENCE_MS)
    assert re.fullmatch(r"\d+ %", metric(page, "Time, one by one"))
    assert problems == []


def test_engineer_asks_what_each_exit_looked_at(browser: Browser, server: str) -> None:
    """Attribution opened cold by direct link; another method; what to believe; a point that opens its image."""
    # Mutants: a page that waits for a click; a method that is listed and not made; a point that opens nothing.
    page, problems = visit(browser, f"{server}/attribution?images=0-5&methods=Saliency")
    expect(page.get_by_text(re.compile("Least alike before and after"))).to_be_visible(timeout=PATIENCE_MS)
    expect(page.locator(".st-key-figure-maps-saliency .heatmaplayer image")).to_have_count(21, timeout=PATIENCE_MS)
    box = page.get_by_role("combobox", name="Methods")
    box.click()
    box.fill("Occlusion")
    box.press("Enter")
    box.press("Escape")
    expect(page.locator(".st-key-figure-maps-occlusion .heatmaplayer image")).to_have_count(21, timeout=PATIENCE_MS)
    assert "Occlusion" in page.url
    page.get_by_text(re.compile("Measure Saliency of this image")).click()
    expect(page.get_by_text(re.compile("of what covering squares does untold"))).to_be_visible(timeout=PATIENCE_MS)
    points = page.locator(".st-key-figure-attribution-population .points path")
    expect(points).to_have_count(6, timeout=PATIENCE_MS)
    idle(page)
    points.nth(2).click(force=True)
    opened = page.get_by_text(re.compile("Opened: cifar10/test/"))
    expect(opened).to_be_visible(timeout=PATIENCE_MS)
    number = re.search(r"test/(\d+)", opened.inner_text())
    assert number
    captions = page.get_by_test_id("stCaptionContainer").filter(has_text=re.compile(rf"cifar10/test/{number[1]}\b"))
    expect(captions.first).to_be_visible(timeout=PATIENCE_MS)
    chosen = page.get_by_role("combobox", name="Image", exact=True)
    expect(chosen).to_have_value(re.compile(rf"^{number[1]} · "))

    second, second_problems = visit(browser, page.url, width=420)
    expect(second.get_by_role("combobox", name="Image", exact=True)).to_have_value(
        chosen.input_value(), timeout=PATIENCE_MS
    )
    idle(second)
    assert second.evaluate("document.documentElement.scrollWidth <= window.innerWidth + 1"), "runs off on a phone"
    assert second_problems == []
    assert problems == []


def test_presenter_tells_the_story_by_keyboard_alone(browser: Browser, server: str) -> None:
    """Story opened cold by direct link; five steps by arrow keys; fine print; its link elsewhere; a wrong link."""
    # Mutants: a step that no key reaches; a story that needs a click to begin; a link that forgets the step;
    # a picture or chart without words; a step wider than a phone; an error for a wrong link instead of a story.
    page, problems = visit(browser, f"{server}/story")
    told = page.get_by_role("heading", level=1)
    expect(told).to_have_text(re.compile("An easy picture"), timeout=STORY_MS)
    expect(page.locator(".js-plotly-plot")).to_have_count(1)
    settled(page)
    shot(page, "presenter-before")
    titles = ("An easy picture", "Now a little noise", "The early answer is wrong", r"\d+ of \d+", "help|harder")
    for title in titles[1:]:
        idle(page)
        page.keyboard.press("ArrowRight")
        expect(told).to_have_text(re.compile(title), timeout=STORY_MS)
        assert page.get_by_role("img").count() >= 1
    expect(page.get_by_text(re.compile(r"sure instead of 0.90")).first).to_be_visible(timeout=STORY_MS)
    idle(page)
    expect(page.get_by_role("button", name="Next")).to_be_disabled()
    for _ in range(80):
        page.keyboard.press("Tab")
        if page.evaluate(
            "document.activeElement.matches('summary') && document.activeElement.innerText.includes('picked')"
        ):
            break
    page.keyboard.press("Enter")
    expect(
        page.get_by_text(re.compile(r"Of 20 pictures attacked on this machine, \d+ tell this story"))
    ).to_be_visible()
    shot(page, "presenter-finished")
    link = page.url
    assert "scene=5+What+helps" in link
    second, second_problems = visit(browser, link, width=420)
    expect(second.get_by_role("heading", level=1)).to_have_text(told.inner_text(), timeout=STORY_MS)
    for title in reversed(titles):
        expect(second.get_by_role("heading", level=1)).to_have_text(re.compile(title), timeout=STORY_MS)
        settled(second)  # keys are heard a moment after the words are there
        assert second.evaluate("document.documentElement.scrollWidth <= window.innerWidth + 1")
        missing = second.locator("[data-testid=stImage] img:not([alt]), [data-testid=stImage] img[alt='']")
        assert missing.count() == 0
        second.keyboard.press("ArrowLeft")

    wrong, wrong_problems = visit(browser, f"{server}/story?example=0123456789abcdef:cifar10/test/0:nobody")
    expect(wrong.get_by_role("heading", level=1)).to_have_text(re.compile("An easy picture"), timeout=STORY_MS)
    expect(wrong.get_by_test_id("stAlert")).to_have_count(1)
    expect(wrong.get_by_text(re.compile("is not kept here.* instead"))).to_be_visible()
    settled(wrong)
    shot(wrong, "presenter-error")
    assert problems == second_problems == wrong_problems == []


def test_a_filter_redraws_the_tiles_and_a_tile_or_surprise_the_whole_page(server: str, browser: Browser) -> None:
    # Mutants: a fragment that keeps what was picked to itself; one that never asks for the page; a tile that only ticks
    # itself; one that Tab does not reach; tiles that are made anew, and the focus lost, at every tick.
    page, problems = visit(browser, f"{server}/attack_lab")
    settled(page)
    picked = page.get_by_role("textbox", name="Picked images, by official index")
    page.get_by_text("8 cat").click()
    expect(picked).to_have_value("0-8")
    expect(page.get_by_text("controls have changed")).to_be_visible()
    settled(page)
    page.keyboard.press("Tab")
    page.keyboard.press("Space")
    expect(picked).to_have_value("0-9")
    settled(page)
    page.keyboard.press("Space")
    expect(picked).to_have_value("0-8")
    assert page.get_by_role("checkbox", name="8 cat").is_checked()
    pick(page, "Class", "ship")
    expect(page.get_by_text("20 of 20 images match")).to_be_hidden()
    expect(picked).to_have_value("0-8")
    page.get_by_role("button", name="Surprise me").click()
    expect(picked).to_have_value("1-2,15,18")  # all the ships there are
    expect(page.get_by_text("cifar10:samples:1-2,15,18 · n = 4").first).to_be_visible()
    assert problems == []


def test_the_last_picked_tile_stays_ticked_and_a_choice_takes_back_what_was_said_of_a_link(
    server: str, browser: Browser
) -> None:
    # Mutants: a tick that follows the click alone; a fragment that leaves the words about its link on the page.
    page, problems = visit(browser, f"{server}/attack_lab?images=0&close_up=from+afar")
    settled(page)
    said = page.get_by_text("The link asks for")
    expect(said).to_be_visible()
    page.get_by_text("step by step", exact=True).click()
    expect(said).to_be_hidden()
    settled(page)
    page.get_by_text("0 cat", exact=True).click()
    settled(page)
    expect(page.get_by_role("checkbox", name="0 cat")).to_be_checked()
    expect(page.get_by_role("textbox", name="Picked images, by official index")).to_have_value("0")
    assert problems == []
