"""`unitgain sample`."""

from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from unitgain.cli.arguments import Device, bar, parse_seeds, pick_device
from unitgain.draw.networks import SELF, Network, open_network
from unitgain.draw.run import draw
from unitgain.draw.settings import DrawSettings
from unitgain.parallel import processes
from unitgain.presets import PRESETS, fetched
from unitgain.train.config import Precision

SamplerName = Literal["heun", "stochastic_heun", "euler", "dpmpp_2m"]


@dataclass(frozen=True)
class Sample:
    """Draw images with a network, guided or not.

    Image number s depends on the networks, the settings and s alone: not on the batch size, the number of processes or
    which others are drawn with it. Writes <thousand>/<seed>.png for each and manifest.json, which says how they were
    made. Called again it goes on where it stopped, and adds other seeds; under torchrun the processes share the work.
    """

    network: Annotated[str, tyro.conf.Positional]
    """A snapshot (a .safetensors file from training or reconstruction), a preset that was fetched, with its guide, or a
    repository of the Hugging Face Hub."""

    out: Path = Path("samples")
    """Folder for the images; or a file that ends in .zip, which is written uncompressed with its labels, as official
    tools read it."""

    seeds: str = "0-63"
    """Seeds, one image each: 7, a list 1,2,5 or a range with both ends 0-49999."""

    label: Annotated[int | None, tyro.conf.arg(name="class")] = None
    """Class of all images. Default: each seed draws its own."""

    guide: str | None = None
    """What guides: a network as above, unconditional, smaller or less trained; or self, the network without its label,
    if it was trained to do without."""

    guidance: float | None = None
    """Weight of guidance w: w times the network plus (1 - w) times the guide. 1 is none."""

    interval: tuple[float, float] | None = None
    """Noise levels LO < sigma <= HI that are guided. Default: all."""

    sampler: SamplerName = "heun"
    """heun takes 2 N - 1 evaluations of the network in N steps, stochastic_heun too; euler (DDIM) and dpmpp_2m N."""

    steps: int = 32
    """Steps N of the sampler."""

    batch: int = 64
    """Images in flight at a time in each process; does not change the images."""

    grid: bool = False
    """Also write grid.png with the first 400 images."""

    columns: int | None = None
    """Columns of the grid. Default: about square."""

    sigma_min: float = 0.002
    """Lowest noise level before 0."""

    sigma_max: float = 80.0
    """Highest noise level."""

    rho: float = 7.0
    """Exponent of the schedule; higher is denser at low noise."""

    S_churn: float | None = None
    """Fresh noise over the whole path, of stochastic_heun. Default: 40."""

    S_min: float | None = None
    """Lowest noise level that is churned. Default: 0.05."""

    S_max: float | None = None
    """Highest noise level that is churned. Default: 50."""

    S_noise: float | None = None
    """Standard deviation of the fresh noise. Default: 1.003."""

    dtype: Precision = "float32"
    """Precision of the networks."""

    vae: str | None = None
    """Folder or Hub id of the VAE that decodes latents. Default: the one that the network names."""

    device: Device = "auto"
    """Where to sample; kinds of device draw different noise."""

    def run(self) -> None:
        """Write the images."""
        guide_name, weight = self.guided_by()
        seeds, settings = parse_seeds(self.seeds), self.settings(weight)
        if self.columns is not None and self.columns < 1:
            raise ValueError(f"--columns {self.columns}: must be at least 1")
        with processes(pick_device(self.device)) as world:
            main = open_network(self.network, world.device, self.dtype)
            guide: Network | None = None
            if guide_name not in (None, SELF):
                guide = open_network(str(guide_name), world.device, self.dtype)
            with bar("sampling", "images") if world.main else nullcontext() as progress:
                drawn = draw(
                    main,
                    guide,
                    settings,
                    seeds,
                    self.out,
                    world=world,
                    batch=self.batch,
                    contact_sheet=self.grid or self.columns is not None,
                    columns=self.columns,
                    on_progress=progress,
                )
            if world.main:
                old = f"; {len(seeds) - drawn.new} were there" if drawn.new < len(seeds) else ""
                print(f"{drawn.new} images drawn{old}; {drawn.total} in {self.out}")

    def guided_by(self) -> tuple[str | None, float]:
        """Name of the guide and weight of guidance: as asked for, or those of the preset.

        Raises:
            ValueError: if the options do not go together.
        """
        if self.guide is None and self.guidance is None and not Path(self.network).exists():
            found = PRESETS.get(self.network)
            if found is not None and found.guide is not None:
                return str(fetched(self.network).guide), found.guidance
        if self.guide is not None and self.guidance is None:
            raise ValueError(f"--guide {self.guide} without --guidance: say how much, as in --guidance 1.5")
        if self.guide is None and (self.guidance not in (None, 1) or self.interval is not None):
            raise ValueError("--guidance and --interval need a --guide: a network, or self")
        return self.guide, 1.0 if self.guidance is None else self.guidance

    def settings(self, guidance: float) -> DrawSettings:
        """The options that change the images."""
        return DrawSettings(
            guidance=guidance,
            interval=self.interval,
            label=self.label,
            sampler=self.sampler,
            steps=self.steps,
            sigma_min=self.sigma_min,
            sigma_max=self.sigma_max,
            rho=self.rho,
            S_churn=self.S_churn,
            S_min=self.S_min,
            S_max=self.S_max,
            S_noise=self.S_noise,
            dtype=self.dtype,
            vae=self.vae,
        )
