"""A tutorial as a notebook: its Python blocks are cells, all else is text."""

import re

import nbformat
from nbformat import v4

BLOCK = re.compile(r"^```python\n(.*?)^```[ ]*\n", flags=re.MULTILINE | re.DOTALL)


def blocks(text: str) -> list[str]:
    """The Python of a page, block by block, in order."""
    return [match[1] for match in BLOCK.finditer(text)]


def to_notebook(text: str) -> str:
    """The notebook of a page, as JSON; the same bytes for the same page.

    Args:
        text: Markdown.
    """
    cells = []
    for number, part in enumerate(BLOCK.split(text)):
        if part.strip():
            cell = v4.new_code_cell if number % 2 else v4.new_markdown_cell
            cells.append(cell(part.strip(), id=f"cell-{number}"))
    notebook = v4.new_notebook(cells=cells, metadata={"language_info": {"name": "python"}})
    nbformat.validate(notebook)
    return nbformat.writes(notebook) + "\n"
