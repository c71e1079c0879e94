"""The server of the explorer, asked by hand: who is let in, what is refused, what goes on when somebody leaves."""

import base64
import io
import json
import math
import shutil
import socket
import threading
import time
import zipfile

import pytest
from explorers import FAST, Served, damage, guiding_itself, wait_until

from unitgain.checkpoint.snapshot import Snapshot
from unitgain.explore import Session, shell
from unitgain.explore.measure import measure, measured
from unitgain.explore.requests import view_from_json, view_to_json
from unitgain.explore.server import Server, new_token
from unitgain.explore.views import Average, View
from unitgain.sample import StochasticHeun


@pytest.fixture
def served(runs):
    with Served(runs / "main", guide=runs / "guide") as served:
        yield served


VIEW = {"average": {"length": 0.1, "t": None}, "seeds": [0, 1]}


def pictures(lines):
    return {line["seed"]: line["src"] for line in lines if line["kind"] == "picture"}


def test_views_come_back_from_json_as_they_were():
    view = View(
        average=Average(length=0.07, t=3.0),
        guide="self",
        guide_average=Average(length=0.2),
        seeds=(3, 1),
        settings=FAST.replace(guidance=1.3, label=(1, 2), interval=(0.1, 2.0), sampler=StochasticHeun(S_max=math.inf)),
    )
    others = ({"label": None, "interval": None}, {"label": "7"}, {"without": ("label",)})
    for one in (view, *(view.with_settings(**changes) for changes in others)):
        assert view_from_json(json.loads(json.dumps(view_to_json(one), allow_nan=False)), FAST) == one


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("steps", 1e9),
        ("steps", 10**9),
        ("steps", -1),
        ("steps", True),
        ("guidance", float("nan")),
        ("guidance", float("inf")),
        ("guidance", "2"),
        ("sigma_max", -1.0),
        ("rho", 1e300),
        ("seeds", []),
        ("seeds", [2**32]),
        ("seeds", [0.5]),
        ("seeds", list(range(100_000))),
        ("average", {"length": 1e-300}),
        ("average", {"length": 10**400}),
        ("average", {"t": -1}),
        ("average", [1]),
        ("interval", [5, 1]),
        ("interval", [float("nan"), 1]),
        ("interval", [0, float("inf")]),
        ("sigma_max", 1e300),
        ("average", {"t": float("inf")}),
        ("sampler", {"sampler": "heun", "S_churn": 1}),
        ("sampler", {"sampler": "__import__"}),
        ("sampler", {"sampler": "stochastic_heun", "S_noise": float("inf")}),
        ("sampler", ["heun"]),
        ("sigma_max", float("inf")),
        ("rho", float("inf")),
        ("rho", 1e-5),
        ("interval", [0.1]),
        ("guide", 7),
        ("label", {"a": 1}),
        ("label", [True]),
        ("no such field", 1),
    ],
)
def test_impossible_numbers_are_refused(field, value):
    with pytest.raises(ValueError):
        view_from_json({field: value}, FAST)


def test_the_page_is_served_with_all_it_needs(served):
    import re

    status, page = served.ask("/")
    assert status == 200
    for name in re.findall(r'(?:href|src)="([^"]+)"', page.decode()):
        if not name.startswith("data:"):
            assert served.ask(f"/{name}")[0] == 200
    scripts = ["/explore.js"]
    for name in scripts:  # those that import others, and those in turn
        text = served.ask(name)[1].decode()
        scripts += [found for one in re.findall(r'from "\./([a-z]+\.js)"', text) if (found := f"/{one}") not in scripts]
    assert len(scripts) == 8
    for name in (*scripts, "/explore.css", "/"):
        status, text = served.ask(name)
        assert status == 200
        assert not re.search(rb"(https?:)?//[a-z]+\.", text)
        assert not re.search(rb"innerHTML|outerHTML|insertAdjacent|document\.write|eval\(", text)


def test_what_there_is_to_choose(served, runs):
    about = json.loads(served.ask("/api/about")[1])
    assert about["run"] and about["classes"] == [str(number) for number in range(10)]
    assert [guide["name"] for guide in about["guides"]][:2] == [str(runs / "guide"), str(runs / "main")]
    assert about["times"][""][-1] == 256
    known = json.loads(served.ask("/api/errors", {"guide": None, "t": None})[1])
    assert len(known["lengths"]) == len(known["errors"])
    assert known["errors"][known["lengths"].index(0.1)] < 1e-5 < known["errors"][0]


def test_another_length_is_another_picture_and_the_same_one_comes_back(served):
    first = pictures(served.lines("/api/draw", VIEW))
    other = pictures(served.lines("/api/draw", {**VIEW, "average": {"length": 0.2, "t": None}}))
    assert first.keys() == other.keys() == {0, 1} and first != other
    assert pictures(served.lines("/api/draw", VIEW)) == first


def test_a_class_is_found_by_its_name(served):
    by_name, by_number = ({**VIEW, "label": label} for label in ("7", 7))
    assert pictures(served.lines("/api/draw", by_name)) == pictures(served.lines("/api/draw", by_number))
    names = {line["name"] for line in served.lines("/api/draw", {**VIEW, "label": "7"}) if line["kind"] == "picture"}
    assert names == {"7"}
    assert "there is no class" in served.error("/api/draw", {**VIEW, "label": "<script>"})


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b'"' + b"x" * 100 + b'"', b'{"steps": 1' + b"0" * 5000 + b"}", b"[" * 50_000, b"\xff"]
)
def test_what_is_no_view_is_an_error_and_the_server_lives(served, body):
    status, text = served.ask("/api/draw", body)
    assert status == 400 or json.loads(text.splitlines()[-1])["kind"] == "error"
    assert served.ask("/api/about")[0] == 200 and served.idle()


def test_impossible_requests_are_refused_and_the_server_lives(served):
    assert "steps" in served.error("/api/draw", {**VIEW, "steps": 10**9})
    assert "out of reach" in served.error("/api/draw", {**VIEW, "average": {"length": 0.001}})
    assert "none of" in served.error("/api/draw", {**VIEW, "guidance": 2, "guide": "../../etc/passwd"})
    assert served.ask("/api/draw", b"{}", **{"Content-Length": "9" * 30})[0] == 400
    assert served.ask("/api/draw", b"{}", **{"Content-Length": f"{2**17:012d}"})[0] == 400
    assert served.ask("/api/draw", b"x" * 2**17)[0] == 400
    assert served.ask("/nowhere")[0] == served.ask("/../../etc/passwd")[0] == served.ask("/api/nothing", {})[0] == 404
    assert "unknown metric" in served.error("/api/measure", {"view": VIEW, "metric": "os:system", "images": 2})
    assert "images" in served.error("/api/measure", {"view": VIEW, "images": 10**9})
    assert "interval" in served.error("/api/draw", {**VIEW, "interval": [0, math.inf]})
    status, text = served.ask("/api/errors", {"t": math.inf})
    assert status == 400 and b"positive time" in text
    assert pictures(served.lines("/api/draw", VIEW)) and served.idle()


def test_only_the_page_itself_may_ask(served):
    port = served.server.port
    assert served.ask("/", Host="evil.example")[0] == 403
    assert served.ask("/api/about", Host=f"evil.example:{port}")[0] == 403
    assert served.ask("/api/draw", VIEW, Origin="http://evil.example")[0] == 403
    assert served.ask("/api/draw", json.dumps(VIEW).encode(), **{"Content-Type": "text/plain"})[0] == 415
    assert served.ask("/api/about", Host=f"localhost:{port}", Origin=f"http://localhost:{port}")[0] == 200


def test_others_need_the_token(runs):
    with Served(runs / "main", token=new_token()) as served:
        with pytest.raises(ValueError, match="token"):
            Server(served.answers, "0.0.0.0", 0)
        token, port = served.server.token, served.server.port
        assert token in served.server.url
        assert served.ask("/")[0] == served.ask("/api/about")[0] == served.ask("/?token=wrong")[0] == 403
        connection = served.connect()
        connection.request("GET", f"/?token={token}")
        answer = connection.getresponse()
        cookie = answer.getheader("Set-Cookie")
        assert answer.status == 200 and "HttpOnly" in cookie and "SameSite=Strict" in cookie
        assert served.ask("/api/about", Cookie=cookie.partition(";")[0])[0] == 200
        assert served.ask("/api/about", Cookie=f"unitgain-token-{port}=wrong")[0] == 403


def test_a_port_in_use_is_said(runs, call):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        output = call("explore", runs / "main", "--port", port, code=1)
    assert f"port {port}" in output.err and "--port" in output.err


def test_whoever_leaves_in_the_middle_of_a_drawing_leaves_no_work(served):
    connection = served.connect()
    connection.request("POST", "/api/draw", json.dumps({**VIEW, "steps": 1000}), {"Content-Type": "application/json"})
    answer = connection.getresponse()
    while json.loads(answer.readline())["kind"] != "preview":
        pass
    assert served.answers.active
    answer.close()
    assert served.idle()
    assert pictures(served.lines("/api/draw", VIEW))


def test_whoever_leaves_in_the_middle_of_a_file_leaves_no_work(served):
    connection = served.connect()
    data = json.dumps({**VIEW, "seeds": [0, 1], "steps": 1000})
    connection.request("POST", "/api/path.gif", data, {"Content-Type": "application/json"})
    assert wait_until(lambda: served.answers.active)
    connection.close()
    assert served.idle()


def test_whoever_leaves_while_a_snapshot_is_made_leaves_no_work(served, monkeypatch):
    ended = []

    def endless(*_, on_progress, **__):
        try:
            while True:
                on_progress(1, 2)
                time.sleep(0.01)
        finally:
            ended.append(True)

    monkeypatch.setattr("unitgain.explore.sources.reconstruct", endless)
    connection = served.connect()
    connection.request("POST", "/api/snapshot", json.dumps(VIEW), {"Content-Type": "application/json"})
    assert wait_until(lambda: served.answers.active) and not ended
    connection.close()
    assert served.idle() and ended


def test_a_path_that_would_take_too_much_memory_is_refused(served):
    assert "noise levels" in served.error("/api/path", {**VIEW, "seeds": list(range(200)), "steps": 1000})


def test_two_browsers_at_once(served):
    found = {}

    def ask(number):
        for length in (0.05, 0.1, 0.2):
            lines = served.lines("/api/draw", {**VIEW, "average": {"length": length, "t": None}})
            found[number, length] = pictures(lines)

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(found[0, length] == found[1, length] for length in (0.05, 0.1, 0.2)) and len(found) == 6


def test_more_drawings_than_there_is_room_for_are_refused(served):
    taken = [served.server.streams.acquire(blocking=False) for _ in range(16)]
    assert all(taken)
    assert served.ask("/api/draw", VIEW)[0] == 503
    for _ in taken:
        served.server.streams.release()
    assert pictures(served.lines("/api/draw", VIEW))


def test_a_run_deleted_while_it_is_open(runs, tmp_path):
    shutil.copytree(runs / "main", tmp_path / "run")
    with Served(tmp_path / "run") as served:
        assert pictures(served.lines("/api/draw", VIEW))
        shutil.rmtree(tmp_path / "run")
        assert "no run" in served.error("/api/draw", VIEW)
        assert served.ask("/api/live")[0] == 400
        shutil.copytree(runs / "main", tmp_path / "run")
        victim, _ = damage(tmp_path / "run" / "snapshots", "*-0.050.safetensors")
        assert "damaged" in served.error("/api/draw", {**VIEW, "average": {"length": 0.06}})
        victim.write_bytes(b"nothing")
        assert victim.name in served.error("/api/draw", {**VIEW, "average": {"length": 0.07}})


def test_a_cell_is_measured_once_and_is_in_the_table_of_sweeps(runs, tmp_path, call):
    shutil.copytree(runs / "main", tmp_path / "run")
    with Served(tmp_path / "run") as served:
        assert json.loads(served.ask("/api/cells")[1]) == {"cells": []}
        for _ in range(2):
            lines = served.lines("/api/measure", {"view": VIEW, "images": 64})
            ((cell,),) = [line["cells"] for line in lines if line["kind"] == "cells"]
        assert (cell["length"], cell["guidance"], cell["metric"], cell["images"]) == (0.1, 1, "fd_pixels", 64)
        drawn = view_to_json(View(settings=FAST)) | {"without": []}
        assert cell["how"] == {name: drawn[name] for name in cell["how"]} and {"sampler", "steps"} <= cell["how"].keys()
        assert len(list((tmp_path / "run" / "sweep").glob("cells-*.jsonl"))) == 1
    options = ("--metric", "fd_pixels", "--reference", "digits", "--images", "64", "--sampler", "euler", "--steps", "2")
    table = tmp_path / "run" / "sweep" / "cells-0.jsonl"
    before = table.read_text()
    call("sweep", tmp_path / "run", "--lengths", "0.1", *options)
    assert table.read_text() == before  # nothing was left to measure


def test_a_guided_cell_says_which_guide_and_when(runs, tmp_path):
    """Of two runs that may guide, the one that did; at the time of its own average."""
    main = tmp_path / "run"
    shutil.copytree(runs / "main", main)
    with Served(main, guide=str(runs / "guide")) as served:
        for guide, t in ((str(runs / "guide"), 192), (str(main), 128)):
            average = {"length": 0.08, "t": t}
            view = {**VIEW, "guide": guide, "guidance": 1.5, "guide_average": average}
            lines = served.lines("/api/measure", {"view": view, "images": 8})
            (cells,) = [line["cells"] for line in lines if line["kind"] == "cells"]
            told = cells[-1]
            assert (told["guide"], told["guide_length"], told["guide_nimg"]) == (guide, 0.08, t)


def test_a_cell_says_what_its_network_did_without(runs, tmp_path):
    run, settings = guiding_itself(runs / "main", tmp_path / "run"), FAST.replace(without=("label",))
    with Session(run, settings=settings) as session:
        for guidance in (1.0, 2.0):
            guided = View(average=Average(length=0.1), settings=settings.replace(guidance=guidance), guide="self")
            measure(session, guided, images=4)
        plain, own = measured(session)
        assert (plain["how"]["without"], own["how"]["without"]) == ([], ["label"])
    with Session(run, settings=FAST) as session:
        taken = {"average": {"length": 0.1, "t": None}, "guide": "self", "guidance": 2.0, **own["how"]}
        view = session.check(view_from_json(taken, FAST))
        assert "--without label" in shell(session, view)
        assert "--without" not in shell(session, view.with_settings(guidance=1.0))


def test_rows_of_a_table_that_are_no_cells_are_left_out(runs, tmp_path):
    shutil.copytree(runs / "main", tmp_path / "run")
    (tmp_path / "run" / "sweep").mkdir()
    good = {
        "key": "a",
        "metric": "fd_pixels",
        "value": 1.5,
        "cell": {"length": 0.1, "guidance": 1.0, "guide_length": None, "pattern": None, "base": None},
        "record": {"images": 64},
        "network": {"name": "x", "nimg": 256},
        "guide": None,
    }
    rows = [
        good,
        {**good, "key": "b", "cell": 7},
        {**good, "key": "c", "metric": "<b>"},
        {**good, "key": "d", "record": 1},
    ]
    rows += [{**good, "key": "e", "cell": {**good["cell"], "length": 1e200}}, {**good, "key": "f", "network": [1]}]
    rows.append({**good, "key": "g", "record": {"images": 8, "reference": {"name": 3}}})
    (tmp_path / "run" / "sweep" / "cells-0.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n{")
    with Served(tmp_path / "run") as served:
        cells = json.loads(served.ask("/api/cells")[1])["cells"]
        assert [(cell["value"], cell["nimg"]) for cell in cells] == [(1.5, 256), (1.5, None), (1.5, 256)]
        assert cells[0]["reference"] == cells[1]["reference"] != cells[2]["reference"] and cells[2]["against"] == ""


def test_what_there_is_to_understand(served):
    profile = json.loads(served.ask("/api/profile", {"average": {"length": 0.08}})[1])
    assert profile["svg"].startswith("<svg") and abs(sum(one["weight"] for one in profile["snapshots"]) - 1) < 1e-4
    assert all(abs(one["weight"]) > 1e-9 for one in profile["snapshots"])  # what rounding leaves is not named
    plots = json.loads(served.ask("/api/history")[1])["plots"]
    assert len(plots) >= 2 and all(plot["svg"].startswith("<svg") for plot in plots)
    frames = [line for line in served.lines("/api/path", {**VIEW, "seeds": [4]}) if line["kind"] == "frame"]
    assert len(frames) == 2 and frames[0]["sigma"] > frames[1]["sigma"]


def test_what_there_is_to_take_away(served, tmp_path):
    taken = json.loads(served.ask("/api/take", VIEW)[1])
    assert "unitgain sample" in taken["shell"] and "sample_images" in taken["python"]
    assert served.ask("/api/grid.png", VIEW)[1].startswith(b"\x89PNG")
    one = pictures(served.lines("/api/draw", {**VIEW, "seeds": [1]}))[1]
    assert base64.b64decode(one.partition(",")[2]) == served.ask("/api/grid.png", {**VIEW, "seeds": [1]})[1]
    assert served.ask("/api/path.gif", VIEW)[1].startswith(b"GIF8")
    with zipfile.ZipFile(io.BytesIO(served.ask("/api/card.zip", VIEW)[1])) as card:
        assert card.namelist() == ["README.md", "images.png"]
        assert (
            "](images.png)" in card.read("README.md").decode() and "unitgain sample" in card.read("README.md").decode()
        )
    (tmp_path / "average.safetensors").write_bytes(served.ask("/api/snapshot", VIEW)[1])
    with Snapshot(tmp_path / "average.safetensors") as average:
        assert (average.t, average.described["sigma_rel"]) == (256, 0.1)
