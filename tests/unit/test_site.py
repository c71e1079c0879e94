"""The site: links lead somewhere, every command and option has its entry, every documented name is there."""

import dataclasses
import importlib
import re
import sys
from pathlib import Path, PurePosixPath

import pytest

sys.path.append(str(Path(__file__).parents[2] / "docs" / "tools"))

import commands
import notebooks
import unitgain
from accessible import MENDED, mend
from links import broken
from mathematics import with_mathml
from offline import fetched
from pages import outside_code, stage, to_page, write_measured
from unitgain.cli import completion
from unitgain.cli.commands import COMMANDS
from unitgain.data import Fit, SourceOptions
from unitgain.trust import Limits

ROOT = Path(__file__).parents[2]
PAGES = sorted((ROOT / "docs").rglob("*.md"))
NAMES = [
    name
    for path in (ROOT / "docs/reference/api").glob("*.md")
    for name in re.findall(r"^::: (\S+)", path.read_text(), re.M)
]


@pytest.fixture(scope="module")
def staged(tmp_path_factory):
    out = tmp_path_factory.mktemp("site")
    commands.write(out / "reference" / "commands")
    notebooks.write(ROOT / "docs" / "tutorials", out / "tutorials")
    stage(out)
    write_measured(out)
    return out


def test_pages_and_what_they_show_are_staged_and_nothing_leads_out(staged):
    pages = sorted(staged.rglob("*.md"))
    assert len(pages) > len(PAGES)
    for page in pages:
        found = []
        outside_code(
            page.read_text(), lambda text, found=found: found.extend(re.findall(r"\]\(([^)\s]+)\)", text)) or text
        )
        for target in found:
            if not re.match(r"[a-z]+:|#", target):
                there = (page.parent / target.partition("#")[0]).resolve()
                assert there.is_file() and there.is_relative_to(staged), f"{page}: {target}"


def test_the_navigation_names_the_pages(staged):
    text = (ROOT / "mkdocs.yml").read_text()
    named = set(re.findall(r"(\S+\.md)$", text.partition("\nnav:")[2], re.M))
    pages = {page.relative_to(staged).as_posix() for page in staged.rglob("*.md")}
    assert named <= pages
    assert not {page for page in pages - named if not page.startswith(("measured/", "examples/"))}


def test_a_link_that_leads_nowhere_is_named(tmp_path):
    (tmp_path / "docs").mkdir()
    (tmp_path / "script.py").write_text("pass")
    page = PurePosixPath("docs/a.md")
    assert to_page("`[x](no.md)` [s](../script.py)", page, tmp_path / "out", tmp_path) == (
        "`[x](no.md)` [s](files/script.py)"
    )
    assert (tmp_path / "out/files/script.py").read_text() == "pass"
    with pytest.raises(ValueError, match=r"docs/a\.md: a link leads to no\.md"):
        to_page("see [this](no.md)", page, tmp_path / "out", tmp_path)


def test_formulas_are_set_without_a_script_and_code_is_left_alone():
    text = outside_code("cost $x_1^2$ and `$PATH`\n\n```sh\necho $A $B\n```\n\n$$\\frac{a}{b}$$\n", with_mathml)
    assert text.count("<math") == 2 and "<mfrac>" in text and "<msubsup>" in text
    assert "`$PATH`" in text and "echo $A $B" in text
    assert with_mathml("from $5 to $10") == "from $5 to $10"
    with pytest.raises(ValueError, match=r"x\^1\^2"):
        with_mathml("$x^1^2$")


def test_every_command_and_option_has_its_entry(staged):
    text = "".join((staged / f"reference/commands/{file}.md").read_text() for file in commands.AREAS)
    assert sorted(re.findall(r"^## unitgain (.*?) \{", text, re.M)) == sorted(COMMANDS)
    for name in COMMANDS:
        for option in commands.options(name):
            assert f"{{ #{commands.anchor(name, option)} }}" in text, f"{name} {option}"


def test_the_options_of_the_pages_are_those_of_the_command():
    listed = commands.options("data prepare")
    fields = {one.name for part in (Fit, SourceOptions, Limits) for one in dataclasses.fields(part)} - {"limits"}
    names = {f"--{name.replace('_', '-')}" for name in fields}
    assert names <= listed.keys() and {"SOURCE", "DEST"} <= listed.keys()
    assert names <= set(completion.options("data prepare"))
    assert listed["--fit"].metavar == "{crop,pad,stretch}"
    assert listed["--fit"].text.endswith("(default: crop)") and "the whole picture" in listed["--fit"].text
    assert listed["SOURCE"].text.startswith("Where the images are.")


def test_a_help_is_taken_apart():
    text = (
        "usage: x [-h]\n          [--more]\n\nDoes it.\n\nAnd\nmore.\n\n positional arguments   \n ---------   \n"
        "  STR              What. (required)   \n\n options   \n --------   \n  -h, --help       show this\n"
        "  --long-one, --other {a,b}   \n                   Of two\n                   lines.\n\n"
        " part options\n -----\n  Said of it.\n  -----\n  --flag           True or not.\n"
    )
    found = commands.parse_help(text)
    assert found.description == "Does it.\n\nAnd\nmore."
    assert found.groups == {
        "positional arguments": [commands.Entry((), "STR", "What. (required)")],
        "options": [commands.Entry(("--long-one", "--other"), "{a,b}", "Of two lines.")],
        "part options": [commands.Entry(("--flag",), "", "True or not.")],
    }


@pytest.mark.parametrize("name", NAMES)
def test_documented_names_are_there_and_say_what_they_are(name):
    module, _, attribute = name.rpartition(".")
    value = getattr(importlib.import_module(module), attribute)
    assert value.__doc__ or "Profile" in name


def test_the_top_level_is_documented():
    packages = {"arch", "conditions", "ema", "posthoc", "recipes", "sample", "frechet", "nvidia", "ops", "__version__"}
    documented = {name.removeprefix("unitgain.") for name in NAMES}
    assert set(unitgain.__all__) - packages <= documented


@pytest.mark.parametrize(
    ("name", "text", "found"),
    [
        ("a.html", '<script src="https://a.test/x.js"></script>', 1),
        ("a.html", "<link rel=stylesheet href=//a.test/x.css><img src='http://a.test/b.png'>", 2),
        ("a.css", "@import 'https://a.test/x.css'; a { background: url(https://a.test/b.png) }", 2),
        (
            "a.html",
            '<a href="https://a.test">link</a><script src="assets/x.js"></script><link rel="canonical" href="x">',
            0,
        ),
    ],
)
def test_what_a_page_would_fetch_is_seen(tmp_path, name, text, found):
    (tmp_path / name).write_text(text)
    assert len(list(fetched(tmp_path))) == found


@pytest.mark.parametrize("page", [path for path in PAGES if path.parent.name == "concepts"], ids=lambda path: path.stem)
def test_the_python_of_the_concepts_runs(page):
    names: dict = {}
    for block in re.findall(r"^```python\n(.*?)^```", page.read_text(), re.M | re.S):
        exec(compile(block, str(page), "exec"), names)


def test_formulas_do_not_begin_a_line_of_markup_and_pages_are_mended(tmp_path):
    assert with_mathml("so\n$x$ is\n").splitlines()[1].startswith("<span>")
    page = tmp_path / "a.html"
    page.write_text("<pre><span></span><code>x</code></pre> <p><code>y</code></p>")
    with pytest.raises(ValueError, match="no page has"):
        mend(tmp_path)
    (tmp_path / "b.html").write_text("".join(MENDED))
    part = (
        '<nav class="md-nav" data-md-level="1" aria-labelledby="__nav_3_label" aria-expanded="false">\n'
        '<label class="md-nav__title" for="__nav_3"> <span class="md-nav__icon md-icon"></span>\n Guides </label>'
    )
    (tmp_path / "c.html").write_text(f"{part}<tr><th></th><th>a</th></tr>")
    mend(tmp_path)
    mended = (tmp_path / "c.html").read_text()
    assert '<nav class="md-nav" data-md-level="1" aria-label="Guides" aria-expanded="false">' in mended
    assert mended.endswith("<tr><td></td><th>a</th></tr>")
    assert page.read_text() == '<pre><span></span><code tabindex="0">x</code></pre> <p><code>y</code></p>'


def test_what_leads_nowhere_in_a_built_site_is_named(tmp_path):
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "index.html").write_text(
        '<h1 id="x y">b</h1><a href="../a.html#here">a</a><a href="/a.html">a</a>'
    )
    (tmp_path / "p.png").write_bytes(b"")
    page = '<p id=here><a href="b#x%20y">b</a><img src="p.png"><a href="#here"><a href="https://a.test"><a href="#">'
    (tmp_path / "a.html").write_text(page)
    assert list(broken(tmp_path)) == []
    (tmp_path / "a.html").write_text(f'{page}<img src="q.png"/><a href="b/index.html#z"><a href="#there">')
    assert list(broken(tmp_path)) == ["a.html: q.png", "a.html: b/index.html#z", "a.html: #there"]


@pytest.mark.parametrize("name", ["README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md"])
def test_links_of_what_is_read_in_the_repository_lead_somewhere(name):
    found = []
    outside_code((ROOT / name).read_text(), lambda text: found.extend(re.findall(r"\]\(([^)\s]+)\)", text)) or text)
    for target in found:
        if not re.match(r"[a-z]+:", target):
            path, _, place = target.partition("#")
            there = ROOT / path if path else ROOT / name
            assert there.exists(), target
            if place:
                heads = re.findall(r"^#+ (.+)$", there.read_text(), re.M)
                assert place in {re.sub(r"[^\w -]", "", head.lower()).replace(" ", "-") for head in heads}, target
