"""What is printed: progress bars that follow one another."""

import pytest

from unitgain.console import bar, byte_bar


def test_late_bars_are_shown_one_after_the_other(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.setenv("FORCE_COLOR", "1")
    with byte_bar("first") as first, bar("second", "images", late=True) as second:
        assert capsys.readouterr().err == ""  # nothing is done yet
        first(5, 5)
        begun = capsys.readouterr().err
        assert "first" in begun and "second" not in begun
        second(1, 2)
        second(2, 2)
        then = capsys.readouterr().err
        assert "second" in then and "first" not in then
    assert "second" not in capsys.readouterr().err  # it has been left as it is
