"""A self-contained HTML page: text, tables, pictures and plots, no other file and no network."""

import base64
import html
import itertools
from collections.abc import Iterable, Mapping, Sequence

from PIL import Image

from unitgain.data.images import png
from unitgain.text import printable

MOST, AXES = 24, 3  # stops of a bar, and bars, by which a figure is chosen
SHARP = 480  # pixels: pictures that are not as wide are enlarged without smoothing
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"  # no script, and nothing from elsewhere
# Plots are drawn in dark ink on white; in the dark they are inverted, and their hues turned back.
STYLE = """
:root { color-scheme: light dark; --ink: #1a1a1a; --soft: #555; --line: #bbb; --paper: #fff; --mark: #1f4e79 }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e2e2e2; --soft: #a6a6a6; --line: #555; --paper: #141414; --mark: #7fb2e5 }
  svg { filter: invert(.92) hue-rotate(180deg) }
}
body { font: 16px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); max-width: 110rem;
  margin: 2rem auto; padding: 0 1.5rem }
h1 { font-size: 1.7rem; margin-bottom: .2rem } h2 { font-size: 1.2rem; margin: 2.2rem 0 .4rem }
p, figcaption { max-width: 62rem } table { border-collapse: collapse; display: block; overflow-x: auto }
td, th { padding: .15rem .9rem .15rem 0; text-align: left; vertical-align: top }
td:last-child, th:last-child { overflow-wrap: anywhere; padding-right: 0 }
th { font-weight: 600; border-bottom: 1px solid var(--line) } td.number, th.number { text-align: right }
td.number { white-space: nowrap }
figure { margin: .4rem 0 } figcaption { color: var(--soft); font-size: .92rem }
.row { display: flex; flex-wrap: wrap; gap: 2rem; align-items: flex-start } .row > * { min-width: 0; max-width: 100% }
.tiles { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(27rem, 100%), 1fr)); gap: 0 2rem;
  align-items: start }
.tiles > * { min-width: 0 } .tiles svg { width: 100% } svg { max-width: 100%; height: auto }
img { max-width: 100% } img.sharp { image-rendering: pixelated }
.tiles img { width: 100%; max-width: 62rem; max-height: 80vh; object-fit: contain; object-position: left top }
.dials { margin: .4rem 0; max-width: 62rem }
.dials > fieldset { display: flex; flex-wrap: wrap; position: relative; border: 0; margin: 0 0 .3rem; padding: 0;
  min-width: 0 }
.dials > fieldset > legend { font-weight: 600; padding: 0; float: left; width: 100% }
.dials input { position: absolute; opacity: 0 }
.dials label { flex: 1 1 2.6rem; text-align: center; padding: .1rem .2rem; cursor: pointer; color: var(--soft);
  border-top: .35rem solid var(--line); font-size: .85rem }
.dials label:hover { color: var(--ink) }
.dials input:checked + label { border-color: var(--mark); color: var(--ink); font-weight: 600 }
.dials input:focus-visible + label { outline: 2px solid var(--mark) }
pre { white-space: pre-wrap; overflow-wrap: anywhere; font-size: .85rem }
""" + "\n".join(  # on paper, and in browsers that do not know :has, all figures are there
    f"@media screen {{ .dials:has(.axis{axis} > input:nth-of-type({stop + 1}):checked) > figure:not(.at{axis}-{stop}) "
    "{ display: none } }"
    for axis in range(AXES)
    for stop in range(MOST)
)


def page(title: str, lead: str, sections: Iterable[tuple[str, str]]) -> str:
    """A whole page.

    Args:
        title: plain text.
        lead: plain text below it.
        sections: (plain title, HTML) of each part.
    """
    body = "\n".join(f"<h2>{escape(name)}</h2>\n{content}" for name, content in sections)
    head = (
        f'<meta charset="utf-8"><meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        f'<meta name="viewport" content="width=device-width"><title>{escape(title)}</title>'
    )
    return (
        f'<!doctype html>\n<html lang="en">\n<head>{head}<style>{STYLE}</style></head>\n'
        f"<body>\n<main>\n<h1>{escape(title)}</h1>\n<p>{escape(lead)}</p>\n{body}\n</main>\n</body>\n</html>\n"
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


def code(text: str) -> str:
    """Plain text as it is typed."""
    return f"<pre><code>{escape(text)}</code></pre>"


def picture(image: Image.Image, caption: str, more: str = "") -> str:
    """A figure with a picture inside the page, and more HTML below its caption."""
    sharp = ' class="sharp"' if image.width < SHARP else ""
    return plot(f'<img{sharp} alt="{escape(caption)}" src="{data_uri(image)}">', caption, more)


def data_uri(image: Image.Image) -> str:
    """A picture as the source of an image of a page, which holds it."""
    return "data:image/png;base64," + base64.b64encode(png(image)).decode()


def plot(content: str, caption: str, more: str = "") -> str:
    """A figure with an SVG drawing, or whatever HTML, inside the page, and more HTML below its plain caption."""
    return f"<figure>{content}<figcaption>{escape(caption)}{more}</figcaption></figure>"


def dials(
    name: str, axes: Mapping[str, Sequence[str]], figures: Mapping[tuple[int, ...], str], chosen: Sequence[int]
) -> str:
    """Figures of which one is shown at a time, chosen by bars of stops, which clicks and the arrow keys move along; no
    script.

    Args:
        name: of them, different from those of others on the page; letters.
        axes: the plain texts of the stops by the plain title of their bar; at most `AXES` bars of `MOST` stops.
        figures: HTML by the numbers of the stops.
        chosen: the numbers of the stops that are shown first.

    Raises:
        ValueError: if there are too many bars or stops, or not a figure for each choice.
    """
    if set(figures) != set(itertools.product(*map(range, map(len, axes.values())))):
        raise ValueError(f"{len(figures)} figures are not one for each choice of {list(axes)}")
    if len(axes) > AXES or max(map(len, axes.values())) > MOST:
        raise ValueError(f"bars of {[len(stops) for stops in axes.values()]} stops: at most {AXES} of at most {MOST}")
    bars = []
    for axis, (title, stops) in enumerate(axes.items()):
        inputs = []
        for number, text in enumerate(stops):
            own, checked = f"{name}{axis}-{number}", " checked" if number == chosen[axis] else ""
            radio = f'<input type="radio" name="{name}{axis}" id="{own}"{checked}>'
            inputs.append(f'{radio}<label for="{own}">{escape(text)}</label>')
        bars.append(f'<fieldset class="axis{axis}"><legend>{escape(title)}</legend>{"".join(inputs)}</fieldset>')
    shown = []
    for place, figure in figures.items():
        stops = " ".join(f"at{axis}-{stop}" for axis, stop in enumerate(place))
        shown.append(figure.replace("<figure>", f'<figure class="{stops}">', 1))
    return f'<div class="dials">{"".join(bars)}{"".join(shown)}</div>'


def side_by_side(*figures: str) -> str:
    """Figures in a row, below one another where the window is narrow."""
    return f'<div class="row">{"".join(figures)}</div>'


def tiles(*figures: str) -> str:
    """Figures of one size, as many to a row as the window has room for."""
    return f'<div class="tiles">{"".join(figures)}</div>'


def _cell(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) else str(value)
