"""Fine-tuning: what a run takes from a snapshot, what is new, and that averages and resume stay what they say."""

import json
import os
import shutil
import signal
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

import unitgain
from unitgain.arch import NetworkSpec
from unitgain.checkpoint.snapshot import Snapshot, SnapshotError, SnapshotHeader, write_snapshot
from unitgain.checkpoint.uncertainty import read_uncertainty, write_uncertainty
from unitgain.data.captions import captioned_grid
from unitgain.data.dataset import ArrayDataset
from unitgain.data.encoder import LatentEncoder, PixelEncoder
from unitgain.denoiser import Denoiser, Uncertainty
from unitgain.draw import DrawSettings, Network
from unitgain.evaluate.generated import Generated
from unitgain.infer import prepare
from unitgain.ops import normalize
from unitgain.parallel import World
from unitgain.posthoc import reconstruct
from unitgain.recipes import DIGITS, RECIPES
from unitgain.serial import to_dict
from unitgain.train import Evaluation, Init, TrainConfig, TrainState, fit, train, train_step
from unitgain.train.batches import Batches
from unitgain.train.finetune import (
    LABEL,
    Inheritance,
    at_level,
    check_fit,
    open_inheritance,
    open_init,
    recipe_of,
)
from unitgain.train.rows import read_stats
from unitgain.train.run import save_config


def write(path, spec, classes=("a", "b", "c"), **changes):
    """A snapshot of random weights; those of an average, shorter than the weights themselves."""
    torch.manual_seed(7)
    denoiser = Denoiser(spec)
    torch.nn.init.constant_(denoiser.network.out_gain, 0.5)
    tensors = {name: 0.9 * tensor if tensor.ndim > 1 else tensor for name, tensor in denoiser.state_dict().items()}
    values = {"sigma_data": 0.5, "nimg": 640, "profile": {"kind": "raw"}, "recipe": "tiny"}
    values |= {"encoder": to_dict(PixelEncoder()), "classes": classes, "license": "CC BY 4.0"}
    write_snapshot(path, SnapshotHeader(network=spec, **{**values, **changes}), tensors, "float32")
    return str(path)


def config(recipe, name, **changes):
    values = {"recipe": recipe, "data": "tiny", "tick": 16, "checkpoint_every": 16, "snapshot_dtype": "float32"}
    return TrainConfig(**{**values, "init": open_init(name)[0], **changes})


def data(classes, edge=8, channels=1):
    generator = torch.Generator().manual_seed(2)
    images = torch.randint(0, 256, (21, channels, edge, edge), generator=generator, dtype=torch.uint8)
    labels = torch.randint(0, len(classes), (21,), generator=generator) if classes else None
    return ArrayDataset(name="other", images=images, labels=labels, classes=classes or None)


def inherited(config, dataset, tmp_path):
    """A new network that has taken over what fits, and what was said of it."""
    inheritance = open_inheritance(config, dataset, tmp_path / "run", False, World())
    torch.manual_seed(5)
    denoiser = Denoiser(config.recipe.network)
    fresh = {name: tensor.clone() for name, tensor in denoiser.state_dict().items()}
    inheritance.into(denoiser)
    return denoiser.state_dict(), fresh, inheritance


def run(config, folder, data, **options):
    return train(config, folder, data, quiet=True, tensorboard=False, **options)


def files(folder):
    return {path.name: path.read_bytes() for path in (folder / "snapshots").iterdir()}


@pytest.fixture
def snapshot(tmp_path, tiny_spec):
    return write(tmp_path / "start.safetensors", tiny_spec)


def test_everything_that_fits_is_taken_over(tmp_path, tiny_recipe, snapshot):
    found, _, said = inherited(config(tiny_recipe, snapshot), data(("a", "b", "c")), tmp_path)
    for name, tensor in unitgain.load(snapshot).state_dict().items():
        assert torch.equal(found[name], tensor), name
    assert said.kept == list(found)
    assert list(said.changes) == ["u(sigma)", "averages"]
    assert said.report()[0].startswith(f"starting from {snapshot} (tiny, 640 images): {len(found)} tensors")


def test_classes_of_the_same_name_keep_their_vector(tmp_path, tiny_recipe, tiny_spec, snapshot):
    recipe = tiny_recipe.replace(network=tiny_spec.replace(label_dim=4))
    found, fresh, said = inherited(config(recipe, snapshot), data(("c", "x", "a", "y")), tmp_path)
    columns = normalize(unitgain.load(snapshot).state_dict()[LABEL])
    for number, expected in enumerate((columns[:, 2], fresh[LABEL][:, 1], columns[:, 0], fresh[LABEL][:, 3])):
        assert torch.equal(found[LABEL][:, number], expected)
    assert "2 of 4 classes have names of the snapshot (c, a)" in said.changes[LABEL]
    # The same classes in another order: the same vectors exactly, in the network's own terms.
    found, _, _ = inherited(config(tiny_recipe, snapshot), data(("c", "a", "b")), tmp_path)
    torch.testing.assert_close(normalize(found[LABEL]), columns[:, [2, 0, 1]], rtol=1e-3, atol=1e-3)


def test_without_names_classes_are_kept_by_their_number_or_new(tmp_path, tiny_recipe, tiny_spec):
    nameless = write(tmp_path / "nameless.safetensors", tiny_spec, classes=None)
    found, _, said = inherited(config(tiny_recipe, nameless), data(("x", "y", "z")), tmp_path)
    assert torch.equal(found[LABEL], unitgain.load(nameless).state_dict()[LABEL])
    assert "3 by their number" in said.changes["classes"]
    recipe = tiny_recipe.replace(network=tiny_spec.replace(label_dim=2))
    found, fresh, said = inherited(config(recipe, nameless), data(("x", "y")), tmp_path)
    assert torch.equal(found[LABEL], fresh[LABEL])
    assert "2 classes, 3 in the snapshot, and not all names are known" in said.changes[LABEL]
    plain = tiny_recipe.replace(network=tiny_spec.replace(label_dim=0))
    found, _, said = inherited(config(plain, nameless), data(()), tmp_path)
    assert LABEL not in found and said.changes[LABEL] == "left out, 16x3"
    unconditional = write(tmp_path / "plain.safetensors", tiny_spec.replace(label_dim=0), classes=None)
    found, fresh, said = inherited(config(tiny_recipe, unconditional), data(("a", "b", "c")), tmp_path)
    assert torch.equal(found[LABEL], fresh[LABEL]) and said.changes[LABEL] == "new, 16x3: not in the snapshot"


def test_other_resolution_and_channels(tmp_path, tiny_recipe, tiny_spec, snapshot):
    dataset = data(("a", "b", "c"), edge=16, channels=3)
    spec = fit(open_init(snapshot)[1].network, dataset)
    assert (spec.resolution, spec.channels, spec.label_dim, spec.attn_resolutions) == (16, 3, 3, (8,))
    assert at_level("network.enc.8x8_down.attention.qkv.weight", spec, tiny_spec).startswith("network.enc.4x4_down.")
    found, fresh, said = inherited(config(tiny_recipe.replace(network=spec), snapshot), dataset, tmp_path)
    expected = unitgain.load(snapshot).state_dict()
    changed = ["network.enc.16x16_conv.weight", "network.out_conv.weight"]
    assert list(said.changes) == [*changed, "u(sigma)", "averages"]
    assert said.changes[changed[0]] == "new, 8x4x3x3: 8x2x3x3 in the snapshot"
    for name, tensor in found.items():
        source = fresh[name] if name in changed else expected[at_level(name, spec, tiny_spec)]
        assert torch.equal(tensor, source), name
    padded = fit(open_init(snapshot)[1].network, data((), edge=9))
    assert (padded.resolution, padded.resolutions, padded.attn_resolutions) == (9, (10, 5), (5,))


def test_networks_and_data_that_do_not_fit_are_refused(tmp_path, tiny_recipe, tiny_spec, snapshot):
    header, dataset = open_init(snapshot)[1], data(("a", "b", "c"))
    wide = config(tiny_recipe.replace(network=tiny_spec.replace(model_channels=16)), snapshot)
    with pytest.raises(ValueError, match=r"model_channels: 8 -> 16\. Leave the recipe out"):
        run(wide, tmp_path / "run", dataset)
    deeper = tiny_recipe.replace(network=tiny_spec.replace(branch="s c m s c s c", num_blocks=2))
    with pytest.raises(ValueError, match=r"num_blocks: 1 -> 2; branch: 's c m s c' -> "):
        run(config(deeper, snapshot), tmp_path / "run", dataset)
    with pytest.raises(ValueError, match=r"sigma_data 0.5, the run would have 0.7: give --sigma-data 0.5"):
        run(config(tiny_recipe.replace(sigma_data=0.7), snapshot), tmp_path / "run", dataset)
    latents = header.replace(encoder=to_dict(LatentEncoder(vae="v", mean=(0.0,), std=(1.0,))))
    with pytest.raises(ValueError, match=r"sees latents, the data are pixels: encode them first"):
        check_fit(latents, config(tiny_recipe, snapshot), dataset)
    shifted = header.replace(encoder=to_dict(PixelEncoder(mean=100.0)))
    assert "mean: 100.0 -> 127.5" in check_fit(shifted, config(tiny_recipe, snapshot), dataset)["encoder"]
    (tmp_path / "edm2.pkl").write_bytes(b"\x80\x04}.")
    with pytest.raises(SnapshotError, match=r"convert it first: unitgain convert .*edm2\.pkl"):
        open_init(str(tmp_path / "edm2.pkl"))
    with pytest.raises(FileNotFoundError):
        open_init("edm2.pkl")
    write(tmp_path / "start.safetensors", tiny_spec, nimg=1)
    other = config(tiny_recipe, snapshot)
    write(tmp_path / "start.safetensors", tiny_spec)
    with pytest.raises(ValueError, match="is another snapshot than the one that the run is to start from"):
        run(other, tmp_path / "run", dataset)
    assert not (tmp_path / "run").exists()


def test_averages_begin_at_the_snapshot_and_know_the_run_alone(tmp_path, tiny_recipe, snapshot):
    settings, dataset = config(tiny_recipe, snapshot), data(("a", "b", "c"))
    inheritance = open_inheritance(settings, dataset, tmp_path / "run", False, World())
    state = TrainState.start(tiny_recipe, adapt=inheritance.into)
    expected = unitgain.load(snapshot).state_dict()
    for ema in state.emas:
        assert all(torch.equal(tensor, expected[name]) for name, tensor in ema.average.items())
    batches = Batches(settings, dataset, World())
    history = []
    for step in range(4):
        train_step(state, tiny_recipe, batches.at(state.nimg))
        history.append({name: p.detach().clone() for name, p in state.denoiser.named_parameters()})
        if step == 0:  # its learning rate is 0: what it averages is the snapshot, projected, and draws the same
            trained = state.denoiser.eval()(torch.ones(2, 1, 8, 8), 1.0, torch.tensor([0, 1]))
            given = unitgain.load(snapshot)(torch.ones(2, 1, 8, 8), 1.0, torch.tensor([0, 1]))
            torch.testing.assert_close(trained, given, rtol=1e-3, atol=1e-3)
            state.denoiser.train()
    batches.loader.close()
    # Eq. 119: the weights between two steps count by the integral of tau^gamma; nothing is left for the snapshot.
    for ema in state.emas:
        times = (torch.arange(5, dtype=torch.float64) / 4) ** (ema.gamma + 1)
        assert times[-1] - times[0] == 1
        for name, average in ema.average.items():
            exact = sum(w[name].double() * (times[i + 1] - times[i]) for i, w in enumerate(history))
            torch.testing.assert_close(average.double(), exact, rtol=1e-5, atol=1e-6)


@pytest.fixture
def tuned(tmp_path, tiny_recipe, tiny_spec, snapshot):
    """Settings of a run with four classes, one of them known, and a grid at the start."""
    recipe = tiny_recipe.replace(duration=48, network=tiny_spec.replace(label_dim=4))
    evaluation = Evaluation(samples_every=48, samples=4, steps=3)
    return config(recipe, snapshot, evaluation=evaluation), data(("a", "x", "y", "z"))


def test_a_run_says_what_it_took_and_resumes_without_the_snapshot(tmp_path, tuned, snapshot):
    settings, dataset = tuned
    run(settings, tmp_path / "whole", dataset)
    (said,) = [row["init"] for row in read_stats(tmp_path / "whole") if "init" in row]
    assert said["snapshot"] == snapshot and "1 of 4 classes" in said["changes"][LABEL]
    saved = json.loads((tmp_path / "whole" / "config.json").read_text())["init"]
    assert saved == {"name": snapshot, "sha256": settings.init.sha256, "license": "CC BY 4.0"}
    with Snapshot(tmp_path / "whole" / "snapshots" / "0000000048-0.050.safetensors") as written:
        assert (written.header.nimg, written.header.license) == (48, "CC BY 4.0")
        assert written.header.classes == ("a", "x", "y", "z")
    stopped = replace(dataset)
    object.__setattr__(stopped, "rows", Stopping(dataset))
    assert run(settings, tmp_path / "parts", stopped).nimg < 48
    os.remove(snapshot)
    assert run(settings, tmp_path / "parts", dataset, resume=True).finished
    assert files(tmp_path / "parts") == files(tmp_path / "whole")
    plain = TrainConfig(**{**vars(settings), "init": None})
    with pytest.raises(ValueError, match=r"made with other settings: init"):
        run(plain, tmp_path / "parts", dataset, resume=True)
    with pytest.raises(FileNotFoundError, match="no snapshot at"):
        run(settings, tmp_path / "new", dataset)
    # After training a length in between is reconstructed as of any run; at a tracked one it is the tracked average.
    reconstruct(tmp_path / "whole", [0.05], tmp_path / "ema", dtype="float32")
    name = "0000000048-0.050.safetensors"
    tracked, found = (
        unitgain.load(folder / name).state_dict() for folder in (tmp_path / "whole/snapshots", tmp_path / "ema")
    )
    for key, tensor in tracked.items():
        torch.testing.assert_close(found[key], tensor, rtol=1e-5, atol=1e-6)


class Stopping:
    """Rows of a data set, with a signal when they are asked for the third time."""

    def __init__(self, dataset):
        self.dataset, self.turn = dataset, 0

    def __call__(self, indices, out=None):
        self.turn += 1
        if self.turn == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        return self.dataset.rows(indices, out)


def test_the_grid_at_the_start_is_what_the_snapshot_draws(tmp_path, tiny_recipe, snapshot):
    evaluation = Evaluation(samples_every=8, samples=3, steps=3)
    recipe = tiny_recipe.replace(duration=8, snapshot_every=8)
    run(config(recipe, snapshot, evaluation=evaluation), tmp_path / "run", data(("a", "b", "c")))
    network = Network(name="start", denoiser=prepare(unitgain.load(snapshot), torch.float32), record={})
    parts = []
    for label in range(3):
        parts += list(Generated(network, None, DrawSettings(steps=3, label=label), [label]).batches([0]))
    with Image.open(tmp_path / "run" / "samples" / "0000000000.png") as image:
        assert np.array_equal(np.asarray(image), np.asarray(captioned_grid(torch.cat(parts), ["a", "b", "c"], 1)))


def test_a_snapshot_in_a_folder_is_found_and_may_move(tmp_path, tiny_recipe, snapshot):
    (tmp_path / "repository").mkdir()
    shutil.copy(snapshot, tmp_path / "repository" / "model.safetensors")
    here, there = config(tiny_recipe, snapshot), config(tiny_recipe, str(tmp_path / "repository"))
    assert here.init.sha256 == there.init.sha256 and not here.changes(there)
    assert here.changes(TrainConfig(**{**vars(here), "init": None}))


def test_official_designs_are_matched_too(tmp_path):
    for design in ("adm", "streamlined", "normalized", "plain"):
        spec = NetworkSpec(
            resolution=8,
            channels=1,
            label_dim=2,
            model_channels=32,
            channel_mult=(1, 1),
            num_blocks=1,
            attn_resolutions=(),
            channels_per_head=32,
            design=design,
        )
        larger = spec.replace(resolution=16)
        with torch.device("meta"):
            names, others = (set(Denoiser(s).state_dict()) for s in (spec, larger))
        assert {at_level(name, larger, spec) for name in others} == names


def test_the_snapshot_of_a_recipe_of_ones_own_is_trained_on_by_it(tmp_path, tiny_spec):
    own = DIGITS.replace(name="mine", network=tiny_spec, lr=0.0123, batch=8)
    path = tmp_path / "run" / "snapshots" / "mine.safetensors"
    path.parent.mkdir(parents=True)
    write(path, tiny_spec, recipe="mine")
    header = open_init(str(path))[1]
    save_config(TrainConfig(recipe=own), tmp_path / "run")
    assert recipe_of(header, str(path))[0] == own
    for other in (own.replace(name="another"), own.replace(network=tiny_spec.replace(dropout=0.1))):
        save_config(TrainConfig(recipe=other), tmp_path / "run")
        assert "stands in" in recipe_of(header, str(path))[1]
    (tmp_path / "run" / "config.json").write_text("{")
    found, said = recipe_of(header, str(path))
    assert found.name == "mine" and "stands in" in said


def test_an_official_network_of_no_known_recipe(tmp_path, tiny_spec):
    """It is trained by the recipe of the nearest official one; u(sigma) goes on from that of the file."""
    path = tmp_path / "mine.safetensors"
    write(path, tiny_spec, recipe="official")
    with Snapshot(path) as snapshot:
        header, tensors = snapshot.header, {name: tensor.float() for name, tensor in snapshot.verified()}
    found, said = recipe_of(header)
    assert (found.name, found.lr) == ("official", RECIPES["edm2-img64-xs"].lr) and "edm2-img64-xs stands in" in said
    with pytest.raises(ValueError, match="name one"):
        recipe_of(header.replace(network=tiny_spec.replace(branch="s m s c")))
    plus, said = recipe_of(header.replace(network=tiny_spec.replace(branch="s d E s P s m d")))
    assert plus.lr == RECIPES["edm2plus-img64-xs"].lr and "edm2plus-img64-xs stands in" in said
    known = Uncertainty(found.uncertainty_channels)
    write_uncertainty(path, known.state_dict())
    own = found.replace(network=tiny_spec)
    for beside in (read_uncertainty(path), None):
        inheritance = Inheritance(Init(name=str(path), sha256=""), header, dict(tensors), None, uncertainty=beside)
        state = TrainState.start(own, adapt=inheritance.into)
        same = torch.equal(state.uncertainty.linear.weight, known.linear.weight)
        assert same == (beside is not None)
        assert ("beside the snapshot" in inheritance.changes["u(sigma)"]) == same
