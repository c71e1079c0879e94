"""The explorer in a real browser; skipped, with the reason, where there is none.

The screenshots of the docs are made here, into `$UNITGAIN_SCREENSHOTS` where that names a folder.
"""

import base64
import json
import os
import re
import shlex
import shutil
import threading
from contextlib import contextmanager
from pathlib import Path

import pytest
from browsers import WAIT, check_by_axe, chromium
from explorers import FAST, Served, damage

from unitgain.draw import DrawSettings

MARKUP = "<img src=x onerror=document.title=7>"


def expect(locator):
    from playwright.sync_api import expect

    return expect(locator)


@pytest.fixture(scope="module")
def browser():
    with chromium() as browser:
        yield browser


@pytest.fixture(scope="module")
def served(runs):
    with Served(runs / "main", guide=runs / "guide") as served:
        yield served


@contextmanager
def opened(browser, served, **options):
    """The page once it has drawn; what it fetches from elsewhere, and its errors, are failures."""
    context = browser.new_context(**{"viewport": {"width": 1280, "height": 800}, **options})
    try:
        page = context.new_page()
        page.set_default_timeout(WAIT)
        foreign, problems = [], []
        own = ("data:", "blob:", f"http://127.0.0.1:{served.server.port}/")
        page.on("request", lambda request: None if request.url.startswith(own) else foreign.append(request.url))
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("console", lambda line: problems.append(line.text) if "Content Security Policy" in line.text else None)
        page.goto(served.server.url)
        drawn(page)
        yield page
        assert not foreign and not problems
    finally:
        context.close()
    assert served.idle()


@pytest.fixture
def page(served, browser):
    with opened(browser, served) as page:
        yield page


def drawn(page):
    """The images, once they are finished."""
    expect(page.locator("#pictures")).to_have_attribute("aria-busy", "false")
    assert page.locator("#error").text_content() == ""
    return sources(page, "#pictures img")


def sources(page, selector):
    return page.locator(selector).evaluate_all("images => images.map(image => image.src)")


def slide(page, name, value):
    """Move a slider; what is drawn then."""
    page.locator(f"#{name}").fill(str(value))
    return drawn(page)


def fill(page, name, text):
    page.fill(f"#{name}", text)
    page.keyboard.press("Tab")


def fails(page, words):
    expect(page.locator("#error")).to_contain_text(words)
    expect(page.locator("#pictures")).to_have_attribute("aria-busy", "false")


def guide_by(page, index=1):
    page.select_option("#guide", index=index)
    return drawn(page)


def bytes_of(source):
    return base64.b64decode(source.partition(",")[2])


def test_a_moved_slider_shows_other_pixels_and_the_same_when_it_is_back(page):
    first = slide(page, "length", 0.05)
    assert len(first) == 8
    other = slide(page, "length", 0.2)
    assert not set(other) & set(first)
    assert slide(page, "length", 0.05) == first
    page.focus("#length")
    page.keyboard.press("ArrowRight")
    drawn(page)
    assert page.input_value("#length-number") == "0.051"


def test_the_fit_is_told_and_its_colour_is_not_all_that_says_it(page):
    page.locator("#length").fill(page.get_attribute("#length", "min"))
    expect(page.locator("#fit")).to_have_class("bad")
    expect(page.locator("#fit")).to_contain_text(re.compile("high|out of reach"))
    slide(page, "length", 0.1)
    expect(page.locator("#fit")).not_to_have_class("bad")


def test_a_class_is_picked_by_name_and_seeds_are_turned(page):
    free = drawn(page)
    page.click("#next")
    assert not set(drawn(page)) & set(free)
    page.click("#previous")
    assert drawn(page) == free
    page.click("#reroll")
    assert not set(drawn(page)) & set(free)
    fill(page, "first", "0")
    fill(page, "class", "7")
    assert drawn(page) != free
    captions = page.locator("#pictures figcaption").all_text_contents()
    assert captions == [f"seed {seed}, class 7" for seed in range(8)]


def test_settings_are_compared_and_what_differs_is_shown(page):
    first = drawn(page)
    page.click("#compare summary")
    page.click("#hold")
    expect(page.locator("#held img")).to_have_count(8)
    other = slide(page, "length", 0.2)
    expect(page.locator("#now-caption")).to_contain_text("EMA 0.2")
    assert (sources(page, "#held img"), sources(page, "#now img")) == (first, other)
    image = page.locator("#now img").first
    image.hover()
    expect(image).to_have_attribute("data-shown", "difference")
    assert image.get_attribute("src") not in (first[0], other[0])
    page.hover("#title")
    expect(image).to_have_attribute("src", other[0])
    page.locator("#held img").first.focus()
    expect(page.locator("#held img").first).to_have_attribute("data-shown", "difference")


def test_a_matrix_is_drawn_and_a_cell_takes_its_setting(page):
    guide_by(page)
    page.click("#compare summary")
    page.click("#matrix-draw")
    expect(page.locator("#matrix tbody td:empty")).to_have_count(0)
    expect(page.locator("#matrix tbody td")).to_have_count(20)
    page.locator("#matrix tbody tr").nth(2).locator("button").last.click()
    drawn(page)
    assert page.input_value("#guidance-number") == "2"
    page.select_option("#across", "time")
    page.click("#matrix-draw")
    expect(page.locator("#matrix caption")).to_contain_text("images seen")
    expect(page.locator("#matrix tbody td:empty")).to_have_count(0)


def test_a_cell_is_measured_and_clicked(runs, browser, tmp_path):
    shutil.copytree(runs / "main", tmp_path / "run")
    with Served(tmp_path / "run") as served, opened(browser, served) as page:
        slide(page, "length", 0.08)
        page.click("#measure summary")
        expect(page.locator("#cells")).to_contain_text("nothing was measured yet")
        page.fill("#measure-images", "64")
        page.click("#measure-here")
        cell = page.locator("#cells button.best")
        expect(cell).to_have_attribute("title", re.compile("EMA 0.08, guidance 1, 64 images"))
        slide(page, "length", 0.2)
        cell.click()
        drawn(page)
        assert page.input_value("#length-number") == "0.08"
        assert (tmp_path / "run" / "sweep" / "cells-0.jsonl").is_file()


def test_the_best_cells_are_of_the_most_images_one_of_each_reference(runs, browser, tmp_path):
    shutil.copytree(runs / "main", tmp_path / "run")
    (tmp_path / "run" / "sweep").mkdir()
    row = {"metric": "fd_pixels", "network": {"name": "x", "nimg": 256}, "guide": None}
    cells = [(0.2, 99, "old", 0.5), (0.05, 64, "new", 3.0), (0.1, 64, "new", 2.0), (0.15, 8, "new", 1.0)]
    rows = [
        row | {"key": f"{length}", "value": value, "cell": {"length": length}}
        | {"record": {"images": images, "reference": {"name": reference}}}
        for length, images, reference, value in cells
    ]  # fmt: skip
    (tmp_path / "run" / "sweep" / "cells-0.jsonl").write_text("".join(json.dumps(one) + "\n" for one in rows))
    with Served(tmp_path / "run") as served, opened(browser, served) as page:
        page.click("#measure summary")
        expect(page.locator("#cells button")).to_have_count(4)
        best = page.locator("#cells button.best")
        expect(best).to_have_count(2)
        expect(best.nth(0)).to_have_attribute("title", re.compile("EMA 0.1, guidance 1, 64 images against new"))
        expect(best.nth(1)).to_have_attribute("title", re.compile("EMA 0.2, guidance 1, 99 images against old"))
        expect(page.locator("#cells caption")).to_contain_text("the best against each reference")


def test_what_there_is_to_understand_is_shown(page):
    page.click("#understand summary")
    expect(page.locator("#profile img")).to_have_count(1)
    expect(page.locator("#history img").nth(1)).to_be_visible()
    widths = page.locator("#profile img, #history img").evaluate_all(
        "images => images.map(image => image.naturalWidth)"
    )
    assert all(widths)
    expect(page.locator("#profile td").first).to_contain_text(".safetensors")
    page.click("#path-draw")
    expect(page.locator("#path-shown")).to_contain_text("of 2")
    page.locator("#path-step").fill("1")
    last = page.get_attribute("#path-denoised", "src")
    page.locator("#path-step").fill("0")
    assert page.get_attribute("#path-denoised", "src") != last


def test_what_is_taken_away_draws_the_same_bytes(runs, browser, served, call, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with opened(browser, served, permissions=["clipboard-read", "clipboard-write"]) as page:
        guide_by(page)
        slide(page, "guidance", 1.75)
        fill(page, "count", "2")
        shown = slide(page, "length", 0.123)
        page.click("#take summary")
        page.click("#copy-shell")
        expect(page.locator("#take-status")).to_contain_text("copied")
        copied = page.evaluate("() => navigator.clipboard.readText()")
        expect(page.locator("#python")).to_contain_text("sample_images")
        for name, begin in (("png", b"\x89PNG"), ("grid", b"\x89PNG"), ("gif", b"GIF8"), ("card", b"PK")):
            with page.expect_download() as file:
                page.click(f"#save-{name}")
            file.value.save_as(tmp_path / name)
            assert (tmp_path / name).read_bytes().startswith(begin)
        with page.expect_download() as file:
            page.click("#save-snapshot")
        assert file.value.suggested_filename == "average.safetensors"
    for line in copied.splitlines():
        program, *words = shlex.split(line)
        assert program == "unitgain"
        call(*words)
    written = [(tmp_path / "drawn" / "000000" / f"{seed:06d}.png").read_bytes() for seed in range(2)]
    assert written == list(map(bytes_of, shown))
    assert (tmp_path / "png").read_bytes() == written[0]


def test_a_change_cancels_the_drawing_under_way_and_a_closed_tab_leaves_no_work(served, browser):
    context = browser.new_context()
    page = context.new_page()
    page.set_default_timeout(WAIT)
    page.goto(served.server.url)
    drawn(page)
    fill(page, "steps", "1000")
    expect(page.locator("#doing")).to_contain_text("of 1000")
    fill(page, "steps", "3")
    drawn(page)
    assert served.idle()
    fill(page, "steps", "999")
    expect(page.locator("#doing")).to_contain_text("of 999")
    assert served.answers.active
    page.close()
    assert served.idle()
    requests = [one for one in threading.enumerate() if "process_request" in one.name]
    for one in requests:
        one.join(60)
    assert not any(one.is_alive() for one in requests)
    context.close()


def test_two_browsers_see_the_same(served, browser):
    with opened(browser, served) as one, opened(browser, served) as other:
        one.locator("#length").fill("0.19")
        other.locator("#length").fill("0.19")
        assert drawn(one) == drawn(other)


def test_a_new_snapshot_appears(runs, browser, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(runs / "main", run)
    last = max(path.name.partition("-")[0] for path in (run / "snapshots").glob("*.safetensors"))
    late = {path: path.read_bytes() for path in (run / "snapshots").glob(f"{last}-*")}
    for path in late:
        path.unlink()
    with Served(run) as served, opened(browser, served) as page:
        before = drawn(page)
        for path, data in late.items():
            path.write_bytes(data)
        expect(page.locator("#time-shown")).to_contain_text(f"after {int(last):,} images")
        assert drawn(page) != before


def test_what_goes_wrong_is_said_and_nothing_from_a_name_is_markup(runs, browser, tmp_path):
    run = tmp_path / MARKUP
    shutil.copytree(runs / "main", run)
    with Served(run) as served, opened(browser, served) as page:
        expect(page.locator("#title")).to_contain_text("<img src=x")
        fill(page, "class", "<script>document.title=8</script>")
        fails(page, "there is no class")
        fill(page, "class", "")
        drawn(page)
        fill(page, "length-number", "0.001")
        fails(page, "out of reach")
        fill(page, "length-number", "1e300")
        fails(page, "1e+300")
        slide(page, "length", 0.12)
        fill(page, "steps", "-5")
        fails(page, "steps")
        fill(page, "steps", "2")
        slide(page, "length", 0.1)
        damage(run / "snapshots", "*.safetensors")
        page.locator("#length").fill("0.11")
        fails(page, "damaged")
        shutil.rmtree(run)
        page.locator("#length").fill("0.15")
        fails(page, "no run")
        assert page.title().startswith("Explore <img")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_is_accessible_and_fits_a_narrow_window(served, browser, scheme):
    with opened(browser, served, viewport={"width": 400, "height": 800}, color_scheme=scheme) as page:
        guide_by(page)
        page.check("#limited")
        for part in ("compare", "measure", "understand", "take"):
            page.click(f"#{part} summary")
        drawn(page)
        expect(page.locator("#shell")).not_to_be_empty()
        expect(page.locator("#history img").nth(1)).to_be_visible()
        assert page.evaluate("() => document.documentElement.scrollWidth") <= 400
        unnamed = page.locator("input, select, button, progress").evaluate_all(
            "all => all.filter(one => !one.labels?.length && !one.textContent.trim()"
            " && !one.getAttribute('aria-label')).map(one => one.id)"
        )
        assert unnamed == []
        check_by_axe(page)


def test_the_page_that_is_sent_to_others_works_in_a_browser(runs, browser, call, tmp_path):
    out = tmp_path / "page.html"
    options = ("--lengths", "0.05,0.1,0.2", "--weights", "1,2", "--seeds", "0-9", "--steps", "2", "--sampler", "euler")
    call("explore", runs / "main", "--guide", runs / "guide", "--export", out, *options)
    for scheme in ("light", "dark"):
        context = browser.new_context(
            viewport={"width": 400, "height": 800}, color_scheme=scheme, java_script_enabled=scheme == "light"
        )
        page = context.new_page()
        page.goto(out.as_uri())
        shown = page.locator(".dials > figure:visible")
        expect(shown).to_have_class("at0-1 at1-0 at2-0")
        page.focus("#explore0-1")
        page.keyboard.press("ArrowRight")
        expect(shown).to_have_class("at0-2 at1-0 at2-0")
        page.click("label[for=explore1-1]")
        page.click("label[for=explore2-1]")
        expect(shown).to_have_class("at0-2 at1-1 at2-1")
        if scheme == "light":
            assert page.evaluate("() => document.documentElement.scrollWidth") <= 400
            page.emulate_media(color_scheme="light")
            check_by_axe(page)
            page.emulate_media(color_scheme="dark")
            check_by_axe(page)
        context.close()


def test_screenshots(runs, browser, tmp_path):
    folder = Path(os.environ.get("UNITGAIN_SCREENSHOTS", tmp_path))
    given = os.environ.get("UNITGAIN_EXPLORED")  # a run that was trained longer than those of tests
    settings = DrawSettings(steps=12, dtype="auto") if given else FAST
    with Served(given or runs / "main", settings=settings) as served, opened(browser, served) as page:
        guide_by(page)
        page.screenshot(path=folder / "explorer-draw.png")
        page.click("#compare summary")
        page.click("#hold")
        expect(page.locator("#held img")).to_have_count(8)
        slide(page, "length", 0.2)
        page.locator("#compare").scroll_into_view_if_needed()
        page.hover("#now img")
        expect(page.locator("#now img").first).to_have_attribute("data-shown", "difference")
        page.locator("#compare").screenshot(path=folder / "explorer-compare.png")
    for name in ("draw", "compare"):
        path = folder / f"explorer-{name}.png"
        shrink(path)
        assert 1000 < path.stat().st_size < 150_000


def shrink(path):
    """A screenshot in as few bytes as 64 colours take."""
    from PIL import Image

    with Image.open(path) as image:
        small = image.convert("RGB").quantize(64)
    small.save(path, optimize=True)
