"""The embedded data set: 1797 handwritten digits of 8x8 pixels that scikit-learn ships. No download."""

import torch

from unitgain.data.dataset import ArrayDataset
from unitgain.data.encoder import PixelEncoder
from unitgain.extras import require


def digits() -> ArrayDataset:
    """Digits as `[1797, 1, 8, 8]` 8-bit pixels with labels 0-9, standardized to mean 0 and standard deviation 0.5.

    Raises:
        ImportError: if scikit-learn is missing, naming the extra that brings it.
    """
    datasets = require("sklearn.datasets", extra="demo")
    bunch = datasets.load_digits()
    pixels = torch.from_numpy(bunch.images)[:, None]  # 0...16
    images = (pixels * (255 / 16)).round().to(torch.uint8)
    labels = torch.from_numpy(bunch.target).to(torch.int64)
    classes = tuple(str(name) for name in bunch.target_names)
    return ArrayDataset(
        name="digits", images=images, labels=labels, classes=classes, encoder=PixelEncoder.measure(images)
    )
