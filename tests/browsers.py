"""A real browser for tests, headless Chromium driven by Playwright, and axe-core's checks of what it shows.

`.ci/browser` brings both: Chromium from apt, and axe-core from npm as `.cache/axe.min.js`. This is the one place that
knows where they are; tests of other pages use `chromium` and `check_by_axe` too.
"""

import json
import os
import shutil
from contextlib import contextmanager
from pathlib import Path

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
AXE = Path(os.environ.get("UNITGAIN_AXE", Path(__file__).parents[1] / ".cache" / "axe.min.js"))
WAIT = 120_000  # milliseconds: machines that run tests are busy
RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "best-practice"]


@contextmanager
def chromium():
    """The browser; skips the test, and says why, where there is none."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if CHROMIUM is None:
        pytest.skip("there is no Chromium here (.ci/browser, or apt-get install chromium)")
    playwright.expect.set_options(timeout=WAIT)
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-dev-shm-usage"])
        yield browser
        browser.close()


def check_by_axe(page):
    """Contrast, labels, roles and the rest of what axe-core knows of WCAG 2.1 AA."""
    if not AXE.is_file():
        pytest.skip(f"axe-core is not there ({AXE}); .ci/browser fetches it")
    page.evaluate(AXE.read_text(encoding="utf-8"))
    found = page.evaluate("rules => axe.run(document, { runOnly: rules })", RULES)
    problems = [(one["id"], [node["html"] for node in one["nodes"]]) for one in found["violations"]]
    assert not problems, json.dumps(problems, indent=1)
