"""Mends in built pages what keeps the theme from being used by the keyboard, or read aloud."""

from pathlib import Path

MENDED = {
    '<div class="md-search" data-md-component="search" role="dialog">': (
        '<div class="md-search" data-md-component="search" role="dialog" aria-label="Search">'
    ),
    "</span><code>": '</span><code tabindex="0">',  # of a block, which scrolls where lines are long
    "<table>": '<table tabindex="0">',  # which does too, where it is wide
}


def mend(site: Path) -> None:
    """Name the search, and let code and tables that scroll be reached by the Tab key, in every page of `site`."""
    for path in site.rglob("*.html"):
        text = path.read_text(encoding="utf-8")
        for old, new in MENDED.items():
            text = text.replace(old, new)
        path.write_text(text, encoding="utf-8")
