"""The table of families: what counts as converted, and what is named as refused."""

import importlib
import json
import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).resolve().parents[1] / "scripts"))
list_families = importlib.import_module("list_families")


def test_models_are_counted_by_family_and_refused_with_a_reason(tmp_path, capsys):
    file = tmp_path / "families.json"
    list_families.main(["torchvision", "--name", "net_b0", "--json", str(file)])
    list_families.main(["torchvision", "--name", "alexnet"])
    report = json.loads(file.read_text())["torchvision"]
    assert report == {"efficientnet": {"converted": ["efficientnet_b0"], "refused": {}}}
    printed = capsys.readouterr().out
    assert "| `efficientnet` | 1 |" in printed
    assert "0 of 1 models are converted. The others: `alexnet` 1." in printed


@pytest.mark.parametrize(
    ("name", "refused"),
    [
        ("test_vit", None),  # masks of every block give way
        ("test_resnet", None),
        ("densenet121", "DenseNet does not hold a known residual block"),
    ],
)
def test_a_model_of_timm_is_converted_or_refused(name, refused):
    outcome = list_families.walk("timm", name)[name][1]
    assert outcome.kind == "converted" if refused is None else refused in outcome.message


def test_a_family_with_refused_models_has_both_counts():
    part = list_families.Family(["a1", "a2"], {"a3": "ValueError: no"})
    whole = list_families.Family(["b1"])
    more = {"c": list_families.Family([], {"c1": "ValueError: no"}), "d": whole, "e": whole}
    assert list_families.to_table({"b": whole, "a": part, **more}) == (
        "| family | models | family | models | family | models |\n"
        "|---|---|---|---|---|---|\n"
        "| `a` | 2 of 3 | `b` | 1 | `d` | 1 |\n"
        "| `e` | 1 |  |  |  |  |\n\n"
        "5 of 7 models are converted. The others: `c` 1."
    )
