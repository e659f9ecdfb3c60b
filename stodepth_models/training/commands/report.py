"""``stodepth report``: turn runs into tables and plots."""

from collections.abc import Sequence
from pathlib import Path

from ..errors import SettingsError
from ..flags import Parser
from ..report.page import write_report
from ..report.tables import fill_in


def main(words: Sequence[str]) -> None:
    """Parse and write."""
    parser = Parser("report", "Turn runs into tables and plots: stodepth report runs/ -o report/")
    parser.add_argument("runs", type=Path, help="Folder of runs, at any depth.")
    parser.add_argument("-o", "--output", type=Path, default=Path("report"), help="Folder of the report.")
    parser.add_argument(
        "--processor-time", action="store_true", help="Compare processor time: for runs that shared a CPU with others."
    )
    parser.add_argument("--page", type=Path, help="Markdown page that shows the tables between its markers.")
    options = parser.parse_words(words)
    if not options.runs.is_dir():
        raise SettingsError(f"there is no folder {options.runs}: give the one that holds the folders of the runs")
    report = write_report(options.runs, options.output, options.processor_time)
    if options.page is not None:
        text = options.page.read_text(encoding="utf-8")
        for name, table in report.tables.items():
            text = fill_in(text, name, table)
        options.page.write_text(text, encoding="utf-8")
    runs = "1 run" if report.runs == 1 else f"{report.runs} runs"
    print(f"{runs} in {options.output / 'index.html'}; {len(report.unfinished)} not finished, left out")
