"""An official file, made as their code makes them, converts and gives the reference implementation's outputs."""

import os

import pytest
import torch
from conftest import Golden, relative_error
from official_files import write_official

import unitgain
from unitgain.checkpoint.convert import convert_network
from unitgain.checkpoint.origin import origin
from unitgain.checkpoint.snapshot import Snapshot


@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_outputs_of_a_converted_network(tmp_path, protocol):
    golden = Golden("edm2_network")
    config = {key: value for key, value in golden.config.items() if not key.startswith("P_")}
    path, out = tmp_path / "edm2-img512-xs-2147483-0.135.pkl", tmp_path / "network.safetensors"
    write_official(path, config, state=golden.under("state."), protocol=protocol, latents=True)
    convert_network(path, out, origin(path))
    assert "UNITGAIN_EXECUTED" not in os.environ
    denoiser = unitgain.load(out)
    x, sigma, labels = golden["x"], golden["sigma"], golden["labels"]
    with torch.no_grad():
        denoised = denoiser(x, sigma, labels)
        for row in range(len(x)):
            assert relative_error(denoised[row], golden["denoised"][row]) < 1e-5
        assert relative_error(denoiser(x, sigma), golden["denoised_zero_label"]) < 1e-5
    with Snapshot(out) as snapshot:
        header = snapshot.header
    assert (header.nimg, header.sigma_rel, header.recipe) == (2**31, 0.135, "edm2-img512-xs")
    assert (header.license, header.data) == ("CC BY-NC-SA 4.0", "ImageNet-512")
    mean, std = [5.81, 3.25, 0.12, -2.15], [4.17, 4.62, 3.71, 3.28]
    vae = "stabilityai/sd-vae-ft-mse"
    assert header.encoder == {"kind": "latents", "vae": vae, "mean": mean, "std": std, "pixels": "0..1"}
