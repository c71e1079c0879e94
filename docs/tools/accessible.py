"""Mends in built pages what keeps the theme from being used by the keyboard, or read aloud."""

import re
from pathlib import Path

MENDED = {
    '<div class="md-search" data-md-component="search" role="dialog">': (
        '<div class="md-search" data-md-component="search" role="dialog" aria-label="Search">'
    ),
    "</span><code>": '</span><code tabindex="0">',  # of a block, which scrolls where lines are long
    "<table>": '<table tabindex="0">',  # which does too, where it is wide
}

# A part of the navigation is named by a label that is hidden, and so for a screen reader by nothing.
UNNAMED = re.compile(
    r'(?P<before><nav class="md-nav" data-md-level="\d" )aria-labelledby="[^"]*"'
    r'(?P<between>[^>]*>\s*<label class="md-nav__title" for="[^"]*">\s*<span class="md-nav__icon md-icon"></span>\s*)'
    r"(?P<title>[^<]+?)(?P<after>\s*</label>)"
)
EMPTY = re.compile(r"<th(?P<more>[^>]*)></th>")  # heads no column


def mend(site: Path) -> None:
    """Name the search and parts of the navigation, and let the Tab key reach code and tables, in every page of `site`.

    Raises:
        ValueError: if no page has what is to be mended, as after a change of the theme.
    """
    texts = {path: path.read_text(encoding="utf-8") for path in site.rglob("*.html")}
    if missing := [old for old in MENDED if not any(old in text for text in texts.values())]:
        raise ValueError(f"no page has {missing}: the theme has changed")
    for path, text in texts.items():
        for old, new in MENDED.items():
            text = text.replace(old, new)
        text = UNNAMED.sub(r'\g<before>aria-label="\g<title>"\g<between>\g<title>\g<after>', text)
        text = EMPTY.sub(r"<td\g<more>></td>", text)
        path.write_text(text, encoding="utf-8")
