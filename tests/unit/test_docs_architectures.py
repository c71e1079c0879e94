"""The Python of docs/architectures.md runs as it stands, from top to bottom."""

import re
from pathlib import Path

from unitgain.arch import tokens

PAGE = Path(__file__).parents[2] / "docs" / "architectures.md"


def test_the_page_runs(monkeypatch):
    monkeypatch.setattr("unitgain.arch.tokens.TOKENS", dict(tokens.TOKENS))  # the page adds to them
    monkeypatch.setattr("unitgain.arch.block.TOKENS", tokens.TOKENS)
    blocks = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    assert len(blocks) >= 8
    names: dict = {}
    for block in blocks:
        exec(compile(block, str(PAGE), "exec"), names)
    assert names["prepared"].spec.branch == "s d E r P s m g"
    assert names["mine"].branch == "s d E s P s m c"
