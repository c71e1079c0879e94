"""Pictures of every kind to 8-bit pixels of one size."""

import io
import struct

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from unitgain.data import fit as fit_module
from unitgain.data.fit import Fit, ImageError, decode, encode_image, fit_image, halve, read_pixels


def noise(width, height, channels=3, seed=0):
    values = np.random.default_rng(seed).integers(0, 256, (height, width, channels), dtype=np.uint8)
    return Image.fromarray(values[:, :, 0] if channels == 1 else values)


def file(image, format="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, format=format, **options)
    return buffer.getvalue()


def pixels(data, **fit):
    return np.asarray(fit_image(data, Fit(**{"resolution": None, **fit}))[0])


def definition(image, size):
    """FACTS: while the shorter edge is at least twice the target, halve with a box filter; resize the shorter edge with
    bicubic; centre crop."""
    while min(image.width, image.height) >= 2 * size:
        image = image.resize((image.width // 2, image.height // 2), Image.Resampling.BOX)
    shorter = min(image.width, image.height)
    width, height = round(image.width * size / shorter), round(image.height * size / shorter)
    array = np.asarray(image.resize((width, height), Image.Resampling.BICUBIC))
    top, left = (height - size) // 2, (width - size) // 2
    return array[top : top + size, left : left + size]


@pytest.mark.parametrize(
    ("width", "height", "size"),
    [
        (40, 90, 16),  # portrait
        (90, 40, 16),  # landscape
        (5, 3, 16),  # tiny
        (1, 1, 8),
        (3, 200, 8),
        (1501, 997, 32),  # huge, and odd
        (2048, 1024, 16),
        (64, 64, 64),  # as it is
        (33, 32, 16),
        (31, 47, 16),
    ],
)
def test_adm_crop_is_its_definition(width, height, size):
    image = noise(width, height)
    found = pixels(file(image), resolution=size)
    assert found.shape == (size, size, 3)
    assert np.array_equal(found, definition(image, size))


@pytest.mark.parametrize("size", [(96, 200), (200, 96), (64, 64), (61, 33), (240, 400), (1, 500)])
def test_rectangles_are_cut_out_of_the_middle(size):
    """Height x width; a picture of the wanted shape is kept whole, and a longer one loses both ends alike."""
    width, height = size
    image = Image.linear_gradient("L").resize((width, height)).convert("RGB")
    found = pixels(file(image), resolution=(24, 40)).astype(int)
    assert found.shape == (24, 40, 3)
    scale = max(40 / width, 24 / height)
    cut = (max(0.0, height - 24 / scale) / 2) / height
    expected = np.linspace(255 * cut, 255 * (1 - cut), 24)
    assert np.abs(found[..., 0] - expected[:, None]).max() <= 12
    for fit in ("pad", "stretch"):
        whole = pixels(file(image), resolution=(24, 40), fit=fit, background="#ff0000")
        assert whole.shape == (24, 40, 3)
    ratio = min(40 / width, 24 / height)
    rows = (pixels(file(image), resolution=(24, 40), fit="pad", background="#ff0000")[:, :, 1] > 0).any(1).sum()
    assert abs(rows - min(round(height * ratio), 24)) <= 1


def test_pictures_are_taken_as_they_are_without_a_resolution():
    assert pixels(file(noise(3, 2)), resolution=None).shape == (2, 3, 3)


def test_enlarging_is_said_of_any_edge():
    def enlarged(width, height, fit):
        return fit_image(file(noise(width, height)), Fit(resolution=(24, 40), fit=fit))[1]

    assert [enlarged(*size, "crop") for size in ((40, 24), (39, 99), (99, 23), (80, 48))] == [False, True, True, False]
    assert [enlarged(*size, "pad") for size in ((40, 24), (39, 99), (39, 23), (80, 48))] == [False, False, True, False]


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 150), st.integers(1, 150), st.integers(1, 48))
def test_adm_crop_of_any_size(width, height, size):
    image = noise(width, height, seed=width)
    assert np.array_equal(pixels(file(image), resolution=size), definition(image, size))


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 120), st.integers(1, 900), st.integers(1, 48), st.booleans())
@example(16, 13, 16, True)  # 2
def test_cut_before_it_is_enlarged_it_is_the_same(short, long, size, upright):
    image = noise(*((short, long) if upright else (long, short)), seed=long)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fit_module, "WHOLE", 0)
        patch.setattr(fit_module, "MOST", 0)
        found = np.asarray(fit_module.adm_crop(image, Fit(resolution=size))).astype(int)
    while min(image.size) >= 2 * size:
        image = image.resize((image.width // 2, image.height // 2), Image.Resampling.BOX)
    width, height = (max(round(edge * size / min(image.size)), size) for edge in image.size)
    for edges in ((width, image.height), (width, height)):  # Pillow may choose the other order, and rounds in between
        image = image.resize(edges, Image.Resampling.BICUBIC)
    left, top = (width - size) // 2, (height - size) // 2
    expected = np.asarray(image.crop((left, top, left + size, top + size))).astype(int)
    # Between the passes a value may be rounded the other way; the weights of the second add up to 1.25 at most.
    assert np.abs(found - expected).max() <= 2


@pytest.mark.parametrize(("width", "height"), [(65000, 1), (1, 65000), (30000, 3)])
def test_a_line_takes_no_more_memory_than_a_picture(monkeypatch, width, height):
    sizes = []
    resize = Image.Image.resize

    def counted(self, size, *args, **kwargs):
        sizes.append(size[0] * size[1])
        return resize(self, size, *args, **kwargs)

    monkeypatch.setattr(Image.Image, "resize", counted)
    image = Image.linear_gradient("L").resize((width, height)).convert("RGB")
    sizes.clear()
    found = pixels(file(image), resolution=256).astype(int)
    assert max(sizes) <= fit_module.WHOLE
    middle = np.asarray(image).astype(int)[height // 2, width // 2]
    assert np.abs(found[128, 128] - middle).max() <= 1


def test_halving_is_the_mean_of_blocks():
    image = noise(32, 32)
    values = np.asarray(image).astype(int)
    for _ in range(2):
        values = (values[:, 0::2] + values[:, 1::2] + 1) // 2  # rounded half up, in each direction
        values = (values[0::2] + values[1::2] + 1) // 2
    assert np.array_equal(pixels(file(image), resolution=8), values)


@settings(max_examples=200, deadline=None)
@given(st.integers(2, 150), st.integers(2, 300), st.sampled_from([1, 3]), st.booleans())
def test_halving_is_that_of_pillow_to_the_bit(width, height, channels, twice):
    height = 2 * width + height % 3 - 1 if twice else height  # about there Pillow may choose the other order
    image = noise(width, height, channels, seed=height)
    expected = image.resize((width // 2, height // 2), Image.Resampling.BOX)
    assert np.array_equal(np.asarray(halve(image)), np.asarray(expected))


def test_an_image_of_the_right_size_is_not_touched():
    image = noise(24, 24)
    for mode in ("crop", "pad", "stretch"):
        assert np.array_equal(pixels(file(image), resolution=24, fit=mode), np.asarray(image))


def test_pad_keeps_the_whole_picture_in_the_middle():
    image = Image.new("RGB", (40, 20), (200, 0, 0))
    found = pixels(file(image), resolution=16, fit="pad", background="#001122")
    assert (found[4:12] == (200, 0, 0)).all()
    assert (found[:4] == (0, 0x11, 0x22)).all()
    assert (found[12:] == (0, 0x11, 0x22)).all()


def test_stretch_keeps_the_corners():
    image = Image.new("RGB", (64, 32))
    image.paste((255, 0, 0), (32, 0, 64, 32))
    found = pixels(file(image), resolution=16, fit="stretch")
    assert found.shape == (16, 16, 3)
    assert (found[:, :6] == 0).all()
    assert (found[:, 10:] == (255, 0, 0)).all()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_obeyed(orientation):
    upright = noise(12, 8)
    undo = {2: [0], 3: [3], 4: [1], 5: [5], 6: [2], 7: [6], 8: [4]}  # transpositions that lead to the stored picture
    stored = upright
    for method in undo.get(orientation, []):
        stored = stored.transpose(Image.Transpose(method))
    exif = Image.Exif()
    exif[0x0112] = orientation
    assert np.array_equal(np.asarray(decode(file(stored, exif=exif))), np.asarray(upright))


def test_transparent_pixels_show_the_background():
    image = Image.new("RGBA", (2, 2), (255, 0, 0, 0))
    image.putpixel((0, 0), (10, 20, 30, 255))
    image.putpixel((1, 1), (0, 0, 0, 128))
    found = pixels(file(image))
    assert found[0, 0].tolist() == [10, 20, 30]
    assert found[0, 1].tolist() == [255, 255, 255]
    assert found[1, 1].tolist() == [127, 127, 127]
    assert pixels(file(image), background="black")[0, 1].tolist() == [0, 0, 0]
    grey = Image.new("LA", (1, 1), (40, 0))
    assert pixels(file(grey), channels=1).tolist() == [[255]]


def test_palettes_are_looked_up_with_their_transparency():
    image = Image.new("P", (2, 1))
    image.putpalette([9, 8, 7, 100, 150, 200])
    image.putpixel((1, 0), 1)
    assert pixels(file(image), resolution=1, fit="stretch").shape == (1, 1, 3)
    plain = np.asarray(fit_image(file(image.resize((2, 2))), Fit(resolution=None))[0])
    assert plain[0].tolist() == [[9, 8, 7], [100, 150, 200]]
    clear = np.asarray(fit_image(file(image.resize((2, 2)), transparency=1), Fit(resolution=None))[0])
    assert clear[0].tolist() == [[9, 8, 7], [255, 255, 255]]
    gif = np.asarray(fit_image(file(image.resize((2, 2)), "GIF", transparency=0), Fit(resolution=None))[0])
    assert gif[0].tolist() == [[255, 255, 255], [100, 150, 200]]


def test_a_transparent_colour_of_rgb_shows_the_background():
    image = Image.new("RGB", (2, 2), (1, 2, 3))
    image.putpixel((0, 0), (50, 60, 70))
    found = pixels(file(image, transparency=(1, 2, 3)))
    assert found[0, 0].tolist() == [50, 60, 70]
    assert found[1, 1].tolist() == [255, 255, 255]


def test_sixteen_bits_are_cut_to_eight():
    values = np.array([[0, 255], [256, 65535]], dtype=np.uint16)
    grey = file(Image.fromarray(values))
    assert pixels(grey, channels=1).tolist() == [[0, 0], [1, 255]]
    assert pixels(grey)[1, 1].tolist() == [255, 255, 255]
    assert pixels(file(Image.fromarray(values), "TIFF"), channels=1).tolist() == [[0, 0], [1, 255]]
    assert pixels(rgb_png_of_16_bits(values))[:, :, 0].tolist() == [[0, 0], [1, 255]]
    wide = Image.fromarray(values.astype(np.int32))
    assert pixels(file(wide, "TIFF"), channels=1).tolist() == [[0, 0], [1, 255]]


@pytest.mark.parametrize("format", ["PNG", "TIFF", "PPM"])
def test_dark_pictures_of_sixteen_bits_are_dark(format):
    dark = Image.fromarray(np.full((2, 2), 200, np.uint16))
    assert pixels(file(dark.convert("I") if format == "PPM" else dark, format), channels=1).max() == 0


def test_black_pictures_of_32_bits_are_black():
    assert pixels(file(Image.fromarray(np.zeros((2, 2), np.int32)), "TIFF"), channels=1).max() == 0


def rgb_png_of_16_bits(values):
    """Pillow does not write these."""
    import zlib

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    height, width = values.shape
    rows = b"".join(b"\0" + np.repeat(row, 3).astype(">u2").tobytes() for row in values)
    header = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def test_cmyk_becomes_rgb():
    image = Image.new("CMYK", (8, 8), (255, 0, 0, 0))
    found = pixels(file(image, "JPEG", quality=100))
    assert np.abs(found.astype(int) - (0, 255, 255)).max() <= 2
    assert np.array_equal(pixels(file(image, "TIFF"))[0, 0], [0, 255, 255])


def test_grey_and_black_and_white():
    grey = noise(4, 4, 1)
    assert np.array_equal(pixels(file(grey)), np.repeat(np.asarray(grey)[:, :, None], 3, 2))
    assert np.array_equal(pixels(file(grey), channels=1), np.asarray(grey))
    assert pixels(file(Image.new("1", (2, 2), 1)), channels=1).tolist() == [[255, 255], [255, 255]]
    white = Image.new("RGB", (2, 2), (255, 255, 255))
    assert (pixels(file(white), channels=1) == 255).all()


def test_arrays_of_official_archives():
    array = np.random.default_rng(0).integers(0, 256, (3, 5, 5), dtype=np.uint8)
    buffer = io.BytesIO()
    np.save(buffer, array)
    assert np.array_equal(pixels(buffer.getvalue()), array.transpose(1, 2, 0))


@pytest.mark.parametrize("format", ["png", "webp"])
def test_what_is_stored_comes_back(format):
    for channels in (1, 3):
        image = noise(17, 17, channels)
        found = read_pixels(encode_image(image, format), channels, image.size)
        assert np.array_equal(found.squeeze(), np.asarray(image))


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "is empty"),
        (b"no picture at all", "cannot be decoded: it is no picture of a known format$"),  # no address
        (file(noise(64, 64), "JPEG")[:700], "cannot be decoded"),
        (file(noise(64, 64))[:5000], "cannot be decoded"),
        (file(Image.fromarray(np.ones((2, 2), np.float32)), "TIFF"), "floating-point"),
        (file(Image.fromarray(np.full((2, 2), 10**6, np.int32)), "TIFF"), "32-bit pixels from 1000000"),
        (
            file(Image.fromarray(np.full((2, 2), 200, np.int32)), "TIFF"),
            "32-bit pixels from 200 to 200: convert it to 8",
        ),
        (b"\x93NUMPY rubbish", "no readable NPY"),
    ],
)
def test_what_cannot_be_used_says_why(data, words):
    with pytest.raises(ImageError, match=words):
        fit_image(data, Fit(resolution=None))


def test_enlarging_is_reported():
    assert fit_image(file(noise(8, 20)), Fit(resolution=9))[1]
    assert not fit_image(file(noise(9, 20)), Fit(resolution=9))[1]
    assert not fit_image(file(noise(8, 20)), Fit(resolution=16, fit="pad"))[1]


@pytest.mark.parametrize(
    ("values", "words"),
    [({"resolution": 0}, "1 to 16384"), ({"background": "blurple"}, "name such as")],
)
def test_settings_out_of_range_are_refused(values, words):
    with pytest.raises(ValueError, match=words):
        Fit(**{"resolution": 8, **values})
