"""Turns are fair, and medians and ratios are what they say."""

import itertools

import pytest

from unitgain.bench import turns
from unitgain.bench.turns import Pace, calls_for, quartiles, ratios, take_turns


def test_turns_go_forth_and_back():
    order = []
    runs = {name: lambda name=name: order.append(name) for name in "abc"}
    seconds = take_turns(runs, Pace(repeats=4), calls={"b": 2})
    assert "".join(order) == "abbc" + "cbba" + "abbc" + "cbba"
    assert {name: len(values) for name, values in seconds.items()} == {"a": 4, "b": 4, "c": 4}


def test_seconds_are_those_of_a_call(monkeypatch):
    clock = itertools.count(0, 6)  # every look at the clock takes 6 seconds
    monkeypatch.setattr(turns.time, "perf_counter", lambda: next(clock))
    assert turns.once(lambda: None, lambda: None, calls=3) == 2.0


def test_time_ends_the_turns_but_not_before_three():
    assert not Pace(seconds=10).over(2, 100)
    assert Pace(seconds=10).over(3, 10)
    assert not Pace(seconds=10).over(50, 9.9)
    assert Pace(repeats=2).over(2, 0)
    for wrong in ({"repeats": 0}, {"seconds": 0.0}, {"seconds": float("inf")}):
        with pytest.raises(ValueError, match="must be"):
            Pace(**wrong)


def test_progress_ends_where_it_said():
    said = []
    take_turns({"a": lambda: None}, Pace(repeats=3), on_progress=lambda *what: said.append(what))
    assert said == [("measuring", 1, 3), ("measuring", 2, 3), ("measuring", 3, 3)]


def test_drift_falls_out_of_ratios():
    slow, fast = [2.0, 4.0, 8.0], [1.0, 2.0, 4.0]  # the machine gets slower and slower
    assert ratios(slow, fast) == [2.0, 2.0, 2.0]
    assert quartiles([3.0]) == (3.0, 3.0)
    assert quartiles([1.0, 2.0, 3.0, 4.0, 5.0]) == (2.0, 4.0)


def test_short_calls_are_timed_together():
    assert calls_for(0.02) == 1
    assert calls_for(0.001) == 10
    assert calls_for(0.0) > 1000
