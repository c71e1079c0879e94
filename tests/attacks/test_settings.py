"""Files of settings that `train --config` is given: each ends in an error of one kind, that is short."""

import os

import pytest
from bounded import outcome

from unitgain.cli.train import Train

ALIASES = [f"&a{i} [{','.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 10)]
MERGES = [f"a{i}: &a{i}\n  <<: [{','.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 12)]
FILES = {
    "aliases of aliases": f"seed: [&a0 [1, 1], {','.join(ALIASES)}]",
    "merges of merges": "a0: &a0\n  k: 1\n" + "".join(MERGES),
    "an alias of what holds it": "recipe: &a\n  network: *a",
    "lists in lists": "[" * 100_000,
    "maps in maps": "{a: " * 20_000,
    "no truth": "seed: !!bool abc",
    "no number": "seed: !!int ''",
    "no time": "seed: !!timestamp abc",
    "no day": "seed: 2026-99-99",
    "an object": "seed: !!python/object/apply:os.system [true]",
    "a long value": "seed: " + "v" * 200_000,
    "a long name": "? " + "k" * 1000 + "\n: 1",
    "a long number": "seed: 0x" + "f" * 100_000,
    "a long file": "# " + "y" * 10_000_000,
    "a recipe in a list": "recipe: [digits]",
    "a recipe by number": "recipe: {name: 5}",
    "no settings of execution": "execution: [1]",
    "escapes": '"\\e[31mX": 1',
}


def read(path):
    return str(Train.read(["--out", str(path.parent / "run"), "--config", str(path)]))


@pytest.mark.parametrize("text", FILES.values(), ids=FILES)
@pytest.mark.parametrize("recipe", ["", "recipe: digits\n"])
def test_hostile_files_of_settings(tmp_path, recipe, text):
    path = tmp_path / "settings.yaml"
    path.write_text(text if text.startswith(("recipe", "[", "{")) else recipe + text)
    kind, message = outcome(read, path)
    assert kind in ("ValueError", "LimitError"), message
    assert len(message) < 1000 and "\x1b" not in message


@pytest.mark.parametrize("path", ["pipe", "/dev/zero"])
def test_settings_are_an_ordinary_file(tmp_path, path):
    os.mkfifo(tmp_path / "pipe")
    kind, message = outcome(read, tmp_path / path)
    assert kind == "OSError" and "is not an ordinary file" in message


@pytest.mark.parametrize(("option", "value"), [("metrics", "payload:Own"), ("inception", "x.pt")])
def test_programs_that_a_file_of_settings_names_are_not_run(tmp_path, option, value):
    path = tmp_path / "settings.yaml"
    path.write_text(f"recipe: digits\nevaluation:\n  {option}: {[value] if option == 'metrics' else value}")
    words = ["--config", str(path), "--out", str(tmp_path / "run")]
    with pytest.raises(ValueError, match=f"settings.yaml asks for .* if you trust it, say so by --{option} {value}"):
        Train.read(words)
    assert Train.read([*words, f"--{option}", value]).settings.evaluation.programs() == {option: value}
