"""Detectors: TorchScript called as Inception is, a DINOv2, functions; their weights, fetched and checked."""

import hashlib
import http.server
import io
import json
import pickle
import sys
import threading
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from transformers import Dinov2Config, Dinov2Model

from unitgain.cli.main import main
from unitgain.data.digits import digits
from unitgain.data.images import to_image
from unitgain.metrics.detectors import Classifier, DetectorInfo, Pixels
from unitgain.metrics.measure import measure
from unitgain.metrics.networks import IMAGENET_MEAN, IMAGENET_STD, DinoV2
from unitgain.metrics.reference import Reference
from unitgain.metrics.summary import summarize
from unitgain.metrics.weights import Weights, fetch, open_detector, scale_of
from unitgain.transfer import DownloadError


class SmallInception(nn.Module):
    """The calling convention of inception-2015-12-05.pt on a network of one layer."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3)
        self.output = nn.Linear(8, 5)

    def forward(self, x: Tensor, return_features: bool = False, no_output_bias: bool = False) -> Tensor:
        assert x.dtype == torch.uint8
        x = nn.functional.interpolate(x.float() / 255, (9, 9), mode="bilinear")
        features = self.conv(x).mean((2, 3))
        if return_features:
            return features
        logits = features @ self.output.weight.T
        if not no_output_bias:
            logits = logits + self.output.bias
        return logits.softmax(1)


class Flat(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.float().mean((2, 3), keepdim=True)


@pytest.fixture
def inception(tmp_path):
    path = tmp_path / "inception.pt"
    module = SmallInception()
    torch.jit.script(module).save(path)
    return path, module


def pictures(n, channels=3, edge=12, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (n, channels, edge, edge), generator=generator, dtype=torch.uint8)


def test_inception_gives_features_and_probabilities_without_the_bias(inception):
    path, module = inception
    detector = open_detector("inception", weights=Weights(inception=path))
    assert isinstance(detector, Classifier)
    assert (detector.info.name, detector.info.resize) == ("inception", "inside the detector")
    assert detector.info.hash == hashlib.sha256(path.read_bytes()).hexdigest()
    images = pictures(4)
    features = module(images, return_features=True)
    torch.testing.assert_close(detector(images), features)
    torch.testing.assert_close(detector.probabilities(images), (features @ module.output.weight.T).softmax(1))
    grey = pictures(4, channels=1)
    torch.testing.assert_close(detector(grey), detector(grey.repeat(1, 3, 1, 1)))
    with pytest.raises(ValueError, match="decode latents"):
        detector(pictures(4, channels=4))


def test_one_pass_with_several_detectors(inception):
    detectors = [open_detector("inception", weights=Weights(inception=inception[0])), Pixels()]
    images = pictures(30)
    references = {name: Reference.of(s) for name, s in summarize([pictures(40, seed=1)], detectors).items()}
    calls = []

    def batches():
        for part in images.split(8):
            calls.append(len(part))
            yield part

    records = measure(batches(), detectors, ["fid", "is", "fd_pixels"], references)
    assert sum(calls) == 30
    assert [(record.metric, record.detector.name, record.dims) for record in records] == [
        ("fid", "inception", 8),
        ("is", "inception", 8),
        ("fd_pixels", "pixels", 432),
    ]
    assert records[1].reference is None
    assert 1 <= records[1].value < 5


def test_a_converted_reference_measures_as_the_official_one(tmp_path, inception):
    """The same images are at a distance of 0, and what is not known of official statistics is warned of."""
    images = digits().images[:80]
    rows = open_detector("inception", weights=Weights(inception=inception[0]))(images).detach().double().numpy()
    given = {"mu": rows.mean(0), "sigma": np.cov(rows, rowvar=False)}
    (tmp_path / "digits.pkl").write_bytes(pickle.dumps({"fid": given}))
    (tmp_path / "images").mkdir()
    for i, pixels in enumerate(images):
        to_image(pixels).save(tmp_path / "images" / f"{i:02d}.png")
    main(["convert", str(tmp_path / "digits.pkl"), str(tmp_path / "digits.npz")])
    values = []
    for name in ("digits.pkl", "digits.npz"):
        out = tmp_path / "result.json"
        arguments = ["--reference", str(tmp_path / name), "--inception", str(inception[0]), "--out", str(out)]
        main(["metrics", str(tmp_path / "images"), *arguments])
        ((record,),) = (result["records"] for result in json.loads(out.read_text()))
        assert record["reference"]["name"] == "digits.pkl" and record["reference"]["count"] is None
        assert any("which weights" in line for line in record["warnings"])
        values.append(record["value"])
    assert values[0] == values[1] == pytest.approx(0, abs=1e-6)


def test_any_torchscript_file(tmp_path):
    path = tmp_path / "flat.pt"
    torch.jit.script(Flat()).save(path)
    detector = open_detector(str(path))
    assert detector.info.name == "flat.pt"
    assert not isinstance(detector, Classifier)
    torch.testing.assert_close(detector(pictures(2)), pictures(2).float().mean((2, 3)))
    (tmp_path / "broken.pt").write_bytes(b"not a network")
    with pytest.raises(ValueError, match="no TorchScript"):
        open_detector(str(tmp_path / "broken.pt"))
    with pytest.raises(FileNotFoundError, match="no detector"):
        open_detector(str(tmp_path / "missing.pt"))


def test_a_function_of_the_users(tmp_path, monkeypatch):
    (tmp_path / "my_detector.py").write_text("def means(images):\n    return images.float().mean((2, 3))\n")
    monkeypatch.syspath_prepend(tmp_path)
    detector = open_detector("my_detector:means")
    torch.testing.assert_close(detector(pictures(2)), pictures(2).float().mean((2, 3)))
    assert detector.info.hash == hashlib.sha256((tmp_path / "my_detector.py").read_bytes()).hexdigest()
    with pytest.raises(ValueError, match="has no 'other'"):
        open_detector("my_detector:other")
    with pytest.raises(ValueError, match="PYTHONPATH"):
        open_detector("no_such_module:means")
    with pytest.raises(ValueError, match="unknown detector 'incepton'"):
        open_detector("incepton")
    del sys.modules["my_detector"]


@pytest.fixture
def dinov2(tmp_path):
    config = Dinov2Config(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, image_size=56, patch_size=14, mlp_ratio=2
    )
    Dinov2Model(config).save_pretrained(tmp_path / "dinov2")
    return tmp_path / "dinov2"


def test_dinov2_takes_the_class_token_of_standardized_images(dinov2):
    detector = open_detector("dinov2", weights=Weights(dinov2=str(dinov2)))
    images = pictures(3, edge=224)
    mean, std = torch.tensor(IMAGENET_MEAN)[:, None, None], torch.tensor(IMAGENET_STD)[:, None, None]
    model = Dinov2Model.from_pretrained(dinov2).eval()
    with torch.no_grad():
        expected = model((images / 255 - mean) / std).pooler_output  # the normalized class token
        torch.testing.assert_close(detector(images), expected)
        assert detector(pictures(2, channels=1, edge=32)).shape == (2, 16)
    assert detector.info.hash == DinoV2(str(dinov2)).info.hash
    other = Dinov2Model(model.config)
    other.save_pretrained(dinov2)
    assert detector.info.hash != DinoV2(str(dinov2)).info.hash


def test_missing_dinov2_weights_say_what_to_do(tmp_path):
    with pytest.raises(FileNotFoundError, match="hf download facebook/dinov2-large"):
        DinoV2(str(tmp_path / "nothing"))


def test_the_resize_of_dinov2_is_that_of_pillow_to_rounding(dinov2):
    seen = []
    detector = DinoV2(str(dinov2))
    detector.module.register_forward_pre_hook(lambda module, arguments: seen.append(arguments[0]))
    noise = pictures(1, channels=1, edge=500)[0, 0]  # without antialiasing it would be off by some 40
    detector(noise.expand(1, 3, -1, -1))
    resized = torch.tensor(list(Image.fromarray(noise.numpy()).resize((224, 224), Image.Resampling.BICUBIC).tobytes()))
    pixels = (seen[0][0, 0] * IMAGENET_STD[0] + IMAGENET_MEAN[0]) * 255
    assert (pixels.flatten() - resized).abs().mean() < 0.4  # Pillow rounds and clips twice


def test_pixels_know_their_scale():
    detector = Pixels(10.0, 20.0)
    assert scale_of(detector.info) == (10, 20)
    assert scale_of(DetectorInfo(name="dinov2", hash=None, resize="")) is None
    assert open_detector("pixels", scale=(10.0, 20.0)).info == detector.info
    assert detector.info.hash != Pixels().info.hash
    assert Pixels()(torch.tensor([[[[0, 255]]]], dtype=torch.uint8)).tolist() == [[-1, 1]]
    with pytest.raises(ValueError, match="std > 0"):
        Pixels(std=0)


def torchscript_like():
    """A zip archive with the records of a TorchScript file."""
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as archive:
        for name in ("net/constants.pkl", "net/data.pkl"):
            archive.writestr(name, b"weights" * 1000)
    return made.getvalue()


class Handler(http.server.BaseHTTPRequestHandler):
    content, requests = torchscript_like(), 0

    def do_GET(self):
        type(self).requests += 1
        if self.path != "/net.pt":
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(self.content)))
        self.end_headers()
        self.wfile.write(self.content)

    def log_message(self, *_):
        pass


@pytest.fixture
def server(monkeypatch, tmp_path):
    class Own(Handler):
        pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Own) as httpd:
        thread = threading.Thread(target=httpd.serve_forever, daemon=True)
        thread.start()
        monkeypatch.setenv("UNITGAIN_CACHE", str(tmp_path / "cache"))
        yield f"http://127.0.0.1:{httpd.server_port}", Own
        httpd.shutdown()
        thread.join()


def test_weights_are_fetched_once_and_checked_at_each_use(server, tmp_path):
    url, handler = server
    digest = hashlib.sha256(handler.content).hexdigest()
    seen = []
    path = fetch(f"{url}/net.pt", on_bytes=lambda done, total: seen.append((done, total)))
    assert path.read_bytes() == handler.content
    assert seen[-1] == (len(handler.content), len(handler.content))
    assert fetch(f"{url}/net.pt", digest) == path
    assert handler.requests == 1
    with pytest.raises(DownloadError, match="expected was 00"):
        fetch(f"{url}/net.pt", "00")
    path.write_bytes(b"damaged")
    with pytest.raises(DownloadError, match="damaged"):
        fetch(f"{url}/net.pt")


def test_given_weights_are_checked_against_a_given_hash(inception):
    with pytest.raises(DownloadError, match="expected was 12"):
        open_detector("inception", weights=Weights(inception=inception[0], inception_sha256="12"))
