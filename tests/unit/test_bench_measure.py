"""Turns are fair, and medians and ratios are what they say."""

import itertools

import pytest

from unitgain.bench import measure as measuring
from unitgain.bench.measure import Pace, Work, measure, take_turns


def test_turns_go_forth_and_back():
    order = []
    runs = {name: lambda name=name: order.append(name) for name in "abc"}
    seconds = take_turns(runs, Pace(repeats=4), calls={"b": 2})
    assert "".join(order) == "abbc" + "cbba" + "abbc" + "cbba"
    assert {name: len(values) for name, values in seconds.items()} == {"a": 4, "b": 4, "c": 4}


def test_seconds_are_those_of_a_call(monkeypatch):
    clock = itertools.count(0, 6)  # every look at the clock takes 6 seconds
    monkeypatch.setattr(measuring.time, "perf_counter", lambda: next(clock))
    assert measuring.seconds_of(lambda: None, calls=3) == 2.0


def test_time_ends_the_turns_but_not_before_three():
    assert not Pace(seconds=10).over(2, 100)
    assert Pace(seconds=10).over(3, 10)
    assert not Pace(seconds=10).over(50, 9.9)
    assert Pace(repeats=2).over(2, 0)
    for wrong in ({"repeats": 0}, {"seconds": 0.0}, {"seconds": float("inf")}):
        with pytest.raises(ValueError, match="must be"):
            Pace(**wrong)


def test_ratios_are_per_image_and_to_the_first(monkeypatch):
    seconds = {"one": [1.0, 2.0, 6.0], "many": [5.0, 4.0, 3.0]}
    monkeypatch.setattr("unitgain.bench.measure.take_turns", lambda *_: seconds)
    works = [Work(name="one", run=lambda: None, items=1), Work(name="many", run=lambda: None, items=100)]
    report = measure(works)
    one, many = report.rows
    assert (one.ratio, one.seconds, one.rate) == (1.0, 2.0, 0.5)
    assert (many.ratio, many.seconds, many.rate) == (50.0, 4.0, 25.0)  # of the ratios 0.2, 0.5 and 2, per image
    assert (one.seconds_low, one.seconds_high) == (1.5, 4.0)
    assert report.peaks == {}
    assert one.share is None


def test_drift_of_the_machine_falls_out_of_ratios(monkeypatch):
    seconds = {"slow": [2.0, 4.0, 8.0], "fast": [1.0, 2.0, 4.0]}  # slower and slower
    monkeypatch.setattr("unitgain.bench.measure.take_turns", lambda *_: seconds)
    report = measure([Work(name=name, run=lambda: None, items=1) for name in seconds])
    assert report.row("fast").ratio == 2.0


def test_what_is_over_before_the_clock_moves_is_called_many_times():
    ran = []
    measure([Work(name="quick", run=lambda: ran.append(1), items=1)], pace=Pace(repeats=1))
    assert len(ran) > 100
