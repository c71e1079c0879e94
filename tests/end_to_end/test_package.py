"""What is published: an sdist and the wheel made from it, which works where there is no source tree."""

import email
import hashlib
import json
import os
import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest
import yaml

from unitgain.version import __version__

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
SMALL = "demo --quiet --duration 640 --lengths 0.1 --images 16 --steps 2 --sigma-min 0.1"
for tool in ("build", "hatchling", "trove_classifiers"):
    pytest.importorskip(tool, reason=f"{tool} is not installed: pip install -e '.[dev]'")


def run(*words, cwd, env=None):
    """What a command prints, without the source tree on its path; its end is 0."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    done = subprocess.run(list(map(str, words)), cwd=cwd, env=clean | (env or {}), capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def members(wheel):
    with zipfile.ZipFile(wheel) as file:
        return {name: file.read(name) for name in file.namelist()}


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The sdist, and the wheel that was made from it."""
    out = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", out, ROOT, cwd=out)
    (sdist,), (wheel,) = out.glob("*.tar.gz"), out.glob("*.whl")
    return sdist, wheel


@pytest.fixture(scope="module")
def metadata(built):
    (data,) = [data for name, data in members(built[1]).items() if name.endswith(".dist-info/METADATA")]
    return data


@pytest.fixture(scope="module")
def installed(built, tmp_path_factory):
    """Folder of the programs of an environment with the wheel in it, which borrows what that needs from this one."""
    folder = tmp_path_factory.mktemp("clean")
    run(sys.executable, "-m", "venv", "--without-pip", folder / "env", cwd=folder)
    (packages,) = (folder / "env").glob("lib/python*/site-packages")
    borrowed = [path for path in sys.path if path.endswith("-packages")]
    (packages / "borrowed.pth").write_text("".join(f"{path}\n" for path in borrowed))
    programs = folder / "env" / "bin"
    pip = (sys.executable, "-m", "pip", "--python", programs / "python")
    run(*pip, "install", "--quiet", "--no-deps", "--no-index", built[1], cwd=folder)
    return programs


def test_the_sdist_gives_the_wheel_that_the_tree_gives(built, tmp_path):
    run(sys.executable, "-m", "build", "--no-isolation", "--wheel", "--outdir", tmp_path, ROOT, cwd=tmp_path)
    (wheel,) = tmp_path.glob("*.whl")
    assert wheel.name == built[1].name
    assert members(wheel) == members(built[1])
    with tarfile.open(built[0]) as file:
        names = {name.partition("/")[2] for name in file.getnames()}
    assert {"pyproject.toml", "README.md", "LICENSE", "CHANGELOG.md", "CITATION.cff"} <= names


def test_the_wheel_has_every_file_of_the_package_and_nothing_else(built):
    package = ROOT / "src" / "unitgain"
    files = {
        f"unitgain/{path.relative_to(package).as_posix()}": hashlib.sha256(path.read_bytes()).digest()
        for path in package.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    shipped = {name: hashlib.sha256(data).digest() for name, data in members(built[1]).items()}
    assert {name: digest for name, digest in shipped.items() if ".dist-info/" not in name} == files
    assert "unitgain/py.typed" in files and "unitgain/native/winograd.c" in files


def test_the_metadata_are_whole(metadata):
    from packaging.metadata import Metadata
    from trove_classifiers import classifiers, deprecated_classifiers

    found = Metadata.from_email(metadata, validate=True)
    assert str(found.version) == __version__
    assert found.license_expression == "Apache-2.0" and found.license_files == ["LICENSE"]
    assert found.description_content_type == "text/markdown"
    assert (found.description or "").strip() == (ROOT / "README.md").read_text(encoding="utf-8").strip()
    assert set(found.classifiers or ()) <= classifiers - deprecated_classifiers.keys()
    assert {f"Programming Language :: Python :: 3.{minor}" for minor in (11, 12)} <= set(found.classifiers or ())
    assert set(found.provides_extra or ()) == PROJECT["optional-dependencies"].keys()
    for address in (found.project_urls or {}).values():
        assert re.fullmatch(r"https://[\w.-]+\.\w+/\S*", address), address
        assert not re.search(r"example|placeholder|OWNER|your-|<|\bTODO\b", address, re.IGNORECASE), address
    said = email.message_from_bytes(metadata)
    assert said["Author"] and said["Summary"] and said["Keywords"]


def test_it_works_without_the_source_tree(installed, tmp_path):
    program = (
        "import unitgain, unitgain.native.build as build;"
        "print(unitgain.__file__); print(unitgain.__version__); build.library('pointwise');"
        "print(len(unitgain.list_recipes()), unitgain.create('digits').spec.resolution)"
    )
    where, version, counts = run(
        installed / "python", "-c", program, cwd=tmp_path, env={"UNITGAIN_NATIVE": "1"}
    ).splitlines()
    assert Path(where).is_relative_to(installed.parent)
    assert version == __version__ == run(installed / "unitgain", "--version", cwd=tmp_path).strip()
    assert counts.endswith(" 8")
    assert "unitgain COMMAND" in run(installed / "unitgain", "--help", cwd=tmp_path)


def test_the_demo_runs_from_the_wheel(installed, tmp_path):
    run(installed / "unitgain", *SMALL.split(), "--out", "demo", cwd=tmp_path, env={"OMP_NUM_THREADS": "1"})
    assert json.loads((tmp_path / "demo" / "report.json").read_text())["images_seen"] == 640
    assert "data:image/png" in (tmp_path / "demo" / "report.html").read_text()


def test_the_citation_has_what_the_format_asks_for():
    found = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    known = {"cff-version", "message", "title", "type", "abstract", "keywords", "license", "version", "authors"}
    known |= {"references", "date-released", "doi", "url", "repository-code", "preferred-citation"}
    assert {"cff-version", "message", "title", "authors"} <= found.keys() <= known
    assert found["cff-version"] == "1.2.0" and found["type"] == "software"
    assert (found["version"], found["license"]) == (__version__, PROJECT["license"])
    for work in (found, *found["references"]):
        assert work["title"] and work["authors"]
        for author in work["authors"]:
            assert author.keys() in ({"name"}, {"family-names", "given-names"}), author
    for work in found["references"]:
        assert work["type"] in ("article", "conference-paper", "generic", "software", "thesis")
        assert {"title", "authors", "type"} <= work.keys()
        assert type(work.get("year", 2024)) is int


def test_the_dockerfile_copies_what_there_is_and_pins_what_the_constraints_pin():
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    copied = [word for line in re.findall(r"^COPY (.*) \S+$", text, re.MULTILINE) for word in line.split()]
    sent = re.findall(r"^!(\S+)", (ROOT / ".dockerignore").read_text(), re.MULTILINE)
    assert sorted(copied) == sorted(sent)
    assert all((ROOT / name).exists() for name in copied)
    pins = (ROOT / "constraints.txt").read_text().splitlines()
    assert all(pin in pins for pin in re.findall(r"\S+==\S+", text))
    for extras in re.findall(r"'\.\[(.*)\]'", text):
        assert set(extras.split(",")) <= PROJECT["optional-dependencies"].keys()
