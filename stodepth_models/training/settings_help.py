"""The help of commands that take settings, in plain sentences."""

from argparse import Action, RawDescriptionHelpFormatter

from jsonargparse import DefaultHelpFormatter

_SECTIONS = {
    "model": "Short for --model.name; a YAML file gives all of these settings.",
    "data": "Name of a data set, or folder or archive of your own images; a YAML file gives all of these settings.",
    "optim": "YAML file that gives all of these settings.",
}


class PlainHelp(DefaultHelpFormatter, RawDescriptionHelpFormatter):
    """A description as it is written, and for each setting a sentence and its default without types of Python."""

    def format_help(self) -> str:
        """Show that ``--model`` and ``--data`` take names, where jsonargparse shows files alone."""
        text = super().format_help()
        return text.replace("--model CONFIG", "--model NAME  ").replace("--data CONFIG", "--data NAME  ")

    def start_section(self, heading: str | None) -> None:
        """Name a group of settings, without the marks of a docstring."""
        super().start_section((heading or "").replace("``", ""))

    def _get_help_string(self, action: Action) -> str:
        if action.dest in _SECTIONS:
            return _SECTIONS[action.dest]
        text = (action.help or "").replace("``", "").replace('"', "").strip().rstrip(".")
        text = f"{text[:1].upper()}{text[1:]}."
        if action.dest in ("help", "config", "print_config") or action.default in (None, {}):
            return text
        return f"{text} Default: {as_typed(action.default)}."


def as_typed(value: object) -> str:
    """Return a value of a setting as one would type it."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (tuple, list)):
        return f"[{','.join(map(str, value))}]"
    return str(value)
