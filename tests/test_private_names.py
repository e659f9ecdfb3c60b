"""Private names of PyTorch and its relatives: each stands in one module, and in the list of docs/compatibility.md."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "stodepth_models"


def is_private(name):
    return name.startswith("_") and not name.startswith("__")


def own_names(trees):
    """Private names that the package itself defines: functions, classes, arguments, variables and attributes."""
    names = {path.stem for path in PACKAGE.rglob("*.py")}
    for tree in trees:
        for node in ast.walk(tree):
            if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
                names.add(node.name)
            elif isinstance(node, (ast.Name, ast.Attribute)) and isinstance(node.ctx, ast.Store):
                names.add(node.id if isinstance(node, ast.Name) else node.attr)
            elif isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "__setattr__":
                names.update(argument.value for argument in node.args if isinstance(argument, ast.Constant))
    return names


def used_names(tree):
    """Names that a module imports, looks up as attributes, or asks for with ``getattr`` and ``hasattr``."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and not node.level:
            yield from (node.module or "").split(".")
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
            yield node.attr
        elif isinstance(node, ast.Call) and getattr(node.func, "id", "") in ("getattr", "hasattr"):
            yield from (argument.value for argument in node.args[1:2] if isinstance(argument, ast.Constant))


def private_uses():
    trees = {path: ast.parse(path.read_text(encoding="utf-8")) for path in PACKAGE.rglob("*.py")}
    own = own_names(trees.values())
    uses = {}
    for path, tree in trees.items():
        for name in set(used_names(tree)):
            if is_private(name) and name not in own and name != "_exit":  # os._exit is public
                uses.setdefault(name, set()).add(path.relative_to(PACKAGE).as_posix())
    return uses


def test_every_private_name_of_others_is_listed_with_its_one_module():
    page = (ROOT / "docs" / "compatibility.md").read_text(encoding="utf-8").split("## Private names")[1]
    listed = {}
    for names, module in re.findall(r"^\| (`.+?`) \| `([\w/]+\.py)`", page, re.MULTILINE):
        listed.update({name.split(".")[-1]: {module} for name in re.findall(r"`([\w.]+)`", names)})
    assert private_uses() == listed
