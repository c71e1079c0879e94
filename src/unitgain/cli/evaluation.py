"""Options of `unitgain train` that draw and measure on the way."""

import dataclasses
from dataclasses import dataclass

from unitgain.cli.arguments import Unset
from unitgain.train.config import Evaluation, Precision


@dataclass(frozen=True, kw_only=True)
class EvaluationOptions:
    """What is drawn and measured while the run trains, which changes nothing of it. May change with --resume."""

    samples_every: Unset[int] = None
    """Images between grids of samples, at the same seeds each time, in samples/; 0 for none. Default: none."""

    samples: Unset[int] = None
    """Images of a grid, a row per class where there are few. Default: 64."""

    metrics: Unset[str] = None
    """What to measure on the way, as in `unitgain metrics`: fid, fd_dinov2, fd_pixels, kid, ... Default: nothing."""

    metrics_every: Unset[int] = None
    """Images between measurements; 0 for none. Default: the snapshot interval, if --metrics are named."""

    metrics_images: Unset[int] = None
    """Images measured each time. Default: 5000; papers measure 50000."""

    metrics_reference: Unset[str] = None
    """What to measure against: a file of `unitgain metrics reference DATA` (.npz), or an official .pkl."""

    evaluate_ema: Unset[float] = None
    """Relative length of the average that draws, one of the recipe's. Default: its first."""

    evaluate_steps: Unset[int] = None
    """Steps of the sampler. Default: 32."""

    evaluate_batch: Unset[int] = None
    """Images in flight at a time in each process; a signal waits for them. Default: 64."""

    evaluate_dtype: Unset[Precision] = None
    """Precision of the network that draws. Default: float32."""

    evaluate_vae: Unset[str] = None
    """Folder or Hub id of the VAE that decodes latents. Default: the one that the data name."""

    inception: Unset[str] = None
    """File of Inception's weights (inception-2015-12-05.pt). Default: fetched once into the cache."""

    dinov2: Unset[str] = None
    """Folder or Hub id of DINOv2's weights. Default: the published ones."""

    def settings(self, saved: Evaluation, snapshot_every: int) -> Evaluation:
        """What was given here, and the rest as it was.

        Args:
            saved: of the run so far.
            snapshot_every: images between its snapshots.

        Raises:
            ValueError: if a value is out of range, or options do not go together.
        """
        given = {
            "samples_every": self.samples_every,
            "samples": self.samples,
            "metrics": None if self.metrics is None else tuple(name for name in self.metrics.split(",") if name),
            "metrics_every": self.metrics_every,
            "metrics_images": self.metrics_images,
            "reference": self.metrics_reference,
            "ema": self.evaluate_ema,
            "steps": self.evaluate_steps,
            "batch": self.evaluate_batch,
            "dtype": self.evaluate_dtype,
            "vae": self.evaluate_vae,
            "inception": self.inception,
            "dinov2": self.dinov2,
        }
        chosen = {name: value for name, value in given.items() if value is not None}
        for name, about in (("samples", "samples_every"), ("metrics", "metrics_every")):
            if chosen.get(name) and about not in chosen and not getattr(saved, about):
                chosen[about] = snapshot_every
        return dataclasses.replace(saved, **chosen)
