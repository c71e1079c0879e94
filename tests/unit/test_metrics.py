"""Each metric against an independent implementation; moments over batches and processes; one pass over images."""

import json
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from scipy.stats import entropy
from sklearn.metrics.pairwise import euclidean_distances, polynomial_kernel
from sklearn.neighbors import NearestNeighbors

from unitgain.data.digits import digits
from unitgain.evaluate.judge import Measurement
from unitgain.metrics import neighbours
from unitgain.metrics.detectors import Function, Pixels
from unitgain.metrics.frechet import frechet_distance, statistics
from unitgain.metrics.inception_score import inception_score
from unitgain.metrics.kernel import kernel_distance, mmd2
from unitgain.metrics.measure import measure
from unitgain.metrics.metric import KernelDistance, Metric, parse_metrics
from unitgain.metrics.moments import Moments
from unitgain.metrics.neighbours import neighbourhoods, radii
from unitgain.metrics.record import Record, Source
from unitgain.metrics.reference import Reference
from unitgain.metrics.summary import summarize, tiles
from unitgain.parallel import World
from unitgain.serial import from_dict, to_dict


def features(n, d=6, seed=0, shift=0.0):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed)) + shift


def pictures(n, seed=0, shape=(1, 4, 4)):
    return torch.randint(0, 256, (n, *shape), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)


def test_moments_do_not_cancel_where_the_mean_is_large():
    rows = features(1000, shift=1e6).double()
    moments = Moments()
    for part in rows.split([1, 2, 300, 7, 690]):
        moments.update(part)
    n, mean, cov = moments.reduce(World())
    assert n == 1000
    np.testing.assert_allclose(mean, rows.numpy().mean(0), rtol=1e-14)
    np.testing.assert_allclose(cov, np.cov(rows.numpy().T), rtol=1e-8, atol=1e-9)
    exact = np.cov((rows.numpy() - 1e6).T)  # the sum of squares alone would be off by 1e-4
    np.testing.assert_allclose(cov, exact, rtol=1e-9, atol=1e-9)


def test_moments_refuse_what_is_not_finite_and_other_sizes():
    moments = Moments()
    moments.update(torch.zeros(1, 3))
    with pytest.raises(ValueError, match="NaN"):
        moments.update(torch.tensor([[0.0, torch.nan, 0.0]]))
    with pytest.raises(ValueError, match="4 features after 3"):
        moments.update(torch.zeros(2, 4))
    with pytest.raises(ValueError, match="at least 2"):
        moments.reduce(World())


def test_mmd_matches_the_kernel_of_sklearn():
    x, y = features(40).double(), features(40, seed=1, shift=0.3).double()
    xx, yy, xy = (polynomial_kernel(a, b, degree=3, gamma=1 / 6, coef0=1) for a, b in ((x, x), (y, y), (x, y)))
    off = ~np.eye(40, dtype=bool)
    assert mmd2(x, y) == pytest.approx(xx[off].mean() + yy[off].mean() - 2 * xy.mean(), rel=1e-12)


def test_kid_is_unbiased_and_averages_over_subsets():
    x, y = features(60), features(60, seed=1)
    value, deviation = kernel_distance(x, y, subsets=1, size=60)
    assert value == pytest.approx(mmd2(x.double(), y.double()), rel=1e-12)
    assert deviation == 0
    generator = torch.Generator().manual_seed(3)
    draws = [mmd2(*torch.randn(2, 12, 3, generator=generator, dtype=torch.float64)) for _ in range(3000)]
    assert abs(np.mean(draws)) < 4 * np.std(draws) / 3000**0.5  # the biased estimate is off by 20 of these
    assert kernel_distance(x, y, size=20) == kernel_distance(x, y, size=20)
    assert kernel_distance(x, y, size=20) != kernel_distance(x, y, size=20, seed=1)
    far = kernel_distance(x, features(50, seed=2, shift=1.0), size=1000)
    assert far[0] > 100 * abs(value)
    with pytest.raises(ValueError, match="KID needs"):
        kernel_distance(x[:1], y)


def brute_neighbours(generated, real, k_precision, k_density):
    """The definitions, one comparison at a time."""

    def reach(rows, k):
        return NearestNeighbors(n_neighbors=k + 1).fit(rows).kneighbors(rows)[0][:, k]  # the nearest is the row itself

    distances = euclidean_distances(real, generated)
    r_real, r_generated, wide = reach(real, k_precision), reach(generated, k_precision), reach(real, k_density)
    n, m = len(generated), len(real)
    precision = sum(any(distances[i, j] <= r_real[i] for i in range(m)) for j in range(n)) / n
    recall = sum(any(distances[i, j] <= r_generated[j] for j in range(n)) for i in range(m)) / m
    density = sum(distances[i, j] <= wide[i] for i in range(m) for j in range(n)) / (k_density * n)
    coverage = sum(distances[i].min() <= wide[i] for i in range(m)) / m
    return [precision, recall, density, coverage]


@pytest.mark.parametrize("block", [16, 2048])
@pytest.mark.parametrize(("k_precision", "k_density"), [(3, 5), (1, 2)])
def test_neighbours_match_the_definitions(monkeypatch, block, k_precision, k_density):
    monkeypatch.setattr(neighbours, "BLOCK", block)
    generated, real = features(70, 4, shift=0.4), features(90, 4, seed=1)
    both = neighbourhoods(generated, real, (k_precision, k_density))
    expected = brute_neighbours(generated.numpy(), real.numpy(), k_precision, k_density)
    near, wide = both[k_precision], both[k_density]
    assert [near.precision, near.recall, wide.density, wide.coverage] == pytest.approx(expected, abs=1e-12)
    assert 0 < near.precision < 1
    assert 0 < near.recall < 1
    assert neighbourhoods(generated, real, (k_density,))[k_density] == wide


def test_neighbours_in_closed_form():
    line = torch.arange(10.0)[:, None]
    assert radii(line, (1, 2)).sqrt().tolist() == [[1] * 10, [2] + [1] * 8 + [2]]
    same = neighbourhoods(line, line, (2,))[2]
    assert (same.precision, same.recall, same.coverage) == (1, 1, 1)
    assert same.density == pytest.approx(3 / 2)  # each ball holds its centre and two neighbours, ties included
    far = neighbourhoods(line + 100, line, (3,))[3]
    assert (far.precision, far.recall, far.density, far.coverage) == (0, 0, 0, 0)
    copies = torch.ones(8, 2).mul(0.1)  # more duplicates than neighbours: every reach is 0
    assert neighbourhoods(copies, copies, (3,))[3].precision == 1
    with pytest.raises(ValueError, match="needs at least 6"):
        neighbourhoods(line, line[:5], (3, 5))
    with pytest.raises(ValueError, match="one detector"):
        neighbourhoods(line, torch.zeros(10, 2), (3,))


def brute_inception_score(p, splits):
    scores = []
    for split in range(splits):
        part = p[split::splits]
        scores.append(np.exp(np.mean([entropy(row, part.mean(0)) for row in part])))
    return np.mean(scores), np.std(scores)


@pytest.mark.parametrize("splits", [1, 4])
def test_inception_score_matches_the_definition(splits):
    p = (2 * features(50, 7)).double().softmax(1)
    assert inception_score(p, splits) == pytest.approx(brute_inception_score(p.numpy(), splits), rel=1e-12)


def test_inception_score_in_closed_form():
    sure = torch.eye(4).repeat(2, 1)  # of each, even over all: the number of classes
    assert inception_score(sure, 1) == pytest.approx((4, 0))
    with pytest.raises(ValueError, match="softmax"):
        inception_score(torch.tensor([[1.0, 2, 0, 0], [0, 0, 0, 1]]))


def test_tiles_have_one_size_and_lose_nothing():
    parts = [pictures(n, seed=n) for n in (1, 50, 170, 20)] + [pictures(3, shape=(1, 2, 2))]
    made = list(tiles(parts))
    assert all(len(images) == 64 for images, _ in made)
    small = [images[:used] for images, used in made if images.shape[-1] == 4]
    assert torch.equal(torch.cat(small), torch.cat(parts[:4]))
    assert sum(used for _, used in made) == 244
    for odd in (torch.zeros(2, 4), torch.zeros(2, 1, 4, 4, 4, 4), torch.zeros(2, 1, 4, 4, dtype=torch.bool)):
        with pytest.raises(ValueError, match="one to three sides"):
            list(tiles([odd]))


def test_fewer_large_images_are_in_a_tile():
    parts = [torch.zeros(5, 1, 2048, 2048, dtype=torch.uint8), torch.zeros(2, 1, 4096, 4100, dtype=torch.uint8)]
    assert [(len(images), used) for images, used in tiles(parts)] == [(4, 4), (4, 1), (1, 1), (1, 1)]


def test_a_summary_does_not_depend_on_batches():
    images = pictures(150)
    linear = torch.nn.Conv2d(1, 5, 4)
    detector = Function(lambda x: linear(x.float() / 255), "conv")
    one, other = (summarize(images.split(size), [detector], rows=["conv"])["conv"] for size in (150, 7))
    assert torch.equal(one.rows, other.rows)
    assert torch.equal(one.cov, other.cov)
    np.testing.assert_allclose(one.cov, np.cov(one.rows.double().T), rtol=1e-10, atol=1e-12)


def reference_of(images, detector, rows=True):
    name = detector.info.name
    return Reference.of(summarize([images], [detector], rows=[name] if rows else [])[name], "tests")


def test_measure_gives_a_record_per_metric():
    pixels = Pixels()
    reference = reference_of(pictures(120, seed=1), pixels)
    seen = []
    source = Source(kind="snapshot", seeds="0-99", snapshot_hash="ab", formats={"jpeg": 3})
    names = ["fd-pixels", KernelDistance(subsets=3, size=50), "precision", "recall", "density", "coverage"]
    records = measure(pictures(100).split(30), pixels, names, reference, source=source, on_images=seen.append)
    assert [record.metric for record in records] == ["fd_pixels", "kid", *names[2:]]
    assert seen[-1] == 100
    fd, kid = records[:2]
    assert (fd.images, fd.dims, fd.source, fd.higher) == (100, 16, source, False)
    assert fd.detector == pixels.info
    assert fd.reference is not None
    assert fd.reference.count == 120
    assert kid.settings == {"subsets": 3, "size": 50, "seed": 0}
    assert kid.deviation > 0
    assert records[2].higher
    text = " ".join(fd.warnings)
    assert "fewer than 50,000" in text
    assert "3 images are JPEG" in text
    assert from_dict(Record, to_dict(fd)) == fd
    again = measure([pictures(100)], pixels, names, reference)
    assert [r.value for r in again] == [r.value for r in records]


def test_pixels_of_digits_are_what_the_demo_measures():
    data = digits()
    encoder, drawn = data.encoder, data.images[:300].flip(3)
    real, made = (statistics(encoder.encode(images).flatten(1).double().numpy()) for images in (data.images, drawn))
    pixels = Pixels(encoder.mean, encoder.std)
    (record,) = measure(drawn.split(100), pixels, ["fd_pixels"], reference_of(data.images, pixels))
    assert record.value == pytest.approx(frechet_distance(*made, *real), rel=1e-9)


def test_few_images_for_the_features_are_warned_of():
    reference = reference_of(pictures(10, seed=1), Pixels())
    (record,) = measure([pictures(9)], Pixels(), ["fd"], reference)
    text = " ".join(record.warnings)
    assert "9 images for 16 features" in text
    assert "reference has 10 images" in text
    (enough,) = measure([pictures(60)], Pixels(), ["fd"], reference_of(pictures(50), Pixels()))
    assert len(enough.warnings) == 1


def test_one_comparison_serves_all_figures_of_neighbours(monkeypatch):
    calls, compare = [], neighbours.neighbourhoods

    def counted(generated, real, ks, **options):
        calls.append(ks)
        return compare(generated, real, ks, **options)

    monkeypatch.setattr(neighbours, "neighbourhoods", counted)
    reference = reference_of(pictures(60, seed=1), Pixels())
    names = ["precision", "recall", "density", "coverage"]
    together = measure([pictures(50)], Pixels(), names, reference)
    assert calls == [(3, 5)]
    assert [record.settings for record in together] == [{"k": 3}, {"k": 3}, {"k": 5}, {"k": 5}]
    alone = [measure([pictures(50)], Pixels(), [name], reference)[0].value for name in names]
    assert [record.value for record in together] == alone


class Never:
    """Batches that must not be read."""

    def __iter__(self):
        raise AssertionError("an image was read before the check")


def test_what_does_not_fit_is_refused_before_an_image_is_read():
    pixels = Pixels()
    reference = reference_of(pictures(20), pixels, rows=False)
    cases = [
        (Pixels(mean=1), ["fd"], reference, "hash"),
        (pixels, ["fid"], reference, "needs the detector inception; given: pixels"),
        (pixels, ["fd"], None, "unitgain metrics reference"),
        (pixels, ["kid"], reference, "--features"),
        (pixels, ["is"], None, "names no classes"),
        (pixels, ["fidd"], reference, "did you mean 'fid'"),
        (pixels, ["fd", "fd_pixels"], reference, "once"),
        (Function(lambda x: x, "other"), ["fd"], {"other": reference}, "features of pixels, not of other"),
    ]
    for detector, names, references, message in cases:
        with pytest.raises(ValueError, match=message):
            measure(Never(), detector, names, references)
    with pytest.raises(ValueError, match="images of another size"):
        measure([pictures(9, shape=(1, 2, 2))], pixels, ["fd"], reference)
    with pytest.raises(ValueError, match="more than 4096"):
        measure([pictures(2, shape=(3, 64, 64))], pixels, ["fd"], reference)
    with pytest.raises(ValueError, match="must return floating features"):
        measure([pictures(9)], Function(lambda x: x, "odd"), ["fd"], {"odd": reference_of(pictures(20), conv("odd"))})


def conv(name):
    return Function(lambda x: x.float().flatten(1), name)


def test_metrics_by_name():
    found = parse_metrics(["FID", "fd-dinov2", "kid@dinov2", "recall"])
    assert [(m.kind, m.detector, m.name, m.label) for m in found] == [
        ("fd", "inception", "fid", "fid"),
        ("fd", "dinov2", "fd_dinov2", "fd_dinov2"),
        ("kid", "dinov2", "kid", "kid@dinov2"),
        ("recall", "inception", "recall", "recall@inception"),
    ]
    assert parse_metrics(["fd@inception"]) == parse_metrics(["fid"])
    for wrong in (["fid@pixels"], [], ["kid@"], ["kid", KernelDistance(size=7)]):
        with pytest.raises(ValueError):
            parse_metrics(wrong)


@dataclass(frozen=True, kw_only=True)
class Given(Metric):
    kind, reference, what = "given", False, None

    def score(self, pair):
        return self.what


@pytest.mark.parametrize(
    ("score", "expected"),
    [
        (np.float32(0.5), (0.5, None)),
        (torch.tensor(2), (2.0, None)),
        ((np.float64(0.5), 1), (0.5, 1.0)),
        ((0.5, float("nan")), (0.5, None)),
        (None, None),
        ("3", None),
        ((1.0, 2.0, 3.0), None),
        (torch.zeros(2), None),
    ],
)
def test_scores_are_numbers_of_any_type(monkeypatch, score, expected):
    monkeypatch.setattr(Given, "what", score)
    if expected is None:
        with pytest.raises(ValueError, match=r"the score of given@pixels is .*: expected a number"):
            measure([pictures(9)], Pixels(), [Given()])
        return
    (record,) = measure([pictures(9)], Pixels(), [Given()])
    assert (record.value, record.deviation) == expected
    assert [type(one) for one in (record.value, record.deviation) if one is not None] == [float] * (
        1 + (expected[1] is not None)
    )


def test_what_is_not_finite_is_null_in_json_and_named_in_a_warning(monkeypatch):
    monkeypatch.setattr(Given, "what", float("nan"))
    (record,) = measure([pictures(9)], Pixels(), [Given()])
    assert any("given@pixels is nan" in line for line in record.warnings)
    written = json.loads(json.dumps(Measurement((record,)).to_dict(), allow_nan=False))
    assert (written["best"], written["records"][0]["value"]) == (None, None)
