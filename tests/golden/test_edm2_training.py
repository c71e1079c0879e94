"""Parity of the real training step with the reference implementation, fed with the recorded draws."""

import pytest
from conftest import Golden, relative_error

from unitgain.checkpoint.nvidia import DEFAULTS, from_state, rename
from unitgain.ema import PowerEMA
from unitgain.loss import EDMLoss
from unitgain.recipe import Recipe
from unitgain.train import Microbatch, TrainState, train_step

TOLERANCE = 1e-4


def test_learning_rates_losses_parameters_and_averages():
    golden = Golden("edm2_training")
    config = golden.config
    official = {key: value for key, value in config.items() if key in DEFAULTS}
    denoiser, uncertainty = from_state(golden.under("start."), official)
    recipe = Recipe(
        name="golden",
        network=denoiser.spec,
        loss=EDMLoss(P_mean=config["P_mean"], P_std=config["P_std"]),
        batch=config["batch"],
        duration=6 * config["batch"],
        lr=config["ref_lr"],
        t_ref=config["ref_batches"],
        rampup=round(config["rampup_Mimg"] * 1e6),
        beta1=config["betas"][0],
        beta2=config["betas"][1],
        snapshot_every=config["batch"],
        uncertainty_channels=config["logvar_channels"],
    )
    state = TrainState.around(denoiser, uncertainty, recipe)
    # Training averages the denoiser alone; the recorded averages are of u(sigma) too.
    extra = [PowerEMA(uncertainty, sigma_rel) for sigma_rel in recipe.ema]
    loss_function = recipe.loss
    for step in range(6):
        draws = golden.under(f"step{step}.")
        microbatch = Microbatch(
            clean=draws["images"],
            sigma=loss_function.sigma(draws["normal"].flatten()),
            noise=draws["noise"],
            label=draws["labels"],
        )
        report = train_step(state, recipe, [microbatch])
        for ema in extra:
            ema.update(state.nimg, recipe.batch)
        assert report.lr == pytest.approx(config["lr"][step], rel=1e-6)
        assert report.loss == pytest.approx(config["mean_loss"][step], rel=TOLERANCE)
        assert not report.nonfinite
        if step not in (2, 5):
            continue
        recorded = golden.under(f"after{step}.")
        weights = {name: tensor for name, tensor in recorded.items() if not name.startswith("ema-")}
        tensors = {**denoiser.state_dict(), **uncertainty.state_dict(prefix="uncertainty.")}
        compare(tensors, weights)
        for ema, of_uncertainty in zip(state.emas, extra, strict=True):
            prefix = f"ema-{ema.sigma_rel:.3f}."
            averages = {name.removeprefix(prefix): t for name, t in recorded.items() if name.startswith(prefix)}
            names = {f"uncertainty.{name}": tensor for name, tensor in of_uncertainty.tensors().items()}
            compare({**ema.tensors(), **names}, averages)


def compare(tensors, official):
    expected = rename(official, channels_per_head=16)
    assert tensors.keys() == expected.keys()
    for name, reference in expected.items():
        assert relative_error(tensors[name], reference) < TOLERANCE, name
