"""Looks through a built site for links and pictures that lead nowhere in it."""

import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

ELSEWHERE = re.compile(r"[a-z][a-z0-9+.-]*:|//", re.IGNORECASE)


class _Page(HTMLParser):
    """What a page leads to, and the places in it that others may lead to."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.targets: list[str] = []
        self.places: set[str] = {"", "top"}
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """An element."""
        values = dict(attrs)
        self.places |= {value for name in ("id", "name") if (value := values.get(name))}
        self.targets += [value for name in ("href", "src") if (value := values.get(name))]

    handle_startendtag = handle_starttag


def broken(site: Path) -> Iterator[str]:
    """`page: target` of what leads to no file of `site`, or to no place in a page of it."""
    site = site.resolve()
    pages = {path: _Page(path.read_text(encoding="utf-8")) for path in sorted(site.rglob("*.html"))}
    for path, page in pages.items():
        for target in dict.fromkeys(page.targets):
            if ELSEWHERE.match(target):
                continue
            name, _, place = target.partition("#")
            name = unquote(name.partition("?")[0])
            there = site / name.lstrip("/") if name.startswith("/") else path.parent / name
            there = path if not name else there / "index.html" if there.is_dir() else there
            other = pages.get(there.resolve())
            if not there.is_file() or (other is not None and unquote(place) not in other.places):
                yield f"{path.relative_to(site)}: {target}"
