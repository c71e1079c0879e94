"""Words of a command line are read before tyro reads them as it does, and an option that comes twice is refused."""

import pytest

from unitgain.cli.inspect import Inspect
from unitgain.cli.sample import Sample
from unitgain.cli.sweep import SweepCommand
from unitgain.cli.train import Train
from unitgain.cli.words import options, recipe_name, refuse_repeated


def test_options_are_split_as_tyro_splits_them():
    words = ["--label_dim=3", "--P_mean", "-1", "--ema", "0.05", "0.1", "--flip", "--data=", "--out", "a=b_c"]
    assert options(words) == {
        "label-dim": ("3",),
        "P-mean": ("-1",),
        "ema": ("0.05", "0.1"),
        "flip": (),
        "data": ("",),
        "out": ("a=b_c",),
    }


@pytest.mark.parametrize(
    ("words", "name"),
    [
        ("digits --out a", "digits"),
        ("--out a digits", "digits"),
        ("--out=a digits", "digits"),
        ("--out a --resume digits", "digits"),
        ("--out digits", None),
        ("--out=digits", None),
        ("--resume --out a", None),
        ("", None),
    ],
)
def test_the_name_of_a_recipe_is_no_value_of_an_option(words, name):
    found, rest = recipe_name(words.split(), ("digits", "pixels32"), ("resume", "quiet"))
    assert found == name
    assert rest == [word for word in words.split() if word != name or name is None]


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (Train, "--config a.yaml --seed 1 --config b.yaml"),
        (Train, "--out a --resume --out=b"),
        (Train, "--label_dropout 0.1 --label-dropout 0.1"),
        (Train, "--width 16 --model_channels 32"),
        (Train, "--ema 0.05 0.1 --ema 0.2"),
        (Sample, "--sampler euler --sampler heun"),
    ],
)
def test_an_option_that_comes_twice_is_refused(command, words):
    with pytest.raises(ValueError, match=r"is given twice, --.* and --.*: leave one out"):
        refuse_repeated(words.split(), command)


def test_what_adds_up_may_come_again_and_so_may_switches():
    refuse_repeated(["--guide", "a", "--guide", "b", "--measured", "c", "--measured", "d"], Inspect)
    refuse_repeated(["--pattern", "a", "--pattern", "b"], SweepCommand.for_arguments([]))
    refuse_repeated(["--quiet", "--resume", "--quiet"], Train)
