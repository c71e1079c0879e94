"""How images are drawn: everything that changes them but the networks and the seeds. Imports no torch."""

import dataclasses
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args

import tyro

from unitgain.classes import Class, Classes
from unitgain.given import real, settle, several, whole
from unitgain.recipe import Precision
from unitgain.sample.samplers import Heun, Sampler
from unitgain.sample.schedule import check_schedule, sigma_grid
from unitgain.sample.seeds import Between, Seed

if TYPE_CHECKING:
    import torch
    from torch import Tensor

UNSET = tyro.conf.arg(help_behavior_hint="")  # None, which means what the text says
MOST_FRAMES = 1000
PREPARED = ("compile", "no_winograd", "kernels", "graph")  # of prepared networks


@dataclass(frozen=True, kw_only=True)
class DrawSettings:
    """Settings of sampling and guidance.

    Args:
        guidance: weight w of Eq. 152; 1 is none.
        label: class of all images, by number or name; or several, of which seed s gets number s modulo how many they
            are; None for one that each seed draws.
        sampler: with its own settings.
        steps: steps N of the sampler.
        sigma_min: lowest noise level before 0.
        sigma_max: highest noise level.
        rho: exponent of the schedule; higher is denser at low noise.
        interval: noise levels LO < sigma <= HI that are guided. Default: all.
        dtype: precision of the networks. auto is the fastest that the hardware has: bfloat16, on older GPUs float16,
            else float32; and float32 with `exact`. Name one to draw the same images everywhere.
        exact: evaluate networks as in training, step by step; slower. By default their weights are normalized and
            constants folded beforehand, which differs in the rounding.
        compile: compile the networks (torch.compile): a minute or more at the start, for long runs. Differs in the
            rounding.
        no_winograd: make 3x3 convolutions on CPUs by their definition. By Winograd's filtering networks of them are
            about twice as fast (on one processor, with AVX-512); their weights take 2 to 4 times the memory. Differs in
            the rounding.
        kernels: run depthwise convolutions on kernels of our own (Triton, the extra kernels), for GPUs. They are
            tested, but no GPU has run them: measure before you rely on them (unitgain bench forward
            NETWORK:bfloat16+kernels). Differs in the rounding.
        graph: record what an evaluation starts on the GPU as a CUDA graph, and replay it: for networks so small, or
            batches, that the GPU waits for the processor. Not with `compile`. No GPU has run it yet either.
        vae: folder or Hub id of the VAE that decodes latents. Default: the one that the network names.
        conditions: data whose rows say what is drawn, beside the class: seed s gets row s, or of some rows, DATA[0:16]
            or DATA[3,5,7], number s modulo how many they are, and its label, unless a class is named. none for no
            conditions. In Python also `unitgain.draw.DataRows`, or a data set for all of its rows.
        without: what the network does without where it guides itself: names of conditions, and label. Default: all
            that training left out of some images.

    Raises:
        ValueError: if a value is out of range, or two exclude each other.
    """

    guidance: tyro.conf.Suppress[float] = 1.0  # commands have options of their own for this and the next
    label: tyro.conf.Suppress[Class | tuple[Class, ...] | None] = None
    sampler: Sampler = field(default_factory=Heun)
    steps: int = 32
    sigma_min: float = 0.002
    sigma_max: float = 80.0
    rho: float = 7.0
    interval: Annotated[tuple[float, float] | None, UNSET] = None
    dtype: Literal["auto"] | Precision = "float32"
    exact: bool = False
    compile: bool = False
    no_winograd: bool = False
    kernels: bool = False
    graph: bool = False
    vae: Annotated[str | None, UNSET] = None
    conditions: Annotated[Any, tyro.conf.arg(metavar="DATA[ROWS]", constructor=str), UNSET] = None
    without: Annotated[tuple[str, ...], UNSET] = ()

    def __post_init__(self) -> None:
        self._settle()
        if not isinstance(self.sampler, Sampler):
            raise ValueError(f"sampler = {self.sampler!r}: a sampler with its settings, such as Heun()")
        own = dataclasses.fields(self.sampler) if dataclasses.is_dataclass(self.sampler) else ()
        if taken := {one.name for one in own} & {"class", *(one.name for one in dataclasses.fields(self))}:
            raise ValueError(f"{self.sampler.name} has a setting {min(taken)}, as all samplers have: call it otherwise")
        if self.dtype not in ("auto", *get_args(Precision)):
            raise ValueError(f"dtype must be auto or one of {', '.join(get_args(Precision))}, not {self.dtype!r}")
        for name in PREPARED:
            if self.exact and getattr(self, name):
                raise ValueError(f"exact and {name} exclude each other: {name} is for prepared networks")
        if self.label == ():
            raise ValueError("label = (): name a class, or leave it None")
        if self.compile and self.graph:
            raise ValueError("compile and graph exclude each other: a compiled network has no graph recorded of it")
        if not math.isfinite(self.guidance):
            raise ValueError(f"guidance = {self.guidance}: must be finite")
        if self.interval is not None and not (
            len(self.interval) == 2 and 0 <= self.interval[0] < self.interval[1] < math.inf
        ):
            raise ValueError(f"interval = {self.interval}: finite noise levels (lo, hi) with 0 <= lo < hi")
        check_schedule(self.steps, self.sigma_min, self.sigma_max, self.rho)
        if self.interval is not None and not (self.interval[0] < self.sigma_max and self.interval[1] >= self.sigma_min):
            raise ValueError(
                f"interval = {self.interval}: guides nothing, for the noise levels are from sigma_min = "
                f"{self.sigma_min:g} to sigma_max = {self.sigma_max:g}"
            )

    def _settle(self) -> None:
        """Let plain values stand for what was given, such as arrays, and numbers of NumPy."""
        settle(self, steps=whole(self.steps, "steps"), without=several(self.without, "without"))
        for name in ("guidance", "sigma_min", "sigma_max", "rho"):
            settle(self, **{name: real(getattr(self, name), name)})
        if self.interval is not None:
            settle(self, interval=tuple(real(each, "interval") for each in several(self.interval, "interval")))
        label: Any = self.label
        label = label.tolist() if hasattr(label, "tolist") else label
        if label is not None and not isinstance(label, str):
            settle(self, label=several(label, "label") if isinstance(label, Iterable) else whole(label, "label"))
        if self.vae is not None:
            settle(self, vae=str(self.vae))
        if self.conditions == "":
            raise ValueError("conditions = '': name data, or none for no conditions")
        if self.conditions is not None and not isinstance(self.conditions, str):
            from unitgain.draw.rows import DataRows

            settle(self, conditions=DataRows.given(self.conditions))

    def sigmas(self) -> "Tensor":
        """The noise levels, `[steps + 1]`, float64."""
        return sigma_grid(self.steps, self.sigma_min, self.sigma_max, self.rho)

    def replace(self, **changes: Any) -> "DrawSettings":
        """A copy with some fields changed."""
        return dataclasses.replace(self, **changes)

    def with_classes(self, classes: Classes) -> "DrawSettings":
        """The same settings with numbers for classes.

        Raises:
            ValueError: if the network does not know one.
        """
        if self.label is None:
            return self
        if not isinstance(self.label, tuple):
            return self.replace(label=classes.number(self.label))
        numbers = tuple(classes.numbers(self.label))
        return self.replace(label=numbers[0] if len(numbers) == 1 else numbers)

    def labels(self, seeds: Sequence[Seed]) -> Class | list[Class] | None:
        """The class of all images, or that of each of these seeds; None where each draws its own.

        Raises:
            ValueError: if there are several classes, and points between seeds.
        """
        if not isinstance(self.label, tuple):
            return self.label
        whole = [seed for seed in seeds if not isinstance(seed, Between)]
        if len(whole) < len(seeds):
            raise ValueError("several classes go to seeds in turn, which points between seeds have none of: name one")
        return [self.label[seed % len(self.label)] for seed in whole]

    def precision(self, device: "torch.device | str") -> "torch.dtype":
        """In which the networks compute on this device."""
        from unitgain.checkpoint.snapshot import DTYPES
        from unitgain.infer import fastest_dtype

        if self.dtype == "auto":
            return DTYPES["float32"] if self.exact else fastest_dtype(device)
        return DTYPES[self.dtype]

    def record(self, device: "torch.device | str") -> dict[str, Any]:
        """The settings as JSON, those of the sampler too; options of prepared networks where they are asked for."""
        values = {one.name: getattr(self, one.name) for one in dataclasses.fields(self)}
        for name in ("vae", "without", *PREPARED):
            if not values[name]:
                del values[name]
        if values["conditions"] is None:
            del values["conditions"]
        else:
            from unitgain.draw.rows import rows_of

            rows = rows_of(self)
            values["conditions"] = None if rows is None else rows.record()
        label = values.pop("label")
        values["class"] = list(label) if isinstance(label, tuple) else label
        values["interval"] = None if self.interval is None else list(self.interval)
        values["dtype"] = str(self.precision(device)).removeprefix("torch.")
        return values | self.sampler.to_json()


@dataclass(frozen=True, kw_only=True)
class FromPicture:
    """Draw from a picture rather than from nothing, all of it or a part.

    Args:
        picture: what images start from: a file of any kind, in Python also an image of Pillow, or an array or tensor of
            uint8. Cropped to its middle and scaled, where its size is not that of the network's images.
        sigma_start: noise level that is added to the picture, from which it is denoised: at 0.2 details change, at 10
            little is left of it. Default: twice sigma_data; with a mask, the highest noise level, where what is under
            the mask has no part in the images.
        mask: a picture of the same size, white where images are drawn anew and black where the picture is kept, to the
            bit. Both must have the size of the network's images.
        resample: with a mask, how often each step is made, so that new and old come to fit. 1 is fast and may not
            heed what is kept, 10 takes ten times as long. Default: 4.

    Raises:
        ValueError: if a value is out of range, or there is no picture for the others.
    """

    picture: Annotated[Any, tyro.conf.arg(name="from", metavar="PICTURE", constructor=Path), UNSET] = None
    sigma_start: Annotated[float | None, UNSET] = None
    mask: Annotated[Any, tyro.conf.arg(metavar="PICTURE", constructor=Path), UNSET] = None
    resample: Annotated[int | None, UNSET] = None

    def __post_init__(self) -> None:
        if self.sigma_start is not None:
            settle(self, sigma_start=real(self.sigma_start, "sigma_start"))
        if self.resample is not None:
            settle(self, resample=whole(self.resample, "resample"))
        for name, value in (("sigma_start", self.sigma_start), ("mask", self.mask)):
            if self.picture is None and value is not None:
                raise ValueError(f"{name} is for drawing from a picture, and there is none: name it (--from PICTURE)")
        if self.sigma_start is not None and not 0 < self.sigma_start < math.inf:
            raise ValueError(f"sigma_start = {self.sigma_start}: must be positive")
        if self.resample is not None and (self.resample < 1 or self.mask is None):
            raise ValueError(f"resample = {self.resample}: at least 1, and for drawing with a mask")


@dataclass(frozen=True, kw_only=True)
class Animation:
    """How images move.

    Args:
        frames: of an animation. Default: 16 from one seed to the next; of a path, one per noise level.
        fps: frames per second.

    Raises:
        ValueError: if a value is out of range.
    """

    frames: Annotated[int | None, UNSET] = None
    fps: float = 12.0

    def __post_init__(self) -> None:
        settle(self, frames=self.frames and whole(self.frames, "frames"), fps=real(self.fps, "fps"))
        if self.frames is not None and not 2 <= self.frames <= MOST_FRAMES:
            raise ValueError(f"frames = {self.frames}: must be 2 to {MOST_FRAMES}")
        if not 0.1 <= self.fps <= 100:
            raise ValueError(f"fps = {self.fps:g}: must be 0.1 to 100 frames per second")
