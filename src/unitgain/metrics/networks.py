"""Networks as detectors: TorchScript files, Inception among them, and DINOv2."""

import warnings
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from unitgain.denoiser import weights_hash
from unitgain.extras import require
from unitgain.files import sha256
from unitgain.metrics.detectors import DetectorInfo, check_features, rgb
from unitgain.metrics.weights import DINOV2

DINOV2_EDGE = 224
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Script:
    """A TorchScript module that takes uint8 RGB images `[N, 3, H, W]` and resizes them as it needs.

    Where its `forward` has an argument `return_features` it is called with it, for features `[N, D]`. Grey images are
    repeated to RGB. `open_script` opens one.
    """

    def __init__(self, module: Any, info: DetectorInfo, device: torch.device | str) -> None:
        self.module, self.info, self.device = module, info, torch.device(device)
        self.arguments = arguments(module)

    def __call__(self, images: Tensor) -> Float[Tensor, "n d"]:
        """The features.

        Raises:
            ValueError: if it returns something else.
        """
        return self._call(images, "return_features")

    def _call(self, images: Tensor, switch: str) -> Tensor:
        chosen = {switch: True} if switch in self.arguments else {}
        return check_features(self.module(rgb(images).to(self.device), **chosen), len(images), self.info.name)


class ScriptClassifier(Script):
    """A TorchScript module that gives features with `return_features=True` and probabilities of classes without.

    This is how `inception-2015-12-05.pt` is called. Where `forward` has an argument `no_output_bias` it is true for
    probabilities, as in the original Inception score, which left the bias of the last layer out.
    """

    def probabilities(self, images: Tensor) -> Float[Tensor, "n classes"]:
        """Probabilities of the classes; one more evaluation."""
        return self._call(images, "no_output_bias")


def open_script(path: Path, device: torch.device | str = "cpu", name: str | None = None) -> Script:
    """The detector in a TorchScript file: a `ScriptClassifier` if it can be called as one.

    Args:
        path: the file. It holds code, though of a restricted kind: use files that you trust.
        device: where it runs.
        name: of the detector; the name of the file by default.

    Raises:
        FileNotFoundError: if there is no file.
        ValueError: if it is no TorchScript.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no detector at {path}")
    try:
        with warnings.catch_warnings():  # deprecated, but the weights of Inception have no other form
            warnings.simplefilter("ignore", DeprecationWarning)
            module = torch.jit.load(str(path), map_location=device).eval()
    except RuntimeError as error:
        first = str(error).strip().splitlines()[0]
        raise ValueError(f"{path} is no TorchScript file (of torch.jit.save) that opens here: {first}") from error
    info = DetectorInfo(name=name or path.name, hash=sha256(path), resize="inside the detector")
    kind = ScriptClassifier if "return_features" in arguments(module) else Script
    return kind(module, info, device)


def arguments(module: Any) -> set[str]:
    """Names of the arguments of a TorchScript module's `forward`."""
    return {argument.name for argument in module.forward.schema.arguments}


class DinoV2:
    """The class token of a DINOv2 network, after its last normalization.

    Images are resized to 224x224, bicubic with antialiasing, and standardized with ImageNet's mean and deviation.

    Args:
        weights: folder or Hub id of a `transformers` DINOv2.
        device: where it runs.

    Raises:
        ImportError: if `transformers` is missing.
        FileNotFoundError: if the weights can be had neither from the disk nor from the Hub.
    """

    def __init__(self, weights: str = DINOV2, device: torch.device | str = "cpu") -> None:
        model_class = require("transformers", extra="metrics").Dinov2Model
        try:
            model: nn.Module = model_class.from_pretrained(weights, use_safetensors=True)  # no pickles
        except (OSError, ValueError) as error:
            first = str(error).strip().splitlines()[0]
            raise FileNotFoundError(
                f"no DINOv2 weights at {weights!r} ({first}): where there is a network run `hf download {DINOV2}`, or "
                "name a folder with them by --dinov2"
            ) from error
        self.module = model.to(device, torch.float32).eval().requires_grad_(False)
        self.device = torch.device(device)
        resize = f"{DINOV2_EDGE}x{DINOV2_EDGE} bicubic, antialiased"
        self.info = DetectorInfo(name="dinov2", hash=weights_hash(model), resize=resize)

    def __call__(self, images: Tensor) -> Float[Tensor, "n d"]:
        """The class tokens."""
        x = rgb(images).to(self.device, torch.float32) / 255
        if x.shape[-2:] != (DINOV2_EDGE, DINOV2_EDGE):
            x = functional.interpolate(x, (DINOV2_EDGE, DINOV2_EDGE), mode="bicubic", antialias=True)
        mean, std = (x.new_tensor(values)[:, None, None] for values in (IMAGENET_MEAN, IMAGENET_STD))
        return self.module((x - mean) / std).last_hidden_state[:, 0]
