"""Builds the site: `python docs/tools/build.py`, which is `make docs`. Nothing is fetched, and any warning fails."""

import os
import shutil
import subprocess
import sys

import commands
import notebooks
from accessible import mend
from links import broken
from offline import fetched
from pages import ROOT, stage, write_measured

STAGE = ROOT / "build" / "docs"
SITE = ROOT / "site"
QUIET = {"NO_MKDOCS_2_WARNING": "1"}  # Material's, about a version that pyproject.toml excludes


def main() -> None:
    """Build into `site/`; exits with 1, and says why, if anything is wrong with it."""
    shutil.rmtree(STAGE, ignore_errors=True)
    commands.write(STAGE / "reference" / "commands")
    notebooks.write(ROOT / "docs" / "tutorials", STAGE / "tutorials")
    stage(STAGE)
    write_measured(STAGE)
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--clean"]
    if subprocess.run(command, cwd=ROOT, env=os.environ | QUIET).returncode:
        sys.exit("the site was not built")
    mend(SITE)
    if foreign := list(fetched(SITE)):
        sys.exit("the site fetches from elsewhere:\n" + "\n".join(foreign))
    if lost := list(broken(SITE)):
        sys.exit("the site has links that lead nowhere:\n" + "\n".join(lost))
    print(f"{SITE / 'index.html'}; with search: python -m http.server --directory {SITE.name}")


if __name__ == "__main__":
    main()
