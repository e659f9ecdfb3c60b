"""The files of settings that come with the package, by their names."""

from pathlib import Path

from ..checks import did_you_mean


def recipe_folder() -> Path:
    """Return the folder of the recipes: inside an installed package, or beside it in a clone."""
    package = Path(__file__).resolve().parents[1]
    installed = package / "_configs"
    if installed.is_dir():
        return installed
    return package.parent / "configs"


def recipe_names() -> list[str]:
    """Return the names of the recipes."""
    return sorted(path.stem for path in recipe_folder().glob("*.yaml"))


def find_recipe(name: str) -> Path:
    """Return the file of that path, or the recipe of that name.

    Raises:
        ValueError: there is neither; the message lists the recipes.
    """
    path = Path(name).expanduser()
    if path.is_file():
        return path
    if path.is_dir() and (path / "config.json").is_file():
        raise ValueError(
            f"{name} is the folder of a run, not a file of settings: to go on with it, give its recipe, "
            f"--output {name} and --resume; to begin with its weights, give --weights {name}"
        )
    names = recipe_names()
    if name.removesuffix(".yaml") in names:
        return recipe_folder() / f"{name.removesuffix('.yaml')}.yaml"
    parts = [f"there is no file {name} and no recipe of that name"]
    hint = did_you_mean(path.stem, names)
    if hint:
        parts.append(hint)
    parts.append(f"recipes: {', '.join(names)}")
    raise ValueError("; ".join(parts))
