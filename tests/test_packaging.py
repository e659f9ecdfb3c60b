"""What an installed copy needs: version, licence, types, and a wheel that holds them."""

import ast
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


# What each part of the package may import: the parts before it. The parts of `callbacks` and `training` stand last.
ORDER = (
    ("checks",),
    ("zoo",),
    ("layers",),
    ("survival",),
    ("schedules", "flops", "uncertainty", "recalibration"),
    ("blocks",),
    ("weights",),
    ("builder",),
    ("resnet", "cifar"),
    ("pruning",),
    ("callbacks", "training"),
    ("__main__",),
)


def imported(path):
    """The parts of the package that a module imports, wherever in it."""
    package = ("stodepth_models", *path.relative_to(ROOT / "stodepth_models").parts[:-1])
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level:
            absolute = [*package[: len(package) - node.level + 1], *(node.module or "").split(".")]
            yield from [absolute[1]] if absolute[1] else [alias.name for alias in node.names]


def test_the_parts_of_the_package_import_only_what_stands_before_them():
    place = {part: index for index, parts in enumerate(ORDER) for part in parts}
    package = ROOT / "stodepth_models"
    for path in package.rglob("*.py"):
        part = path.relative_to(package).with_suffix("").parts[0]
        if part != "__init__":
            later = {
                name for name in imported(path) if name not in (part, "__version__") and place[name] >= place[part]
            }
            assert not later, f"{path} imports {later}"


def test_the_commands_and_ci_are_there():
    makefile = (ROOT / "Makefile").read_text()
    assert {"demo", "test", "lint", "docs"} <= set(re.findall(r"^(\w+): \.venv/dev\.stamp$", makefile, re.MULTILINE))
    ci = (ROOT / ".ci" / "run").read_text()
    assert "set -euo pipefail" in ci
    assert ci.rstrip().endswith("make lint\nmake docs\nmake test")
