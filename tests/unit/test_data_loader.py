"""What a run sees: each image once an epoch, whoever reads it, in whatever order it is asked for."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pictures import folder_of

from unitgain.data.dataset import ArrayDataset, Dataset
from unitgain.data.encoder import LatentEncoder, PixelEncoder, encoder_from_dict
from unitgain.data.fit import Fit
from unitgain.data.loader import Loader
from unitgain.data.order import flips, indices
from unitgain.data.prepare import prepare_data
from unitgain.data.prepared import PreparedDataset
from unitgain.room import Room
from unitgain.serial import to_dict


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("loader")
    prepare_data(str(folder_of(root / "pictures", each=7)), root / "data", Fit(resolution=4), workers=1, shard=4)
    return PreparedDataset(root / "data")


@settings(max_examples=50, deadline=None)
@given(
    size=st.integers(1, 97),
    seed=st.integers(0, 2**40),
    microbatch=st.integers(1, 9),
    per_step=st.integers(1, 6),
    world=st.integers(1, 5),
    epochs=st.integers(1, 3),
)
def test_no_image_is_missed_or_seen_twice(size, seed, microbatch, per_step, world, epochs):
    """Processes share the microbatches of each step, none of which has to divide anything."""
    batch = microbatch * per_step
    steps = -(-epochs * size // batch)
    shares = [list(range(per_step))[rank::world] for rank in range(world)]
    seen = np.full(steps * batch, -1)
    for rank in range(world):
        for step in range(steps):
            for index in shares[rank]:
                start = step * batch + index * microbatch
                assert (seen[start : start + microbatch] == -1).all()
                seen[start : start + microbatch] = indices(start, microbatch, size, seed)
    for epoch in range(epochs):
        assert sorted(seen[epoch * size : (epoch + 1) * size]) == list(range(size))


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**40), st.integers(0, 10**6), st.integers(0, 50), st.integers(0, 50))
def test_flips_are_a_function_of_seed_and_number(seed, start, first, second):
    whole = flips(start, first + second, seed)
    parts = [flips(start, first, seed), flips(start + first, second, seed)]
    assert np.array_equal(whole, np.concatenate(parts))


def test_flips_are_fair_and_new_each_epoch():
    coins = flips(0, 40_000, 7)
    assert abs(coins.mean() - 0.5) < 4.5 * 0.5 / 200
    assert abs((coins[:20_000] == coins[20_000:]).mean() - 0.5) < 4.5 * 0.5 / np.sqrt(20_000)
    assert not np.array_equal(flips(0, 100, 1), flips(0, 100, 2))


def collect(loader, requests):
    with loader:
        return [loader.fetch(start, count) for start, count in requests]


@pytest.mark.parametrize("cache", [False, True])
@pytest.mark.parametrize("workers", [0, 1, 3])
def test_what_comes_does_not_depend_on_threads_or_the_past(data, workers, cache):
    requests = [(0, 5), (5, 5), (10, 5), (40, 5), (45, 5), (0, 5), (3, 2), (9, 2), (15, 2), (21, 2), (21, 2), (15, 2)]
    found = collect(Loader(data, 3, workers=workers, cache=cache), requests)
    for (start, count), (stored, labels) in zip(requests, found, strict=True):
        rows = indices(start, count, len(data), 3)
        expected = data.rows(rows)
        assert torch.equal(stored, expected[0])
        assert torch.equal(labels, expected[1])


def test_reading_ahead_guesses_the_share_of_a_process(data):
    read = []
    plain = data.rows

    class Watched(PreparedDataset):
        def rows(self, indices, out=None):
            read.append(tuple(indices))
            return plain(indices, out)

    with Loader(Watched(data.folder), 0, workers=1, ahead=2) as loader:
        for step in range(6):
            loader.fetch(4 + 8 * step, 4)
    wanted = [tuple(indices(4 + 8 * step, 4, len(data), 0)) for step in range(8)]
    wrong = [rows for rows in read if rows not in wanted]
    assert len(wrong) <= 2  # before the stride is known
    assert all(read.count(rows) <= 1 for rows in wanted)


def test_flips_mirror(data):
    plain, mirrored = (collect(Loader(data, 5, flip=flip, workers=0), [(30, 20)])[0][0] for flip in (False, True))
    coins = torch.from_numpy(flips(30, 20, 5))
    assert coins.any()
    assert not coins.all()
    assert torch.equal(mirrored[~coins], plain[~coins])
    assert torch.equal(mirrored[coins], plain[coins].flip(-1))


def test_flips_do_not_reach_the_cache(data):
    requests = [(index, 21) for index in (0, 21, 42)]
    flipped = collect(Loader(data, 5, flip=True, workers=2, cache=True), requests)
    direct = [collect(Loader(data, 5, flip=True, workers=0), [request])[0] for request in requests]
    assert all(torch.equal(one[0], other[0]) for one, other in zip(flipped, direct, strict=True))


def test_a_cache_that_does_not_fit_is_refused(data):
    class Vast(PreparedDataset):
        def __len__(self):
            return 2**50

    with pytest.raises(ValueError, match=r"a cache takes .* GB, more than half of the memory"):
        Loader(Vast(data.folder), 0, cache=True)


def test_a_cache_is_of_what_limits_leave(data, monkeypatch):
    monkeypatch.setattr("unitgain.data.loader.free_memory", lambda device: Room(100, "left by the control group"))
    with pytest.raises(ValueError, match=r"half of the memory of 0\.0 GB \(left by the control group\)"):
        Loader(data, 0, cache=True)


def test_both_kinds_of_data_are_data(data):
    array = ArrayDataset(name="a", images=torch.zeros(3, 1, 4, 4, dtype=torch.uint8))
    assert isinstance(array, Dataset)
    assert isinstance(data, Dataset)
    assert (array.shape, array.stored_shape, array.dtype, array.latents) == ((1, 4, 4), (1, 4, 4), torch.uint8, False)
    stored, labels = collect(Loader(array, 0), [(0, 3)])[0]
    assert stored.shape == (3, 1, 4, 4)
    assert labels is None


def test_encoders_travel_as_json():
    for encoder in (PixelEncoder(mean=3.0, std=2.0), LatentEncoder(vae="here", mean=(1.0, 2.0), std=(0.5, 4.0))):
        assert encoder_from_dict(to_dict(encoder)) == encoder
    assert encoder_from_dict({"mean": 127.5, "std": 63.75}) == PixelEncoder()
    with pytest.raises(ValueError, match="unknown kind of encoder 'wavelets'"):
        encoder_from_dict({"kind": "wavelets"})
    with pytest.raises(ValueError, match="a mean and a positive std for each channel"):
        LatentEncoder(vae="x", mean=(0.0,), std=(0.0,))


@pytest.mark.parametrize("workers", [0, 2])
def test_memory_is_used_again_but_never_while_something_refers_to_it(data, workers):
    def expected(start):
        return data.rows(indices(start, 5, len(data), 3))[0]

    with Loader(data, 3, workers=workers) as loader:
        places = {loader.fetch(start, 5)[0].data_ptr() for start in range(0, 200, 5)}
        assert len(places) <= loader.ahead + 2
        starts = range(0, 100, 5)
        batches = [loader.fetch(start, 5)[0] for start in starts]  # more than are kept
        for start, batch in zip(starts, batches, strict=True):
            assert torch.equal(batch, expected(start))
        row, array = batches[0][1], batches[1].numpy()[2:]  # views keep a batch too
        del batches, batch
        for start in range(100, 300, 5):
            loader.fetch(start, 5)
        assert torch.equal(row, expected(0)[1]) and np.array_equal(array, expected(5)[2:])
        assert loader.fetch(300, 3)[0].shape == (3, *data.stored_shape)  # another size
