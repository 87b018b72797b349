"""The gallery in a real browser: keys, filters, the review loop; no text of a page runs, and
nothing is asked of a network; 10,000 samples scroll.
"""

import json
from contextlib import contextmanager

import pytest

from tests.campaigns.test_voting import chromium
from tests.test_gallery import (  # noqa: F401
    BROKEN,
    HOSTILE,
    ID,
    LOST,
    NORMAL,
    QUESTIONS_OF,
    WEB,
    _environment,
    inputs,
    made,
    write,
)
from vislib import removals
from vislib.runs.contract import SAMPLES

pytestmark = pytest.mark.campaign
WIDE, PHONE = {"width": 1400, "height": 900}, {"width": 390, "height": 844}


@contextmanager
def opened(folder, viewport=WIDE, **options):
    """The page, opened from the disk; at the end nothing but files of the gallery was asked for, no
    script of a text has run, and there was no error.
    """
    with chromium() as browser:
        page = browser.new_page(viewport=viewport, **options)
        asked, faults = [], []
        page.on("request", lambda request: asked.append(request.url))
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("console", lambda message: faults.append(message.text))
        page.goto((folder / "index.html").as_uri())
        yield page
        assert page.evaluate("window.evil") is None
        # what a test itself was refused
        assert [fault for fault in faults if "requires 'TrustedHTML'" not in fault] == []
        assert asked
        below = folder.as_uri() + "/"
        assert [url for url in asked if not url.startswith((below, "blob:"))] == []


def shown(page):
    return page.locator("#sample h2 code").text_content()


def test_hostile_rows_are_text(inputs):  # noqa: F811
    folder, *_ = made(inputs)
    text = HOSTILE.encode("utf-8", "replace").decode().replace("\u202e", "⟨U+202E⟩")
    with opened(folder, color_scheme="dark") as page:
        page.goto((folder / "index.html").as_uri() + f"#{WEB}")
        page.locator("#sample h2 code").wait_for()
        assert shown(page) == WEB
        for where in (".context", ".text", ".human", ".assistant", ".lost"):
            assert text in page.locator(where).first.text_content(), where
        # an address that is none of the web's is no link
        assert page.locator("#sample a").count() == 0
        assert (
            page.locator("#sample :is(script, svg, iframe, object, embed, link, style)").count()
            == 0
        )
        handlers = "es => es.filter(e => [...e.attributes].some(a => /^on/.test(a.name))).length"
        assert page.locator("*").evaluate_all(handlers) == 0
        # hostile names as filters
        for name in ("kind", "reason", "configuration"):
            for option in page.locator(f"#{name} option").all():
                page.locator(f"#{name}").select_option(option.get_attribute("value"))
            page.locator(f"#{name}").select_option("")
        for sample in (NORMAL, LOST, BROKEN):
            page.evaluate("id => location.hash = id", sample)
            page.wait_for_function(
                "id => document.querySelector('h2 code').textContent === id", arg=sample
            )
        link = page.locator("#sample a").first
        assert link.get_attribute("href") == "https://example.org/kiel"
        assert {"noopener", "noreferrer"} <= set(link.get_attribute("rel").split())
        # markup and code in texts could not be made even by a mistake of the page
        refused = "() => { try { document.body.innerHTML = '<b>'; } catch (e) { return e.name; } }"
        assert page.evaluate(refused) == "TypeError"


def test_a_sample_as_it_is_read(inputs):  # noqa: F811
    folder, *_ = made(inputs)
    with opened(folder) as page:
        page.locator("#sample h2 code").wait_for()
        assert page.locator("mark").text_content() == "this image"
        assert page.locator("article .given").all_text_contents()[:2] == ["lighthouse", "Kiel"]
        chips = page.locator(".talk .chip").all_text_contents()
        assert chips == ["free-form", "caption", "multiple-choice"]
        page.get_by_label("Configuration").last.select_option("contextual/captions")
        assert page.locator(".talk .chip").all_text_contents() == ["caption"]
        assert page.locator(".frame img").evaluate("image => image.naturalWidth") == 800
        assert page.locator(".box").count() == 2
        # the box stands where its coordinates say, on the picture as it is shown
        place, frame = (
            page.locator(".box.object").bounding_box(),
            page.locator(".frame img").bounding_box(),
        )
        assert abs(place["x"] - frame["x"] - 0.1 * frame["width"]) < 2
        assert abs(place["height"] - 0.7 * frame["height"]) < 2
        page.keyboard.press("b")
        assert not page.locator(".box").first.is_visible()
        assert "writer of contextual" in page.locator("#sample table").text_content()
        page.locator("#reason").select_option("image_failed")
        assert page.get_by_role("status").first.text_content() == "1 of 4 samples"
        page.locator("#rows .row:visible").click()
        page.wait_for_function(
            "id => document.querySelector('h2 code').textContent === id", arg=LOST
        )
        assert "No image: not_found" in page.locator("#sample").text_content()
        # marked words of a script that runs to the left stand in its own order
        first, second = [page.locator(".text .given").nth(n).bounding_box() for n in (0, 1)]
        assert first["x"] > second["x"]


def test_search_filters_and_keys(inputs):  # noqa: F811
    folder, *_ = made(inputs)
    with opened(folder) as page:
        page.locator("#sample h2 code").wait_for()
        for key, sample in (("j", LOST), ("j", WEB), ("k", LOST), ("k", NORMAL), ("k", NORMAL)):
            page.keyboard.press(key)
            page.wait_for_function(
                "id => document.querySelector('h2 code').textContent === id", arg=sample
            )
        page.keyboard.press("/")
        # words of an answer, which the list itself does not hold
        page.keyboard.type("KIEL tower")
        page.get_by_text("1 of 4 samples").wait_for()
        page.keyboard.press("Escape")
        page.locator("#search").fill("")
        page.get_by_text("4 samples").wait_for()
        page.locator("#least").fill("4")
        page.locator("#least").blur()
        page.locator("#kind").select_option("non_contextual")
        assert page.get_by_role("status").first.text_content() == "0 of 4 samples"
        page.keyboard.press("Escape")
        page.locator("main").focus()
        page.keyboard.press("?")
        assert page.get_by_text("next and previous sample").is_visible()
        assert "above_cap" in page.locator("#drops").text_content()
        page.keyboard.press("Escape")
        assert not page.get_by_text("next and previous sample").is_visible()


def test_the_review_is_kept_saved_applied_and_loaded_back(inputs, tmp_path):  # noqa: F811
    folder, *_ = made(inputs)
    asked = QUESTIONS_OF[1]["question_id"]
    with opened(folder) as page:
        page.locator("#sample h2 code").wait_for()
        page.locator(f'.round[data-id="{asked}"]').focus()
        page.keyboard.press("x")
        page.keyboard.press("n")
        page.keyboard.type('two "good" <options>')
        page.keyboard.press("Escape")
        page.locator("section.picture").get_by_role("button", name="Note").click()
        page.keyboard.type("blurred")
        page.keyboard.press("Enter")
        page.locator("main").focus()
        page.keyboard.press("j")
        page.wait_for_function(
            "id => document.querySelector('h2 code').textContent === id", arg=LOST
        )
        page.keyboard.press("x")
        page.locator(".unit").get_by_label("Reason").select_option("rights")
        page.reload()
        page.get_by_role("button", name="Review (3)").click()
        with page.expect_download() as download:
            page.get_by_role("button", name="Save removals.jsonl").click()
        download.value.save_as(saved := tmp_path / "removals.jsonl")
        assert download.value.suggested_filename == "removals.jsonl"
        assert page.get_by_label("Removals as text").input_value() == saved.read_text()
        # as 08 and 09 read them; what is noted alone is no removal
        assert list(removals.read([saved])) == [
            {"unit": "question", "id": asked, "reason": "unfit", "note": 'two "good" <options>'},
            {"unit": "sample", "id": LOST, "reason": "rights", "note": ""},
        ]
        with page.expect_download() as download:
            page.get_by_role("button", name="Save notes.jsonl").click()
        (note,) = map(json.loads, download.value.path().read_text().splitlines())
        assert note == {"unit": "image", "id": ID(10), "reason": "", "note": "blurred"}
        for _ in range(3):
            page.get_by_role("button", name="Take back").first.click()
        assert page.get_by_role("button", name="Save removals.jsonl").is_disabled()
        saved.write_text(saved.read_text() + '{"unit": "link", "id": "u9", "reason": "gone"}\n')
        page.locator("#load").set_input_files(saved)
        page.get_by_text("3 entries were loaded.").wait_for()
        # entries of other samples are kept too
        assert len(page.get_by_label("Removals as text").input_value().splitlines()) == 3
        (tmp_path / "bad.jsonl").write_text(
            '{"unit": "sample", "id": "a", "reason": "b"}\n{"unit": 3}\n'
        )
        page.locator("#load").set_input_files(tmp_path / "bad.jsonl")
        page.get_by_text("Line 2 is no entry; nothing was loaded.").wait_for()
        page.get_by_role("button", name="Show").first.click()
        page.locator("#verdict").select_option("rejected")
        assert page.get_by_role("status").first.text_content() == "2 of 4 samples"


def test_a_phone(inputs):  # noqa: F811
    folder, *_ = made(inputs)
    with opened(
        folder, PHONE, has_touch=True, color_scheme="dark", reduced_motion="reduce"
    ) as page:
        page.locator("#rows .row").first.tap()
        page.locator("#sample h2 code").wait_for()
        assert not page.locator("#rows").is_visible()
        for sample in (NORMAL, LOST, WEB, BROKEN):
            page.wait_for_function(
                "id => document.querySelector('h2 code').textContent === id", arg=sample
            )
            # nothing is wider than the phone, whatever the text
            assert page.evaluate("document.querySelector('main').scrollWidth <= innerWidth")
            page.get_by_role("button", name="Next sample").tap()
        page.get_by_role("button", name="Back to the list").tap()
        page.locator("#rows").wait_for()
        page.go_back()
        page.locator("#sample h2 code").wait_for()
        moving = "es => es.filter(e => getComputedStyle(e).transitionDuration !== '0s').length"
        assert page.locator("*").evaluate_all(moving) == 0


CONTRAST = """() => {
  const canvas = new OffscreenCanvas(1, 1).getContext("2d", { willReadFrequently: true });
  const linear = v => v <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4;
  const light = colour => {
    canvas.fillStyle = colour;
    canvas.fillRect(0, 0, 1, 1);
    const [r, g, b] = [...canvas.getImageData(0, 0, 1, 1).data].map(v => linear(v / 255));
    return .2126 * r + .7152 * g + .0722 * b;
  };
  const ground = e => {
    const colour = getComputedStyle(e).backgroundColor;
    return /, 0\\)$/.test(colour) && e.parentElement ? ground(e.parentElement) : colour;
  };
  const found = [];
  for (const e of document.querySelectorAll("body *")) {
    const own = [...e.childNodes].some(n => n.nodeType === 3 && n.data.trim());
    if (!own || !e.checkVisibility() || e.matches("option, :disabled")) continue;
    const [a, b] = [getComputedStyle(e).color, ground(e)].map(light).sort((x, y) => y - x);
    const ratio = (a + .05) / (b + .05);
    if (ratio < 4.5) found.push(`${e.className} ${e.tagName} ${ratio}`);
  }
  return found;
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_all_text_has_the_contrast_of_aa(inputs, scheme):  # noqa: F811
    folder, *_ = made(inputs)
    with opened(folder, color_scheme=scheme) as page:
        page.locator("#sample h2 code").wait_for()
        page.locator("main").focus()
        page.keyboard.press("x")
        page.locator(".round").first.get_by_role("button", name="Note").click()
        page.keyboard.type("a note")
        assert page.evaluate(CONTRAST) == []
        page.keyboard.press("Escape")
        page.keyboard.press("?")
        assert page.evaluate(CONTRAST) == []


FRAMES = """async () => {
  const box = document.querySelector("#rows"), times = [];
  const work = performance.now();
  for (let i = 0, last = work; i < 120; i++) {
    box.scrollTop += i % 40 === 39 ? 70000 : 400;  // as a wheel does, and jumps of the bar
    await new Promise(requestAnimationFrame);
    times.push(performance.now() - last);
    last = performance.now();
  }
  times.sort((a, b) => a - b);
  const rows = document.querySelectorAll(".row").length;
  return { median: times[60], p95: times[114], most: times[119], rows };
}"""


def test_ten_thousand_samples_scroll(inputs, tmp_path):  # noqa: F811
    row = {"page_url": "https://example.org/kiel", "alt_text": "A lighthouse", "doc_id": "d"}
    row |= {"image_url": "u0", "context": "The lighthouse of Kiel <image> " + "was white. " * 300}
    many = [row | {"sample_id": ID(n)} for n in range(10_000)]
    inputs = inputs | {"samples": write(tmp_path / "many/data/samples", SAMPLES, many)}
    folder, *_ = made(inputs, 10_000)
    with opened(folder) as page:
        page.locator("#sample h2 code").wait_for()
        frames = page.evaluate(FRAMES)
        print(frames)
        assert frames["rows"] < 40
        # a browser that draws without a graphics card, on a busy machine
        assert frames["median"] < 34
        assert frames["p95"] < 100
        page.locator("#search").fill(f"{ID(9_999)}")
        page.get_by_text("1 of 10,000 samples").wait_for()
        page.get_by_text("1 of 10,000 samples", exact=True).wait_for(timeout=60_000)
        page.locator("#search").fill("")
        page.get_by_text("10,000 samples", exact=True).wait_for()
        page.locator("#rows").focus()
        page.evaluate("document.querySelector('#rows').scrollTop = 1e9")
        page.wait_for_function(
            "[...document.querySelectorAll('.row')].some(r => r.ariaPosInSet === '10000')"
        )
