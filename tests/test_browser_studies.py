"""Studies and placements in a real browser."""

import re

import pytest
from browsing import metric, visit
from playwright.sync_api import Browser, expect

pytestmark = pytest.mark.browser


def test_a_study_is_browsed_without_its_data_set_down_to_its_images(server: str, browser: Browser) -> None:
    # Mutants: a page that needs the pictures; a matrix that answers no click; a verdict left out; a page that opens
    # with any study but that of the first claim.
    page, problems = visit(browser, f"{server}/studies")
    expect(page.get_by_role("heading", name="Who fools whom").first).to_be_visible()
    expect(page.get_by_role("heading", name="What is claimed")).to_be_visible()
    expect(page.get_by_text(re.compile("Does not hold|Holds|Undecided")).first).to_be_visible()
    matrix = page.locator(".st-key-figure-study-matrix .scatterlayer .point").first
    matrix.wait_for(state="attached")
    matrix.click(force=True)
    expect(page.get_by_text("Their pictures are not on this machine")).to_be_visible()
    expect(page.get_by_text("Fetch the pictures").first).to_be_visible()
    assert problems == []


def test_placement_moves_in_a_browser_and_its_link_does_the_same(server: str, browser: Browser) -> None:
    # Mutants: blocks that are in no link; numbers that stay.
    page, problems = visit(browser, f"{server}/placement")
    before = metric(page, "Mean cost")
    page.get_by_role("button", name="One late").click()
    expect(page.get_by_text("With exits after block 24 and at the end")).to_be_visible()
    expect(page.get_by_test_id("stMetric").filter(has_text="Mean cost").first).not_to_contain_text(before)
    after = metric(page, "Mean cost")
    again, _ = visit(browser, page.url)
    expect(again.get_by_text("With exits after block 24 and at the end")).to_be_visible()
    assert metric(again, "Mean cost") == after and problems == []
