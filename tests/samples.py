"""Arrays, audio and volumes for the tests of data."""

import io

import h5py
import nibabel
import numpy as np
import soundfile


def values(shape, seed=0, scale=3.0, shift=7.0):
    """Float32 values that are not alike, of another mean and deviation in each channel of the first axis."""
    noise = np.random.default_rng(seed).normal(size=shape)
    channels = np.arange(1, shape[0] + 1).reshape(-1, *[1] * (len(shape) - 1))
    return (scale * channels * noise + shift * channels).astype(np.float32)


def folder_of_arrays(root, shape, each=4, classes=("a", "b"), dtype=np.float32, suffix=".npy"):
    """A folder of `each` arrays of each class."""
    for number, name in enumerate(classes):
        (root / name).mkdir(parents=True)
        for index in range(each):
            write_array(root / name / f"{index}{suffix}", values(shape, 100 * number + index).astype(dtype))
    return root


def write_array(path, array):
    if path.suffix == ".npy":
        np.save(path, array)
    elif path.suffix == ".npz":
        np.savez_compressed(path, field=array)
    else:
        with h5py.File(path, "w") as file:
            file["field"] = array


def tone(pitch, length=256, rate=8000, channels=1, loud=0.5):
    """A sine `[length, channels]`."""
    wave = loud * np.sin(2 * np.pi * pitch * np.arange(length) / rate)
    return np.stack([wave] * channels, axis=1).astype(np.float32)


def folder_of_tones(root, each=4, pitches=(500, 1500), rate=8000, suffix=".wav", **options):
    """A folder of tones, a class for each pitch."""
    for pitch in pitches:
        (root / str(pitch)).mkdir(parents=True)
        for index in range(each):
            wave = tone(pitch + 10 * index, rate=rate, **options)
            soundfile.write(root / str(pitch) / f"{index}{suffix}", wave, rate)
    return root


def nifti(array, spacing=(1.0, 2.0, 3.0)):
    return nibabel.Nifti1Image(array, np.diag([*spacing, 1.0]))


def folder_of_volumes(root, shape=(6, 8, 8), each=4, dtype=np.float32, suffix=".nii.gz"):
    """A folder of volumes without classes."""
    root.mkdir(parents=True)
    for index in range(each):
        nifti(values((1, *shape), index)[0].astype(dtype)).to_filename(root / f"{index}{suffix}")
    return root


def npy(array):
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()
