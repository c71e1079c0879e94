"""Puts the pages of the site together: copies them, leads their links to where the site has things, sets formulas."""

import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath

from mathematics import with_mathml

ROOT = Path(__file__).parents[2]
FENCE = re.compile(r"^(?P<mark>```+|~~~+).*?^(?P=mark)[ ]*$", flags=re.MULTILINE | re.DOTALL)
CODE = re.compile(r"(?P<ticks>`+)(?!`).+?(?<!`)(?P=ticks)(?!`)", flags=re.DOTALL)
LINK = re.compile(r"(?P<text>!?\[(?:[^\[\]]|\[[^\]]*\]\([^)]*\))*\]\()(?P<target>[^)\s]+)\)")
MOVED = {
    "README.md": "index.md",
    "CHANGELOG.md": "contributing/changes.md",
    "CONTRIBUTING.md": "contributing/index.md",
    "SECURITY.md": "contributing/security.md",
    "benchmarks/evidence/README.md": "measured/evidence.md",
}
"""Files of the repository that are pages, and where the site has them; those of docs/ are where they are."""
TUTORIALS = PurePosixPath("docs", "tutorials")
"""Pages that are notebooks too, which lie beside them in the site."""
SOURCES = {".py", ".csv", ".json"}
"""Kinds of files that are no pages, and may be linked to."""


def place(path: PurePosixPath) -> PurePosixPath | None:
    """Where the site has a file of the repository; None if it has it only where a page links to it.

    Args:
        path: from the root of the repository.
    """
    if str(path) in MOVED:
        return PurePosixPath(MOVED[str(path)])
    if path.parts[:2] == ("docs", "tools") or path.suffix in SOURCES:
        return None
    if path.parts[0] == "docs":
        return path.relative_to("docs")
    if path.parts[:2] == ("benchmarks", "results"):
        return PurePosixPath("measured", *path.parts[2:])
    if path.parts[0] == "examples":
        return path.with_name("index.md") if path.name == "README.md" else path
    return None


def sources(root: Path = ROOT) -> Iterator[PurePosixPath]:
    """The files of the repository that have a place in the site, in order."""
    found = [root / name for name in MOVED if name != "README.md"]
    for folder in ("docs", "benchmarks/results", "examples"):
        found += sorted(path for path in (root / folder).rglob("*") if path.is_file())
    for path in found:
        inside = PurePosixPath(path.relative_to(root).as_posix())
        if place(inside) is not None and "__pycache__" not in inside.parts:
            yield inside


def stage(out: Path, root: Path = ROOT) -> None:
    """Write all pages that are not generated, and what they show, into `out`, where those that are lie already.

    Raises:
        ValueError: names the page and the link that leads nowhere, or the formula that cannot be set.
    """
    for path in sources(root):
        target = out / str(place(path))
        target.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix != ".md":
            shutil.copyfile(root / path, target)
            continue
        text = (root / path).read_text(encoding="utf-8")
        target.write_text(to_page(text, path, out, root), encoding="utf-8")


def write_measured(out: Path) -> None:
    """The page that leads to what was measured, into a folder of pages that are there."""
    lines = [
        "# Measured",
        "",
        "Each page says what was measured, on which machine, and by which script of `benchmarks/`.",
        "",
    ]
    for path in sorted((out / "measured").glob("*.md")):
        title = path.read_text(encoding="utf-8").partition("\n")[0].strip("# ")
        lines.append(f"- [{title}]({path.name})")
    (out / "measured" / "index.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


def to_page(text: str, path: PurePosixPath, out: Path, root: Path = ROOT) -> str:
    """The Markdown of a page as the site reads it: links lead within the site, formulas are MathML.

    Args:
        text: Markdown.
        path: of the page in the repository.
        out: what is linked to and is no page goes here.
        root: of the repository.
    """

    def link(match: re.Match[str]) -> str:
        return f"{match['text']}{_target(match['target'], path, out, root)})"

    if path.parent == TUTORIALS and path.name != "index.md":
        title, _, rest = text.partition("\n")
        text = f"{title}\n\n[This page as a notebook]({path.stem}.ipynb){{ .notebook download }}\n{rest}"
    try:
        return outside_code(text, lambda part: with_mathml(LINK.sub(link, part)))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def outside_code(text: str, change: Callable[[str], str]) -> str:
    """`text` with all that is neither in a code block nor in a code span changed."""
    kept: list[str] = []

    def keep(match: re.Match[str]) -> str:
        kept.append(match[0])
        return f"\0{len(kept) - 1}\0"

    text = change(CODE.sub(keep, FENCE.sub(keep, text)))
    while "\0" in text:  # a span may hold what was taken for a block
        text = re.sub("\0(\\d+)\0", lambda match: kept[int(match[1])], text)
    return text


def _target(target: str, path: PurePosixPath, out: Path, root: Path) -> str:
    """What a link of the page becomes."""
    if re.match(r"[a-z][a-z0-9+.-]*:", target) or target.startswith("#"):
        return target
    name, mark, anchor = target.partition("#")
    there = PurePosixPath(os.path.normpath(path.parent / name))
    if (root / there).is_dir():
        there /= "README.md"
    goal = place(there)
    generated = goal is not None and (out / goal).is_file()
    if not generated and not (root / there).is_file():
        raise ValueError(f"a link leads to {target}, which is not there")
    if goal is None:  # a script, say: the site shows it as it is
        goal = PurePosixPath("files", *there.parts)
        (out / goal).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(root / there, out / goal)
    here = place(path)
    assert here is not None, "pages have places"
    return os.path.relpath(goal, here.parent) + mark + anchor
