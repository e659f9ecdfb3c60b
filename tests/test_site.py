"""The site: each public name has a place in the reference, links lead somewhere, and the notebook runs.

``make docs`` builds it strictly, where broken links and pages without a menu entry are errors.
"""

import importlib.util
import json
import re
from pathlib import Path
from types import SimpleNamespace

import matplotlib as mpl
import pytest

import stodepth_models as sdm

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
NOTEBOOK = json.loads((DOCS / "quickstart.ipynb").read_text(encoding="utf-8"))


def test_the_reference_has_each_public_name_once():
    pages = [page.read_text(encoding="utf-8") for page in (DOCS / "reference").glob("*.md")]
    names = re.findall(r"^::: stodepth_models\.(\w+)$", "\n".join(pages), re.MULTILINE)
    assert sorted(names) == sorted(sdm.__all__)


@pytest.mark.parametrize("file", ["README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md", "weights/README.md"])
def test_a_page_includes_the_file_and_does_not_copy_it(file):
    pages = {path.name: path.read_text(encoding="utf-8") for path in DOCS.glob("*.md")}
    including = [name for name, text in pages.items() if f'{{% include-markdown "../{file}"' in text]
    assert len(including) == 1


def test_the_home_page_ends_where_the_first_screen_does():
    marker = re.search(r'end="(.*?)"', (DOCS / "index.md").read_text(encoding="utf-8"))[1]
    first_screen = (ROOT / "README.md").read_text(encoding="utf-8").partition(marker)[0]
    assert 10 < len(first_screen.splitlines()) < 100


@pytest.fixture(scope="module")
def links():
    spec = importlib.util.spec_from_file_location("links", DOCS / "hooks" / "links.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("page", "link", "expected"),
    [
        ("weights.md", "[a](surgery.md)", "[a](surgery.md)"),
        ("weights.md", "[a](surgery.md#trainers)", "[a](surgery.md#trainers)"),
        ("weights.md", "[a](../weights/README.md#models)", "[a](shipped_weights.md#models)"),
        ("reference/weights.md", "[a](../weights.md)", "[a](../weights.md)"),
        ("reference/weights.md", "[a](../../CHANGELOG.md)", "[a](../changelog.md)"),
        ("index.md", "[a](../CONTRIBUTING.md)", "[a](contributing.md)"),
        ("results.md", "[a](results/)", "[a](https://example.org/o/r/blob/main/docs/results)"),
        ("index.md", "[a](../scripts/demo.py)", "[a](https://example.org/o/r/blob/main/scripts/demo.py)"),
        ("index.md", '<img alt="b" src="pictures/c.svg">', '<img alt="b" src="pictures/c.svg">'),
        ("index.md", "![b](pictures/c.svg)", "![b](pictures/c.svg)"),
        ("index.md", "[a](#here) [b](https://example.com/c)", "[a](#here) [b](https://example.com/c)"),
        ("index.md", "[a](mailto:b@c.org)", "[a](mailto:b@c.org)"),
    ],
)
def test_links_out_of_the_folder_lead_to_copies_or_to_the_repository(links, page, link, expected):
    known = {"weights.md", "surgery.md", "shipped_weights.md", "changelog.md", "contributing.md", "pictures/c.svg"}
    files = SimpleNamespace(get_file_from_path=lambda path: path if path in known else None)
    config = SimpleNamespace(extra={"repository": "https://example.org/o/r"})
    page = SimpleNamespace(file=SimpleNamespace(src_uri=page))
    assert links.on_page_markdown(link, page, config, files) == expected


def test_pictures_of_other_servers_give_way_to_their_text(links):
    badge = '<a href="https://x.org"><img alt="Open in Colab" src="https://x.org/badge.svg" /></a>'
    own = '<img alt="a" src="../pictures/a.svg">'
    found = links.on_post_page(f"{badge}{own}", None, None)
    assert found == f'<a href="https://x.org">Open in Colab</a>{own}'


def test_links_between_files_lead_somewhere_on_github():
    for page in [*DOCS.rglob("*.md"), ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "weights" / "README.md"]:
        text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
        for target in re.findall(r"\]\((?!https?:|mailto:|#)([^)\s#]+)", text):
            assert (page.parent / target).exists(), f"{page}: {target}"


def test_the_notebook_runs_from_top_to_bottom(capsys):
    """As it stands, which takes longer than other tests: two networks are trained for four epochs."""
    mpl.use("Agg")
    names = {}
    for cell in NOTEBOOK["cells"]:
        if cell["cell_type"] == "code":
            exec("".join(cell["source"]), names)
    mpl.pyplot.close("all")
    assert names["blocks"] == 8
    assert names["same"]
    assert min(names["accuracy"].values()) > 0.9
    assert "a training step computes 75% of the 81 million FLOPs" in capsys.readouterr().out


def test_the_notebook_opens_in_colab_and_shows_what_it_printed():
    first, *_ = NOTEBOOK["cells"]
    assert "https://colab.research.google.com/github/OWNER/REPO/blob/main/docs/quickstart.ipynb" in "".join(
        first["source"]
    )
    outputs = [output for cell in NOTEBOOK["cells"] for output in cell.get("outputs", [])]
    assert sum("image/png" in output.get("data", {}) for output in outputs) == 2
    assert not any(output["output_type"] == "error" or output.get("name") == "stderr" for output in outputs)
