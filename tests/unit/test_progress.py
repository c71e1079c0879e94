"""Progress on terminals of any width: in one line, with the time that is left."""

import re

import pytest

from unitgain.console import bar, byte_bar
from unitgain.train.log import TrainProgress

TICK = {"loss": 0.123, "lr": 1e-2, "nimg": 64, "images_per_second": 12.0, "peak_share": 0.5, "data_wait_share": 0.0}


def lines(printed):
    """What is shown one after the other, without colours."""
    plain = re.sub(r"\x1b\[[0-9;]*m", "", printed)
    return [line for line in re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "\n", plain).splitlines() if line.strip()]


@pytest.mark.parametrize("width", [30, 60, 80, 120])
@pytest.mark.parametrize("kind", ["bar", "bytes", "training"])
def test_progress_takes_one_line(monkeypatch, capsys, width, kind):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    monkeypatch.setenv("COLUMNS", str(width))
    if kind == "training":
        with TrainProgress(10_000, 0) as progress:
            progress.step(5_000)
            progress.tick(TICK)
    else:
        with bar("measuring", "images") if kind == "bar" else byte_bar("measuring") as update:
            update(5_000, 10_000)
    shown = lines(capsys.readouterr().err)
    assert all("ETA" in line and "…" not in line and len(line) <= width for line in shown)
    assert "50 %" in shown[-1] or width >= 70
    assert "loss 0.123" in shown[-1] or kind != "training" or width < 70
