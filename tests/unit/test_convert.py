"""Official files into snapshots, runs and reference files."""

import json
import os
import pickle
import re
import shlex

import numpy as np
import pytest
import torch
from official_files import Persistent, config_of, contents, dumps, random_state, write_official

import unitgain
from unitgain.arch import NetworkSpec
from unitgain.checkpoint.convert import convert_folder, convert_network
from unitgain.checkpoint.nvidia import from_state, rename
from unitgain.checkpoint.official import PIXELS
from unitgain.checkpoint.origin import Origin, images_seen, origin
from unitgain.checkpoint.records import Refused
from unitgain.checkpoint.snapshot import Snapshot, SnapshotError
from unitgain.checkpoint.statistics import read_reference
from unitgain.checkpoint.uncertainty import read_uncertainty, uncertainty_path
from unitgain.cli.main import main
from unitgain.data.encoder import PixelEncoder
from unitgain.ema import PowerProfile, sigma_rel_to_gamma
from unitgain.evaluate.references import open_references
from unitgain.hub import save_pretrained
from unitgain.metrics.reference import ReferenceFileError, load_references
from unitgain.posthoc import reconstruct, solve
from unitgain.serial import to_dict

HERE = Origin(nimg=1024, sigma_rel=0.05, recipe="test")
MI = 2**20


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("positional", [0, 3])
def test_every_tensor_and_argument(tmp_path, protocol, positional):
    config = config_of(dropout=0.1, label_balance=0.4, clip_act=128.0)
    state = write_official(tmp_path / "a.pkl", config, protocol=protocol, positional=positional)
    convert_network(tmp_path / "a.pkl", tmp_path / "a.safetensors", HERE)
    with Snapshot(tmp_path / "a.safetensors") as snapshot:
        header, tensors = snapshot.header, dict(snapshot.verified())
    wanted = {name: t for name, t in rename(state, 8).items() if not name.startswith("uncertainty.")}
    assert tensors.keys() == wanted.keys()
    for name, tensor in wanted.items():
        assert torch.equal(tensors[name], tensor.to(tensors[name].dtype)), name
    assert {t.dtype for name, t in tensors.items() if not name.endswith((".freqs", ".phases"))} == {torch.float16}
    assert header.network == NetworkSpec(
        resolution=8,
        channels=3,
        label_dim=3,
        model_channels=8,
        channel_mult=(1, 2),
        num_blocks=1,
        attn_resolutions=(4,),
        channels_per_head=8,
        dropout=0.1,
        label_balance=0.4,
        clip_act=128.0,
    )
    assert header.encoder == to_dict(PixelEncoder()) == PIXELS
    assert "UNITGAIN_EXECUTED" not in os.environ
    denoiser, _ = from_state(state, config)
    x, label = torch.randn(2, 3, 8, 8), torch.tensor([0, 2])
    loaded = unitgain.load(tmp_path / "a.safetensors")
    assert torch.equal(loaded(x, 1.0, label), denoiser.eval()(x, 1.0, label))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_other_precisions(tmp_path, dtype):
    state = write_official(tmp_path / "a.pkl", state=random_state(config_of(), dtype=dtype))
    convert_network(tmp_path / "a.pkl", tmp_path / "a.safetensors", HERE)
    with Snapshot(tmp_path / "a.safetensors") as snapshot:
        weight = snapshot.tensor("network.out_conv.weight")
    assert weight.dtype == (torch.float32 if dtype == torch.float64 else dtype)
    assert torch.equal(weight, state["unet.out_conv.weight"].to(weight.dtype))


def test_strided_and_shared_tensors(tmp_path):
    """A tensor may be a view: transposed, or a part of a larger storage."""
    state = random_state(config_of())
    names = ("unet.emb_noise.weight", "unet.emb_label.weight")
    viewed = dict(state)
    viewed[names[0]] = state[names[0]].T.contiguous().T
    viewed[names[1]] = torch.cat([torch.ones(1, 3).half(), state[names[1]]])[1:]
    assert viewed[names[0]].stride() != state[names[0]].stride() and viewed[names[1]].storage_offset() == 3
    for name, given in (("a", state), ("b", viewed)):
        write_official(tmp_path / f"{name}.pkl", state=given)
        convert_network(tmp_path / f"{name}.pkl", tmp_path / name, HERE)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_buffers_that_are_not_saved_are_left_out(tmp_path):
    config = config_of()
    whole = contents(random_state(config), config)
    state = whole["ema"].meta["state"]["_modules"]["unet"].meta["state"]
    state["_buffers"] = {"resample_filter": torch.ones(2, 2)}
    state["_non_persistent_buffers_set"] = {"resample_filter"}
    for protocol in (2, 4):
        (tmp_path / "a.pkl").write_bytes(dumps(whole, protocol))
        convert_network(tmp_path / "a.pkl", tmp_path / "a.safetensors", HERE)
    state["_non_persistent_buffers_set"] = set()
    (tmp_path / "a.pkl").write_bytes(dumps(whole))
    with pytest.raises(Refused, match=r"left over \['network.resample_filter'\]"):
        convert_network(tmp_path / "a.pkl", tmp_path / "a.safetensors", HERE)


@pytest.mark.parametrize(
    ("state", "mean", "std"),
    [
        ({}, [5.81, 3.25, 0.12, -2.15], [4.17, 4.62, 3.71, 3.28]),
        ({"_init_kwargs": {"raw_mean": [1, 2, 3, 4], "raw_std": [1, 2, 4, 8]}}, [1, 2, 3, 4], [1, 2, 4, 8]),
        ({"raw_mean": [1, 2, 3, 4], "raw_std": [1, 2, 4, 8], "final_std": 1.0}, [1, 2, 3, 4], [0.5, 1, 2, 4]),
        (
            {"scale": np.float32([0.5, 1, 2, 4]), "bias": np.float32([1, 1, 1, 1])},
            [-2, -1, -0.5, -0.25],
            [1, 0.5, 0.25, 0.125],
        ),
    ],
)
@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_normalization_of_latents(tmp_path, state, mean, std, protocol):
    """A latent is (x - mean) * 0.5 / std, however the encoder's attributes say it."""
    config = config_of(img_channels=4)
    whole = contents(random_state(config), config)
    whole["encoder"] = Persistent("StabilityVAEEncoder", {"vae_name": "stabilityai/sd-vae-ft-mse", **state})
    (tmp_path / "a.pkl").write_bytes(dumps(whole, protocol))
    encoder = convert_network(tmp_path / "a.pkl", tmp_path / "a.safetensors", HERE).encoder
    vae = "stabilityai/sd-vae-ft-mse"
    assert encoder == {"kind": "latents", "vae": vae, "mean": mean, "std": std, "pixels": "0..1"}


@pytest.mark.parametrize(
    ("state", "words"),
    [
        ({"vae_name": "evil/vae"}, "VAE is 'evil/vae'"),
        ({"raw_std": [0, 1, 1, 1]}, "positive standard deviation"),
        ({"raw_mean": [1, 2]}, "4 channels"),
        ({"scale": np.float32([1]), "bias": np.float32([1])}, "4 channels"),
        ({"scale": np.array(["a"] * 4), "bias": np.float32([1])}, "dtype that is none of"),
        ({"scale": {}, "bias": 1}, "where an array"),
    ],
)
def test_encoders_that_make_no_sense(tmp_path, state, words):
    config = config_of(img_channels=4)
    whole = contents(random_state(config), config)
    whole["encoder"] = Persistent("StabilityVAEEncoder", state)
    (tmp_path / "a.pkl").write_bytes(dumps(whole))
    with pytest.raises(Refused, match=words):
        convert_network(tmp_path / "a.pkl", tmp_path / "a.safetensors", HERE)


def test_images_seen():
    """The multiple of 1024 whose thousandth, rounded down, is the number in the name."""
    for mi in (128, 256, 640, 896, 1024, 1280, 1792, 2048):
        assert images_seen(mi * MI // 1000) == mi * MI
    for nimg in range(1024, 3_000_000, 1024):
        assert images_seen(nimg // 1000) == nimg
    with pytest.raises(ValueError, match="--nimg"):
        images_seen(42)


def test_origin_by_name(tmp_path):
    folder = tmp_path / "edm2-img64-s-uncond"
    raw = origin(folder / "network-snapshot-0008388-0.100.pkl")
    assert raw == Origin(
        nimg=8 * MI, sigma_rel=0.1, recipe="edm2-img64-s-uncond", license="CC BY-NC-SA 4.0", data="ImageNet-64"
    )
    own = origin(tmp_path / "network-snapshot-0008388-0.100.pkl", recipe="mine")
    assert (own.recipe, own.license, own.data) == ("mine", None, None)
    unknown = origin(tmp_path / "network.pkl")
    assert (unknown.nimg, unknown.sigma_rel, unknown.recipe) == (None, None, "official")
    short = origin(tmp_path / "phema-8388-.1.pkl")
    assert (short.nimg, short.sigma_rel) == (8 * MI, 0.1)
    traditional = origin(tmp_path / "network-snapshot-0008388.pkl")
    assert (traditional.nimg, traditional.sigma_rel) == (8 * MI, None)
    assert origin(tmp_path / "network.pkl", nimg=5, sigma_rel=0.1).recipe == "official"


def test_a_file_that_fails_leaves_nothing(tmp_path):
    data = dumps(contents(random_state(config_of()), config_of()))
    for cut in (0, 1, 100, len(data) // 2, len(data) - 1):
        (tmp_path / "a.pkl").write_bytes(data[:cut])
        with pytest.raises(Refused, match=re.escape(str(tmp_path / "a.pkl"))):
            convert_network(tmp_path / "a.pkl", tmp_path / "out" / "a.safetensors", HERE)
    state = random_state(config_of())
    state["unet.out_gain"] = torch.tensor(float("nan")).half()
    write_official(tmp_path / "a.pkl", state=state)
    with pytest.raises(Exception, match="not finite"):
        convert_network(tmp_path / "a.pkl", tmp_path / "out" / "a.safetensors", HERE)
    assert not (tmp_path / "out").exists()
    with pytest.raises(FileNotFoundError):
        convert_network(tmp_path / "none.pkl", tmp_path / "a.safetensors", HERE)


@pytest.fixture
def raw_snapshots(tmp_path):
    """Four times, two lengths each."""
    folder = tmp_path / "edm2-img64-s"
    folder.mkdir()
    config, states = config_of(channel_mult=[1], attn_resolutions=[]), {}
    for step in range(1, 5):
        for length in (0.05, 0.1):
            nimg = step * 8 * MI
            path = folder / f"network-snapshot-{nimg // 1000:07d}-{length:.3f}.pkl"
            states[nimg, length] = write_official(path, config, seed=10 * step + round(100 * length))
    return folder, states


def test_raw_snapshots_become_a_run(tmp_path, raw_snapshots, capsys):
    folder, states = raw_snapshots
    out = tmp_path / "run"
    main(["convert", str(folder), str(out), "--all"])
    assert "8 snapshots in" in capsys.readouterr().out
    main(["ema", "list", str(out), "--json"])
    rows = json.loads(capsys.readouterr().out)
    assert [(row["t"], round(row["profile"]["sigma_rel"], 3)) for row in rows] == sorted(states)
    main(["ema", "reconstruct", str(out), "0.05,0.08", "--dtype", "float32"])
    # By theory: a stored length at a stored time is what was stored, another is the solver's sum of official tensors.
    keys = sorted(states)
    profiles = [PowerProfile(nimg, sigma_rel_to_gamma(length)) for nimg, length in keys]
    last = 32 * MI
    weights = solve(profiles, [PowerProfile(last, sigma_rel_to_gamma(0.08))]).matrix[:, 0]
    for length in (0.05, 0.08):
        with Snapshot(out / "ema" / f"{last:010d}-{length:.3f}.safetensors") as snapshot:
            assert snapshot.header.recipe == "edm2-img64-s"
            assert snapshot.header.license == "CC BY-NC-SA 4.0"
            tensors = dict(snapshot.verified())
        for name in ("unet.enc.8x8_conv.weight", "unet.out_gain"):
            ours = next(iter(rename({name: states[keys[0]][name]}, 8)))
            if length == 0.05:
                wanted = states[last, 0.05][name].double()
            else:
                wanted = sum(w * states[key][name].double() for w, key in zip(weights, keys, strict=True))
            assert torch.allclose(tensors[ours].double(), wanted, rtol=1e-4, atol=1e-4), (length, name)
    assert unitgain.load(out / "ema" / f"{last:010d}-0.080.safetensors").spec.label_dim == 3


def test_an_interrupted_conversion_goes_on(tmp_path, raw_snapshots):
    folder, _ = raw_snapshots
    paths = convert_folder(folder, tmp_path / "run")
    assert len(paths) == 8
    kept = paths[0].stat().st_mtime_ns
    whole = paths[1].read_bytes()
    paths[1].write_bytes(whole[:-1])  # damaged: done again
    paths[2].unlink()
    seen = []
    assert convert_folder(folder, tmp_path / "run", on_progress=lambda *at: seen.append(at)) == paths
    assert seen[-1] == (8, 8)
    assert paths[0].stat().st_mtime_ns == kept
    assert paths[1].read_bytes() == whole
    reconstruct(tmp_path / "run", [0.07], tmp_path / "ema")


def test_a_conversion_that_is_asked_for_otherwise_is_done_again(tmp_path, raw_snapshots):
    folder, _ = raw_snapshots
    for path in sorted(folder.iterdir())[1:]:
        path.unlink()
    (path,) = convert_folder(folder, tmp_path / "run")
    names = ("ant", "bee", "cat")
    for asked in ({"classes": names}, {"recipe": "mine", "classes": names}, {"dtype": "bfloat16"}):
        convert_folder(folder, tmp_path / "run", **asked)
        with Snapshot(path) as snapshot:
            assert snapshot.header.classes == asked.get("classes")
            assert snapshot.header.recipe == asked.get("recipe", "edm2-img64-s")
            assert ({snapshot.entries[name].dtype for name in snapshot.names} >= {torch.bfloat16}) == ("dtype" in asked)
        before = path.stat().st_mtime_ns
        convert_folder(folder, tmp_path / "run", **asked)
        assert path.stat().st_mtime_ns == before


def test_what_was_there_is_counted_with_its_precision(tmp_path, raw_snapshots, call):
    folder, _ = raw_snapshots
    for path in sorted(folder.iterdir())[2:]:
        path.unlink()
    assert "already there" not in call("convert", folder, tmp_path / "run", "--all", "--dtype", "float32").out
    _, second = sorted((tmp_path / "run").glob("*.safetensors"))
    second.unlink()
    said = " ".join(call("convert", folder, tmp_path / "run", "--all").out.split())
    assert "already there, and kept in float32: 1 2 snapshots" in said


def test_folders_that_do_not_fit(tmp_path, raw_snapshots):
    folder, _ = raw_snapshots
    with pytest.raises(FileNotFoundError, match="no raw snapshots"):
        convert_folder(tmp_path, tmp_path / "run")
    write_official(folder / "network-snapshot-0041943-0.050.pkl", config_of())
    with pytest.raises(ValueError, match="different networks"):
        convert_folder(folder, tmp_path / "run")
    assert len(list((tmp_path / "run").glob("*.safetensors"))) == 8
    (folder / "other-0041943-0.050.pkl").write_bytes(b"")
    with pytest.raises(ValueError, match="of the same time and length"):
        convert_folder(folder, tmp_path / "run")


def statistics(seed, features=6):
    generator = np.random.default_rng(seed)
    rows = generator.standard_normal((50, features))
    return {"mu": rows.mean(0), "sigma": np.cov(rows, rowvar=False)}


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_reference_statistics(tmp_path, protocol, capsys):
    given = {"fid": statistics(0), "fd_dinov2": {**statistics(1), "sigma": np.asfortranarray(statistics(1)["sigma"])}}
    path, out = tmp_path / "img64.pkl", tmp_path / "reference.npz"
    path.write_bytes(pickle.dumps(given, protocol=protocol))
    main(["convert", str(path), str(out), "--metric", "fd_dinov2"])
    assert "dinov2, 6 features" in capsys.readouterr().out
    assert list(load_references(out)) == ["dinov2"]
    main(["convert", str(path), str(out)])
    written = load_references(out)
    for name, detector in (("fid", "inception"), ("fd_dinov2", "dinov2")):
        summary = written[detector].summary
        assert np.array_equal(summary.mean, given[name]["mu"]) and np.array_equal(summary.cov, given[name]["sigma"])
        assert (written[detector].count, written[detector].fingerprint, summary.detector.hash) == (None, None, None)
    # The arrays of older versions of NumPy have another address.
    path.write_bytes(
        path.read_bytes().replace(b"numpy._core", b"numpy.core").replace(b"\x8c\x16numpy", b"\x8c\x15numpy")
    )
    if protocol in (2, 3):
        assert read_reference(path).keys() == {"fid", "fd_dinov2"}


def test_reference_statistics_of_edm(tmp_path):
    given = statistics(3)
    np.savez(tmp_path / "edm.npz", **given)
    ((name, found),) = open_references(tmp_path / "edm.npz").items()
    assert name == "inception" and found.count is None
    assert np.array_equal(found.summary.mean, given["mu"]) and np.array_equal(found.summary.cov, given["sigma"])
    main(["convert", str(tmp_path / "edm.npz"), str(tmp_path / "out.npz")])
    assert np.array_equal(load_references(tmp_path / "out.npz")["inception"].summary.cov, given["sigma"])


def test_reference_statistics_that_are_none(tmp_path):
    good = statistics(0)
    wrong = {
        "no covariance": ({**good, "sigma": good["sigma"] + np.triu(np.ones((6, 6)))}, "symmetric"),
        "shape": ({**good, "sigma": good["sigma"][:5]}, "do not fit"),
        "nan": ({**good, "mu": good["mu"] * np.nan}, "not finite"),
        "negative": ({**good, "sigma": -good["sigma"]}, "negative variances"),
    }
    for name, (given, words) in wrong.items():
        np.savez(tmp_path / "a.npz", **given)
        (tmp_path / "a.pkl").write_bytes(pickle.dumps({"fid": given}))
        for suffix in ("npz", "pkl"):
            with pytest.raises(ReferenceFileError, match=words):
                open_references(tmp_path / f"a.{suffix}"), name
    np.savez(tmp_path / "objects.npz", mu=np.array([print], dtype=object), sigma=good["sigma"])
    with pytest.raises(ReferenceFileError, match="objects are not read"):
        open_references(tmp_path / "objects.npz")
    (tmp_path / "text.npz").write_text("no zip")
    with pytest.raises(ReferenceFileError, match="damaged or no reference"):
        open_references(tmp_path / "text.npz")
    for given, words in (({"fid": 3}, "pair of mu and sigma"), ({"kid": good}, "'kid'"), ([], "holds a list")):
        (tmp_path / "a.pkl").write_bytes(pickle.dumps(given))
        with pytest.raises(Refused, match=words):
            read_reference(tmp_path / "a.pkl")


def test_the_command_says_what_is_wrong(tmp_path, capsys):
    write_official(tmp_path / "a.pkl")
    np.savez(tmp_path / "reference.npz", **statistics(0))
    (tmp_path / "page.pkl").write_text("<!DOCTYPE html>\n<html>404</html>")
    (tmp_path / "pointer.pkl").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:ab\nsize 1\n")
    torch.save({"net": torch.ones(2)}, tmp_path / "state.pt")
    (tmp_path / "edm.pkl").write_bytes(dumps({"ema": Persistent("EDMPrecond", {}), "loss_fn": None}))
    (tmp_path / "reference.pkl").write_bytes(pickle.dumps({"fid": statistics(0)}))
    for args, words in (
        (["none.pkl", "a.txt"], "no file at"),
        (["page.pkl", "a.safetensors"], "it is an HTML page"),
        (["pointer.pkl", "a.safetensors"], "git lfs pull"),
        (["state.pt", "a.safetensors"], "a zip archive, as torch.save"),
        (["edm.pkl", "a.safetensors"], "network of the first EDM paper"),
        (["a.pkl", "a.txt", "--nimg", "8", "--sigma-rel", "0.1"], "cannot tell what"),
        (["a.pkl", "a", "--all"], "no folder: leave out --all"),
        ([".", "a"], "add --all"),
        ([".", "a", "--all", "--nimg", "3"], "--nimg: no use here, for with --all the names"),
        (["a.pkl", "a.safetensors", "--metric", "fid"], "--metric: no use here, for"),
        (["reference.pkl", "a.npz", "--dtype", "float32"], "--dtype: no use here, for this makes reference"),
        (["a.pkl", "a.safetensors", "--device", "cpu"], "--device: of a training state"),
        (["none.pkl", "a.safetensors", "--nimg", "8", "--sigma-rel", "0.1"], "no file at"),
        (["a.pkl", "a.safetensors", "--nimg", "8", "--sigma-rel", "0.9"], "sigma_rel"),
        (["reference.pkl", "a.safetensors", "--nimg", "8", "--sigma-rel", "0.1"], "become a .npz file"),
        (["a.pkl", "a.npz"], "these are no statistics"),
    ):
        paths = [str(tmp_path / arg) if i < 2 else arg for i, arg in enumerate(args)]
        with pytest.raises(SystemExit) as stop:
            main(["convert", *paths])
        assert stop.value.code == 2
        assert words in capsys.readouterr().err.replace("\n", " "), args
    main(["convert", str(tmp_path / "a.pkl"), str(tmp_path / "a.safetensors"), "--nimg", "8", "--sigma-rel", "0.1"])
    assert "official, 8 images, sigma_rel 0.1" in capsys.readouterr().out


def test_no_clamp_is_no_clamp(tmp_path):
    """`clip_act=None` clamps nothing; other arguments that are None mean nothing."""
    config = config_of(clip_act=None)
    state = write_official(tmp_path / "a.pkl", config)
    header = convert_network(tmp_path / "a.pkl", tmp_path / "a.safetensors", HERE)
    assert header.network.clip_act is None
    denoiser = unitgain.load(tmp_path / "a.safetensors")
    clamped, free = (from_state(state, config_of(clip_act=value))[0].eval() for value in (0.01, 1e6))
    x, label = torch.randn(2, 3, 8, 8), torch.tensor([0, 2])
    assert torch.equal(denoiser(x, 1.0, label), free(x, 1.0, label))
    assert not torch.allclose(denoiser(x, 1.0, label), clamped(x, 1.0, label), rtol=0.01)
    prepared = unitgain.prepare(unitgain.load(tmp_path / "a.safetensors"))
    assert torch.allclose(prepared(x, 1.0, label), free(x, 1.0, label), rtol=0.05, atol=0.05)
    write_official(tmp_path / "a.pkl", config_of(dropout=None), state=state)
    with pytest.raises(Refused, match="dropout is None"):
        convert_network(tmp_path / "a.pkl", tmp_path / "a.safetensors", HERE)


@pytest.mark.parametrize("missing", [True, False])
def test_no_encoder_is_plain_rgb(tmp_path, missing):
    whole = contents(random_state(config_of()), config_of())
    whole["encoder"] = None
    if missing:
        del whole["encoder"]
    (tmp_path / "a.pkl").write_bytes(dumps(whole))
    assert convert_network(tmp_path / "a.pkl", tmp_path / "a.safetensors", HERE).encoder == PIXELS


def test_what_a_name_does_not_say_is_unknown(tmp_path, capsys):
    write_official(tmp_path / "mynet.pkl")
    main(["convert", str(tmp_path / "mynet.pkl"), str(tmp_path / "mynet.safetensors")])
    printed = capsys.readouterr()
    assert "images seen not known, length of the average not known" in printed.out and "--nimg" in printed.err
    with Snapshot(tmp_path / "mynet.safetensors") as snapshot:
        assert (snapshot.header.nimg, snapshot.header.profile) == (0, {"kind": "unknown"})
    assert unitgain.load(tmp_path / "mynet.safetensors").spec.resolution == 8
    (tmp_path / "run").mkdir()
    write_official(tmp_path / "run" / "network-snapshot-0008388.pkl")
    (path,) = convert_folder(tmp_path / "run", tmp_path / "converted")
    assert path.name == "0008388608-unknown.safetensors"
    main(["ema", "list", str(tmp_path / "converted")])
    assert "unknown" in capsys.readouterr().out
    with pytest.raises(ValueError, match="do not say how they were averaged"):
        reconstruct(tmp_path / "converted", [0.1], tmp_path / "ema")


def test_u_of_sigma_is_kept_beside(tmp_path):
    state = write_official(tmp_path / "a.pkl")
    convert_network(tmp_path / "a.pkl", tmp_path / "a.safetensors", HERE)
    found = read_uncertainty(tmp_path / "a.safetensors")
    uncertainty = from_state(state, config_of())[1]
    for name, tensor in uncertainty.state_dict().items():
        assert torch.equal(found[name], tensor), name
    path = uncertainty_path(tmp_path / "a.safetensors")
    path.write_text(path.read_text().replace("0.", "1.", 1))
    with pytest.raises(SnapshotError, match="damaged"):
        read_uncertainty(tmp_path / "a.safetensors")
    assert read_uncertainty(tmp_path / "b.safetensors") is None


@pytest.mark.parametrize("beside", [True, False])
def test_the_way_back(tmp_path, capsys, beside):
    """What was read from an official file comes out of a snapshot as it was, u(sigma) too, but for its precision."""
    config = config_of(dropout=0.1, clip_act=None)
    state = write_official(tmp_path / "a.pkl", config)
    convert_network(tmp_path / "a.pkl", tmp_path / "a.safetensors", HERE)
    if not beside:
        uncertainty_path(tmp_path / "a.safetensors").unlink()
    main(["convert", str(tmp_path / "a.safetensors"), str(tmp_path / "back.pt")])
    assert ("u(sigma) is 0" in capsys.readouterr().err) == (not beside)
    found = torch.load(tmp_path / "back.pt", weights_only=True)
    assert found["state"].keys() == state.keys()
    for name, tensor in state.items():
        if beside or not name.startswith("logvar_"):
            assert torch.equal(found["state"][name].to(tensor.dtype), tensor), name
    assert (found["nimg"], found["sigma_rel"], found["config"]["clip_act"]) == (1024, 0.05, None)
    if not beside:
        assert from_state(found["state"], found["config"])[1](torch.ones(2)).abs().max() == 0
    with pytest.raises(SystemExit):
        main(["convert", str(tmp_path / "a.safetensors"), str(tmp_path / "back.pkl")])
    assert "source code of the official classes" in " ".join(capsys.readouterr().err.split())


def test_references_there_and_back(tmp_path, capsys):
    given = {"fid": {**statistics(0), "num_images": 50}, "fd_dinov2": {**statistics(1), "num_images": np.int64(50)}}
    (tmp_path / "a.pkl").write_bytes(pickle.dumps(given))
    main(["convert", str(tmp_path / "a.pkl"), str(tmp_path / "a.npz")])
    assert "of 50 images" in capsys.readouterr().out
    assert load_references(tmp_path / "a.npz")["inception"].count == 50
    main(["convert", str(tmp_path / "a.npz"), str(tmp_path / "b.pkl")])
    data = (tmp_path / "b.pkl").read_bytes()
    assert b"numpy.core.multiarray" in data and b"numpy._core" not in data
    for found in (pickle.loads(data), read_reference(tmp_path / "b.pkl")):
        assert found.keys() == given.keys()
        for name, one in found.items():
            assert np.array_equal(one["mu"], given[name]["mu"]) and np.array_equal(one["sigma"], given[name]["sigma"])
            assert one["num_images"] == 50
    (tmp_path / "c.pkl").write_bytes(pickle.dumps({"fid": statistics(0), "num_images": 50}))
    assert read_reference(tmp_path / "c.pkl")["fid"]["num_images"] == 50
    for number in (-1, 0.5, 0, "x"):
        (tmp_path / "c.pkl").write_bytes(pickle.dumps({"fid": {**given["fid"], "num_images": number}}))
        with pytest.raises((Refused, ReferenceFileError), match="number"):
            open_references(tmp_path / "c.pkl")


WANT_SNAPSHOTS = [
    ["sample"],
    ["inspect"],
    ["ema", "list"],
    ["ema", "error"],
    ["train", "digits", "--init"],
    ["metrics"],
]


@pytest.mark.parametrize("command", WANT_SNAPSHOTS)
def test_pickles_where_snapshots_are_wanted(tmp_path, capsys, command):
    write_official(tmp_path / "net.pkl")
    given = [*command, str(tmp_path / "net.pkl")]
    given += ["--out", str(tmp_path / "out")] if command[0] in ("sample", "train") else []
    with pytest.raises(SystemExit) as stop:
        main(given)
    assert stop.value.code
    assert "convert it first: unitgain convert" in " ".join(capsys.readouterr().err.split())
    (tmp_path / "net.pkl").unlink()
    with pytest.raises(SystemExit) as stop:
        main(given)
    assert stop.value.code
    said = " ".join(capsys.readouterr().err.split())
    assert "convert it first" not in said
    assert any(words in said for words in ("no snapshot at", "no images at", "no run or folder"))


def test_folders_and_repositories_of_pickles_name_what_converts_them(tmp_path, raw_snapshots, capsys):
    folder, _ = raw_snapshots
    for command in (["inspect"], ["sample"], ["ema", "list"]):
        with pytest.raises(SystemExit):
            main([*command, str(folder)])
        said = " ".join(capsys.readouterr().err.split())
        assert "convert them first: unitgain convert" in said
    remedy = shlex.split(said.partition("convert them first: ")[2].replace("OUT", str(tmp_path / "run")))
    main(remedy[1:])
    main(["ema", "list", str(tmp_path / "run")])
    write_official(tmp_path / "net.pkl")
    with pytest.raises(SnapshotError, match=f"convert it first: unitgain convert {tmp_path}/net.pkl"):
        save_pretrained(tmp_path / "net.pkl", tmp_path / "repository")


def test_a_guide_that_is_a_pickle_is_to_be_converted_and_then_guides(tmp_path, capsys):
    write_official(tmp_path / "net.pkl")
    write_official(tmp_path / "main.pkl", seed=1)
    main(["convert", str(tmp_path / "main.pkl"), str(tmp_path / "main.safetensors")])
    command = ["sample", str(tmp_path / "main.safetensors"), "--guidance", "1.5", "--out", str(tmp_path / "out")]
    command += ["--seeds", "0", "--steps", "2", "--guide"]
    with pytest.raises(SystemExit):
        main([*command, str(tmp_path / "net.pkl")])
    said = " ".join(capsys.readouterr().err.split())
    remedy = shlex.split(said.partition("convert it first: ")[2])[:4]
    main(remedy[1:])
    main([*command, remedy[3]])
    assert list((tmp_path / "out").rglob("*.png"))


@pytest.mark.parametrize("command", WANT_SNAPSHOTS[:3])
@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"<!DOCTYPE html><html>404</html>", "an HTML page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", "git lfs pull"),
        ("torch", "ema convert"),
        ("legacy torch", "ema convert"),
    ],
)
def test_what_is_no_snapshot_is_said_whatever_its_name(tmp_path, capsys, command, content, words):
    for name in ("net.pkl", "net.safetensors"):
        if isinstance(content, bytes):
            (tmp_path / name).write_bytes(content)
        else:
            zipped = content == "torch"
            torch.save({"w": torch.ones(1)}, tmp_path / name, _use_new_zipfile_serialization=zipped)
        with pytest.raises(SystemExit) as stop:
            main([*command, str(tmp_path / name), *(["--out", str(tmp_path / "out")] if command == ["sample"] else [])])
        assert stop.value.code == 1
        assert words in " ".join(capsys.readouterr().err.split())


def test_a_fresh_run_of_the_official_loop(tmp_path, raw_snapshots, capsys):
    """It also writes snapshots before the first step, and other files lie about."""
    folder, _ = raw_snapshots
    for name in ("network-snapshot-0000000-0.050.pkl", "best.pkl", "network-snapshot-0000042-0.050.pkl"):
        write_official(folder / name)
    (folder / "training-state-0008388.pt").write_bytes(b"")
    main(["convert", str(folder), str(tmp_path / "run"), "--all"])
    printed = capsys.readouterr()
    assert "8 snapshots in" in printed.out
    said = " ".join(printed.err.split())
    for words in (
        "0000000-0.050.pkl: it was taken before the first step",
        "best.pkl: its name",
        "0042-0.050.pkl: no",
    ):
        assert words in said
    reconstruct(tmp_path / "run", [0.07], tmp_path / "ema")


def test_names_of_classes_come_from_a_file(tmp_path, call):
    config = config_of(channel_mult=[1], attn_resolutions=[], label_dim=3)
    write_official(tmp_path / "net.pkl", config)
    (tmp_path / "names.txt").write_text("tench, Tinca tinca\nflags\nété\n", encoding="utf-8")
    (tmp_path / "two.txt").write_text("a\nb\n")
    out = tmp_path / "net.safetensors"
    refused = call("convert", tmp_path / "net.pkl", out, "--class-names", tmp_path / "two.txt", code=2)
    assert "2 names of classes, for 3" in refused.err and not out.exists()
    call("convert", tmp_path / "net.pkl", out, "--class-names", tmp_path / "names.txt")
    assert unitgain.load(out).classes == ("tench, Tinca tinca", "flags", "été")
