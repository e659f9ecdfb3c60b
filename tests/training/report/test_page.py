"""Tables against figures worked out by hand, plots that show what they should, and a page that a browser draws."""

import csv
import json
import math
import os
import re
import shutil
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.legend import Legend
from PIL import Image
from scipy import stats

from stodepth_models.training.config import DataConfig, ModelConfig, TrainConfig
from stodepth_models.training.report.collect import collect
from stodepth_models.training.report.comparison import lines, paired_difference
from stodepth_models.training.report.groups import group_runs
from stodepth_models.training.report.labels import full_labels
from stodepth_models.training.report.page import write_report
from stodepth_models.training.report.plots import _marker, _style, plots
from stodepth_models.training.report.results import read_runs
from stodepth_models.training.report.tables import to_latex, to_markdown
from stodepth_models.training.run.folder import RunFolder

EPOCHS = 4


def make_run(folder, probs, seed, error, seconds, share, test=True, data="cifar10"):
    """The files of a run that ends at ``error`` percent."""
    config = TrainConfig(
        model=ModelConfig(prob_0_L=probs), data=DataConfig(name=data), epochs=EPOCHS, seed=seed, output=folder
    )
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"settings": asdict(config), "processes": 1}, default=str))
    survival = [probs[0] + (probs[1] - probs[0]) * block / 8 for block in range(9)]
    rows = []
    for epoch in range(1, EPOCHS + 1):
        figures = {"top1": 1 - (error + 20 * (EPOCHS - epoch)) / 100}
        rows.append({"epoch": epoch, "valid": figures, "survival": survival} | ({"test": figures} if test else {}))
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    result = {
        "test_error_best": error if test else None, "test_error_last": error + 0.5 if test else None,
        "best_valid_error": error, "train_seconds": seconds * EPOCHS, "expected_flops_share": share,
    }  # fmt: skip
    (folder / "result.json").write_text(json.dumps(result))


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    tmp_path = tmp_path_factory.mktemp("many")
    for seed, (constant, stochastic) in enumerate([(10.0, 9.0), (10.4, 9.2), (10.2, 9.4)]):
        make_run(tmp_path / "runs" / f"c{seed}", (1.0, 1.0), seed, constant, 40, 1.0)
        make_run(tmp_path / "runs" / f"s{seed}", (1.0, 0.5), seed, stochastic, 30, 0.76)
    make_run(tmp_path / "runs" / "s7", (1.0, 0.8), 7, 11.0, 36, 0.9)
    make_run(tmp_path / "runs" / "digits", (1.0, 0.5), 0, 3.0, 1, 0.76, test=False, data="digits")
    make_run(tmp_path / "runs" / "begun", (1.0, 0.5), 9, 1.0, 1, 0.76)
    (tmp_path / "runs" / "begun" / "result.json").unlink()
    make_run(tmp_path / "runs" / "empty", (1.0, 0.5), 10, 1.0, 1, 0.76)
    (tmp_path / "runs" / "empty" / "metrics.jsonl").write_text("")
    return tmp_path / "runs"


@pytest.fixture(scope="module")
def report(runs):
    write_report(runs, runs.parent / "report")
    return runs.parent / "report"


def groups(runs, dataset="CIFAR-10"):
    return [group for group in group_runs(read_runs(runs)[0]) if group.dataset == dataset]


def test_lines_are_mean_deviation_and_paired_difference(runs):
    constant, weak, strong = lines(groups(runs))
    assert constant.label == "cifar_resnet20, constant depth"
    assert strong.label == "cifar_resnet20, p_L = 0.5"
    assert constant.seeds == strong.seeds == 3
    assert strong.best == pytest.approx((9.2, 0.2))
    assert strong.last == pytest.approx((9.7, 0.2))
    difference = [9.0 - 10.0, 9.2 - 10.4, 9.4 - 10.2]
    low, high = stats.ttest_1samp(difference, 0).confidence_interval(0.95)
    assert strong.difference == pytest.approx((-1.0, low, high))
    assert strong.time_ratio == pytest.approx(0.75)
    assert (constant.difference, constant.time_ratio) == (None, None)
    assert strong.flops_share == pytest.approx(0.76)
    assert (weak.seeds, weak.difference, weak.pairs) == (1, None, 0)
    assert paired_difference([2.0])[0] == 2.0
    assert math.isnan(paired_difference([2.0])[1])


def test_tables_say_so_in_markdown_latex_and_csv(runs, report):
    table = lines(groups(runs))
    strong = "cifar_resnet20, p_L = 0.5 | 3 | 9.20 ± 0.20 | 9.70 ± 0.20 | -1.00 [-1.50, -0.50], n = 3 | 0.75 | 76.0 |"
    assert strong in to_markdown(table, "Training time")
    latex = to_latex(table, "Training time", "CIFAR-10")
    assert r"cifar\_resnet20, p\_L = 0.5 & 3 & 9.20 $\pm$ 0.20" in latex
    assert latex.count(r"\\") == 4
    assert not re.search(r"(?<!\\)[_%]", latex)
    assert r"a\#b\textasciicircum{}c" in to_latex([], "Training time", "a#b^c")
    with open(report / "cifar_10.csv") as file:
        rows = list(csv.DictReader(file))
    assert float(rows[2]["best_mean"]) == pytest.approx(9.2)
    assert rows[1]["difference"] == ""
    assert "cifar_resnet20, p_L = 0.5 (validation images) | 1 | 3.00 |" in (report / "digits_8x8.md").read_text(
        encoding="utf-8"
    )


def change(folder, **changes):
    """Other settings of a run, by dotted name."""
    config = json.loads((folder / "config.json").read_text())
    for key, value in changes.items():
        section, _, name = key.rpartition("__")
        (config["settings"][section] if section else config["settings"])[name] = value
    (folder / "config.json").write_text(json.dumps(config))


def test_a_ramp_is_named_by_its_end(tmp_path):
    make_run(tmp_path / "a", (1.0, 1.0), 0, 9.0, 1, 0.99)
    change(tmp_path / "a", model__prob_0_L=[1.0, 0.5], model__ramp_epochs=1)  # each epoch began at survival 1
    (group,) = groups(tmp_path)
    assert (group.constant, group.last_prob) == (False, 0.5)


def test_second_cycles_are_compared_and_runs_from_other_weights_are_not_merged(tmp_path):
    runs = tmp_path / "runs"
    for seed in (1, 2):
        for name, probs, error in (("c", (1.0, 1.0), 9.0), ("s", (1.0, 0.5), 10.0)):
            make_run(runs / f"second_{name}" / f"seed{seed}", probs, seed, error, 1, 1.0)
            start = runs / f"first_{name}" / f"seed{seed}" / "last.safetensors"
            change(runs / f"second_{name}" / f"seed{seed}", model__weights=str(start))
    make_run(runs / "other", (1.0, 0.5), 1, 11.0, 1, 1.0)
    change(runs / "other", model__weights=str(runs / "else" / "last.safetensors"))
    collect(runs, tmp_path / "small")
    for folder in (runs, tmp_path / "small"):
        found = {line.label: line for line in lines(groups(folder))}
        ours = found["cifar_resnet20, p_L = 0.5 [weights=first_s/seed*/last.safetensors]"]
        assert (ours.seeds, ours.difference[0]) == (2, 1.0)
        assert found["cifar_resnet20, p_L = 0.5 [weights=else/last.safetensors]"].seeds == 1


def test_data_sets_whose_names_are_alike_are_kept_apart(tmp_path):
    for seed, root in enumerate(("flowers.v1", "flowers.v2.tar.gz", ".")):
        make_run(tmp_path / str(seed), (1.0, 0.5), seed, 9.0, 1, 0.7, data="folder")
        change(tmp_path / str(seed), data__root=root)
    assert [group.dataset for group in group_runs(read_runs(tmp_path)[0])] == ["flowers.v1", "flowers.v2", "images"]
    for seed, label in enumerate(("My-Pets", "my pets", "dots")):
        change(tmp_path / str(seed), data__label=label)
    with pytest.raises(ValueError, match=r"two data sets would be written to my_pets\.md"):
        write_report(tmp_path, tmp_path / "report")


def test_runs_of_other_settings_are_told_apart(runs, tmp_path):
    runs = shutil.copytree(runs, tmp_path / "runs")
    make_run(runs / "other", (1.0, 0.5), 0, 9.0, 30, 0.76)
    config = json.loads((runs / "other" / "config.json").read_text())
    config["settings"]["optim"]["lr"] = 0.2
    (runs / "other" / "config.json").write_text(json.dumps(config))
    labels = full_labels(groups(runs))
    assert "cifar_resnet20, p_L = 0.5 [lr=0.1]" in labels
    assert "cifar_resnet20, p_L = 0.5 [lr=0.2]" in labels
    assert "cifar_resnet20, constant depth [lr=0.1]" in labels


def change_settings(run, section, **changes):
    config = json.loads((run / "config.json").read_text())
    config["settings"][section] |= changes
    (run / "config.json").write_text(json.dumps(config))


def test_runs_with_and_without_an_option_are_two_groups(tmp_path):
    for number, options in enumerate([{}, {"shortcut": "B"}, {"shortcut": "A"}]):
        make_run(tmp_path / f"run{number}", (1.0, 0.5), 0, 9.0, 30, 0.76)
        change_settings(tmp_path / f"run{number}", "model", options=options)
    labels = {label.partition("[")[2] for label in full_labels(groups(tmp_path))}
    assert len(labels) == 3
    assert any("shortcut=B" in label for label in labels)


def test_two_runs_of_one_seed_are_refused_and_damaged_files_named(tmp_path):
    for name in ("first", "second"):
        make_run(tmp_path / name, (1.0, 0.5), 3, 9.0, 30, 0.76)
    with pytest.raises(ValueError, match=r"first and .*second have the same settings and seed: leave one of them out"):
        groups(tmp_path)
    (tmp_path / "second" / "result.json").write_text("{")
    with pytest.raises(ValueError, match=r"second/result\.json is damaged"):
        groups(tmp_path)


def flip(path, old, new):
    content = path.read_bytes()
    assert old in content
    path.write_bytes(content.replace(old, new, 1))


@pytest.mark.parametrize(
    ("name", "old", "new", "match"),
    [
        ("result.json", b'"test_error_best": 9.0', b'"test_error_best": 1.0', None),
        ("result.json", b"train_seconds", b"train_secoods", "KeyError: 'train_seconds'"),
        ("metrics.jsonl", b'"epoch": 3', b'"epoch": 7', r"holds the epochs \[1, 2, 7, 4\]"),
        ("metrics.jsonl", b'"epoch": 1,', b'"epoch": 1l', "is damaged in line 1"),
        ("metrics.jsonl", b'"test": {"top1', b'"test": {"top3', "KeyError: 'top1'"),
        ("metrics.jsonl", b'{"top1": 0.3', b'{"top1": 0.7', None),
    ],
)
def test_a_bit_that_flipped_in_the_records_of_a_run_is_noticed(tmp_path, name, old, new, match):
    make_run(tmp_path / "old", (1.0, 0.5), 3, 9.0, 30, 0.76)
    shutil.copytree(tmp_path / "old", tmp_path / "new")
    folder = RunFolder(tmp_path / "new")
    folder.finish(folder.read_result())
    assert folder.read_result()["test_error_best"] == 9.0
    for run in ("old", "new"):
        flip(tmp_path / run / name, old, new)
    with pytest.raises(ValueError, match=r"result\.json or a file beside it \(metrics\.jsonl\) is damaged"):
        groups(tmp_path / "new")
    # Runs of older versions have no checksum.
    if match is not None:
        with pytest.raises(ValueError, match=match):
            groups(tmp_path / "old")


def test_flops_are_the_counted_ones_where_a_run_counted(tmp_path):
    make_run(tmp_path / "run", (1.0, 0.5), 0, 9.0, 30, 0.76)
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    (tmp_path / "run" / "result.json").write_text(json.dumps(result | {"executed_flops_share": 0.74}))
    assert lines(groups(tmp_path))[0].flops_share == pytest.approx(0.74)


def test_each_mode_is_a_line_of_its_own_from_constant_depth(tmp_path):
    make_run(tmp_path / "constant", (1.0, 1.0), 0, 10.0, 40, 1.0)
    for mode, error in (("batch", 9.0), ("row", 8.0)):
        make_run(tmp_path / mode, (1.0, 0.5), 0, error, 30, 0.76)
        change_settings(tmp_path / mode, "model", mode=mode)
    [axes] = plots("CIFAR-10", groups(tmp_path), "Training time")["error_against_p_L"].axes
    drawn = {line.get_label(): [*line.lines[0].get_ydata()] for line in axes.containers}
    assert axes.get_title() == "CIFAR-10, cifar_resnet20"
    assert drawn == {"batch": [9.0, 10.0], "row": [8.0, 10.0]}


def test_long_labels_stay_inside_the_picture(tmp_path):
    for number in range(4):
        run = tmp_path / str(number)
        make_run(run, (1.0, 0.5), number, 9.0, 30, 0.76)
        change_settings(run, "optim", lr=0.1 + number, weight_decay=1e-4 * number, momentum=0.9 - number / 99)
        change_settings(run, "data", image_size=32 + number, images_per_class=10 * number or None)
    for figure in plots("CIFAR-10", groups(tmp_path), "Training time").values():
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
        texts = figure.findobj(Legend)
        for axes in figure.axes:
            ticks = axes.get_yticklabels() if axes.patches else []  # of bars: the labels
            texts += [axes.title, axes.xaxis.label, axes.yaxis.label, *ticks]
        boxes = [text.get_window_extent(canvas.get_renderer()) for text in texts]
        width, height = canvas.get_width_height()
        assert all(b.x0 > -2 and b.y0 > -2 and b.x1 < width + 2 and b.y1 < height + 2 for b in boxes)
        assert all(axes.get_window_extent().width > 200 for axes in figure.axes)


@pytest.mark.parametrize(
    "recorded",
    [
        {"images": {"train": 900, "valid": 100}},  # as many images as the twin has, but one split
        {"images": {"train": 1000}, "fingerprint": {"train": "b"}},
    ],
)
def test_times_are_compared_between_runs_with_the_same_images_alone(tmp_path, recorded):
    base = {"images": {"train": 1000, "valid": 100}, "fingerprint": {"train": "a"}}
    runs = {"constant": ((1.0, 1.0), base), "same": ((1.0, 0.5), base), "other": ((1.0, 0.8), recorded)}
    for name, (probs, images) in runs.items():
        make_run(tmp_path / name, probs, 0, 9.0, 30, 0.76)
        config = json.loads((tmp_path / name / "config.json").read_text())
        (tmp_path / name / "config.json").write_text(json.dumps(config | {"data": images}))
    found = groups(tmp_path)
    ratios = {line.label.partition(", ")[2]: line.time_ratio for line in lines(found)}
    assert ratios == {"constant depth": None, "p_L = 0.8": None, "p_L = 0.5": 1.0}
    figure = plots("CIFAR-10", found, "Training time")["time_per_epoch"]
    assert [len(axes.patches) for axes in figure.axes] == [2, 1]
    assert figure.axes[0].get_title() == "1000 training images"


def test_labels_of_a_plot_hold_what_differs_within_it(tmp_path):
    for seed, (size, lr) in enumerate([(32, 0.1), (32, 0.2), (64, 0.1)]):
        make_run(tmp_path / str(seed), (1.0, 0.5), seed, 9.0, 30, 0.76)
        change(tmp_path / str(seed), data__image_size=size, optim__lr=lr)
    drawn = plots("CIFAR-10", groups(tmp_path), "Training time")
    labels = [line.get_label() for line in drawn["survival_by_depth"].axes[0].get_lines()]
    assert labels[0] == "p_L = 0.5 [image_size=32, lr=0.1]"
    bars = [[text.get_text() for text in axes.get_yticklabels()] for axes in drawn["time_per_epoch"].axes]
    assert bars == [["p_L = 0.5 [lr=0.1]", "p_L = 0.5 [lr=0.2]"], ["p_L = 0.5"]]
    assert [axes.get_title() for axes in drawn["time_per_epoch"].axes] == ["image_size=32", "image_size=64"]


def test_plots_show_the_figures_with_names_and_units(runs):
    drawn = plots("CIFAR-10", groups(runs), "Training time")
    [axes] = drawn["error_over_epochs"].axes
    assert axes.get_lines()[0].get_ydata() == pytest.approx([70.2, 50.2, 30.2, 10.2])
    assert len(axes.collections) == 2  # bands of the two groups with several seeds
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("Epoch", "Test error (%)")
    [axes] = drawn["survival_by_depth"].axes
    assert axes.get_lines()[2].get_ydata()[-1] == 0.5
    [axes] = drawn["error_against_p_L"].axes
    assert axes.get_lines()[0].get_xdata() == pytest.approx([0.5, 0.8, 1.0])
    assert axes.get_lines()[0].get_ydata() == pytest.approx([9.2, 11.0, 10.2])
    [axes] = drawn["time_per_epoch"].axes
    assert [bar.get_width() for bar in axes.patches] == pytest.approx([40, 36, 30])
    assert axes.get_xlabel() == "Training time per epoch (s)"


def test_the_report_holds_every_picture_and_names_what_is_left_out(runs, report):
    records, unfinished = read_runs(runs)
    assert (len(records), unfinished) == (8, [runs / "begun", runs / "empty"])
    page = (report / "index.html").read_text(encoding="utf-8")
    pictures = sorted(path.name for path in report.glob("*.svg"))
    assert len(pictures) == page.count("<img ") == 7
    assert str(runs / "begun") in page
    assert "no measurement" in page
    assert not re.search(r'(src|href)="(?!data:)', page)
    for path in report.glob("*.png"):
        with Image.open(path) as image:
            assert min(image.size) > 300
            assert len(image.convert("RGB").getcolors(10**6)) > 20


def test_nothing_to_report_is_said(tmp_path):
    with pytest.raises(ValueError, match="holds no run"):
        write_report(tmp_path, tmp_path / "report")
    make_run(tmp_path / "begun", (1.0, 0.5), 0, 1.0, 1, 0.5)
    (tmp_path / "begun" / "result.json").unlink()
    with pytest.raises(ValueError, match=r"no run in .* is finished"):
        write_report(tmp_path, tmp_path / "report")


def test_a_browser_draws_every_picture_without_an_error(report, tmp_path):
    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if browser is None:
        pytest.skip("needs Chromium, which is not installed")
    page = tmp_path / "index.html"
    check = "<script>onload=()=>{document.title='widths '+[...document.images].map(i=>i.naturalWidth)}</script></body>"
    page.write_text((report / "index.html").read_text(encoding="utf-8").replace("</body>", check), encoding="utf-8")
    command = [
        browser, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--enable-logging=stderr",
        f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom", page.as_uri(),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    widths = re.search(r"<title>widths ([\d,]+)</title>", done.stdout)
    assert widths, done.stderr[-2000:]
    assert [int(width) > 100 for width in widths[1].split(",")] == [True] * 7
    assert "CONSOLE" not in done.stderr


def test_a_page_shows_the_tables_between_its_markers(runs, tmp_path):
    page = tmp_path / "page.md"
    page.write_text(
        "Before\n<!-- cifar_10 -->\n<!-- end of cifar_10 -->\n<!-- digits_8x8 -->\n<!-- end of digits_8x8 -->\n"
    )
    script = Path(__file__).resolve().parents[3] / "scripts" / "report.py"
    environment = os.environ | {"PYTHONPATH": str(script.parents[1])}
    (tmp_path / "report").mkdir()
    (tmp_path / "report" / "digits.md").write_text("a table of another report")  # has no markers in the page
    subprocess.run(
        [sys.executable, script, runs, "-o", tmp_path / "report", "--page", page], check=True, env=environment
    )
    text = page.read_text()
    assert text.startswith("Before\n<!-- cifar_10 -->")
    assert (tmp_path / "report" / "cifar_10.md").read_text() in text
    assert (tmp_path / "report" / "digits_8x8.md").read_text() in text


def test_the_page_of_results_is_the_report_of_its_records(tmp_path):
    docs = Path(__file__).resolve().parents[3] / "docs"
    write_report(docs / "results", tmp_path, processor_time=True)
    for table in tmp_path.glob("*.md"):
        assert table.read_text(encoding="utf-8").strip() in (docs / "results.md").read_text(encoding="utf-8")


def test_processor_time_takes_the_place_of_wall_clock_time(tmp_path):
    for name, probs, processor in (("constant", (1.0, 1.0), 200), ("stochastic", (1.0, 0.5), 150)):
        make_run(tmp_path / "runs" / name, probs, 1, 10.0, 40, 0.76)
        path = tmp_path / "runs" / name / "result.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), "processor_seconds": processor}))
    ratios, heads = [], []
    for processor_time in (False, True):
        write_report(tmp_path / "runs", tmp_path / "report", processor_time)
        table = (tmp_path / "report" / "cifar_10.md").read_text().splitlines()
        heads.append(table[2].split(" | ")[5])
        ratios.append(table[5].split(" | ")[5])
    assert ratios == ["1.00", "0.75"]
    assert heads == ["Training time ratio", "Processor time ratio"]


def test_fifty_lines_look_different():
    assert len({str(_style(number)) for number in range(49)}) == 49
    assert len({(_style(number)["color"], _marker(number)) for number in range(49)}) == 49
