"""The commands as a user types them, on the digits; the demo in small."""

import json
import os
import re
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest
from PIL import Image

from unitgain.cli.arguments import parse_seeds
from unitgain.cli.main import main
from unitgain.demo import DemoConfig, run_demo
from unitgain.posthoc import parse_lengths
from unitgain.sweep.table import Table

SMALL = ["--batch", "16", "--duration", "320", "--snapshot-every", "80", "--device", "cpu", "--no-tensorboard"]


def unitgain(*arguments, code=0, cwd=None):
    """Run the command line in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-c", "from unitgain.cli.main import main; main()", *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=cwd,
        timeout=300,
        env={**os.environ, "COLUMNS": "200", "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    return done


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cli") / "run"
    main(["train", "digits", "--out", str(folder), "--quiet", *SMALL])
    return folder


@pytest.fixture(scope="module")
def snapshot(run):
    return run / "snapshots" / "0000000320-0.100.safetensors"


def test_import_is_light():
    code = """
import sys, torch
before = set(sys.modules)
import unitgain
optional = {"sklearn", "matplotlib", "tensorboard", "wandb", "datasets", "diffusers", "transformers", "tyro", "rich"}
print(sorted({name.partition(".")[0] for name in set(sys.modules) - before} & optional))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    "command",
    [
        [],
        ["demo"],
        ["train"],
        ["sample"],
        ["sweep"],
        ["tune"],
        ["inspect"],
        ["ema"],
        ["ema", "list"],
        ["ema", "reconstruct"],
    ],
)
def test_help_answers(call, command):
    text = call(*command, "--help").out
    assert "usage: unitgain" in text
    assert len(text.splitlines()) > 8
    words = " ".join(text.replace("│", "").split())
    if command == ["train"]:  # the docstrings of the library, which say what None is for
        assert "reference learning rate, alpha_ref. (default: 0.02)" in words
        assert "of every random draw of the run. (default: 0)" in words
    elif command not in (["sweep"], ["tune"]):  # likewise
        assert "default: None" not in text  # what holds then is said in words


@pytest.mark.parametrize("command", [["--help"], ["recipes"], ["sample", "--help"], ["data", "prepare", "--help"]])
def test_a_reader_that_goes_is_no_error(command):
    """As `| head` does."""
    program = [sys.executable, "-c", "from unitgain.cli.main import main; main()", *command]
    with subprocess.Popen(program, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        process.stdout.close()
        assert process.stderr.read() == ""


@pytest.mark.parametrize("command", [[], ["ema"], ["nonsense"], ["train", "digits", "--batch", "many"], ["sample"]])
def test_wrong_usage_exits_with_2(call, command):
    assert call(*command, code=2)


def test_unknown_recipe_has_the_nearest_name(call, tmp_path):
    assert "did you mean 'digits'?" in call("train", "digist", "--out", tmp_path / "x", code=2).err
    assert "did you mean 'digits'?" in call("inspect", "digts", code=2).err
    assert not (tmp_path / "x").exists()


def test_sigterm_exits_with_0_and_the_printed_command_resumes_bit_for_bit(run, tmp_path):
    command = [sys.executable, "-c", "from unitgain.cli.main import main; main()"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    out = tmp_path / "a run"
    process = subprocess.Popen(
        [*command, "train", "digits", "--out", out, "--tick", "16", *SMALL],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )
    deadline = time.monotonic() + 120
    while not (out / "stats.jsonl").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    output, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    resume = re.search(r"^  unitgain (train .*)$", output, re.MULTILINE)
    assert "stopped by SIGTERM" in output
    assert resume, output
    assert resume[1] == f"train --out '{out}' --resume"
    unitgain("train", "--out", out, "--resume", "--quiet", "--no-tensorboard", "--device", "cpu")
    unitgain("train", "digits", "--out", tmp_path / "whole", "--tick", "16", "--quiet", *SMALL)
    for path in (tmp_path / "whole" / "snapshots").iterdir():
        assert path.read_bytes() == (out / "snapshots" / path.name).read_bytes(), path.name


def test_resume_with_other_settings_is_refused(run, call):
    text = call("train", "--out", run, "--resume", "--lr", "0.5", "--seed", "3", code=2).err
    assert "recipe.lr: 0.02 -> 0.5" in text
    assert "seed: 0 -> 3" in text
    assert "finished at 320 images" in call("train", "digits", "--out", run, "--resume", "--quiet").out


def test_train_refuses_a_folder_in_use_and_no_recipe(run, call, tmp_path):
    assert "is not empty" in call("train", "digits", "--out", run, code=2).err
    assert "name a recipe" in call("train", code=2).err
    assert "no run to resume" in call("train", "--out", tmp_path, "--resume", code=2).err


def test_sample_draws_pictures_a_grid_and_a_manifest(snapshot, tmp_path, call):
    out = tmp_path / "drawn"
    common = ["--steps", "3", "--device", "cpu"]
    call("sample", snapshot, "--out", out, "--seeds", "0-4,1007", "--grid", *common)
    files = [f"000000/{seed:06d}.png" for seed in range(5)] + ["001000/001007.png"]
    assert sorted(str(path.relative_to(out)) for path in out.glob("*/*.png")) == files
    with Image.open(out / files[0]) as image:
        assert (image.size, image.mode) == ((8, 8), "L")
    with Image.open(out / "grid.png") as image:
        assert image.size[0] > 60
    manifest = json.loads((out / "manifest.json").read_text())
    assert [image["seed"] for image in manifest["images"]] == [0, 1, 2, 3, 4, 1007]
    assert [image["file"] for image in manifest["images"]] == files
    assert manifest["network"]["profile"]["sigma_rel"] == 0.1
    assert manifest["settings"]["steps"] == 3
    again = tmp_path / "again"
    call("sample", snapshot, "--out", again, "--seeds", "3,0", "--batch", "1", *common)
    for seed in (0, 3):
        assert (again / files[seed]).read_bytes() == (out / files[seed]).read_bytes()
    text = call("sample", snapshot, "--out", out, "--steps", "4", code=2).err
    assert "settings.steps: 3 -> 4" in text
    assert (
        "5 images drawn; 5 were there; 11 in" in call("sample", snapshot, "--out", out, "--seeds", "0-9", *common).out
    )
    assert "is not empty" in call("sample", snapshot, "--out", snapshot.parent, code=2).err


def test_sample_guided_by_another_network(run, snapshot, tmp_path, call):
    weaker = run / "snapshots" / "0000000080-0.100.safetensors"
    options = ["--seeds", "0-3", "--steps", "4", "--sigma-max", "10", "--device", "cpu"]
    draws = {
        "plain": [],
        "one": ["--guidance", "1"],
        "weaker": ["--guide", weaker, "--guidance", "2"],
        "euler": ["--sampler", "euler"],
    }
    seen = {}
    for name, more in draws.items():
        call("sample", snapshot, "--out", tmp_path / name, *options, *more)
        seen[name] = b"".join(path.read_bytes() for path in sorted((tmp_path / name).glob("*/*.png")))
    assert seen["plain"] == seen["one"]
    assert len({seen[name] for name in ("plain", "weaker", "euler")}) == 3
    made = json.loads((tmp_path / "weaker" / "manifest.json").read_text())
    assert (made["guide"]["nimg"], made["settings"]["guidance"]) == (80, 2.0)
    assert json.loads((tmp_path / "one" / "manifest.json").read_text())["guide"] is None
    guided = ["--guide", weaker, "--guidance", "2", "--interval"]
    call("sample", snapshot, "--out", tmp_path / "low", *options, *guided, "100", "200", code=2)
    assert not (tmp_path / "low").exists()


def test_sample_takes_the_guide_of_a_preset(run, snapshot, tmp_path, call, monkeypatch):
    pair = (snapshot, run / "snapshots" / "0000000080-0.100.safetensors")
    for module in ("unitgain.hub", "unitgain.draw.networks"):
        monkeypatch.setattr(f"{module}.preset_files", lambda name: pair)
    preset = "edm2-img512-s-guid-fid"
    options = ["--seeds", "0-1", "--steps", "2", "--device", "cpu"]
    call("sample", preset, "--out", tmp_path / "guided", *options)
    made = json.loads((tmp_path / "guided" / "manifest.json").read_text())
    assert (made["network"]["name"], made["guide"]["nimg"], made["settings"]["guidance"]) == (preset, 80, 1.4)
    call("sample", preset, "--guidance", "1", "--out", tmp_path / "plain", *options)
    assert json.loads((tmp_path / "plain" / "manifest.json").read_text())["guide"] is None


def test_sweep_and_tune_share_a_table(run, tmp_path, call):
    common = ["--metric", "fd_pixels", "--reference", "digits", "--images", "64", "--sampler", "euler", "--steps", "2"]
    common += ["--out", tmp_path, "--device", "cpu", "--guide", run, "--guide-nimg", "160", "--guidance", "1:2:1"]
    text = call("sweep", run, "--lengths", "0.1:0.2:0.1", *common).out
    assert "fd_pixels" in text
    (swept,) = tmp_path.glob("sweep-run-*.csv")
    assert all(swept.with_name(swept.stem + end).is_file() for end in ("-curves.svg", "-map.svg"))
    rows = swept.read_text().splitlines()
    assert rows[0].startswith("metric,nimg,length,guidance,guide_length,pattern,value")
    assert len(rows) == 1 + 4
    table = (tmp_path / "cells-0.jsonl").read_text()
    assert call("sweep", run, "--lengths", "0.1:0.2:0.1", *common).out == text
    call("sweep", run, "--lengths", "0.1:0.2:0.1", "--nimg", "80:240:160", *common)
    (swept,) = tmp_path.glob("sweep-run-80-240-*.csv")
    rows = swept.read_text().splitlines()
    assert [row.split(",")[1] for row in rows[1:]] == ["80"] * 4 + ["240"] * 4
    assert swept.with_name(f"{swept.stem}-times.svg").exists()
    table = (tmp_path / "cells-0.jsonl").read_text()
    text = call("tune", run, "--lengths", "0.1:0.2:0.1", "--evaluations", "3", *common).out
    assert "best of 4: fd_pixels" in text  # those of the sweep count
    assert (tmp_path / "cells-0.jsonl").read_text() == table  # the search asked for nothing new
    assert "unknown metric" in call("sweep", run, "--metric", "fda", "--reference", "digits", code=2).err
    assert "no reference at" in call("sweep", run, "--metric", "fid", "--reference", "x.npz", code=2).err
    assert (
        "need a guide"
        in call(
            "sweep",
            run,
            "--metric",
            "fd_pixels",
            "--reference",
            "digits",
            "--guidance",
            "2",
            "--out",
            tmp_path,
            code=2,
        ).err
    )


def test_sample_writes_an_archive(snapshot, tmp_path, call):
    out = tmp_path / "drawn.zip"
    call("sample", snapshot, "--out", out, "--seeds", "0-4", "--steps", "2", "--device", "cpu")
    with zipfile.ZipFile(out) as archive:
        assert {info.compress_type for info in archive.infolist()} == {zipfile.ZIP_STORED}
        labels = json.loads(archive.read("dataset.json"))["labels"]
        made = json.loads(archive.read("manifest.json"))
    assert labels == [[image["file"], image["class"]] for image in made["images"]]
    assert [name for name, _ in labels] == [f"000000/{seed:06d}.png" for seed in range(5)]
    assert [path.name for path in tmp_path.iterdir()] == ["drawn.zip"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--batch", "0"], "batch = 0: must be at least 1"),
        (["--duration", "0"], "duration = 0: must be at least 1"),
        (["--snapshot-every", "0"], "snapshot_every = 0: must be at least 1"),
        (["--lr", "0"], "lr = 0.0: must be positive"),
        (["--lr", "inf"], "lr = inf: must be positive and finite"),
        (["--microbatch", "0"], "microbatch = 0: must divide"),
    ],
)
def test_train_says_what_is_wrong_and_writes_nothing(tmp_path, call, options, words):
    assert words in call("train", "digits", "--out", tmp_path / "x", *options, code=2).err
    assert not (tmp_path / "x").exists()


def test_damaged_settings_fail_with_1(run, tmp_path, call):
    (tmp_path / "config.json").write_text((run / "config.json").read_text()[:100])
    assert "config.json is damaged" in call("inspect", tmp_path, code=1).err


@pytest.mark.parametrize("options", [["--images", "1"], ["--steps", "0"], ["--duration", "0"]])
def test_demo_refuses_nonsense_before_it_trains(tmp_path, call, options):
    call("demo", "--out", tmp_path / "x", *options, code=2)
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--columns", "-1"], "--columns -1: must be at least 1"),
        (["--class", "10"], "label 10 is out of range: the network knows the classes 0 to 9"),
        (["--seeds", "9-3"], "cannot read the seeds '9-3'"),
        (["--seeds", "1,1"], "twice"),
        (["--steps", "0"], "num_steps >= 1"),
        (["--batch", "0"], "batch must be at least 1"),
        (["--guidance", "2"], "need a --guide"),
        (["--guide", "self", "--guidance", "1", "--interval", "0.2", "1"], "--guidance 1 is none"),
        (["--guide", "self"], "without --guidance"),
        (["--guide", "self", "--guidance", "nan"], "guidance = nan"),
        (["--guide", "self", "--guidance", "2", "--interval", "2", "1"], "0 <= lo < hi"),
        (["--guide", "self", "--guidance", "2"], "label dropout 0"),
        (["--guide", "missing", "--guidance", "2"], "missing"),
        (["--sampler", "hein"], "did you mean 'heun'"),
    ],
)
def test_sample_says_what_is_wrong_and_writes_nothing(snapshot, tmp_path, call, options, words):
    said = call("sample", snapshot, "--out", tmp_path / "x", *options, code=2).err
    assert words in " ".join(said.split())  # in as many lines as the terminal needs
    assert not (tmp_path / "x").exists()


def test_warnings_are_messages_and_the_picture_is_in_the_run(run, call):
    printed = call("ema", "plot", run, "0.002")
    assert printed.err.startswith("WARNING: an average of length 0.002 at t = ")
    assert printed.err.count("\n") == 1 and ".py" not in printed.err
    assert printed.out.splitlines()[0] == f"{run / 'profiles.svg'}"
    (run / "profiles.svg").unlink()


def test_ema_lists_and_reconstructs(run, tmp_path, call):
    listed = json.loads(call("ema", "list", run, "--json").out)
    assert [row["nimg"] for row in listed] == [80, 80, 160, 160, 240, 240, 320, 320, 320]
    assert "0000000320-raw.safetensors" in call("ema", "list", run).out
    call("ema", "reconstruct", run, "0.02:0.06:0.02,0.2", "--out", tmp_path / "ema")
    names = [f"0000000320-{length}.safetensors" for length in ("0.020", "0.040", "0.060", "0.200")]
    assert sorted(path.name for path in (tmp_path / "ema").iterdir()) == names
    call("sample", tmp_path / "ema" / names[0], "--seeds", "0", "--steps", "2", "--out", tmp_path / "s")


@pytest.mark.parametrize(
    ("lengths", "words"),
    [
        ("0.3", "sigma_rel = 0.3 is not in (0, 0.2886)"),
        ("0", "sigma_rel = 0.0 is not in"),
        ("0.1:0.05:0.01", "cannot read the lengths '0.1:0.05:0.01'"),
        ("long", "cannot read the lengths 'long'"),
        ("0.1,0.1000000001", "nine decimals"),
    ],
)
def test_unreachable_lengths_are_refused_and_nothing_is_written(run, tmp_path, call, lengths, words):
    assert words in call("ema", "reconstruct", run, lengths, "--out", tmp_path / "x", code=2).err
    assert not (tmp_path / "x").exists()


def test_lengths_and_seeds_as_text():
    assert parse_lengths("0.01:0.25:0.01") == [round(0.01 * i, 2) for i in range(1, 26)]
    assert parse_lengths("0.05, 0.1,0.2:0.24:0.02") == [0.05, 0.1, 0.2, 0.22, 0.24]
    assert parse_seeds("0-2,9") == [0, 1, 2, 9]


def test_inspect_snapshot_run_and_recipe(run, snapshot, call):
    facts = json.loads(call("inspect", snapshot, "--json").out)
    assert facts["kind"] == "snapshot"
    assert facts["nimg"] == 320
    assert facts["checksum"] == "ok"
    facts = json.loads(call("inspect", run, "--json").out)
    assert facts["kind"] == "run"
    assert facts["finished"]
    assert facts["recipe"]["name"] == "digits"
    facts = json.loads(call("inspect", "digits", "--json").out)
    assert facts["kind"] == "recipe"
    assert facts["parameters"] > 100_000
    for what in (snapshot, run, "digits"):
        assert "network.resolution" in call("inspect", what).out
    assert "no snapshot at" in call("inspect", "missing.safetensors", code=2).err


def test_damaged_snapshots_fail_with_1(snapshot, tmp_path, call):
    good = snapshot.read_bytes()
    flipped = bytearray(good)
    flipped[len(good) // 2] ^= 4
    for name, content in (("cut", good[: len(good) // 2]), ("flipped", bytes(flipped))):
        path = tmp_path / f"{name}.safetensors"
        path.write_bytes(content)
        for command in (["inspect", path], ["sample", path, "--out", tmp_path / "x"]):
            assert "damaged" in call(*command, code=1).err
    assert not (tmp_path / "x").exists()


def test_a_read_only_place_fails_with_a_message(snapshot, tmp_path, call):
    (tmp_path / "file").write_text("")
    text = call("sample", snapshot, "--out", tmp_path / "file" / "inside", "--seeds", "0", "--steps", "1", code=1)
    assert "Not a directory" in text.err


def test_demo_in_small(tmp_path):
    config = DemoConfig(duration=5 * 64, lengths=(0.05, 0.1, 0.2), images=20, steps=2)
    said = []
    report = run_demo(config, tmp_path / "demo", quiet=True, say=said.append)
    written = json.loads((tmp_path / "demo" / "report.json").read_text())
    assert written == report
    keys = {"fd_raw", "fd_best", "best_sigma_rel", "class_accuracy", "images_seen", "seconds", "seed"}
    assert keys <= report.keys()
    assert report["images_seen"] == 320
    assert report["fd_best"] == min(row["fd"] for row in report["sweep"])
    assert report["classifier_accuracy"] > 0.95
    html = (tmp_path / "demo" / "report.html").read_text()
    assert html.count("data:image/png;base64,") >= 3 + 1  # averages of each length, and real digits
    assert html.count("<svg") > 3
    assert f"{report['fd_raw']:.3f}" in html and f"{report['class_accuracy']:.1%}" in html
    assert Path(report["network"]).is_file() and len(Table(tmp_path / "demo" / "run" / "sweep").rows()) == 3
    explorer = (tmp_path / "demo" / "explore.html").read_text()
    assert explorer.count("data:image/png;base64,") == 3 * 4 * 3  # lengths, weights of guidance, pages of seeds
    for one in (html, explorer):
        assert not re.search(r'(src|href)="(?!data:|#)', one)  # one file, nothing fetched
    assert run_demo(config, tmp_path / "demo", quiet=True, say=said.append) == report
    assert "run before" in said[-1]
    (tmp_path / "demo" / "report.json").unlink()  # as if stopped while sampling: the training is not done again
    again = run_demo(config, tmp_path / "demo", quiet=True, say=said.append)
    assert [row["fd"] for row in again["sweep"]] == [row["fd"] for row in report["sweep"]]
    other = DemoConfig(seed=1, duration=5 * 64, lengths=(0.05,), images=20, steps=2)
    with pytest.raises(ValueError, match=r"other settings \(seed: 0 -> 1\): add --fresh"):
        run_demo(other, tmp_path / "demo", quiet=True)
    (tmp_path / "demo" / "mine").write_text("")  # a stranger's file in the folder of a demo survives --fresh
    run_demo(other, tmp_path / "demo", fresh=True, quiet=True)
    assert (tmp_path / "demo" / "mine").exists()
    (tmp_path / "else").mkdir()
    (tmp_path / "else" / "report.json").write_text("{}")
    (tmp_path / "else" / "mine").write_text("")
    with pytest.raises(FileExistsError, match="is not empty"):
        run_demo(config, tmp_path / "else", fresh=True)
    assert (tmp_path / "else" / "mine").exists()
