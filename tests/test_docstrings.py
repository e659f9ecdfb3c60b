"""Every public name is documented with an example, and every example prints what it says."""

import doctest
import inspect

import pytest

import stodepth_models as sdm


@pytest.mark.parametrize("name", sdm.__all__)
def test_the_example_prints_what_it_says(name):
    text = inspect.getdoc(getattr(sdm, name))
    assert text.count("\nExamples:\n") == 1
    example = text.split("\nExamples:\n")[1]
    assert "\n>>> " in inspect.cleandoc(f"\n{example}")  # it is the last section, and holds code
    test = doctest.DocTestParser().get_doctest(text, {}, name, None, 0)
    assert test.examples[0].source.startswith("import ")  # complete in itself
    assert any(f"sdm.{name}" in line.source for line in test.examples)
    assert doctest.DocTestRunner().run(test).failed == 0
