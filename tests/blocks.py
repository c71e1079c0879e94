"""Runs the code blocks of a page, from its top to its end, as a reader would.

A block runs as it stands unless its fence says why not: `title="not run in tests: REASON"`, which the site shows above
it. The only other change that tests make is to numbers, by a table beside the test, and to the steps of drawing
(`few_steps` in `conftest.py`): a page trains for minutes, its test for seconds.
"""

import glob
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import unitgain

ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT / "docs" / "tools"))

from fences import Block, blocks  # noqa: E402

SHOWN = ("text", "yaml", "toml", "json", "csv", "dockerfile", "mermaid")
"""Languages of blocks that are there to be looked at."""


def pages() -> list[str]:
    """Every page of the repository that people read, from its root."""
    found = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md")]
    for folder in ("docs", "examples", "benchmarks"):
        found += sorted((ROOT / folder).rglob("*.md"))
    return [path.relative_to(ROOT).as_posix() for path in found]


def blocks_of(page: str) -> list[Block]:
    return blocks((ROOT / page).read_text(encoding="utf-8"))


def commands(code: str) -> list[list[str]]:
    """The commands of a block of shell, as words."""
    joined = re.sub(r"\\\n\s*", "", code).splitlines()
    return [words for line in joined if (words := shlex.split(line, comments=True))]


def run_page(page: str, call, names: dict | None = None, shorter: dict[str, str] | None = None) -> dict:
    """Run a page in the current folder, and return what its Python leaves behind.

    `call` runs the command line in this process, `names` are there from the start, and `shorter` says which numbers of
    the page become which: each must be there, and nothing but numbers may differ.
    """
    names = {"__name__": "page", **(names or {})}
    shorter, used = shorter or {}, set()
    for old, new in shorter.items():
        assert re.sub(r"[\d._e]+", "#", old) == re.sub(r"[\d._e]+", "#", new), f"not only numbers differ: {old}, {new}"
    for block in blocks_of(page):
        if block.reason is not None:
            continue
        code = block.code
        for old, new in shorter.items():
            used |= {old} if old in code else set()
            code = code.replace(old, new)
        if block.language == "sh":
            _run_shell(f"{page}:{block.line}", code, call)
        elif block.title:
            Path(block.title).write_text(code, encoding="utf-8")
        else:
            exec(compile("\n" * block.line + code, str(ROOT / page), "exec"), names)
    assert used == set(shorter), f"{page} has no {set(shorter) - used}"
    return names


def _run_shell(where: str, code: str, call) -> None:
    if all(words[0] == "unitgain" for words in commands(code)):
        for _, *words in commands(code):
            call(*(name for word in words for name in sorted(glob.glob(word)) or [word]))
        return
    own = {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "OMP_NUM_THREADS": "1"}
    own["PYTHONPATH"] = f"{Path(unitgain.__file__).parents[1]}:{os.environ.get('PYTHONPATH', '')}"
    done = subprocess.run(["bash", "-euc", code], env=os.environ | own, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, f"{where}\n{done.stdout}{done.stderr}"
