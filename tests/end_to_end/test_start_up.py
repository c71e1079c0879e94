"""What the command line imports, and when; what `import unitgain` offers."""

import importlib
import os
import pkgutil
import subprocess
import sys

import pytest

import unitgain
from unitgain.cli.commands import COMMANDS, GROUPS
from unitgain.cli.main import main

LIGHT = """
import contextlib, io, sys
from unitgain.cli.main import main
for args in {calls!r}:
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        try:
            main(args)
        except SystemExit:
            pass
    heavy = sorted({{"torch", "matplotlib", "datasets", "diffusers", "transformers"}} & set(sys.modules))
    assert not heavy, (args, heavy)
"""


def test_help_and_mistyped_options_import_no_torch():
    helps = [[], ["--help"], ["--version"], *([group, "--help"] for group in GROUPS)]
    helps += [[*name.split(), word] for name in COMMANDS for word in ("--help", "--no-such-option")]
    helps += [["recipes", "--unmeasured"], ["recipes", "no-such-recipe"]]
    wrong = [["trian", "digits"], ["data", "prepar"], ["train", "digits", "--lr", "much"], ["sample"]]
    done = subprocess.run([sys.executable, "-c", LIGHT.format(calls=helps + wrong)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("args", "text"), [(["trian"], "'train'"), (["data", "prepar"], "'prepare'"), (["dta"], "'data'")]
)
def test_a_mistyped_command_gets_a_suggestion(capsys, args, text):
    with pytest.raises(SystemExit) as stop:
        main(args)
    assert stop.value.code == 2 and f"did you mean {text}" in capsys.readouterr().err


def test_the_overview_says_what_the_commands_say(capsys):
    for name, command in COMMANDS.items():
        assert (command.load().__doc__ or "").splitlines()[0] == command.summary, name
    main(["--help"])
    text = capsys.readouterr().out
    assert all(f"\n  {name.split()[0]} " in text for name in COMMANDS)
    main(["ema", "--help"])
    assert "reconstruct" in capsys.readouterr().out


def test_the_package_offers_what_it_lists():
    found: dict = {}
    exec("from unitgain import *", found)
    assert dir(unitgain) == sorted(unitgain.__all__) == sorted(found.keys() - {"__builtins__"})
    for name in unitgain.__all__:
        assert getattr(unitgain, name) is not None
    assert unitgain.train.train and unitgain.metrics.frechet.frechet_distance and unitgain.checkpoint.nvidia.from_state
    with pytest.raises(AttributeError, match="has no attribute 'lode'"):
        unitgain.lode  # noqa: B018


def test_no_offered_name_is_hidden_by_a_submodule():
    for info in pkgutil.walk_packages(unitgain.__path__, "unitgain."):
        package = importlib.import_module(info.name) if info.ispkg and "kernels" not in info.name else None
        for name in dir(package) if package is not None and "__getattr__" in vars(package) else ():
            assert importlib.util.find_spec(f"{info.name}.{name}") is None, (info.name, name)


SPIN = """
import os
from unitgain.cli.main import bound_spinning
{before}
bound_spinning()
print(os.environ.get("GOMP_SPINCOUNT"), os.environ.get("KMP_BLOCKTIME"))
"""


@pytest.mark.parametrize(
    ("before", "given", "found"),
    [
        ("", {}, "10000 1"),
        ("", {"GOMP_SPINCOUNT": "7"}, "7 1"),
        ("", {"OMP_WAIT_POLICY": "active"}, "None None"),
        ("import torch", {}, "None None"),  # too late: it has been read
    ],
)
def test_threads_that_wait_sleep_soon_unless_the_user_says_otherwise(before, given, found):
    names = ("GOMP_SPINCOUNT", "KMP_BLOCKTIME", "OMP_WAIT_POLICY")
    environment = {name: value for name, value in os.environ.items() if name not in names} | given
    code = SPIN.format(before=before)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
    assert done.stdout.split() == found.split()


def test_everything_offered_at_the_top_is_known_to_type_checkers():
    """What `__getattr__` finds is what `TYPE_CHECKING` imports as itself, which type checkers know to be offered."""
    assert (importlib.resources.files("unitgain") / "py.typed").is_file()
