"""Our tensors under official names, and back."""

import pytest
import torch
from conftest import Golden

from unitgain.arch import NetworkSpec
from unitgain.arch.configs import edm2, edm2plus
from unitgain.checkpoint.nvidia import config_from_spec, from_state, spec_from_config, to_state
from unitgain.denoiser import Denoiser, Uncertainty

TINY = {"model_channels": 8, "channels_per_head": 4, "channel_mult": (1, 2), "num_blocks": 1, "resolution": 8}


def test_official_tensors_come_back_as_they_were():
    golden = Golden("edm2_network")
    config = {key: value for key, value in golden.config.items() if not key.startswith("P_")}
    official = golden.under("state.")
    state, arguments = to_state(*from_state(official, config))
    assert state.keys() == official.keys()
    assert all(torch.equal(state[name], tensor) for name, tensor in official.items())
    assert spec_from_config(arguments) == spec_from_config(config)


@pytest.mark.parametrize(
    "changes", [{}, {"label_dim": 0}, {"dropout": 0.1, "attn_resolutions": (8, 4), "clip_act": 128.0}]
)
def test_every_tensor_of_ours_has_an_official_name(changes):
    spec = NetworkSpec(**({"channels": 3, "label_dim": 5} | TINY | changes))
    denoiser, uncertainty = Denoiser(spec, sigma_data=0.7), Uncertainty(6)
    again, uncertainty_again = from_state(*to_state(denoiser, uncertainty))
    assert again.spec == spec
    assert again.sigma_data == 0.7
    for one, other in ((denoiser, again), (uncertainty, uncertainty_again)):
        found = other.state_dict()
        assert found.keys() == one.state_dict().keys()
        assert all(torch.equal(found[name], tensor) for name, tensor in one.state_dict().items())


def test_arguments_of_the_released_networks_are_the_defaults():
    with torch.device("meta"):
        _, config = to_state(Denoiser(edm2("s")), Uncertainty())
    assert config == {"img_resolution": 64, "img_channels": 4, "label_dim": 1000}


def test_networks_that_the_official_code_does_not_build():
    with pytest.raises(ValueError, match="branch='s d E s P s m d'"):
        config_from_spec(edm2plus("s"))
