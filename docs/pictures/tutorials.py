"""Draws the pictures that tutorials draw, by running them: `python docs/pictures/tutorials.py docs/tutorials/plane.md`.

The page runs in a folder of its own, with the numbers that stand there; the pictures that it saves, and shows, go
beside this file.
"""

import os
import shutil
import sys
import tempfile
from pathlib import Path

import matplotlib

matplotlib.use("agg")

FOLDER = Path(__file__).resolve().parent
sys.path.append(str(FOLDER.parent / "tools"))

from fences import blocks  # noqa: E402


def draw(page: Path) -> list[Path]:
    """Run the Python of a page; returns the pictures that it shows and has saved."""
    text, names = page.read_text(encoding="utf-8"), {"__name__": "page"}
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        for block in blocks(text):
            if block.language == "python" and block.reason is None:
                exec(compile("\n" * block.line + block.code, str(page), "exec"), names)
        saved = [path for path in sorted(Path(folder).glob("*.png")) if f"pictures/{path.name}" in text]
        return [Path(shutil.copy(path, FOLDER)) for path in saved]


if __name__ == "__main__":
    for name in [Path(name).resolve() for name in sys.argv[1:]]:
        print(*draw(name), sep="\n")
