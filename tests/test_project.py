"""Files that GitHub, pre-commit and citation tools read: they hold the versions and commands of the project."""

import re
from pathlib import Path

import pytest
import yaml

import stodepth_models as sdm

ROOT = Path(__file__).resolve().parents[1]
PYPROJECT = (ROOT / "pyproject.toml").read_text(encoding="utf-8")


def read(path):
    return yaml.safe_load((ROOT / path).read_text(encoding="utf-8"))


def test_the_workflow_calls_what_this_project_calls_on_every_system():
    (job,) = read(".github/workflows/ci.yml")["jobs"].values()
    assert ".ci/run" in [step.get("run") for step in job["steps"]]
    matrix = job["strategy"]["matrix"]
    assert {system.partition("-")[0] for system in matrix["os"]} == {"ubuntu", "macos"}
    assert f'requires-python = ">={matrix["python"][0]}"' in PYPROJECT
    assert len(matrix["python"]) == 2


def test_ruff_has_one_version():
    (pinned,) = re.findall(r'"(ruff==[\d.]+)"', PYPROJECT)
    (repo,) = read(".pre-commit-config.yaml")["repos"]
    assert [hook["additional_dependencies"] for hook in repo["hooks"]] == [[pinned], [pinned]]


def test_the_citation_names_this_version_and_the_paper():
    citation = read("CITATION.cff")
    assert citation["version"] == sdm.__version__
    assert f'license = "{citation["license"]}"' in PYPROJECT
    (paper,) = citation["references"]
    assert (paper["title"], paper["year"]) == ("Deep Networks with Stochastic Depth", 2016)
    assert paper["url"] == "https://arxiv.org/abs/1603.09382"
    assert [author["family-names"] for author in paper["authors"]][:2] == ["Huang", "Sun"]


@pytest.mark.parametrize("form", ["bug", "feature"])
def test_issue_forms_ask_for_what_is_needed(form):
    content = read(f".github/ISSUE_TEMPLATE/{form}.yml")
    required = [field["id"] for field in content["body"] if field.get("validations", {}).get("required")]
    assert required == {"bug": ["what", "code", "environment"], "feature": ["goal", "today"]}[form]


def test_the_placeholder_of_the_address_is_one():
    """A search for OWNER/REPO finds all that the owner of a copy has to replace."""
    for path in ("pyproject.toml", "mkdocs.yml", "CITATION.cff", "SECURITY.md", ".github/ISSUE_TEMPLATE/config.yml"):
        addresses = re.findall(r"github\.(?:com|io)/[\w/.-]*", (ROOT / path).read_text(encoding="utf-8"))
        assert addresses, path
        assert all(address.startswith(("github.com/OWNER/REPO", "github.io/REPO")) for address in addresses), path
