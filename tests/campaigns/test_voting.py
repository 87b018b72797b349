"""The page of notebook 40 in a real browser: votes by mouse and keyboard, saved, tallied; no text
of a page runs.
"""

import json
from contextlib import contextmanager

import pytest

from tests.campaigns.test_doors import CHROMIUM, FLAGS
from tests.test_comparison import HOSTILE, _environment, captions, compare, inputs, rows  # noqa: F401

pytestmark = pytest.mark.campaign


@contextmanager
def chromium():
    assert CHROMIUM, "this test needs Chromium: apt-get install chromium"
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


def vote(page):
    """Left, right, both bad with a remark, a tie; one of these is given, taken back and given
    again.
    """
    page.get_by_role("button", name="Left is better").click()
    for key in ("3", "r"):
        page.keyboard.press(key)
    page.keyboard.type("both 1 and 2 are <b>vague</b>")
    for key in ("Enter", "4", "2", "2", "ArrowLeft", "2"):  # the last one again: taken back
        page.keyboard.press(key)


def test_voting_in_a_browser(inputs, tmp_path):  # noqa: F811
    """By mouse and by keyboard, over a reload, to a file that is tallied; no text runs, nothing is
    fetched.
    """
    left = captions(
        tmp_path / "data/hostile", "one", text="{i} {model} " + HOSTILE.replace("{{data}}", "")
    )
    inputs = {**inputs, "left": left}
    run, _, pairs, _ = compare(inputs)
    with chromium() as browser:
        page = browser.new_page(color_scheme="dark")
        asked, faults = [], []
        page.on("request", lambda request: asked.append(request.url))
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.goto((run.data / "page.html").as_uri())
        vote(page)
        page.reload()
        assert "4 voted" in page.get_by_role("status").text_content()
        for _ in pairs:
            page.get_by_role("button", name="Back").click()
        for number, pair in enumerate(pairs, 1):
            assert f"Pair {number} of {len(pairs)}" in page.get_by_role("status").text_content()
            texts = [page.locator(f"#text{side}").text_content() for side in (0, 1)]
            assert texts == list(pair["texts"])
            page.keyboard.press("c")
            assert HOSTILE in page.locator("#context").text_content()
            page.get_by_role("button", name="Next").click()
        with page.expect_download() as download:
            page.get_by_role("button", name="Save votes").click()
        download.value.save_as(tmp_path / "votes.json")
        page.get_by_text("If saving does nothing").click()
        assert (
            page.get_by_label("Votes as text").input_value()
            == (tmp_path / "votes.json").read_text()
        )
        assert download.value.suggested_filename == "votes.json"
        assert page.evaluate("window.evil") is None
        assert not faults
        assert {url for url in asked if not url.startswith("data:")} == {
            (run.data / "page.html").as_uri()
        }
        assert pairs[-1]["picture"]
        assert page.locator("#picture").evaluate("image => image.naturalWidth") == 800
    run, _, _, _ = compare(inputs, votes=str(tmp_path / "votes.json"))
    votes = rows(run, "votes")
    order = {row["pair_id"]: row["shown_left"] for row in rows(run, "pairs")}
    other = {"left": "right", "right": "left"}
    assert [vote["choice"] for vote in votes] == [
        order[pairs[0]["pair_id"]],
        other[order[pairs[1]["pair_id"]]],
        "both_bad",
        "tie",
    ]
    assert [vote["remark"] for vote in votes] == ["", "", "both 1 and 2 are <b>vague</b>", ""]


def test_a_viewer_that_allows_no_storage(inputs):  # noqa: F811
    """In a sandbox without an origin, as some notebook viewers make, voting works and the page says
    what is lost.
    """
    run, _, _, _ = compare(inputs)
    with chromium() as browser:
        page = browser.new_page()
        page.set_content('<iframe sandbox="allow-scripts" width="1200" height="900"></iframe>')
        page.eval_on_selector(
            "iframe", "(frame, text) => frame.srcdoc = text", (run.data / "page.html").read_text()
        )
        frame = page.frame_locator("iframe")
        frame.get_by_role("button", name="Tie").click()
        assert "1 voted" in frame.get_by_role("status").text_content()
        assert frame.get_by_text("This browser keeps nothing").is_visible()
        frame.get_by_text("If saving does nothing").click()
        assert (
            json.loads(frame.get_by_label("Votes as text").input_value())["votes"][0]["choice"]
            == "tie"
        )
