"""The Python of docs/architectures.md runs as it stands, from top to bottom."""

from blocks import run_page

from unitgain.arch import tokens


def test_the_page_runs(monkeypatch, call):
    monkeypatch.setattr("unitgain.arch.tokens.TOKENS", dict(tokens.TOKENS))  # the page adds to them
    monkeypatch.setattr("unitgain.arch.block.TOKENS", tokens.TOKENS)
    names = run_page("docs/architectures.md", call)
    assert names["prepared"].spec.branch == "s d E r P s m g"
    assert names["mine"].branch == "s d E s P s m c"
