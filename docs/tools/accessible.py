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
    """Name the search, and let code and tables that scroll be reached by the Tab key, in every page of `site`.

    Raises:
        ValueError: if no page has what is to be mended, as after a change of the theme.
    """
    texts = {path: path.read_text(encoding="utf-8") for path in site.rglob("*.html")}
    if missing := [old for old in MENDED if not any(old in text for text in texts.values())]:
        raise ValueError(f"no page has {missing}: the theme has changed")
    for path, text in texts.items():
        for old, new in MENDED.items():
            text = text.replace(old, new)
        path.write_text(text, encoding="utf-8")
