"""The commands of docs/health.md, evaluation on the way, and docs/fine-tuning.md, on data with other classes."""

import numpy as np
from PIL import Image

from unitgain.checkpoint.snapshot import Snapshot
from unitgain.cli.main import main
from unitgain.data.digits import digits
from unitgain.train import TrainConfig, train
from unitgain.train.rows import read_stats
from unitgain.train.run import load_config

SMALL = ["--batch", "16", "--duration", "32", "--snapshot-every", "32", "--device", "cpu"]


def test_evaluate_on_the_way_then_fine_tune_on_two_classes(tmp_path, call_train, capsys):
    reference, run, tuned = tmp_path / "digits.npz", tmp_path / "run", tmp_path / "tuned"
    main(["metrics", "reference", "digits", "--detectors", "pixels", "--out", str(reference), "--device", "cpu"])
    said = call_train("digits", "--out", run, *SMALL, "--metrics", "fd_pixels", code=2).err
    assert "--metrics-reference in training) says what to measure against" in said
    measured = ["--metrics", "fd_pixels", "--metrics-reference", reference, "--metrics-images", "20"]
    drawn = ["--samples", "20", "--evaluate-steps", "3", "--evaluate-ema", "0.1"]
    call_train("digits", "--out", run, *SMALL, *measured, *drawn)
    evaluation = load_config(run).evaluation
    assert (evaluation.intervals(32), evaluation.ema) == ((32, 32), 0.1)
    assert [row["nimg"] for row in read_stats(run) if "metrics" in row] == [32]
    with Image.open(run / "samples" / "0000000032.png") as image:
        assert image.width < image.height  # ten rows of two

    data = digits()
    for number in np.flatnonzero(np.isin(data.labels, (3, 7)))[:24]:
        path = tmp_path / "files" / data.classes[data.labels[number]] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(data.images[number, 0].numpy()).save(path)
    main(["data", "prepare", str(tmp_path / "files"), str(tmp_path / "data"), "--resolution", "8", "--channels", "1"])
    capsys.readouterr()
    snapshot = run / "snapshots" / "0000000032-0.100.safetensors"
    given = ["--init", snapshot, "--data", tmp_path / "data", "--out", tuned]
    call_train(*given, *SMALL, "--samples", "4", "--evaluate-steps", "3")
    assert sorted(path.name for path in (tuned / "samples").iterdir()) == ["0000000000.png", "0000000032.png"]
    (said,) = [row["init"] for row in read_stats(tuned) if "init" in row]
    assert "2 of 2 classes have names of the snapshot (3, 7)" in said["changes"]["network.embedding.label.weight"]
    assert "another one than the snapshot's" in said["changes"]["encoder"]
    with Snapshot(tuned / "snapshots" / "0000000032-raw.safetensors") as written:
        assert (written.header.recipe, written.header.network.label_dim, written.header.classes) == (
            "digits",
            2,
            ("3", "7"),
        )
    call_train(*given, "--device", "cpu", "--resume", "--duration", "48")
    assert load_config(tuned).recipe.duration == 48
    other = run / "snapshots" / "0000000032-0.050.safetensors"
    said = call_train("--init", other, "--out", tuned, "--resume", "--device", "cpu", code=2).err
    assert "init.sha256" in said
    said = call_train("--init", other, code=2).err
    assert "needs --out" in said


def test_a_network_that_dropped_labels_is_tuned_on_data_without_classes(tmp_path, tiny_recipe, tiny_data, call_train):
    own = tiny_recipe.replace(name="planned", label_dropout=0.1, batch=8, duration=8, snapshot_every=8)
    train(TrainConfig(recipe=own, data="tiny"), tmp_path / "run", tiny_data, quiet=True, tensorboard=False)
    (tmp_path / "files").mkdir()
    for number, image in enumerate(digits().images[:8, 0].numpy()):
        Image.fromarray(image).save(tmp_path / "files" / f"{number}.png")
    main(["data", "prepare", str(tmp_path / "files"), str(tmp_path / "data"), "--resolution", "8", "--channels", "1"])
    given = ["--init", tmp_path / "run" / "snapshots" / "0000000008-0.100.safetensors", "--data", tmp_path / "data"]
    more = ["--device", "cpu", "--duration", "8"]
    for name, options in (("a", []), ("b", ["--label-dropout", "0", "--classes", "none"])):
        call_train(*given, *more, "--out", tmp_path / name, *options)
        recipe = load_config(tmp_path / name).recipe
        assert (recipe.name, recipe.network.label_dim, recipe.label_dropout) == ("planned", 0, 0.0)
    (said,) = [row["init"] for row in read_stats(tmp_path / "a") if "init" in row]
    assert said["changes"]["network.embedding.label.weight"].startswith("left out")
