"""The engine of the explorer: the same pixels as `unitgain sample`, made once, given up when nobody waits."""

import json
import shlex
import shutil
import threading
import time

import pytest
import torch
from explorers import FAST, damage, wait_until
from PIL import Image

from unitgain.arch import NetworkSpec
from unitgain.checkpoint.snapshot import Snapshot, SnapshotError, write_snapshot
from unitgain.data.images import from_image
from unitgain.denoiser import Denoiser
from unitgain.draw import Preview
from unitgain.explore import Average, Picture, Reading, Session, View, command_lines, python, shell, sources
from unitgain.explore.jobs import Abandoned, Jobs, Kept
from unitgain.explore.session import network_bytes
from unitgain.infer import prepare
from unitgain.infer.fused import pays_to_filter
from unitgain.posthoc import Target, plan, reconstruct
from unitgain.posthoc.memory import combine
from unitgain.sample import StochasticHeun


@pytest.fixture
def session(runs):
    with Session(runs / "main", guide=runs / "guide", settings=FAST) as session:
        yield session


def view_of(session, length, **changes):
    return View(average=Average(length=length), seeds=(0, 1, 2), settings=session.settings).replace(**changes)


def pixels(pictures):
    return torch.stack([picture.pixels for picture in pictures])


@pytest.mark.parametrize("dtype", ["float16", "float32", None])
def test_averages_in_memory_are_those_of_the_files(runs, tmp_path, dtype):
    targets = [Target(sigma_rel=0.08), Target(sigma_rel=0.06, overrides={"*.enc.*": Target(sigma_rel=0.1)})]
    found = combine(plan(runs / "main", targets), dtype)
    written = reconstruct(runs / "main", targets, tmp_path, dtype=dtype)
    for tensors, result in zip(found, written, strict=True):
        with Snapshot(result.path) as snapshot:
            assert snapshot.names == sorted(tensors)
            assert all(torch.equal(snapshot.tensor(name), one) for name, one in tensors.items())


def test_a_tensor_of_pairs_and_one_without_elements_are_averaged_in_memory_too(tmp_path):
    from unitgain.posthoc import SnapshotStore

    module = torch.nn.Module()
    module.pairs = torch.nn.Parameter(torch.randn(3, 2, dtype=torch.complex64))
    module.nothing = torch.nn.Parameter(torch.zeros(0, 4))
    module.register_buffer("count", torch.tensor([1, 2]))
    store = SnapshotStore(tmp_path / "run", module, every=1)
    for step in range(1, 6):
        with torch.no_grad():
            module.pairs.add_(step)
        store.update(t=step, dt=1)
    (found,) = combine(plan(tmp_path / "run", [0.08]), None)
    (result,) = reconstruct(tmp_path / "run", [0.08], tmp_path / "out", dtype=None)
    with Snapshot(result.path) as snapshot:
        assert all(torch.equal(snapshot.tensor(name), one) for name, one in found.items())


VIEWS = {
    "plain": lambda runs: View(average=Average(length=0.07), settings=FAST),
    "class and churn": lambda runs: View(
        average=Average(length=0.123456, t=224), settings=FAST.replace(sampler=StochasticHeun(S_churn=5), label=(3, 7))
    ),
    "guided": lambda runs: View(
        average=Average(length=0.1),
        guide=str(runs / "guide"),
        guide_average=Average(length=0.08, t=192),
        settings=FAST.replace(guidance=1.7654321, interval=(0.1, 5.0)),
    ),
    "by an earlier average of itself": lambda runs: View(
        average=Average(length=0.1),
        guide=str(runs / "main"),
        guide_average=Average(length=0.1, t=64),
        settings=FAST.replace(guidance=2.0, label=1),
    ),
    "by the very same average": lambda runs: View(
        average=Average(length=0.1),
        guide=str(runs / "main"),
        guide_average=Average(length=0.1),
        settings=FAST.replace(guidance=2.0),
    ),
}


@pytest.mark.parametrize("name", VIEWS)
def test_the_command_and_the_program_of_a_view_draw_its_pixels(runs, session, call, tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    view = VIEWS[name](runs).replace(seeds=(5, 0, 2))
    drawn = session.pictures(view)
    assert shell(session, view).splitlines() == [shlex.join(words) for words in command_lines(session, view)]
    for program, *words in command_lines(session, view):
        assert program == "unitgain"
        call(*words)
    for picture in drawn:
        with Image.open(tmp_path / "drawn" / "000000" / f"{picture.seed:06d}.png") as image:
            assert torch.equal(from_image(image), picture.pixels)
    scope = {}
    exec(python(session, view), scope)
    assert torch.equal(torch.stack([from_image(one) for one in scope["pictures"]]), pixels(drawn))


def test_another_length_is_another_picture_and_the_same_one_comes_back_without_drawing(session, monkeypatch):
    first = session.pictures(view_of(session, 0.05))
    other = session.pictures(view_of(session, 0.2))
    assert not torch.equal(pixels(first), pixels(other))
    monkeypatch.setattr("unitgain.explore.session.draw_images", None)  # nothing can be drawn from here on
    assert torch.equal(pixels(session.pictures(view_of(session, 0.05))), pixels(first))
    assert [one.seed for one in session.pictures(view_of(session, 0.05, seeds=(2, 0)))] == [2, 0]


def test_a_seed_more_is_all_that_is_drawn(session):
    session.pictures(view_of(session, 0.05))
    events = list(session.draw(view_of(session, 0.05, seeds=(0, 1, 2, 9))))
    previews = [event for event in events if isinstance(event, Preview)]
    assert not any(isinstance(event, Reading) for event in events)
    assert {tuple(preview.step.seeds) for preview in previews} == {(9,)}


def test_what_happens_is_told_in_order(session):
    events = [event for event in session.draw(view_of(session, 0.06)) if event is not None]
    kinds = list(dict.fromkeys(type(event) for event in events))
    assert kinds[-1] is Picture and set(kinds) <= {Reading, Preview, Picture}
    assert [event.seed for event in events if isinstance(event, Picture)] == [0, 1, 2]


def test_a_view_that_is_left_is_given_up(session):
    slow = view_of(session, 0.05).with_settings(steps=1000)
    events = session.draw(slow)
    next(event for event in events if isinstance(event, Preview))
    assert session.active == 1
    events.close()
    assert wait_until(lambda: not session.active)
    assert [one.seed for one in session.pictures(view_of(session, 0.05))] == [0, 1, 2]  # and the next one is drawn


def test_what_two_ask_for_is_drawn_once_and_goes_on_when_one_leaves(session, monkeypatch):
    from unitgain.explore import session as engine

    calls = []
    draw_images = engine.draw_images
    monkeypatch.setattr(engine, "draw_images", lambda *args, **more: calls.append(1) or draw_images(*args, **more))
    view = view_of(session, 0.09).with_settings(steps=60)
    one, other = session.draw(view), session.draw(view)
    next(event for event in one if isinstance(event, Preview))
    next(event for event in other if isinstance(event, Preview))
    one.close()
    assert [event.seed for event in other if isinstance(event, Picture)] == [0, 1, 2]
    assert calls == [1]


def test_many_threads_get_the_pixels_of_one(runs, session):
    views = [view_of(session, length) for length in (0.05, 0.08, 0.12)]
    with Session(runs / "main", settings=FAST) as alone:
        expected = [pixels(alone.pictures(view)) for view in views]
    wrong = []

    def ask(index):
        for k in range(3):
            which = (index + k) % len(views)
            if not torch.equal(pixels(session.pictures(views[which])), expected[which]):
                wrong.append(which)

    threads = [threading.Thread(target=ask, args=(index,)) for index in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong and not session.active


def test_networks_are_kept_within_the_budget(runs):
    with Session(runs / "main", settings=FAST) as session:
        session.pictures(view_of(session, 0.05))
        each = session.network_bytes
    with Session(runs / "main", settings=FAST, memory=2 * each) as session:
        for length in (0.05, 0.06, 0.07, 0.08):
            session.pictures(view_of(session, length))
            assert session.network_bytes <= 2 * each
        again = [event for event in session.draw(view_of(session, 0.07, seeds=(50,))) if isinstance(event, Reading)]
        assert not again
        gone = [event for event in session.draw(view_of(session, 0.05, seeds=(50,))) if isinstance(event, Reading)]
        assert gone


@pytest.mark.skipif(not pays_to_filter(torch.float32), reason="there is no compiler")
def test_what_passes_in_c_hold_counts_as_the_network():
    spec = NetworkSpec(
        resolution=8, channels=1, model_channels=32, channel_mult=(1,), num_blocks=1, channels_per_head=32
    )
    denoiser = Denoiser(spec)
    plain, filtered = (prepare(denoiser, torch.float32, winograd=winograd) for winograd in (False, True))
    squares = sum(weight.numel() for weight in denoiser.parameters() if weight.shape[2:] == (3, 3) and len(weight) > 1)
    assert network_bytes(filtered) > network_bytes(plain) + 2 * squares  # 16 or 36 numbers of float32 for 9


def test_a_repository_is_asked_once(runs, monkeypatch):
    (path, *_) = sorted((runs / "main" / "snapshots").glob("*-0.100.safetensors"))
    asked = []
    monkeypatch.setattr(sources, "locate", lambda name: asked.append(name) or path)
    with Session("someone/network", settings=FAST) as session:
        for seed in (1, 2):
            assert len(session.pictures(View(seeds=(seed,), settings=FAST))) == 1
    assert asked == ["someone/network"]


def test_a_snapshot_is_drawn_as_it_is(runs):
    (path, *_) = sorted((runs / "main" / "snapshots").glob("*-0.100.safetensors"))
    with Session(path, settings=FAST) as session:
        assert session.fit(Average()) is None
        assert len(session.pictures(View(seeds=(1,), settings=FAST))) == 1
        with pytest.raises(ValueError, match="name the folder of a run"):
            session.check(View(average=Average(length=0.1)))


def test_the_fit_is_known_from_headers(session):
    assert session.fit(Average(length=0.1)) < 1e-6  # stored
    with pytest.raises(ValueError, match="out of reach"):
        session.fit(Average(length=0.001))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"average": Average(length=0.001)}, "out of reach"),
        ({"average": Average(t=1e9)}, "cannot end at"),
        ({"settings": FAST.replace(label=11)}, "out of range"),
        ({"settings": FAST.replace(label="<b>")}, "there is no class"),
        ({"settings": FAST.replace(guidance=2.0)}, "needs a guide"),
        ({"settings": FAST.replace(guidance=2.0), "guide": "../../etc/passwd"}, "is none of"),
    ],
)
def test_a_view_that_cannot_be_is_refused(session, changes, words):
    with pytest.raises(ValueError, match=words):
        session.pictures(View(settings=FAST).replace(**changes))
    assert not session.active


def test_numbers_that_are_no_view_are_refused():
    for wrong in (
        lambda: Average(length=0.0),
        lambda: Average(length=float("nan")),
        lambda: Average(t=float("inf")),
        lambda: View(seeds=()),
        lambda: View(seeds=(1, 1)),
        lambda: View(seeds=(-1,)),
        lambda: View(seeds=tuple(range(1000))),
        lambda: View(settings=FAST.replace(steps=10**9)),
    ):
        with pytest.raises(ValueError):
            wrong()


def test_a_run_that_goes_or_is_damaged_is_an_error_and_what_was_drawn_before_stays_so(runs, tmp_path):
    shutil.copytree(runs / "main", tmp_path / "run")
    with Session(tmp_path / "run", settings=FAST) as session:
        session.pictures(view_of(session, 0.05))
        victim, whole = damage(tmp_path / "run" / "snapshots", "*-0.100.safetensors")
        with pytest.raises(SnapshotError, match="damaged"):
            session.pictures(view_of(session, 0.06, seeds=(7,)))
        victim.write_bytes(whole)
        assert len(session.pictures(view_of(session, 0.06, seeds=(7,)))) == 1
        shutil.rmtree(tmp_path / "run")
        with pytest.raises(FileNotFoundError):
            session.pictures(view_of(session, 0.07))
        assert not session.active


def test_a_new_snapshot_is_seen(runs, tmp_path):
    shutil.copytree(runs / "main", tmp_path / "run")
    late = sorted((tmp_path / "run" / "snapshots").glob("0000000256-*"))
    kept = {path: path.read_bytes() for path in late}
    for path in late:
        path.unlink()
    with Session(tmp_path / "run", settings=FAST) as session:
        before = session.check(View(settings=FAST))
        for path, data in kept.items():
            path.write_bytes(data)
        after = session.check(View(settings=FAST))
        assert (before.average.t, after.average.t) == (224, 256)
        assert not torch.equal(pixels(session.pictures(before)), pixels(session.pictures(after)))


def test_a_preset_brings_its_guide_and_weight(runs, monkeypatch):
    from unitgain.presets import PRESETS

    name = next(name for name, preset in PRESETS.items() if preset.guide is not None)
    (network, *_) = sorted((runs / "main" / "snapshots").glob("*.safetensors"))
    (guide, *_) = sorted((runs / "guide" / "snapshots").glob("*.safetensors"))
    for module in ("unitgain.hub", "unitgain.explore.session"):
        monkeypatch.setattr(f"{module}.preset_files", lambda _: (network, guide))
    with Session(name, settings=FAST) as session:
        view = session.start()
        assert (view.guide, view.settings.guidance) == (str(guide), PRESETS[name].guidance)
        assert len(session.pictures(view)) == len(view.seeds)
        of_class = session.start(View(settings=FAST.replace(label=3)))
        assert of_class == view.with_settings(label=3)


def test_work_that_fails_tells_all_who_wait_and_can_be_tried_again():
    jobs, tries = Jobs("test"), []

    def work(report):
        tries.append(1)
        if len(tries) == 1:
            raise OSError("once")
        return 7

    def result(generator):
        while True:
            try:
                next(generator)
            except StopIteration as end:
                return end.value

    with pytest.raises(OSError, match="once"):
        result(jobs.follow("key", work))
    assert result(jobs.follow("key", work)) == 7
    jobs.close()
    with pytest.raises(RuntimeError, match="closed"):
        result(jobs.follow("key", work))


def test_closing_ends_what_is_under_way():
    jobs, began, ended = Jobs("test"), threading.Event(), []

    def work(report):
        began.set()
        try:
            while True:
                report(1)
                time.sleep(0.001)
        except Abandoned:
            ended.append(1)
            raise

    follower = jobs.follow("key", work)
    next(follower)
    assert began.wait(10)
    jobs.close()
    assert ended == [1] and not jobs.active


def test_the_newest_result_stays_however_large():
    kept = Kept(10, len)
    kept.put(1, "a" * 6)
    kept.put(2, "b" * 4)
    assert kept.get(1) and kept.get(2) and kept.nbytes == 10
    kept.get(1)
    kept.put(3, "c")
    assert kept.get(2) is None and kept.get(1)
    kept.put(4, "d" * 99)
    assert len(kept) == 1 and kept.get(4)


def test_the_command_of_a_class_draws_it_where_classes_are_called_by_the_numbers_of_others(runs, tmp_path, call):
    with Snapshot(next((runs / "main" / "snapshots").glob("*-0.100.safetensors"))) as snapshot:
        header = snapshot.header.replace(classes=tuple(map(str, range(1, 11))))
        tensors = {name: snapshot.tensor(name) for name in snapshot.names}
    write_snapshot(path := tmp_path / "called.safetensors", header, tensors)
    with Session(path, settings=FAST.replace(label=2)) as session:
        (words,) = command_lines(session, View(seeds=(0,), settings=session.settings), str(tmp_path / "out"))
    call(*words[1:])
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert [entry["class"] for entry in manifest["images"]] == [2]


def test_lengths_that_agree_in_three_decimals_are_files_of_their_own(runs, session, call, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    views = [view_of(session, length) for length in (0.12, 0.1204)]
    for view in views:
        call(*command_lines(session, view)[0][1:])
    paths = [session.source.path(view.average) for view in map(session.check, views)]
    assert [Snapshot(path).described["sigma_rel"] for path in paths] == [0.12, 0.1204]
