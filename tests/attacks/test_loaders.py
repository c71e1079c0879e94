"""Every place where torch, NumPy or another library opens something for us, with what protects it.

The places are found in the source, so one that is not listed here fails the test, and so does one that has gone.
"""

import ast
import io
import pickle
from collections import Counter
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch

import unitgain
from unitgain.cli.main import main

SOURCE = Path(unitgain.__file__).parent

# Modules that run what they read. None is imported, anywhere.
FORBIDDEN = {"pickle", "_pickle", "cPickle", "cloudpickle", "dill", "joblib", "marshal", "runpy", "shelve"}
FORBIDDEN |= {"torch.package", "torch.distributed.checkpoint", "torch.hub", "torch.utils.cpp_extension", "code"}
FORBIDDEN |= {"xml", "lxml", "torchvision", "imageio", "cv2"}

WRITES_PICKLES = Path("checkpoint", "export.py")  # and reads none

# Calls that open what may come from elsewhere, or run something, by the end of their dotted name.
LOADERS = {
    *("torch.load", "jit.load", "hub.load", "np.load", "numpy.load", "memmap", "fromfile", "from_file", "load_file"),
    *("from_pretrained", "load_dataset", "load_dataset_builder", "load_from_disk", "load_library", "load_inline"),
    *("eval", "exec", "compile", "__import__", "import_module", "exec_module", "CDLL", "cdll.LoadLibrary", "dlopen"),
    *("os.system", "os.popen", "subprocess.run", "subprocess.Popen", "check_output", "check_call", "subprocess.call"),
    *("safe_open", "ParquetFile", "read_table", "open_file", "open_stream", "read_schema", "read_record_batch"),
    *("yaml.load", "yaml.safe_load", "yaml.full_load", "yaml.unsafe_load", "yaml.load_all", "yaml.safe_load_all"),
    *("h5py.File", "SoundFile", "from_fileobj", "wave.open", "nibabel.load"),
    *("Image.open", "ZipFile", "tarfile.open", "hf_hub_download", "snapshot_download", "urlopen"),
    *("all_gather_object", "broadcast_object_list", "scatter_object_list", "recv_object_list", "get_context"),
}


def dotted(node):
    """`a.b.c` of an expression, as far as it is names; `?` for the rest."""
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else "?"


def places():
    """Calls of loaders in the source: how often each is in each file."""
    found = Counter()
    for path in sorted(SOURCE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Call):
                continue
            name = dotted(node.func)
            for loader in LOADERS:
                method = loader not in ("eval", "exec", "compile")  # those of torch and re are others
                if name == loader or (method and name.endswith(f".{loader}")):
                    found[str(path.relative_to(SOURCE)), loader] += 1
    return found


NAMED = "runs code by nature: the user names it, and the help says that it is run"
OURS = "opens what this process or its like has just made"
FIXED = "a name that stands in our source"
BYTES = "parses bytes, executes nothing; sizes are checked first (unitgain.trust)"
HEADER = "safetensors: JSON and bytes; the library checks the header against the size of the file"
ZIP = "an index of names; members are read by trust.read_member, which bounds them"
HDF5 = "reads an ordinary file; no links, external or virtual values; sizes, and those of parts, are checked first"
PILLOW = "decodes pixels, executes nothing; formats are named, sizes checked first"
PEERS = "pickles between the processes of one run, over connections of their own"

# (file, loader): (how often, what protects it).
LISTED = {
    ("bench/forward.py", "import_module"): (1, FIXED),
    ("checkpoint/archive.py", "ZipFile"): (1, "members are not unpacked; the pickle goes to pickles"),
    ("cli/commands.py", "import_module"): (1, FIXED),
    ("trust.py", "yaml.safe_load"): (1, "plain values without aliases; a file that the user names"),
    ("data/arrow.py", "open_stream"): (2, "Arrow: validated in full before it is used"),
    ("data/arrow.py", "read_record_batch"): (1, "Arrow: validated in full before it is used"),
    ("data/arrow.py", "read_schema"): (2, "Arrow: validated in full before it is used"),
    ("data/export.py", "ZipFile"): (1, "written, not read"),
    ("data/fit.py", "Image.open"): (1, PILLOW),
    ("sweep/pictures.py", "Image.open"): (1, "an ordinary PNG file in the folder of the sweep, for its text alone"),
    ("data/media.py", "ZipFile"): (1, ZIP),
    ("data/media.py", "SoundFile"): (1, BYTES),
    ("data/media.py", "from_fileobj"): (1, "the bytes of a header; values are taken from the bytes of the file here"),
    ("data/media.py", "h5py.File"): (1, HDF5),
    ("data/sources/stacks.py", "h5py.File"): (1, HDF5),
    ("data/sources/stacks.py", "ZipFile"): (1, ZIP),
    ("draw/files.py", "wave.open"): (2, "samples that this package has drawn"),
    ("data/sources/files.py", "ZipFile"): (1, ZIP),
    ("data/sources/hub.py", "load_dataset"): (1, "datasets 4 and newer runs no scripts; the extra asks for it"),
    ("data/sources/hub.py", "load_dataset_builder"): (1, "datasets 4 and newer runs no scripts"),
    ("data/sources/parquet.py", "ParquetFile"): (1, BYTES),
    ("data/sources/saved.py", "read_schema"): (1, "Arrow: validated in full before it is used"),
    ("data/sources/tars.py", "tarfile.open"): (1, "an index of names and places; nothing is unpacked to the disk"),
    ("data/vae.py", "from_pretrained"): (
        1,
        "a class that we name, use_safetensors=True: no pickles, no code",
    ),
    ("draw/archive.py", "ZipFile"): (2, ZIP),
    ("evaluate/images.py", "ZipFile"): (1, ZIP),
    ("explore/takeaway.py", "ZipFile"): (1, "written, not read"),
    ("extras.py", "import_module"): (2, f"require: {FIXED}; import_named: {NAMED}"),
    ("hooks/transformers.py", "torch.load"): (
        1,
        "weights_only=True, in the folder of a trainer that unpickles more",
    ),
    ("hub.py", "hf_hub_download"): (1, "files, opened as all others are"),
    ("lazy.py", "import_module"): (2, FIXED),
    ("metrics/networks.py", "from_pretrained"): (1, "a class that we name, use_safetensors=True: no pickles, no code"),
    ("metrics/networks.py", "jit.load"): (1, NAMED),
    ("metrics/weights.py", "ZipFile"): (1, "an index of names: whether a download is a TorchScript archive"),
    ("native/build.py", "CDLL"): (1, "compiled here, by this user, in a folder private to the user, whole by its hash"),
    ("native/build.py", "subprocess.Popen"): (1, "the user's compiler, our sources"),
    ("native/memory.py", "CDLL"): (1, "the C library of the process"),
    ("parallel/world.py", "all_gather_object"): (1, PEERS),
    ("parallel/world.py", "broadcast_object_list"): (1, PEERS),
    ("posthoc/foreign.py", "ZipFile"): (1, "an index of names: that nothing is packed"),
    ("posthoc/foreign.py", "load_file"): (1, HEADER),
    ("posthoc/foreign.py", "torch.load"): (1, "weights_only=True, with numbers of NumPy beside"),
    ("npz.py", "ZipFile"): (1, ZIP),
    ("train/estimate.py", "subprocess.run"): (1, "this Python, our own module"),
}


def test_every_place_that_opens_something_is_listed():
    found, listed = places(), {place: count for place, (count, _) in LISTED.items()}
    new = {place: count for place, count in found.items() if count > listed.get(place, 0)}
    assert not new, "say in LISTED what protects them"
    assert not listed.keys() - found.keys(), "these are gone"


def test_no_module_that_runs_what_it_reads_is_imported():
    for path in SOURCE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
            wrong = [name for name in names if name in FORBIDDEN or name.split(".")[0] in FORBIDDEN]
            if path.relative_to(SOURCE) == WRITES_PICKLES:
                assert not ({"load", "loads", "Unpickler"} & {getattr(node, "attr", "")}), path
                wrong = [name for name in wrong if name != "pickle"]
            assert not wrong, f"{path} imports {wrong}"


def test_what_makes_loading_safe_is_said_in_each_call():
    """The argument without which a library would run code."""
    needed = {"torch.load": ("weights_only", True), "from_pretrained": ("use_safetensors", True)}
    needed |= {"np.load": ("allow_pickle", False), "numpy.load": ("allow_pickle", False)}
    never = {"trust_remote_code", "allow_pickle"}
    for path in SOURCE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Call):
                continue
            given = {one.arg: getattr(one.value, "value", None) for one in node.keywords}
            assert not any(given.get(name) for name in never), f"{path}:{node.lineno}"
            for loader, (argument, value) in needed.items():
                if dotted(node.func).endswith(loader):
                    assert given.get(argument) is value, f"{path}:{node.lineno} without {argument}={value}"


def test_help_says_what_runs_code(capsys):
    for command in (["metrics"], ["metrics", "reference"], ["sweep"]):
        text = " ".join(help_of(command, capsys).split()).replace("│ ", "")
        assert "name only what you trust" in text, command


def help_of(command, capsys):
    with pytest.raises(SystemExit):
        main([*command, "--help"])
    return capsys.readouterr().out


class Payload:
    """Leaves a mark when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


@pytest.fixture
def mark(tmp_path):
    return tmp_path / "executed"


def pickled(mark):
    """Payloads in each form in which a library may unpickle them."""
    saved, arrays, single = io.BytesIO(), io.BytesIO(), io.BytesIO()
    torch.save({"x": Payload(mark)}, saved)
    objects = np.array([Payload(mark)], dtype=object)
    np.savez(arrays, mu=objects, sigma=objects, about=objects)
    np.save(single, objects)
    files = {".pt": saved, ".npz": arrays, ".npy": single}
    return {".pkl": pickle.dumps(Payload(mark)), **{suffix: file.getvalue() for suffix, file in files.items()}}


def read_source(source):
    from unitgain.data.fit import decode

    for item in source.read(0, len(source)):
        decode(item.data)


def openers(folder):
    """Everything that opens a single file, by what it opens."""
    from unitgain.checkpoint.convert import convert_network
    from unitgain.checkpoint.origin import Origin
    from unitgain.checkpoint.statistics import read_reference
    from unitgain.data.sources import open_source
    from unitgain.draw.networks import open_network
    from unitgain.evaluate.images import open_images
    from unitgain.hub import load
    from unitgain.metrics.networks import open_script
    from unitgain.metrics.reference import load_references
    from unitgain.posthoc.foreign import _load

    origin = Origin(nimg=1024, sigma_rel=0.05, recipe="x")
    return {
        "snapshot": load,
        "network": lambda path: open_network(str(path)),
        "official network": lambda path: convert_network(path, folder / "out.safetensors", origin),
        "official reference": read_reference,
        "reference": load_references,
        "weights": _load,
        "pictures": lambda path: open_images(str(path)),
        "source": lambda path: read_source(open_source(str(path), folder)),
        "detector": lambda path: open_script(path, "cpu"),
    }


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("form", [".pkl", ".pt", ".npz", ".npy"])
def test_payloads_leave_no_mark(tmp_path, mark, form):
    data = pickled(mark)[form]
    for name, opened in openers(tmp_path).items():
        for suffix in (".pkl", ".pt", ".npz", ".npy", ".safetensors", ".zip", ".parquet", ".png"):
            path = tmp_path / f"file{suffix}"
            path.write_bytes(data)
            with suppress(Exception):  # of which kind is tested elsewhere
                opened(path)
            assert not mark.exists(), (name, suffix)
    if form == ".pkl":
        pickle.loads(data)  # what it would have done
        assert mark.exists()
