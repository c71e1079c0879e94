"""`unitgain watch` and `unitgain report` on a real run, as a user calls them."""

import base64
import io
import re

import pytest
from PIL import Image

from unitgain.cli.main import main


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "digits"
    size = ["--batch", "16", "--duration", "96", "--snapshot-every", "32", "--tick", "16", "--magnitudes-every", "48"]
    main(["train", "digits", "--out", str(folder), *size, "--device", "cpu", "--quiet", "--no-tensorboard"])
    return folder


def test_watch_shows_a_run_once_where_there_is_no_terminal(run, call, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    said = " ".join(call("watch", run).out.split())
    for part in ("finished", "96/96 images", "recipe digits", "of peak", "waits for data", "memory", "error by noise"):
        assert part in said
    assert re.search(r"snapshot 96 images", said) and re.search(r"checkpoint 96 images", said)
    assert " ".join(call("watch", run, "--once").out.split())[:40] == said[:40]
    assert "must be a positive" in call("watch", run, "--every", "0", code=2).err
    assert "is not the folder of a run" in call("watch", run / "snapshots", code=2).err


def pictures(page):
    found = re.findall(r'src="data:image/png;base64,([^"]+)"', page)
    return [Image.open(io.BytesIO(base64.b64decode(text))) for text in found]


def test_report_is_one_page_with_samples_over_time(run, call):
    options = ("--seeds", "0-2", "--times", "2", "--lengths", "0.05,0.1", "--device", "cpu")
    assert "report.html" in call("report", run, *options).out
    page = (run / "report.html").read_text()
    images = pictures(page)
    assert len(images) == 5  # two times, two lengths, and the data
    for first, second in (images[:2], images[2:4]):
        assert first.size == second.size and first.tobytes() != second.tobytes()
    assert images[1].tobytes() == images[3].tobytes()  # the last one, which needs no reconstruction
    assert page.count('type="radio"') == 4 and page.count(" checked>") == 2
    assert "prefers-color-scheme: dark" in page and "default-src 'none'" in page and "<script" not in page
    for part in (
        "Finished: 96 of 96 images",
        "Loss by noise level",
        "exp u(sigma)",
        "Activations",
        "32 images",
        "P_std",
    ):
        assert part in page, part
    assert page.count("<svg") == 13
    assert "src=" not in page.replace('src="data:image', "")


def test_report_without_samples_with_those_of_the_run_and_with_others(run, call, tmp_path):
    out = tmp_path / "page.html"
    call("report", run, "--no-samples", "--out", out)
    assert not pictures(out.read_text())
    (run / "samples").mkdir()
    Image.new("L", (40, 30)).save(run / "samples" / "0000000032.png")
    call("report", run, "--out", out)
    assert next(image.size for image in pictures(out.read_text())) == (40, 30)
    assert "Drawn by the run itself" in out.read_text()
    call("report", run, "--out", out, "--seeds", "3", "--times", "1", "--device", "cpu")
    assert "Seeds 3, EMA length 0.100" in out.read_text()
    assert "is a folder" in call("report", run, "--out", tmp_path, code=2).err
    assert "stores no averages of length 0.300" in call("report", run, "--sigma-rel", "0.3", code=2).err
    assert "must be at least 1" in call("report", run, "--times", "0", code=2).err
    assert "0.9" in call("report", run, "--lengths", "0.9", code=2).err
    said = call(
        "report", run, "--out", out, "--lengths", "0.01,0.1,0.1", "--seeds", "3", "--times", "1", "--device", "cpu"
    )
    assert "out of reach" in said.err and len(pictures(out.read_text())) == 3  # of the run, one length, the data
    assert "out of reach of the snapshots in" in said.err and "left out: length 0.01\n" in said.err
    assert "left out: length" not in call("report", run, "--out", out, "--times", "1", "--device", "cpu").err


def test_report_says_which_snapshot_is_damaged(run, call, tmp_path):
    path = run / "snapshots" / "0000000096-0.050.safetensors"
    whole = path.read_bytes()
    path.write_bytes(whole[:-9])
    call("report", run, "--sigma-rel", "0.05", "--times", "1", "--out", tmp_path / "page.html", "--device", "cpu")
    path.write_bytes(whole)
    assert "Not drawn: " in (tmp_path / "page.html").read_text()
