"""What an installed copy needs: version, licence, types, and a wheel that holds them."""

import re
from pathlib import Path

import pytest

import stodepth_models as sdm

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize(
    "name", ["LICENSE", "README.md", "CONTRIBUTING.md", "CHANGELOG.md", "hubconf.py", "stodepth_models/py.typed"]
)
def test_the_checkout_holds(name):
    assert (ROOT / name).is_file()


def test_the_changelog_knows_the_version():
    assert re.search(rf"^## {re.escape(sdm.__version__)}\b", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)


def test_torch_2_13_0_is_never_chosen():
    assert '"torch>=2.11,!=2.13.0"' in (ROOT / "pyproject.toml").read_text()


def test_modules_import_only_what_stands_before_them_in_the_map():
    rooms = (ROOT / "CONTRIBUTING.md").read_text().split("## Words")[0]
    order = re.findall(r"`(\w+)`", "".join(line for line in rooms.splitlines() if line.startswith("|")))
    package = ROOT / "stodepth_models"
    assert sorted(order) == sorted(path.stem for path in package.glob("[!_]*.py"))
    for place, module in enumerate(order):
        source = (package / f"{module}.py").read_text()
        imported = set(re.findall(r"^from \.(\w+) import", source, re.MULTILINE))
        assert imported <= set(order[:place]), module


def test_the_two_commands_and_ci_are_there():
    makefile = (ROOT / "Makefile").read_text()
    assert {"demo", "test", "lint"} <= set(re.findall(r"^(\w+): \.venv/dev\.stamp$", makefile, re.MULTILINE))
    ci = (ROOT / ".ci" / "run").read_text()
    assert "set -euo pipefail" in ci
    assert ci.rstrip().endswith("make lint\nmake test")
