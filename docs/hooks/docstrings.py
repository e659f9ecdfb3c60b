"""Docstrings as the site shows them: those that the package completes at import, with links for Sphinx's roles."""

import importlib
import inspect
import re
from typing import Any

import griffe

import stodepth_models

_ROLE = re.compile(r":(?:class|func|meth):`~?(\.?)([\w.]+)`")


class Docstrings(griffe.Extension):
    """Extension of griffe, which reads the package for mkdocstrings without importing it."""

    def on_instance(self, *, obj: griffe.Object, **_: Any) -> None:
        """Take the docstring of the imported object; builders and enums add to theirs."""
        if not isinstance(obj, griffe.Class | griffe.Function) or obj.docstring is None:
            return
        if _is_completed(obj):
            module = importlib.import_module(obj.module.path)
            obj.docstring.value = inspect.getdoc(getattr(module, obj.name)) or ""
        obj.docstring.value = _ROLE.sub(_link, obj.docstring.value)


def _is_completed(obj: griffe.Object) -> bool:
    name = obj.name
    return obj.parent is obj.module and (name.endswith("_stodepth_lineardecay") or name.endswith("_Weights"))


def _link(role: re.Match[str]) -> str:
    """Return a link to what a role names where it has a place in the reference, else its name alone."""
    name = role[2]
    short = name.rpartition(".")[2]
    if name in stodepth_models.__all__:
        return f"[`{name}`][stodepth_models.{name}]"
    return f"`{short}`"
