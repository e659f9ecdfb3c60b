"""Checks of single settings."""


def at_least(name: str, value: float, least: float) -> None:
    """Raise a ValueError unless ``value`` is at least ``least``."""
    if not value >= least:  # `not ...` also refuses nan
        raise ValueError(f"{name} must be at least {least}, got {value}")


def positive(name: str, value: float) -> None:
    """Raise a ValueError unless ``value`` is above 0."""
    if not value > 0:
        raise ValueError(f"{name} must be above 0, got {value}")


def within(name: str, value: float, low: float, high: float) -> None:
    """Raise a ValueError unless ``value`` is in ``[low, high]``."""
    if not low <= value <= high:
        raise ValueError(f"{name} must be in [{low:.10g}, {high:.10g}], got {value}")
