"""Looks through a built site for anything that a browser would fetch from elsewhere."""

import re
from collections.abc import Iterator
from pathlib import Path

FETCHED = {
    ".html": re.compile(
        r"<(?:script|img|iframe|source|video|audio|embed|object)\b[^>]*?\b(?:src|srcset|data)\s*=\s*[\"']?((?:https?:)?//[^\"'\s>]+)"
        r"|<link\b(?=[^>]*\brel\s*=\s*[\"']?(?:stylesheet|preconnect|icon|preload|modulepreload))[^>]*?\bhref\s*=\s*[\"']?((?:https?:)?//[^\"'\s>]+)",
        re.IGNORECASE,
    ),
    ".css": re.compile(r"(?:url\(|@import\s+)\s*[\"']?((?:https?:)?//[^\"')\s]+)()", re.IGNORECASE),
}


def fetched(site: Path) -> Iterator[str]:
    """`file: address` of what pages and style sheets of `site` would fetch; links that one follows are not."""
    for path in sorted(site.rglob("*")):
        pattern = FETCHED.get(path.suffix)
        if pattern is not None:
            for match in pattern.finditer(path.read_text(encoding="utf-8")):
                yield f"{path.relative_to(site)}: {match[1] or match[2]}"
