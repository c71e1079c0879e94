"""The explorer as one file: a picture for each choice, rules that show it, nothing from elsewhere."""

import base64
import io
import itertools
import re
import shutil

import pytest
import torch
from explorers import FAST
from PIL import Image

from unitgain.explore import Average, Session, View
from unitgain.explore.export import ExportConfig, export_page
from unitgain.report.samples import sheet


def images_of(page):
    return [
        Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB")
        for data in re.findall(r'src="data:image/png;base64,([^"]+)"', page)
    ]


def test_a_page_has_a_picture_for_each_choice_and_nothing_from_elsewhere(runs, call, tmp_path):
    out = tmp_path / "page.html"
    options = ("--lengths", "0.05,0.1,0.2", "--weights", "1,2", "--seeds", "0-9", "--class", "3", "--steps", "2")
    call("explore", runs / "main", "--guide", runs / "guide", "--export", out, "--sampler", "euler", *options)
    page = out.read_text()
    pictures = images_of(page)
    assert len(pictures) == 3 * 2 * 2
    assert len({picture.tobytes() for picture in pictures}) == 12
    assert not re.findall(r"https?://|<script|<link|url\(", page)
    labels = dict(re.findall(r'<input type="radio"[^>]*id="([^"]+)"[^>]*><label for="([^"]+)"', page))
    assert len(labels) == 3 + 2 + 2 and all(name == target for name, target in labels.items())
    assert len(re.findall(r"<input[^>]* checked>", page)) == 3
    settings = FAST.replace(label=3)
    with Session(runs / "main", settings=settings) as session:
        found = session.pictures(View(average=Average(length=0.1), seeds=tuple(range(8)), settings=settings))
    names = [session.classes.label(3)] * 8
    expected = sheet(torch.stack([one.pixels for one in found]), names).convert("RGB")
    assert any(picture.tobytes() == expected.tobytes() for picture in pictures)


def test_the_rules_of_a_page_show_one_picture_for_each_choice(runs):
    view = View(settings=FAST, guide=str(runs / "main"), guide_average=Average(t=64))
    config = ExportConfig(lengths=(0.05, 0.1), weights=(1.0, 3.0), seeds=(1, 2, 3), view=view)
    with Session(runs / "main", settings=FAST) as session:
        page = export_page(session, config)
    hidden = re.findall(r"has\(\.(axis\d) > input:nth-of-type\((\d+)\):checked\) > figure:not\(\.(at[\d-]+)\)", page)
    assert all(figure == f"at{axis[4:]}-{int(stop) - 1}" for axis, stop, figure in hidden)
    stops = [len(re.findall(rf'id="explore{axis}-\d+"', page)) for axis in range(3)]
    assert {figure for *_, figure in hidden} >= {f"at{axis}-{n}" for axis in range(3) for n in range(stops[axis])}
    figures = [tuple(map(int, one)) for one in re.findall(r'<figure class="at0-(\d+) at1-(\d+) at2-(\d+)">', page)]
    assert sorted(figures) == list(itertools.product(*map(range, stops)))


def test_a_page_of_one_network_has_no_lengths(runs, tmp_path, call):
    (path, *_) = sorted((runs / "guide" / "snapshots").glob("*-0.100.safetensors"))
    call("explore", path, "--export", tmp_path / "page.html", "--seeds", "0-1", "--steps", "2", "--sampler", "euler")
    assert len(images_of((tmp_path / "page.html").read_text())) == 1
    output = call("explore", path, "--export", tmp_path / "page.html", "--lengths", "0.1", code=2)
    assert "leave out lengths" in output.err


def test_names_with_markup_stay_text(runs, tmp_path, call):
    folder = tmp_path / '"><img src=x onerror=alert(1)>'
    shutil.copytree(runs / "main", folder)
    call("explore", folder, "--export", tmp_path / "p.html", "--seeds", "0", "--lengths", "0.1", "--steps", "2")
    page = (tmp_path / "p.html").read_text()
    assert "<img src=x" not in page and "&lt;img src=x" in page


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--lengths", "0.5"), "0.5"),
        (("--lengths", "0.001"), "out of reach"),
        (("--weights", "2"), "needs a guide"),
        (("--guidance", "2"), "--weights 2"),
        (("--guide", "self"), "no weight of guidance but 1"),
        (("--interval", "0.2", "1"), "--interval and no weight of guidance but 1"),
        (("--guide-length", "0.1"), "--guide-length: for a --guide that is the folder of a run"),
        (("--port", "1", "--token", "x"), "--port, --token: for a page that is served"),
        (("--seeds", "0-9999"), "seeds"),
        (("--class", "<b>"), "there is no class"),
    ],
)
def test_a_page_that_cannot_be_is_refused_and_nothing_written(runs, tmp_path, call, options, words):
    output = call("explore", runs / "main", "--export", tmp_path / "page.html", "--steps", "2", *options, code=2)
    assert words in " ".join(output.err.split()) and not any(tmp_path.iterdir())


def test_options_of_a_written_page_are_refused_where_one_is_served(runs, call):
    output = call("explore", runs / "main", "--lengths", "0.1", "--weights", "1,2", "--seeds", "0-7", code=2)
    assert "--lengths, --weights, --seeds: for a page that is written" in output.err


@pytest.mark.parametrize("options", [("--guide-length", "0.1"), ("--guide-nimg", "64"), ("--interval", "0.2", "1")])
@pytest.mark.parametrize("weight", [(), ("--guidance", "1")])
def test_what_is_said_of_guidance_is_refused_where_a_page_begins_without(runs, call, options, weight):
    output = call("explore", runs / "main", "--guide", runs / "guide", *weight, *options, code=2)
    assert f"{options[0]}" in output.err and "as in --guidance 1.5" in " ".join(output.err.split())
