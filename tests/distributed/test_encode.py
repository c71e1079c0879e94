"""Two processes share the encoding of latents."""

from pathlib import Path

from launch import launch
from pictures import contents, folder_of
from vaes import save_vae

from unitgain.data.fit import Fit
from unitgain.data.latents import encode
from unitgain.data.prepare import prepare_data
from unitgain.parallel import World, processes


def share(rank: int, root: str) -> None:
    with processes() as world:
        manifest = encode(Path(root) / "data", Path(root) / "two", str(Path(root) / "vae"), world=world, batch=2)
        assert manifest.rows == 21


def test_two_processes_make_the_same_bytes(tmp_path):
    save_vae(tmp_path / "vae")
    prepare_data(
        str(folder_of(tmp_path / "pictures", each=7)), tmp_path / "data", Fit(resolution=8), workers=1, shard=3
    )
    encode(tmp_path / "data", tmp_path / "one", str(tmp_path / "vae"), world=World(), batch=2)
    launch(share, 2, str(tmp_path))
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
