"""The entry points of torch.hub, in a clean process that can import nothing but the declared dependencies."""

import re
import subprocess
import sys
from inspect import signature
from pathlib import Path

import pytest
import torch
import torchvision

import hubconf
import stodepth_models as sdm

ROOT = Path(__file__).resolve().parents[1]

# What an environment without these packages does: they are installed here, but only for training and development.
BLOCKED = (
    "absl accelerate hypothesis jsonargparse lightning matplotlib onnx onnxruntime onnxscript pandas pytest "
    "pytorch_lightning scipy sklearn tensorboard timm torchmetrics transformers"
)
HUB = f"""
import sys
for name in {BLOCKED.split()!r}:
    sys.modules[name] = None  # an import of it raises ModuleNotFoundError
import torch
model = torch.hub.load(sys.argv[1], "resnet18_stodepth_lineardecay", source="local")
print(type(model).__name__, len(model.state_dict()))
"""


@pytest.fixture
def hub_repo(tmp_path, monkeypatch):
    """Name of a repository that torch.hub finds in its cache, where it looks before it downloads: this checkout."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(torch.hub, "_hub_dir", None)
    (tmp_path / "hub").mkdir()
    (tmp_path / "hub" / "OWNER_REPO_main").symlink_to(ROOT)
    return "OWNER/REPO:main"


def test_hub_loads_where_only_the_dependencies_are_installed(tmp_path):
    command = [sys.executable, "-c", HUB, str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["StoDepthResNet", str(len(torchvision.models.resnet18().state_dict()))]


def test_dependencies_are_those_of_the_package():
    declared = re.search(
        r"^dependencies = \[\n(.*?)^\]", (ROOT / "pyproject.toml").read_text(), re.MULTILINE | re.DOTALL
    )
    assert declared is not None
    needed = re.findall(r'"([a-z_]+)', declared[1])
    # Builders read no images: numpy and pillow are for commands.
    assert hubconf.dependencies == [name for name in needed if name not in ("numpy", "pillow")]


def test_every_builder_is_an_entry_point(hub_repo):
    builders = {name for name in sdm.__all__ if name.endswith("_lineardecay")}
    assert len(builders) == 22
    assert set(hubconf.__all__) == builders
    assert set(torch.hub.list(hub_repo, skip_validation=True, trust_repo=True)) >= builders


def test_help_tells_what_each_model_is_its_arguments_and_its_source(hub_repo):
    for name in hubconf.__all__:
        text = torch.hub.help(hub_repo, name, skip_validation=True, trust_repo=True)
        assert "stochastic depth" in text, name
        assert "arXiv:1603.09382" in text, name
        for argument in signature(getattr(hubconf, name)).parameters:
            assert f"{argument}: " in text, (name, argument)


@pytest.mark.parametrize("depth", [18, 34, 50, 101, 152])
def test_the_original_projects_names_are_entry_points(hub_repo, depth):
    with torch.device("meta"):
        name = f"resnet{depth}_StoDepth_lineardecay"
        model = torch.hub.load(hub_repo, name, skip_validation=True, trust_repo=True, prob_0_L=(1.0, 0.8))
    assert sdm.survival_probs(model)[-1] == 0.8
