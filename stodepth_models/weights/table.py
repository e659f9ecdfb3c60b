"""The table of all published weights."""

from typing import NamedTuple

from torchvision.models import get_model_weights

from ..zoo import builder_names


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
        rows = [("model", "weights", "data", "top-1 %", "", "params")]
        for entry in self:
            accuracy, params = f"{entry.accuracy:.2f}", f"{entry.num_params:,}"
            rows.append((entry.builder, entry.name, entry.dataset, accuracy, entry.source, params))
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines: list[str] = []
        for row in rows:
            cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=True)]
            # Numbers stand under one another by their last digit.
            for column in (3, 5):
                cells[column] = row[column].rjust(widths[column])
            lines.append("  ".join(cells).rstrip())
        return "\n".join(lines)


def list_weights() -> WeightsTable:
    """Return all published weights; printed, they are a table. Nothing is downloaded.

    Examples:
        >>> import stodepth_models as sdm
        >>> sorted({entry.dataset for entry in sdm.list_weights()})
        ['CIFAR-10', 'CIFAR-10 (JPEG)', 'ImageNet-1K']
    """
    entries = WeightsTable()
    for builder in builder_names():
        for weights in get_model_weights(builder):
            (dataset, metrics), *_ = weights.meta["_metrics"].items()
            entry = PublishedEntry(
                builder=builder,
                name=weights.name,
                dataset=dataset,
                accuracy=metrics["acc@1"],
                source="measured" if weights.meta.get("measured") else "reported",
                num_params=weights.meta["num_params"],
                url=weights.url,
            )
            entries.append(entry)
    return entries
