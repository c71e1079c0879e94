"""A real browser for tests of pages, headless Chromium, and axe-core in it; `.ci/browser` brings both."""

import json
import os
import shutil
from contextlib import contextmanager
from pathlib import Path

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
AXE = Path(os.environ.get("UNITGAIN_AXE", Path(__file__).parents[1] / ".cache" / "axe.min.js"))
RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "best-practice"]


@contextmanager
def browser():
    """Chromium; the test is skipped, and says why, where there is none, or nothing to drive it with."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if CHROMIUM is None:
        pytest.skip("there is no Chromium here (.ci/browser)")
    with playwright.sync_playwright() as started:
        one = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-dev-shm-usage"])
        try:
            yield one
        finally:
            one.close()


def check_by_axe(page):
    """Contrast, labels, roles and the rest of what axe-core knows of WCAG 2.1 AA."""
    if not AXE.is_file():
        pytest.skip(f"axe-core is not there ({AXE}); .ci/browser fetches it")
    page.evaluate(AXE.read_text(encoding="utf-8"))
    found = page.evaluate(f"axe.run(document, {{ runOnly: {json.dumps(RULES)} }})")
    problems = [(one["id"], one["help"], [node["html"][:300] for node in one["nodes"]]) for one in found["violations"]]
    assert not problems, json.dumps(problems, indent=1)
