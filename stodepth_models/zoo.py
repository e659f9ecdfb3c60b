"""Which builders there are, and which of them a name means."""

import difflib

from torchvision.models._api import BUILTIN_MODELS

SUFFIX = "_stodepth_lineardecay"  # of every builder's name


def builder_names() -> list[str]:
    """Names of this package's builders, in the order of their registration."""
    return [name for name, builder in BUILTIN_MODELS.items() if builder.__module__.split(".")[0] == __package__]


def full_name(name: str) -> str:
    """Return the name of the builder that is named with or without the suffix.

    Raises:
        ValueError: there is none; the message names the nearest ones.
    """
    known = builder_names()
    for candidate in (name, name + SUFFIX):
        if candidate in known:
            return candidate
    if f"cifar_{name}{SUFFIX}" in known:
        raise ValueError(f"no model {name!r} in the zoo; did you mean cifar_{name}?")
    near = difflib.get_close_matches(name.removesuffix(SUFFIX), [k.removesuffix(SUFFIX) for k in known], n=3)
    hint = f"did you mean {' or '.join(near)}?" if near else f"known: {', '.join(known)}"
    raise ValueError(f"no model {name!r} in the zoo; {hint}")
