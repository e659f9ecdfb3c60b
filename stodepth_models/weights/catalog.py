"""The list of all published weights, of torchvision's and of this package's."""

from typing import NamedTuple

from torchvision.models import get_model_weights

from ..zoo import builder_names

__all__ = ["PublishedEntry", "WeightsTable", "list_weights"]


class PublishedEntry(NamedTuple):
    """One row of the table.

    Attributes:
        builder: name of the builder.
        name: what its ``weights=`` takes.
        dataset: what the accuracy was measured on.
        accuracy: top-1 accuracy in percent.
        source: ``"measured"`` by this project, or ``"reported"`` by the authors of the weights.
        num_params: number of trained values.
        url: where the file comes from.
    """

    builder: str
    name: str
    dataset: str
    accuracy: float
    source: str
    num_params: int
    url: str


class WeightsTable(list[PublishedEntry]):
    """A list that prints as a table."""

    def __repr__(self) -> str:
        heads = ("model", "weights", "data", "top-1 %", "", "params")
        rows = [(e.builder, e.name, e.dataset, f"{e.accuracy:.2f}", e.source, f"{e.num_params:,}") for e in self]
        widths = [max(map(len, column)) for column in zip(heads, *rows, strict=True)]
        lines = [
            "  ".join(cell.rjust(width) if column in (3, 5) else cell.ljust(width) for column, (cell, width) in cells)
            for cells in (enumerate(zip(row, widths, strict=True)) for row in (heads, *rows))
        ]
        return "\n".join(line.rstrip() for line in lines)


def list_weights() -> WeightsTable:
    """Return all published weights; printed, they are a table. Nothing is downloaded."""
    entries = WeightsTable()
    for builder in builder_names():
        for weights in get_model_weights(builder):
            (dataset, metrics), *_ = weights.meta["_metrics"].items()
            source = "measured" if weights.meta.get("measured") else "reported"
            params = weights.meta["num_params"]
            entries.append(
                PublishedEntry(builder, weights.name, dataset, metrics["acc@1"], source, params, weights.url)
            )
    return entries
