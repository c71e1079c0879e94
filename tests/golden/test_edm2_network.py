"""Parity of config G with the reference implementation, float32 on the CPU, relative error at most 1e-5."""

import pytest
import torch
from conftest import Golden, relative_error

from unitgain.checkpoint.nvidia import from_state, rename
from unitgain.layers import project_weights
from unitgain.loss import EDMLoss

TOLERANCE = 1e-5


@pytest.fixture
def golden():
    return Golden("edm2_network")


@pytest.fixture
def networks(golden):
    config = {key: value for key, value in golden.config.items() if not key.startswith("P_")}
    return from_state(golden.under("state."), config)


def named_tensors(denoiser, uncertainty):
    return {**denoiser.state_dict(keep_vars=True), **uncertainty.state_dict(prefix="uncertainty.", keep_vars=True)}


def test_outputs_for_every_sigma(golden, networks):
    denoiser, uncertainty = networks
    x, sigma, labels = golden["x"], golden["sigma"], golden["labels"]
    with torch.no_grad():
        denoised = denoiser(x, sigma, labels)
        for row in range(len(x)):
            assert relative_error(denoised[row], golden["denoised"][row]) < TOLERANCE
        assert relative_error(denoiser(x, sigma), golden["denoised_zero_label"]) < TOLERANCE
        assert relative_error(denoiser(x, sigma, torch.zeros_like(labels)), golden["denoised_zero_label"]) < TOLERANCE
        assert relative_error(uncertainty(sigma), golden["logvar"]) < TOLERANCE
        by_index = denoiser(x, sigma, labels.argmax(dim=1))
        assert torch.equal(by_index, denoised)


def test_projected_weights(golden, networks):
    for network in networks:
        project_weights(network)
    tensors = named_tensors(*networks)
    for name, expected in rename(golden.under("projected."), channels_per_head=16).items():
        assert relative_error(tensors[name].detach(), expected) < TOLERANCE, name


def test_loss_and_every_gradient(golden, networks):
    denoiser, uncertainty = networks
    for network in networks:
        project_weights(network.train())
    loss_function = EDMLoss(golden.config["P_mean"], golden.config["P_std"])
    sigma = loss_function.sigma(golden["normal"].flatten())
    loss = loss_function(denoiser, uncertainty, golden["clean"], sigma, golden["noise"], golden["labels"]).loss
    assert relative_error(loss.detach(), golden["loss"]) < TOLERANCE
    (loss.sum() / len(loss)).backward()  # sum over pixels, mean over the batch
    gradients = rename(golden.under("grad."), channels_per_head=16)
    tensors = named_tensors(denoiser, uncertainty)
    parameters = {name for name, tensor in tensors.items() if tensor.requires_grad}
    assert parameters == set(gradients)
    for name, expected in gradients.items():
        assert relative_error(tensors[name].grad, expected) < TOLERANCE, name


def test_loading_refuses_what_does_not_fit(golden):
    config = {key: value for key, value in golden.config.items() if not key.startswith("P_")}
    state = golden.under("state.")
    with pytest.raises(ValueError, match=r"img_resolutoin.*did you mean 'img_resolution'"):
        from_state(state, {**config, "img_resolutoin": 16})
    with pytest.raises(ValueError, match="'label_dim' is missing"):
        from_state(state, {key: value for key, value in config.items() if key != "label_dim"})
    with pytest.raises(ValueError, match=r"missing \['network.out_gain'\]"):
        from_state({key: value for key, value in state.items() if key != "unet.out_gain"}, config)
    with pytest.raises(ValueError, match=r"left over \['nonsense'\]"):
        from_state({**state, "nonsense": torch.zeros(1)}, config)
    with pytest.raises(ValueError, match="describe another network"):
        from_state(state, {**config, "img_channels": 3})


def test_loading_copies_and_reads_float16(golden):
    config = {key: value for key, value in golden.config.items() if not key.startswith("P_")}
    state = {key: value.half() for key, value in golden.under("state.").items()}
    denoiser, _ = from_state(state, config)
    weight = denoiser.network.get_parameter("out_conv.weight")
    assert weight.dtype == torch.float32
    assert weight.requires_grad
    weight.data.zero_()
    assert state["unet.out_conv.weight"].abs().sum() > 0
