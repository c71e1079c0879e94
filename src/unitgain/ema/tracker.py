"""A tracker that averages the weights of any `nn.Module` while it trains (EDM2, Appendix C.2)."""

import math
from abc import ABC, abstractmethod
from collections.abc import Generator, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, get_args
from weakref import WeakSet

import torch
from torch import Tensor, nn

from unitgain.ema.buffers import Buffers, Unknown, is_averaged, is_number, passing_buffers
from unitgain.ema.profiles import ExponentialProfile, PowerProfile
from unitgain.ema.state import matched, state_of
from unitgain.parallel import full, is_sharded, local, reshard, shard_like

_SWITCHED: WeakSet[nn.Module] = WeakSet()  # modules that hold an average for a while


class EMA(ABC):
    """Average of a module's weights, kept in float32 beside it (Eq. 119); base of `PowerEMA` and `ExponentialEMA`.

    The module is never written to and does not see the tracker. Parameters that are tied are kept once, under the name
    that comes first. A parameter that is sharded (a DTensor, as under FSDP2) is averaged where its shard lies, without
    communication.

    Args:
        module: any module; its floating parameters are averaged, whether or not they require gradients.
        buffers: what becomes of floating buffers: "statistics" averages running means and variances of normalization
            layers like parameters, and keeps others as they were at the last update, warning of those that training
            changes; "copy" keeps all so, "average" averages all. Other buffers, counters say, are always copied.
        device: where the averages are kept: None for beside each parameter; "cpu" takes no memory of the accelerator,
            with copies that run while the next step computes.

    Attributes:
        t: time of the last update, 0 before the first.
        average: averaged tensors by name, float32 (float64 for float64 parameters); local shards of sharded ones.
        buffers: copies of the other buffers by name, but for these:
        passing: names of buffers that do not persist (caches, say), which are left to the module.
    """

    def __init__(
        self, module: nn.Module, *, buffers: Buffers = "statistics", device: torch.device | str | None = None
    ) -> None:
        if buffers not in get_args(Buffers):
            raise ValueError(f"buffers must be one of {', '.join(get_args(Buffers))}, not {buffers!r}")
        self.module = module
        self.t = 0.0
        self._mode: Buffers = buffers
        self._device = None if device is None else torch.device(device)
        reshard(module)
        self.passing = passing_buffers(module)
        self._sharded = {name for name, parameter in module.named_parameters() if is_sharded(parameter)}
        averaged, copied = self._sources()
        if not averaged:
            raise ValueError(f"{type(module).__name__} has no floating parameters to average")
        if any(tensor.is_meta for tensor in averaged.values()):
            raise ValueError("the module is on the meta device: track it after its weights are materialized")
        self.average = {name: self._start(tensor) for name, tensor in averaged.items()}
        self.buffers = {name: tensor.to(self._device or tensor.device, copy=True) for name, tensor in copied.items()}
        self._kinds = self._kinds_of({**averaged, **copied})
        self._unknown = Unknown(name for name in copied if buffers == "statistics" and is_number(copied[name]))
        self._staging: dict[str, Tensor] = {}
        self._pending: Future[None] | None = None
        self._worker: ThreadPoolExecutor | None = None
        self._steps = 0

    @abstractmethod
    def profile_at(self, t: float) -> PowerProfile | ExponentialProfile:
        """The profile of the average at time `t`, positive."""

    def beta(self, t: float, dt: float) -> float:
        """Weight of the old average in the update that ends at `t` and lasts `dt`."""
        return self.profile_at(t).decay(dt)

    @torch.no_grad()
    def update(self, t: float, dt: float) -> None:
        """Take in the module's weights, which held from `t - dt` to `t`.

        Args:
            t: time after the step, in any unit that is the same throughout: images, tokens, steps.
            dt: length of the step, positive.

        Raises:
            ValueError: if the step does not begin where the last one ended: an update was skipped or made twice; if
                parameters of the module came, went or took another shape or device since the tracker was made, or are
                whole that were sharded; or if the module holds an average.
        """
        check_step(t, dt, self.t)
        self.check_online()
        averaged, copied = self._known_sources()
        if self._unknown.due():
            self.synchronize()
            self._unknown.look(self.buffers, copied)
        weight = 1 - self.beta(t, dt)
        if self._device is not None and any(tensor.device != self._device for tensor in averaged.values()):
            self._update_elsewhere(averaged, copied, weight)
        else:
            self._take(averaged, copied, weight)
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

    @contextmanager
    def switch(self) -> Generator[nn.Module, None, None]:
        """Put the average into the module for as long as a `with` block lasts: to evaluate, to sample, to export it.

        Afterwards the module has what it had before, bit for bit, whatever happened in the block: parameters and
        buffers, also where the block changed them. They are kept aside in the meantime, beside the module. Gradients
        and the optimizer are left alone. Between steps only: a backward pass does not go back to before the block.

        Yields:
            The module.

        Raises:
            ValueError: before the first update; if the module holds an average already, or has changed; if FSDP2 of a
                module around it has gathered its parameters, before the block or in it.
        """
        self._check_updated()
        self.check_online()
        averaged, copied = self._known_sources()
        self.synchronize()
        online = {**averaged, **copied}
        whole = {**online, **dict(self.module.named_buffers())}
        with torch.no_grad():
            aside = {name: tensor.detach().clone() for name, tensor in whole.items()}
        parts = [(part, dict(part.named_buffers(recurse=False))) for part in self.module.modules()]
        _SWITCHED.add(self.module)
        try:
            _copy(online, {**self.average, **self.buffers})
            yield self.module
        finally:
            for part, buffers in parts:
                for name, buffer in buffers.items():  # where the block has put others in their place
                    setattr(part, name, buffer)
            _copy(whole, aside)
            _SWITCHED.discard(self.module)
            reshard(self.module)  # or the next forward pass would compute with what it gathered in the block
        self._parameters()

    def check_online(self) -> None:
        """Raise `ValueError` if the module holds an average, as within `switch`, and not the weights that train."""
        if self.module in _SWITCHED:
            raise ValueError(
                f"{type(self.module).__name__} holds an average, not the weights that train: leave the block of "
                "switch() first"
            )

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
        like = self._parameters()
        for name, tensor in self.tensors().items():
            yield name, full(shard_like(tensor, like.get(name, tensor)))

    def sharded(self) -> dict[str, Tensor]:
        """Averages by name, of any time, those of sharded parameters as DTensors that are cut as the parameters are.

        They share the memory of the averages, unless these are kept on another device than the parameters.
        """
        self.synchronize()
        like = self._parameters()
        return {name: shard_like(tensor, like.get(name, tensor)) for name, tensor in self.average.items()}

    def state_dict(self) -> dict[str, Any]:
        """Everything that `load_state_dict` needs; tensors are not copied. Of sharded ones, this process's shards."""
        self.synchronize()
        return state_of(self)

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over a state of the same module, whatever wraps it now or then (DDP, `torch.compile`).

        Raises:
            ValueError: if it is no state of a tracker, or of one of another length; if its names or shapes are not
                those of the module. Nothing is changed then.
        """
        self.synchronize()
        for own, given in matched(self, state):
            own.copy_(given)
        self.t = float(state["t"])

    def _check_updated(self) -> None:
        if self.t == 0:
            raise ValueError("this EMA was never updated: call update(t, dt) after every optimizer step")

    def _parameters(self) -> dict[str, nn.Parameter]:
        """The module's parameters by name, cut up among processes as they were when the tracker was made."""
        reshard(self.module)
        parameters = dict(self.module.named_parameters())
        for name, parameter in parameters.items():
            if is_sharded(parameter) != (name in self._sharded):
                now, then = ("whole", "sharded") if name in self._sharded else ("sharded", "whole")
                raise ValueError(
                    f"parameter {name} is {now}, and was {then} when its EMA was made: make it after fully_shard; if "
                    "FSDP2 has gathered parameters for a forward pass without a backward one, call reshard() on the "
                    "outermost module that it shards"
                )
        return parameters

    def _sources(self) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """The module's tensors as they are now: those to average (local shards), and those to copy."""
        averaged: dict[str, Tensor] = {}
        copied: dict[str, Tensor] = {}
        for name, parameter in self._parameters().items():
            tensor = local(parameter.detach())
            (averaged if is_number(tensor) else copied)[name] = tensor
        for name, buffer in self.module.named_buffers():
            if is_averaged(name, buffer, self._mode):
                averaged[name] = buffer.detach()
            elif name not in self.passing:
                copied[name] = buffer.detach()
        return averaged, copied

    def _known_sources(self) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """As `_sources`, if they are still those that the tracker was made for."""
        averaged, copied = self._sources()
        kinds = self._kinds_of({**averaged, **copied})
        if kinds != self._kinds:
            changed = sorted({name for name, _ in kinds.items() ^ self._kinds.items()})
            raise ValueError(
                f"the module has changed since its EMA was made, in {', '.join(changed[:3])}: make a new one"
            )
        return averaged, copied

    def _kinds_of(self, tensors: Mapping[str, Tensor]) -> dict[str, tuple[Any, ...]]:
        """What of tensors may not change while they are tracked, by name; the device may, where averages lie apart."""
        apart = self._device is not None
        return {
            name: (tensor.shape, tensor.is_floating_point(), tensor.is_complex(), None if apart else tensor.device)
            for name, tensor in tensors.items()
        }

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
            # Of CUDA alone it is awaited below.
            self._staging[name].copy_(tensor, non_blocking=tensor.is_cuda)
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
        self._take(self._staging, self._staging, weight)

    def _take(self, averaged: Mapping[str, Tensor], copied: Mapping[str, Tensor], weight: float) -> None:
        values = [averaged[name].to(own.dtype) for name, own in self.average.items()]
        torch._foreach_lerp_(  # pyright: ignore[reportPrivateUsage, reportPrivateImportUsage]
            list(self.average.values()), values, weight
        )
        for name, own in self.buffers.items():
            own.copy_(copied[name])


def check_step(t: float, dt: float, last: float) -> None:
    """Raise `ValueError` unless the step that ends at `t` and lasts `dt` begins where the last one ended."""
    if not dt > 0 or not math.isclose(t - dt, last, rel_tol=1e-9, abs_tol=1e-9 * dt):
        raise ValueError(
            f"EMA update for the step from {t - dt} to {t}, but the last one ended at {last}: "
            "call update(t, dt) once after every step, t in the same unit"
        )


@torch.no_grad()
def _copy(into: Mapping[str, Tensor], values: Mapping[str, Tensor]) -> None:
    torch.clear_autocast_cache()  # it may hold the former values in another precision
    for name, tensor in into.items():
        tensor.copy_(values[name])
