"""The README's interactive examples are run, its links lead somewhere, and its plain ones at least compile."""

import doctest
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)


def test_interactive_examples_print_what_they_say():
    examples = "\n".join(block for block in BLOCKS if block.startswith(">>>"))
    test = doctest.DocTestParser().get_doctest(examples, {}, "README.md", "README.md", 0)
    result = doctest.DocTestRunner().run(test)
    assert result.attempted >= 10
    assert result.failed == 0


def test_examples_that_download_compile_and_name_what_exists():
    import stodepth_models

    plain = [block for block in BLOCKS if not block.startswith(">>>")]
    assert all("downloads" in block for block in plain)  # everything else is run above
    for block in plain:
        compile(block, "README.md", "exec")
        assert all(hasattr(stodepth_models, name) for name in re.findall(r"sdm\.(\w+)", block))


def test_links_lead_to_files():
    for target in re.findall(r"\]\((?!http)([^)#]+)\)", TEXT):
        assert (ROOT / target).exists(), target


def test_installing_comes_within_20_lines():
    assert any("pip install" in line for line in TEXT.splitlines()[:20])
