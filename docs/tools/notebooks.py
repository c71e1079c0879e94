"""Tutorials as notebooks: text as it is, Python as cells, commands as cells of bash, pictures inside."""

import base64
import hashlib
import re
from pathlib import Path

import nbformat
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from fences import Block, blocks

PICTURE = re.compile(r"!\[(?P<text>[^\]]*)\]\((?P<target>[^):]+\.(?:png|svg))\)")
LINK = re.compile(r"(?<!!)\[(?P<text>[^\]]+)\]\((?!https?:)[^)]*\)")
KINDS = {".png": "image/png", ".svg": "image/svg+xml"}


def notebook(page: Path) -> nbformat.NotebookNode:
    """The notebook of a page.

    Links to other pages become their text, for a notebook lies elsewhere; pictures go with the cell that shows them.

    Raises:
        FileNotFoundError: if a picture is not there.
    """
    text, cells, end = page.read_text(encoding="utf-8"), [], 0
    for block in blocks(text):
        cells += _prose(text[end : block.start], page)
        cells.append(_code(block))
        end = block.end
    cells += _prose(text[end:], page)
    for number, cell in enumerate(cells):  # the same page is the same bytes
        cell["id"] = hashlib.sha256(f"{page.stem} {number}".encode()).hexdigest()[:8]
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    return new_notebook(cells=cells, metadata={"kernelspec": kernel, "language_info": {"name": "python"}})


def write(tutorials: Path, out: Path) -> list[Path]:
    """Write the notebook of every page in `tutorials` into the folder `out`; all of them are valid.

    Returns:
        The notebooks.
    """
    out.mkdir(parents=True, exist_ok=True)
    written = []
    for page in sorted(tutorials.glob("*.md")):
        if page.name != "index.md":
            made = notebook(page)
            nbformat.validate(made)
            written.append(out / f"{page.stem}.ipynb")
            written[-1].write_text(nbformat.writes(made) + "\n", encoding="utf-8")
    return written


def _code(block: Block) -> nbformat.NotebookNode:
    code = block.code.rstrip("\n")
    if block.language == "python":
        return new_code_cell(f"%%writefile {block.title}\n{code}" if block.title.endswith(".py") else code)
    if block.language == "sh":
        return new_code_cell(f"%%bash\n{code}")
    return new_markdown_cell(f"```{block.language}\n{code}\n```")


def _prose(text: str, page: Path) -> list[nbformat.NotebookNode]:
    attachments = {}

    def attach(match: re.Match[str]) -> str:
        picture = page.parent / match["target"]
        data = base64.b64encode(picture.read_bytes()).decode()
        attachments[picture.name] = {KINDS[picture.suffix]: data}
        return f"![{match['text']}](attachment:{picture.name})"

    text = LINK.sub(lambda match: match["text"], PICTURE.sub(attach, text)).strip()
    if not text:
        return []
    return [new_markdown_cell(text, attachments=attachments) if attachments else new_markdown_cell(text)]
