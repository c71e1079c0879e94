"""Folders and repositories of the Hub, with a Hub that is not there."""

import json
import shlex
import types

import huggingface_hub
import pytest
import torch
import yaml

import unitgain
from unitgain.card import model_card
from unitgain.checkpoint.snapshot import Snapshot, SnapshotError, SnapshotHeader, power_profile, write_snapshot
from unitgain.cli.main import main
from unitgain.cli.push import parse_metrics
from unitgain.data.encoder import PixelEncoder
from unitgain.denoiser import Denoiser, parameter_count
from unitgain.ema import sigma_rel_to_gamma
from unitgain.hub import HubError
from unitgain.infer import prepare
from unitgain.recipes import recipe
from unitgain.serial import to_dict


@pytest.fixture
def header(tiny_spec):
    return SnapshotHeader(
        network=tiny_spec,
        sigma_data=0.5,
        nimg=4096,
        profile=power_profile(0.05, sigma_rel_to_gamma(0.05)),
        recipe="tiny",
        encoder=to_dict(PixelEncoder()),
        classes=("a", "b|<b>", "c\nd"),
        data="three tiny things",
        license="cc-by-4.0",
    )


@pytest.fixture
def snapshot(tmp_path, header):
    path = tmp_path / "snapshot.safetensors"
    write_snapshot(path, header, Denoiser(header.network).state_dict())
    return path


def card_of(folder):
    """Metadata and text of a model card."""
    _, front, text = (folder / "README.md").read_text().split("---\n", 2)
    return yaml.safe_load(front), text


def test_a_folder_comes_back_as_it_was(tmp_path, snapshot, header):
    folder = unitgain.save_pretrained(snapshot, tmp_path / "out", metrics={"FID": 1.5}, repo_id="org/tiny")
    assert sorted(path.name for path in folder.iterdir()) == ["README.md", "config.json", "model.safetensors"]
    assert (folder / "model.safetensors").read_bytes() == snapshot.read_bytes()
    loaded, original = unitgain.load(folder), unitgain.load(snapshot)
    for name, tensor in original.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor)
    config = json.loads((folder / "config.json").read_text())
    assert config["network"]["resolution"] == 8 and config["nimg"] == 4096
    front, text = card_of(folder)
    assert (front["library_name"], front["license"]) == ("unitgain", "cc-by-4.0")
    ((result,),) = [entry["results"] for entry in front["model-index"]]
    assert result["metrics"] == [{"type": "fid", "value": 1.5, "name": "FID"}]
    assert result["dataset"]["name"] == "three tiny things"
    parameters = parameter_count(loaded)
    for words in (
        "| recipe | tiny |",
        "| images seen | 4,096 |",
        "| weight average | power function, sigma_rel 0.050 |",
        "| trained on | three tiny things |",
        f"| network | 1x8x8, {parameters:,} parameters in float16 |",
        "| FID | 1.5 |",
        "| class names | a, b\\|&lt;b&gt;, c d |",
        'unitgain.load("org/tiny")',
        'label="a"',
    ):
        assert words in text


def test_shards_become_one_file(tmp_path, snapshot, header):
    sharded = tmp_path / "shards" / "it.safetensors"
    write_snapshot(sharded, header, unitgain.load(snapshot).state_dict(), shard_bytes=20_000)
    first, *others = sorted(sharded.parent.iterdir())
    assert others
    folder = unitgain.save_pretrained(first, tmp_path / "out")
    assert sorted(path.name for path in folder.iterdir()) == ["README.md", "config.json", "model.safetensors"]
    assert (folder / "model.safetensors").read_bytes() == snapshot.read_bytes()


def test_a_folder_is_inspected_as_the_snapshot_in_it(tmp_path, snapshot, capsys):
    folder = unitgain.save_pretrained(snapshot, tmp_path / "out")
    facts = []
    for what in (folder, folder / "model.safetensors"):
        main(["inspect", str(what), "--json"])
        facts.append(json.loads(capsys.readouterr().out))
    assert facts[0] == facts[1] and (facts[0]["kind"], facts[0]["nimg"]) == ("snapshot", 4096)


def test_the_example_on_the_card_runs(tmp_path, snapshot):
    folder = unitgain.save_pretrained(snapshot, tmp_path / "out", repo_id=str(tmp_path / "out"))
    code = card_of(folder)[1].partition("```python\n")[2].partition("```")[0].replace("range(16)", "range(2)")
    names: dict = {}
    exec(code.replace("sigma_grid(32)", "sigma_grid(2)"), names)
    assert names["images"].shape == (2, 1, 8, 8)


def test_a_denoiser_with_its_header(tmp_path, header):
    denoiser = Denoiser(header.network)
    folder = unitgain.save_pretrained(denoiser, tmp_path / "out", header=header, dtype="float32")
    loaded = unitgain.load(folder)
    assert all(torch.equal(loaded.state_dict()[name], tensor) for name, tensor in denoiser.state_dict().items())
    assert "parameters in float32" in card_of(folder)[1]
    with pytest.raises(ValueError, match="give header="):
        unitgain.save_pretrained(denoiser, tmp_path / "other")
    with pytest.raises(ValueError, match="a prepared denoiser has no parameters to save"):
        unitgain.save_pretrained(prepare(denoiser), tmp_path / "other", header=header)
    with pytest.raises(ValueError, match="give header="):
        other = header.replace(network=header.network.replace(label_dim=5), classes=None)
        unitgain.save_pretrained(denoiser, tmp_path / "other", header=other)
    assert not (tmp_path / "other").exists()


def test_nothing_half_written(tmp_path, snapshot, header):
    with pytest.raises(FileNotFoundError):
        unitgain.save_pretrained(tmp_path / "none.safetensors", tmp_path / "out")
    with pytest.raises(ValueError, match="of its own"):
        unitgain.save_pretrained(snapshot, tmp_path / "out", header=header)
    damaged = bytearray(snapshot.read_bytes())
    damaged[-1] ^= 1
    (tmp_path / "damaged").write_bytes(damaged)
    with pytest.raises(SnapshotError, match="damaged"):
        unitgain.save_pretrained(tmp_path / "damaged", tmp_path / "out")
    assert not (tmp_path / "out").exists()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").write_text("")
    with pytest.raises(FileExistsError):
        unitgain.save_pretrained(snapshot, tmp_path / "full")
    with pytest.raises(FileNotFoundError, match=r"name a \.safetensors file"):
        unitgain.load(tmp_path / "full")


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A Hub in a folder: repositories by name."""
    root, log = tmp_path / "hub", []

    class Api:
        def __init__(self, token=None):
            log.append(("token", token))

        def create_repo(self, repo_id, *, private, exist_ok, repo_type):
            log.append(("create", repo_id, private, exist_ok, repo_type))

        def upload_folder(self, *, repo_id, folder_path, commit_message, revision, repo_type):
            if "forbidden" in repo_id:
                raise PermissionError("403 Forbidden\n\nnot yours\n")
            (root / repo_id).mkdir(parents=True)
            for path in folder_path.iterdir():
                (root / repo_id / path.name).write_bytes(path.read_bytes())
            return types.SimpleNamespace(commit_url=f"https://hub.invalid/{repo_id}/commit/1")

    def fetch(repo_id, file, *, revision, token):
        log.append(("fetch", repo_id, file, revision))
        if not (root / repo_id / file).is_file():
            raise huggingface_hub.errors.LocalEntryNotFoundError("not in the cache, and the network is off")
        return str(root / repo_id / file)

    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fetch)
    return types.SimpleNamespace(root=root, log=log)


def test_to_the_hub_and_back(hub, snapshot):
    address = unitgain.push_to_hub(snapshot, "org/tiny", private=True, token="secret", license="mit")
    assert address == "https://hub.invalid/org/tiny/commit/1"
    assert hub.log == [("token", "secret"), ("create", "org/tiny", True, True, "model")]
    front, text = card_of(hub.root / "org/tiny")
    assert front["license"] == "mit" and 'unitgain.load("org/tiny")' in text
    loaded = unitgain.load("org/tiny", revision="v1")
    assert hub.log[-1] == ("fetch", "org/tiny", "model.safetensors", "v1")
    assert torch.equal(loaded.network.out_gain, unitgain.load(snapshot).network.out_gain)


def test_what_the_hub_refuses(hub, snapshot, tmp_path, monkeypatch):
    with pytest.raises(HubError, match="PermissionError: 403 Forbidden not yours"):
        unitgain.push_to_hub(snapshot, "org/forbidden")
    with pytest.raises(ValueError, match="organization/name"):
        unitgain.push_to_hub(snapshot, "no repository")
    with pytest.raises(HubError, match=r"no snapshot at org/none, and model.safetensors of that .* network is off"):
        unitgain.load("org/none")
    # What is on the disk comes first, and what looks like a file is one.
    monkeypatch.chdir(tmp_path)
    unitgain.save_pretrained(snapshot, "org/local")
    assert unitgain.load("org/local").spec.resolution == 8
    for name in ("runs/none.safetensors", "/org/none", "a/b/c", "none"):
        with pytest.raises(FileNotFoundError, match="no snapshot at"):
            unitgain.load(name)
    assert not [entry for entry in hub.log if entry[0] == "fetch" and entry[1] != "org/none"]


def test_the_command_shows_what_it_would_send_and_sends_it(hub, snapshot, tmp_path, capsys):
    options = ["--license", "mit", "--metrics", "FID=1.5, KID = 2e-3"]
    main(["push", str(snapshot), "org/tiny", "--private", "--dry-run", str(tmp_path / "dry"), *options])
    out = capsys.readouterr().out
    assert not hub.log and "license: mit" in out and "| KID | 0.002 |" in out and "nothing was" in out
    _, *printed = shlex.split(out.splitlines()[-1])
    assert printed == ["push", str(snapshot), "org/tiny", "--private", *options]
    main(printed)
    said = capsys.readouterr().out.splitlines()
    assert said[0] == "https://hub.invalid/org/tiny/commit/1"
    assert said[-1].split() == ["unitgain", "sample", "org/tiny", "--out", "samples-tiny", "--grid"]
    assert hub.log == [("token", None), ("create", "org/tiny", True, True, "model")]
    for path in (tmp_path / "dry").iterdir():
        assert path.read_bytes() == (hub.root / "org/tiny" / path.name).read_bytes()
    main(["push", str(snapshot), "org/open"])
    assert hub.log[-1] == ("create", "org/open", None, True, "model")


def test_the_command_says_what_is_wrong(hub, snapshot, tmp_path, capsys):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").write_text("")
    for args, code, words in (
        (["none.safetensors", "org/tiny"], 2, "no snapshot at none.safetensors"),
        ([str(snapshot), "tiny"], 2, "write organization/name"),
        ([str(snapshot), "tiny", "--dry-run", str(tmp_path / "dry")], 2, "write organization/name"),
        ([str(snapshot), "org/tiny", "--dry-run", str(tmp_path / "full")], 2, "full"),
        ([str(snapshot), "org/tiny", "--metrics", "FID"], 2, "cannot read 'FID'"),
        ([str(snapshot), "org/forbidden"], 1, "could not be pushed to the Hub: PermissionError: 403 Forbidden"),
    ):
        with pytest.raises(SystemExit) as stop:
            main(["push", *args])
        assert stop.value.code == code and words in capsys.readouterr().err
    assert not (tmp_path / "dry").exists()


@pytest.mark.parametrize("text", ["", "FID=", "=3", "FID=nan", "FID=inf", "FID=1,", "FID=1,FID=2", "FID=one"])
def test_metrics_that_are_none(text):
    with pytest.raises(ValueError, match="--metrics"):
        parse_metrics(text)


def test_offline_without_a_cache(tmp_path, monkeypatch):
    """The real client, told to stay offline."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(HubError, match="org/none"):
        unitgain.load("org/none")


def test_cards_of_official_networks():
    """They name their license and, as another's figure, the published score."""
    made = recipe("edm2-img512-s")
    vae = {"kind": "latents", "vae": "stabilityai/sd-vae-ft-mse"}
    header = SnapshotHeader(
        network=made.network,
        sigma_data=0.5,
        nimg=made.duration,
        profile=power_profile(0.130, sigma_rel_to_gamma(0.130)),
        recipe=made.name,
        encoder=vae,
        license="CC BY-NC-SA 4.0",
    )
    card = model_card(header, 280_000_000, "float16")
    assert "license: cc-by-nc-sa-4.0" in card
    assert "| FID published for this recipe | 2.56 (not measured on this file) |" in card
    assert "latents of stabilityai/sd-vae-ft-mse" in card
    assert "published" not in model_card(header.replace(nimg=1024), 1, "float16")
    raw = header.replace(profile={"kind": "raw"}, license="My own terms: ask")
    card = model_card(raw, 1, "float32")
    assert "license: other" in card and "license_name: 'My own terms: ask'" in card
    assert "none: the weights of the last step" in card


def test_unknown_data_and_license_stay_unknown(tmp_path, snapshot, header):
    bare = header.replace(data=None, license=None)
    write_snapshot(tmp_path / "bare.safetensors", bare, unitgain.load(snapshot).state_dict())
    with Snapshot(tmp_path / "bare.safetensors") as opened:
        assert opened.header == bare


def test_code_on_a_card_has_no_name_that_would_be_more_than_text(header):
    for first in ('a"); evil(', "x\n", "b"):
        card = model_card(header.replace(classes=(first, "b", "c")), 1, "float16")
        assert "label=0)" in card and "evil(" not in card.partition("```python")[2]
