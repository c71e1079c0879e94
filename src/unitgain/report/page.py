"""A self-contained HTML page: text, tables, pictures and plots, no other file and no network."""

import base64
import html
import io
from collections.abc import Iterable, Sequence

from PIL import Image

from unitgain.text import printable

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #1a1a1a; max-width: 62rem; margin: 2rem auto; padding: 0 1rem }
h1 { font-size: 1.7rem; margin-bottom: .2rem } h2 { font-size: 1.2rem; margin: 2.2rem 0 .4rem }
table { border-collapse: collapse } td, th { padding: .15rem .9rem .15rem 0; text-align: left; vertical-align: top }
th { font-weight: 600; border-bottom: 1px solid #bbb } td.number, th.number { text-align: right }
figure { margin: .4rem 0 } figcaption { color: #555; font-size: .92rem }
.row { display: flex; flex-wrap: wrap; gap: 2rem; align-items: flex-start }
.tiles { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(27rem, 100%), 1fr)); gap: 0 2rem }
.tiles svg { width: 100% }
.row img, figure img { max-width: 100%; image-rendering: pixelated } svg { max-width: 100%; height: auto }
"""


def page(title: str, lead: str, sections: Iterable[tuple[str, str]]) -> str:
    """A whole page.

    Args:
        title: plain text.
        lead: plain text below it.
        sections: (plain title, HTML) of each part.
    """
    body = "\n".join(f"<h2>{escape(name)}</h2>\n{content}" for name, content in sections)
    head = f'<meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{escape(title)}</title>'
    return (
        f'<!doctype html>\n<html lang="en">\n<head>{head}<style>{STYLE}</style></head>\n'
        f"<body>\n<h1>{escape(title)}</h1>\n<p>{escape(lead)}</p>\n{body}\n</body>\n</html>\n"
    )


def escape(text: str) -> str:
    """Plain text as HTML that shows it and does nothing else."""
    return html.escape(printable(text))


def paragraph(text: str) -> str:
    """A paragraph of plain text."""
    return f"<p>{escape(text)}</p>"


def table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A table; cells that are numbers are aligned to the right."""
    rows = [[*row] for row in rows]
    numeric = [all(isinstance(row[i], int | float) for row in rows) for i in range(len(header))]

    def cells(tag: str, values: Sequence[object]) -> str:
        marks = [' class="number"' if is_number else "" for is_number in numeric]
        return "".join(
            f"<{tag}{mark}>{escape(_cell(value))}</{tag}>" for mark, value in zip(marks, values, strict=True)
        )

    head = f"<thead><tr>{cells('th', header)}</tr></thead>" if any(header) else ""
    body = "".join(f"<tr>{cells('td', row)}</tr>" for row in rows)
    return f"<table>{head}<tbody>{body}</tbody></table>"


def picture(image: Image.Image, caption: str) -> str:
    """A figure with a picture inside the page."""
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    data = base64.b64encode(buffer.getvalue()).decode()
    return _figure(f'<img alt="{escape(caption)}" src="data:image/png;base64,{data}">', caption)


def plot(svg: str, caption: str) -> str:
    """A figure with an SVG drawing inside the page."""
    return _figure(svg, caption)


def side_by_side(*figures: str) -> str:
    """Figures in a row, below one another where the window is narrow."""
    return f'<div class="row">{"".join(figures)}</div>'


def tiles(*figures: str) -> str:
    """Figures of one size, two to a row, one where the window is narrow."""
    return f'<div class="tiles">{"".join(figures)}</div>'


def _figure(content: str, caption: str) -> str:
    return f"<figure>{content}<figcaption>{escape(caption)}</figcaption></figure>"


def _cell(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) else str(value)
