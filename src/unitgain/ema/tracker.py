"""Trackers that average the weights of any `nn.Module` while it trains (EDM2, Appendices C.2-C.4)."""

import math
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Literal

import torch
from torch import Tensor, nn

from unitgain.ema.profiles import ExponentialProfile, PowerProfile, Profile, sigma_rel_to_gamma
from unitgain.parallel import full, local, shard_like

Buffers = Literal["copy", "average"]


class EMA:
    """Average of a module's weights, kept in float32 beside it (Eq. 119); base of `PowerEMA` and `ExponentialEMA`.

    The module is never written to and does not see the tracker. Parameters that are tied are kept once, under the name
    that comes first. A parameter that is sharded (a DTensor, as under FSDP2) is averaged where its shard lies, without
    communication.

    Args:
        module: any module; its floating parameters are averaged, whether or not they require gradients.
        buffers: what becomes of floating buffers: "copy" keeps them as they were at the last update, "average" averages
            them like parameters (running statistics of batch normalization, say). Other buffers are always copied.
        device: where the averages are kept: None for beside each parameter; "cpu" takes no memory of the accelerator,
            with copies that run while the next step computes.

    Attributes:
        t: time of the last update, 0 before the first.
        average: averaged tensors by name, float32 (float64 for float64 parameters); local shards of sharded ones.
        buffers: copies of the other buffers by name.
    """

    def __init__(
        self, module: nn.Module, *, buffers: Buffers = "copy", device: torch.device | str | None = None
    ) -> None:
        if buffers not in ("copy", "average"):
            raise ValueError(f'buffers must be "copy" or "average", not {buffers!r}')
        self.module = module
        self.t = 0.0
        self._average_buffers = buffers == "average"
        self._device = None if device is None else torch.device(device)
        averaged, copied = self._sources()
        if not averaged:
            raise ValueError(f"{type(module).__name__} has no floating parameters to average")
        if any(tensor.is_meta for tensor in averaged.values()):
            raise ValueError("the module is on the meta device: track it after its weights are materialized")
        self.average = {name: self._start(tensor) for name, tensor in averaged.items()}
        self.buffers = {name: tensor.to(self._device or tensor.device, copy=True) for name, tensor in copied.items()}
        self._staging: dict[str, Tensor] = {}
        self._pending: Future[None] | None = None
        self._worker: ThreadPoolExecutor | None = None
        self._steps = 0

    def beta(self, t: float, dt: float) -> float:
        """Weight of the old average in the update that ends at `t` and lasts `dt`."""
        raise NotImplementedError

    def profile_at(self, t: float) -> Profile:
        """The profile of the average at time `t`."""
        raise NotImplementedError

    @torch.no_grad()
    def update(self, t: float, dt: float) -> None:
        """Take in the module's weights, which held from `t - dt` to `t`.

        Args:
            t: time after the step, in any unit that is the same throughout: images, tokens, steps.
            dt: length of the step, positive.

        Raises:
            ValueError: if the step does not begin where the last one ended: an update was skipped or made twice; or if
                parameters of the module came or went since the tracker was made.
        """
        if not dt > 0 or not math.isclose(t - dt, self.t, rel_tol=1e-9, abs_tol=1e-9 * dt):
            raise ValueError(
                f"EMA update for the step from {t - dt} to {t}, but the last one ended at {self.t}: "
                "call update(t, dt) once after every step, t in the same unit"
            )
        averaged, copied = self._sources()
        if averaged.keys() != self.average.keys() or copied.keys() != self.buffers.keys():
            changed = sorted(averaged.keys() ^ self.average.keys() or copied.keys() ^ self.buffers.keys())
            raise ValueError(
                f"the module has changed since its EMA was made, in {', '.join(changed[:3])}: make a new one"
            )
        weight = 1 - self.beta(t, dt)
        if self._device is not None and any(tensor.device != self._device for tensor in averaged.values()):
            self._update_elsewhere(averaged, copied, weight)
        else:
            own = list(self.average.values())
            if (
                own[0].dtype == next(iter(averaged.values())).dtype
                and _one_dtype(averaged)
                and _one_dtype(self.average)
            ):
                _lerp(own, list(averaged.values()), weight)
            else:
                _lerp(own, [averaged[name].to(a.dtype) for name, a in self.average.items()], weight)
            for name, tensor in copied.items():
                self.buffers[name].copy_(tensor)
        self.t = float(t)
        self._steps = 0

    def guard(self, optimizer: torch.optim.Optimizer) -> None:
        """Watch an optimizer: its second step without an update in between raises, naming what was forgotten.

        Raises:
            RuntimeError: from the optimizer's step, that is.
        """

        def stepped(*_: object) -> None:
            self._steps += 1
            if self._steps > 1:
                raise RuntimeError(
                    f"{self._steps} optimizer steps since the last EMA update, which ended at t = {self.t}: call "
                    "update(t, dt) after every step, or the average is not of the weights it says it is"
                )

        optimizer.register_step_post_hook(stepped)

    def synchronize(self) -> None:
        """Wait for an update that still runs in the background (`device="cpu"`)."""
        if self._pending is not None:
            pending, self._pending = self._pending, None
            pending.result()

    def tensors(self) -> dict[str, Tensor]:
        """Averaged and copied tensors under the module's names; not copies.

        Raises:
            ValueError: before the first update, when there is no average yet.
        """
        self._check_updated()
        self.synchronize()
        return {**self.average, **self.buffers}

    def full_tensors(self) -> Iterator[tuple[str, Tensor]]:
        """As `tensors`, one at a time, sharded ones gathered from all processes: all of them must call this together.

        Raises:
            ValueError: before the first update.
        """
        like = dict(self.module.named_parameters())
        for name, tensor in self.tensors().items():
            yield name, full(shard_like(tensor, like.get(name, tensor)))

    def sharded(self) -> dict[str, Tensor]:
        """Averages by name, of any time, those of sharded parameters as DTensors that are cut as the parameters are.

        They share the memory of the averages, unless these are kept on another device than the parameters.
        """
        self.synchronize()
        like = dict(self.module.named_parameters())
        return {name: shard_like(tensor, like.get(name, tensor)) for name, tensor in self.average.items()}

    def state_dict(self) -> dict[str, Any]:
        """Everything that `load_state_dict` needs; tensors are not copied. Of sharded ones, this process's shards."""
        self.synchronize()
        return {"t": self.t, "average": dict(self.average), "buffers": dict(self.buffers)}

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over a state of the same module.

        Raises:
            ValueError: if its names or shapes are not those of the module.
        """
        self.synchronize()
        pairs = ((self.average, state["average"]), (self.buffers, state["buffers"]))
        for own, given in pairs:
            if own.keys() != given.keys() or any(own[name].shape != given[name].shape for name in own):
                raise ValueError("this EMA state belongs to another module: names or shapes of its tensors differ")
        for own, given in pairs:
            for name, tensor in given.items():
                own[name].copy_(tensor)
        self.t = float(state["t"])

    def _check_updated(self) -> None:
        if self.t == 0:
            raise ValueError("this EMA was never updated: call update(t, dt) after every optimizer step")

    def _sources(self) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """The module's tensors as they are now: those to average (local shards), and those to copy."""
        averaged: dict[str, Tensor] = {}
        copied: dict[str, Tensor] = {}
        for name, parameter in self.module.named_parameters():
            tensor = local(parameter.detach())
            (averaged if _averages(tensor) else copied)[name] = tensor
        for name, buffer in self.module.named_buffers():
            (averaged if self._average_buffers and _averages(buffer) else copied)[name] = buffer.detach()
        return averaged, copied

    def _start(self, tensor: Tensor) -> Tensor:
        dtype = torch.promote_types(tensor.dtype, torch.float32)
        return tensor.to(self._device or tensor.device, dtype, copy=True)

    def _update_elsewhere(self, averaged: dict[str, Tensor], copied: dict[str, Tensor], weight: float) -> None:
        """Copy to staging memory in the order of the device's own work, then average in a thread behind it."""
        self.synchronize()  # the staging memory is free again
        sources = {**averaged, **copied}
        for name, tensor in sources.items():
            if name not in self._staging:
                pinned = tensor.is_cuda and self._device == torch.device("cpu")
                self._staging[name] = torch.empty(
                    tensor.shape, dtype=tensor.dtype, device=self._device, pin_memory=pinned
                )
            self._staging[name].copy_(tensor, non_blocking=True)
        arrived: list[Any] = [
            torch.cuda.current_stream(device).record_event()
            for device in {tensor.device for tensor in sources.values() if tensor.is_cuda}
        ]
        self._worker = self._worker or ThreadPoolExecutor(1, "ema")
        self._pending = self._worker.submit(self._average_staged, arrived, weight)

    @torch.no_grad()
    def _average_staged(self, arrived: list[Any], weight: float) -> None:
        for event in arrived:
            event.synchronize()
        staged = [self._staging[name].to(own.dtype) for name, own in self.average.items()]
        _lerp(list(self.average.values()), staged, weight)
        for name, own in self.buffers.items():
            own.copy_(self._staging[name])


class PowerEMA(EMA):
    """Power-function average (Eqs. 2 and 127): its length grows with the training time, the start counts nothing.

    Args:
        module: any module.
        sigma_rel: relative length, in (0, 0.2886); 0.05 and 0.10 are the pair that post-hoc EMA stores.
        buffers: as in `EMA`.
        device: as in `EMA`.
    """

    def __init__(
        self,
        module: nn.Module,
        sigma_rel: float,
        *,
        buffers: Buffers = "copy",
        device: torch.device | str | None = None,
    ) -> None:
        self.gamma = sigma_rel_to_gamma(sigma_rel)
        self.sigma_rel = sigma_rel
        super().__init__(module, buffers=buffers, device=device)

    def beta(self, t: float, dt: float) -> float:
        """`(1 - dt / t)^(gamma + 1)` (Eq. 127)."""
        return (1 - dt / t) ** (self.gamma + 1)

    def profile_at(self, t: float) -> PowerProfile:
        """The profile of the average at time `t`, positive."""
        return PowerProfile(t, self.gamma)

    def profile(self) -> PowerProfile:
        """The profile of the current average.

        Raises:
            ValueError: before the first update.
        """
        self._check_updated()
        return self.profile_at(self.t)


class ExponentialEMA(EMA):
    """Exponential average (Eq. 120); what would fall before the start stays on the initial weights.

    Args:
        module: any module.
        half_life: in the unit of t, positive.
        buffers: as in `EMA`.
        device: as in `EMA`.
    """

    def __init__(
        self,
        module: nn.Module,
        half_life: float,
        *,
        buffers: Buffers = "copy",
        device: torch.device | str | None = None,
    ) -> None:
        if not 0 < half_life < math.inf:
            raise ValueError(f"half_life must be positive and finite, not {half_life}")
        self.half_life = half_life
        super().__init__(module, buffers=buffers, device=device)

    def beta(self, t: float, dt: float) -> float:
        """`2^(-dt / half_life)` (Eq. 120)."""
        return 2 ** (-dt / self.half_life)

    def profile_at(self, t: float) -> ExponentialProfile:
        """The profile of the average at time `t`, positive."""
        return ExponentialProfile(t, self.half_life)

    def profile(self) -> ExponentialProfile:
        """The profile of the current average.

        Raises:
            ValueError: before the first update.
        """
        self._check_updated()
        return self.profile_at(self.t)


def _lerp(averages: list[Tensor], values: list[Tensor], weight: float) -> None:
    torch._foreach_lerp_(averages, values, weight)  # pyright: ignore[reportPrivateUsage, reportPrivateImportUsage]


def _averages(tensor: Tensor) -> bool:
    return tensor.is_floating_point() or tensor.is_complex()


def _one_dtype(tensors: Mapping[str, Tensor]) -> bool:
    return len({tensor.dtype for tensor in tensors.values()}) == 1
