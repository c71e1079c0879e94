"""The built site in a real browser: accessible by axe-core, readable on a telephone, in the light and the dark."""

from pathlib import Path

import pytest
from browsers import WAIT, check_by_axe, chromium

ROOT = Path(__file__).parents[2]
SITE = ROOT / "site"
# One of each kind: text, formulas, tables, many headings, generated options, docstrings, pictures, code.
PAGES = [
    "index.html",
    "training.html",
    "concepts/normalization.html",
    "reference/commands/ema.html",
    "reference/api/averages.html",
    "contributing/architecture.html",
    "contributing/extending.html",
]
WINDOWS = {"telephone": (400, 800, "dark"), "desk": (1280, 900, "light")}


@pytest.fixture(scope="module")
def browser():
    if not (SITE / "index.html").is_file():
        pytest.skip("the site is not built: make docs")
    sources = [path for folder in ("docs", "benchmarks/results") for path in (ROOT / folder).rglob("*.md")]
    if max(path.stat().st_mtime for path in sources) > (SITE / "index.html").stat().st_mtime:
        pytest.skip("the site is older than its pages: make docs")
    with chromium() as one:
        yield one


@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize("name", PAGES)
def test_a_page_is_accessible_and_fits(browser, name, window):
    width, height, scheme = WINDOWS[window]
    context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme)
    try:
        page = context.new_page()
        page.set_default_timeout(WAIT)
        page.goto((SITE / name).as_uri())
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        check_by_axe(page)
    finally:
        context.close()
