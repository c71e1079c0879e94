"""Downloads from a server on this machine: whole, resumed, refused, offline; and the presets that are fetched so."""

import hashlib
import json
import pickle

import numpy as np
import pytest
from official_files import config_of, contents, dumps, random_state
from servers import BODY, server

import unitgain
from unitgain.checkpoint.snapshot import Snapshot
from unitgain.checkpoint.statistics import read_reference
from unitgain.cli.main import main
from unitgain.download import download
from unitgain.files import cache_folder
from unitgain.presets import BASE_URL, PRESETS, fetch, fetch_reference, preset, preset_files
from unitgain.transfer import DownloadError

__all__ = ["server"]  # a fixture


def get(server, path, **options):
    return download(f"{server.url}/file.pkl", path, pause=0.01, timeout=5, **options)


def test_a_file_comes_once_and_is_checked_ever_after(tmp_path, server):
    path, seen = tmp_path / "cache" / "file.pkl", []
    record = get(server, path, on_progress=lambda *at: seen.append(at))
    assert path.read_bytes() == BODY
    assert seen[-1] == (len(BODY), len(BODY))
    assert record.sha256 == hashlib.sha256(BODY).hexdigest()
    assert json.loads((tmp_path / "cache" / "file.pkl.json").read_text()) == vars(record)
    assert sorted(p.name for p in path.parent.iterdir()) == ["file.pkl", "file.pkl.json"]
    assert get(server, path, offline=True) == record
    assert server.asked == [None]
    path.write_bytes(BODY[:-1] + b"!")
    with pytest.raises(DownloadError, match="is damaged"):
        get(server, path)
    path.unlink()  # and if it is fetched again, it must be what it was
    assert get(server, path) == record
    path.unlink()
    server.files["/file.pkl"] = b"another"
    with pytest.raises(DownloadError, match="but had"):
        get(server, path)
    assert not path.exists()


@pytest.mark.parametrize(
    ("faults", "ranges"),
    [
        (["cut"], [None, f"bytes={len(BODY) // 2}-"]),
        (
            ["cut", "cut", 503],
            [None, f"bytes={len(BODY) // 2}-", f"bytes={len(BODY) * 3 // 4}-", f"bytes={len(BODY) * 3 // 4}-"],
        ),
        (["cut", "no ranges"], [None, f"bytes={len(BODY) // 2}-"]),
        (["cut", "wrong range"], [None, f"bytes={len(BODY) // 2}-", None]),
        ([500, 429], [None, None, None]),
        (["chunked"], [None]),
        (["cut chunked"], [None, None]),
        (["cut", 416], [None, f"bytes={len(BODY) // 2}-", None]),
    ],
)
def test_interruptions_are_gone_on_from(tmp_path, server, faults, ranges):
    server.faults = list(faults)
    get(server, tmp_path / "file.pkl")
    assert (tmp_path / "file.pkl").read_bytes() == BODY
    assert server.asked == ranges


def test_a_later_call_goes_on_unless_the_file_has_changed(tmp_path, server):
    path = tmp_path / "file.pkl"
    for changed in (False, True):
        server.faults, server.asked = ["cut"], []
        with pytest.raises(DownloadError, match=r"255,\d+|256,000 of 512,000 bytes came.*run the command again"):
            get(server, path, attempts=1)
        assert not path.exists()
        if changed:
            server.files["/file.pkl"], server.tag = BODY[::-1], '"two"'
        get(server, path)
        assert path.read_bytes() == server.files["/file.pkl"]
        assert server.asked == [None, "bytes=256000-"]
        path.unlink()
        (tmp_path / "file.pkl.json").unlink()


def test_what_cannot_be_fetched(tmp_path, server, monkeypatch):
    path = tmp_path / "file.pkl"
    for fault, words in (
        (404, "404.*not there any more"),
        (403, "403.*refused"),
        ("huge", "over the limit of"),
        ("no length", "how long the file is"),
    ):
        server.faults = [fault]
        with pytest.raises(DownloadError, match=words):
            get(server, path)
        assert not list(tmp_path.iterdir())
    server.faults = ["huge"]
    with pytest.raises(DownloadError, match=r"bytes, but .* free"):
        get(server, path, largest=10**16)
    server.faults = [503] * 3
    with pytest.raises(DownloadError, match="503"):
        get(server, path, attempts=3)
    with pytest.raises(DownloadError, match=r"no connection \(.*put it at"):
        download("http://127.0.0.1:9/file.pkl", path, attempts=2, pause=0.01)
    with pytest.raises(DownloadError, match="begins with http"):
        download("file:///etc/passwd", path)
    server.asked = []
    with pytest.raises(DownloadError, match="network is not to be used"):
        get(server, path, offline=True)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(DownloadError, match="network is not to be used"):
        get(server, path)
    assert not server.asked
    assert not path.exists()
    path.write_bytes(b"by hand")
    assert get(server, path).url == ""


def test_a_file_that_is_not_the_expected_one_is_not_kept(tmp_path, server):
    path, digest = tmp_path / "file.pkl", hashlib.sha256(BODY).hexdigest()
    with pytest.raises(DownloadError, match="expected was abc"):
        get(server, path, sha256="abc")
    assert not path.exists()
    assert get(server, path, sha256=digest.upper()).sha256 == digest  # from the beginning
    assert server.asked == [None, None]
    with pytest.raises(DownloadError, match="expected was abc"):
        get(server, path, sha256="abc")


def test_proxies_of_the_environment_are_used(tmp_path, server, monkeypatch):
    monkeypatch.setenv("http_proxy", server.url)
    server.files["http://nowhere.invalid/file.pkl"] = b"through a proxy"
    download("http://nowhere.invalid/file.pkl", tmp_path / "file.pkl", attempts=1)
    assert (tmp_path / "file.pkl").read_bytes() == b"through a proxy"


def test_two_processes_do_not_write_one_file(tmp_path, server):
    import fcntl

    with open(tmp_path / ".file.pkl.part", "wb") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(DownloadError, match="another process is fetching"):
            get(server, tmp_path / "file.pkl")


def test_cache_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("UNITGAIN_CACHE", raising=False)
    assert cache_folder() == tmp_path / "unitgain"
    monkeypatch.setenv("UNITGAIN_CACHE", str(tmp_path / "mine"))
    assert cache_folder() == tmp_path / "mine"


# Presets: names, files, guides and weights as their authors publish them.
@pytest.mark.parametrize(
    ("name", "network", "guide", "guidance", "score"),
    [
        ("img512-xs-fid", "img512-xs-2147483-0.135", None, 1.0, 3.53),
        ("img512-s-dino", "img512-s-2147483-0.190", None, 1.0, 68.64),
        ("img512-l-fid", "img512-l-1879048-0.085", None, 1.0, 2.06),
        ("img512-s-guid-dino", "img512-s-2147483-0.085", "img512-xs-uncond-2147483-0.085", 1.9, 52.32),
        ("img512-xl-guid-fid", "img512-xl-1342177-0.020", "img512-xs-uncond-2147483-0.020", 1.2, 1.85),
        ("img512-xxl-guid-dino", "img512-xxl-0939524-0.015", "img512-xs-uncond-2147483-0.015", 1.7, 33.09),
        ("img512-s-autog-fid", "img512-s-2147483-0.070", "img512-xs-0134217-0.125", 2.1, 1.34),
        ("img512-xxl-autog-dino", "img512-xxl-0939524-0.130", "img512-m-0268435-0.205", 2.3, 24.18),
        ("img512-s-uncond-autog-fid", "img512-s-uncond-2147483-0.070", "img512-xs-uncond-0134217-0.110", 2.85, 3.86),
        ("img64-s-fid", "img64-s-1073741-0.075", None, 1.0, 1.58),
        ("img64-m-fid", "img64-m-2147483-0.060", None, 1.0, 1.43),
        ("img64-xl-fid", "img64-xl-0671088-0.040", None, 1.0, 1.33),
        ("img64-s-autog-dino", "img64-s-1073741-0.105", "img64-xs-0134217-0.175", 2.2, 31.85),
    ],
)
def test_presets(name, network, guide, guidance, score):
    found = preset(f"edm2-{name}")
    assert found.network.url() == f"{BASE_URL}/posthoc-reconstructions/edm2-{network}.pkl"
    assert (found.guide.stem if found.guide else None) == (f"edm2-{guide}" if guide else None)
    assert (found.guidance, found.score) == (guidance, score)


def test_every_preset_there_is():
    sizes = ("xs", "s", "m", "l", "xl", "xxl")
    names = {
        f"edm2-img512-{size}{kind}-{metric}" for size in sizes for kind in ("", "-guid") for metric in ("fid", "dino")
    }
    names |= {f"edm2-img64-{size}-fid" for size in ("s", "m", "l", "xl")}
    runs = ("edm2-img512-s", "edm2-img512-xxl", "edm2-img512-s-uncond", "edm2-img64-s")
    names |= {f"{run}-autog-{metric}" for run in runs for metric in ("fid", "dino")}
    assert PRESETS.keys() == names
    with pytest.raises(ValueError, match="did you mean 'edm2-img512-s-guid-dino'"):
        preset("edm2-img512-s-guid-dinno")


def test_fetch_from_a_mirror(tmp_path, server, monkeypatch, capsys):
    monkeypatch.setenv("UNITGAIN_CACHE", str(tmp_path))
    name = "edm2-img64-s-autog-fid"
    stems = ("edm2-img64-s-1073741-0.045", "edm2-img64-xs-0134217-0.110")
    config = config_of(channel_mult=[1], attn_resolutions=[])
    for seed, stem in enumerate(stems):
        path = f"/edm2/posthoc-reconstructions/{stem}.pkl"
        server.files[path] = dumps(contents(random_state(config, seed), config))
    with pytest.raises(FileNotFoundError, match=f"run `unitgain fetch {name}` first"):
        unitgain.load(name)
    server.faults = ["cut"]
    main(["fetch", name, "--mirror", f"{server.url}/edm2"])
    out = capsys.readouterr().out
    for words in ("CC BY-NC-SA 4.0", "no commercial use", "guidance weight 1.7", "published FID: 1.01", stems[1]):
        assert words in out
    network, guide = preset_files(name)
    with Snapshot(network) as snapshot:
        assert (snapshot.header.nimg, snapshot.header.recipe) == (1024 * 2**20, "edm2-img64-s")
    with Snapshot(guide) as snapshot:
        assert (snapshot.header.nimg, snapshot.header.sigma_rel) == (128 * 2**20, 0.11)
    assert unitgain.load(name).spec.resolution == 8
    main(["fetch", name, "--offline"])  # all there
    assert "fetching" not in capsys.readouterr().out
    network.unlink()  # converted again from the file that was kept
    assert fetch(name, offline=True, discard=True) == (network, guide)
    assert not network.with_suffix(".pkl").exists()
    with pytest.raises(SystemExit) as stop:
        main(["fetch", "edm2-img64-s-fid", "--offline"])
    assert stop.value.code == 1
    assert "the network is not to be used; fetch https://" in capsys.readouterr().err.replace("\n", " ")


def test_the_list_of_presets(capsys):
    main(["fetch"])
    out = capsys.readouterr().out
    assert "edm2-img512-s-guid-dino" in out and "CC BY-NC-SA 4.0" in out
    assert "refs-img512  refs-img64" in out


def test_reference_statistics(tmp_path, server, capsys):
    entry = {"mu": np.zeros(3), "sigma": np.eye(3)}
    server.files["/edm2/dataset-refs/img512.pkl"] = pickle.dumps({"fid": entry, "fd_dinov2": entry})
    server.files["/edm2/dataset-refs/img64.pkl"] = pickle.dumps({"fid": print})
    to = ["--cache", str(tmp_path), "--mirror", f"{server.url}/edm2"]
    main(["fetch", "refs-img512", *to])
    out = capsys.readouterr().out
    path = tmp_path / "official" / "refs-img512.pkl"
    assert f"reference: {path}" in out and "no commercial use" in out
    assert read_reference(path).keys() == {"fid", "fd_dinov2"}
    assert fetch_reference("refs-img512", cache=tmp_path, offline=True) == path
    for args, code, words in (
        (["refs-img64", *to], 2, "builtins"),
        (["refs-img64", *to], 2, "builtins"),  # and not kept
        (["refs-img64", *to, "--discard"], 2, "used as they are"),
        (["refs-img12", *to], 2, "did you mean 'refs-img512'"),
        (["refs-img64", "--offline", "--cache", str(tmp_path / "none")], 1, "dataset-refs/img64.pkl elsewhere and put"),
    ):
        with pytest.raises(SystemExit) as stop:
            main(["fetch", *args])
        assert stop.value.code == code
        assert words in capsys.readouterr().err.replace("\n", " "), args
