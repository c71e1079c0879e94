"""The code blocks of a page: what they are in, and why one of them does not run in tests."""

import re
from dataclasses import dataclass

FENCE = re.compile(
    r"^(?P<indent> *)```(?P<language>[^\s`]*)(?: title=\"(?P<title>[^\"\n]*)\")?(?P<more>[^\n`]*)\n"
    r"(?P<code>.*?)^(?P=indent)```$\n?",
    flags=re.MULTILINE | re.DOTALL,
)
MARK = "not run in tests: "
RUN = ("python", "sh")
"""Languages of what runs; all others are there to be looked at."""


@dataclass(frozen=True)
class Block:
    """A block of code in a page.

    Attributes:
        line: of its fence, from 1.
        start: of its fence, in characters of the page.
        end: of the page's next character.
        language: python, sh, ...
        title: what the site shows above it: a file's name, or why it does not run in tests.
        more: what else its fence says, which nobody reads.
        code: without the indentation of its fence.
    """

    line: int
    start: int
    end: int
    language: str
    title: str
    more: str
    code: str

    @property
    def reason(self) -> str | None:
        """Why it does not run in tests; None if it does."""
        if self.title.startswith(MARK):
            return self.title.removeprefix(MARK)
        return None if self.language in RUN else "shown"


def blocks(text: str) -> list[Block]:
    """The blocks of a page of Markdown, in order."""
    return [
        Block(
            line=text.count("\n", 0, match.start()) + 1,
            start=match.start(),
            end=match.end(),
            language=match["language"],
            title=match["title"] or "",
            more=match["more"].strip(),
            code="".join(line.removeprefix(match["indent"]) for line in match["code"].splitlines(keepends=True)),
        )
        for match in FENCE.finditer(text)
    ]
