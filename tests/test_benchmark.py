"""The benchmark's arithmetic on numbers made by hand, what it counts, and one small run from end to end."""

import importlib
import json
import logging
import sys
import weakref
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import nn

import stodepth_models as sdm

sys.path.append(str(Path(__file__).resolve().parents[1] / "scripts"))
benchmark = importlib.import_module("benchmark")
measure = importlib.import_module("benchmarking.measure")
models = importlib.import_module("benchmarking.models")
limits = importlib.import_module("benchmarking.limits")

TINY = ["--model", "cifar_resnet20", "--batch-size", "4", "--repeats", "2"]
FLOAT = 4


def args(*more):
    return benchmark.parse(["train", *TINY, *more])


def test_ratios_are_taken_within_a_repeat_and_against_the_limit_of_the_same_repeat():
    row = measure.compare("x", [2.0, 9.0, 4.0], [4.0, 9.0, 2.0], [0.5, 1.0, 0.8])
    assert row["ratio"] == [0.75, 1.0, 1.5]  # of 0.5, 1 and 2
    assert row["ratio_to_limit"] == [1.0, 1.0, 1.75]  # of 1, 1 and 2.5
    assert (row["candidate"], row["limit"], row["median"]) == ("x", 0.8, 4.0)


def test_a_single_repeat_has_no_spread():
    assert measure.spread([3.0]) == [3.0, 3.0, 3.0]


def test_markdown_has_the_limit_in_each_row():
    row = measure.compare("x", [1.0, 2.0], [2.0, 2.0], [0.5, 0.5]) | {"graphs": 7}
    assert measure.markdown([row], "ms", ["graphs"]).splitlines() == [
        "| candidate | ratio (quartiles) | limit | ratio / limit (quartiles) | ms | graphs |",
        "| --- | --- | --- | --- | --- | --- |",
        "| x | 0.750 (0.625-0.875) | 0.500 | 1.500 (1.250-1.750) | 1.5 | 7 |",
    ]
    assert "| 0.750 (0.625-0.875) | - | - | 1.5 |" in measure.markdown([row | {"limit": None}], "ms")


def test_the_order_rotates_and_every_step_of_a_repeat_draws_from_the_same_stream():
    calls = []
    steps = {name: lambda name=name: calls.append((name, torch.rand(()).item())) for name in "abc"}
    times = measure.interleave(steps, range(4), "cpu")
    assert "".join(name for name, _ in calls) == "abcbcacababc"
    draws = [draw for _, draw in calls]
    assert all(len(set(draws[start : start + 3])) == 1 for start in range(0, 12, 3))
    assert len(set(draws)) == 4
    assert {name: len(values) for name, values in times.items()} == {"a": 4, "b": 4, "c": 4}


def test_saved_bytes_counts_a_storage_once_and_no_parameters():
    x = torch.rand(2, 3, 8, 8)
    net = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1, bias=False), nn.ReLU(), nn.Conv2d(4, 5, 1, bias=False))
    # The first convolution saves its input, the ReLU its output, which is the second convolution's input too.
    assert measure.saved_bytes(net, x, [net[1]]) == (FLOAT * 2 * (3 + 4) * 64, [FLOAT * 2 * 4 * 64])
    assert measure.saved_bytes(net, x) == (FLOAT * 2 * (3 + 4) * 64, [])


def test_counting_saved_bytes_keeps_nothing_alive():
    alive = []
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 5, 1))
    net[1].register_forward_hook(lambda _, inputs, out: alive.append(weakref.ref(out)))
    measure.saved_bytes(net, torch.rand(2, 3, 8, 8))
    assert [reference() for reference in alive] == [None]


def test_a_network_that_drops_everything_saves_its_stem_three_outputs_and_the_features():
    model = models.ours(args(), 0.5)
    sdm.set_survival_probs(model, 0.0)
    stem = 3 * 32 * 32 + 2 * 16 * 32 * 32  # images; what the batch norm and the ReLU save
    shortcuts = 32 * 16 * 16 + 64 * 8 * 8  # the two ReLUs behind a shortcut that changes the shape
    statistics = 2 * 16  # of the stem's batch norm, for the whole batch
    expected = FLOAT * (4 * (stem + shortcuts + 64) + statistics)
    assert measure.saved_bytes(model, models.images(args()))[0] == expected


def test_recorded_gates_are_those_that_were_drawn():
    model = models.ours(args(), 0.5, "subset")
    sdm.set_survival_probs(model, [1.0, 0.0, 0.25, *[0.5] * 6])
    log = models.record_gates(model)
    for _ in range(2):
        model(torch.rand(4, 3, 32, 32))
    assert log == [[1.0, 0.0, 0.25, *[0.5] * 6]] * 2


def test_the_limits_are_those_of_the_gates():
    model = models.ours(args(), 0.5)
    executed, unavoidable = limits.executed_share(args()), limits.unavoidable_share(args())
    gates = [1.0, 0.0] * 4 + [0.0]
    sdm.set_survival_probs(model, gates)
    assert executed(gates) == sdm.expected_flops(model, (1, 3, 32, 32)).share
    full = measure.saved_bytes(models.ours(args(), 1.0), models.images(args()))[0]
    assert unavoidable(gates) == pytest.approx(measure.saved_bytes(model, models.images(args()))[0] / full, rel=1e-6)
    assert executed([1.0] * 9) == unavoidable([1.0] * 9) == 1.0


def test_blocks_taken_out_leave_what_the_gates_that_drew_them_leave():
    everything = models.candidates(args())
    model, log = everything["blocks taken out"]
    gated, x = models.ours(args(), 0.5), models.images(args())
    for _ in range(4):
        out = model(x)
        sdm.set_survival_probs(gated, log[-1])
        torch.testing.assert_close(out, gated(x), rtol=0, atol=0)
    assert len(log) == 4
    assert {gate for gates in log for gate in gates} == {0.0, 1.0}
    skipping, drawn = everything["ours, batch"]
    for network in (model, skipping):
        torch.manual_seed(0)
        network(x)
    assert log[-1] == drawn[-1]


def test_blocks_apart_compute_the_rows_that_gates_of_rows_leave_and_nothing_else():
    settings = args("--p-last", "0.2")
    everything = models.candidates(settings)
    skipping, drawn = everything["ours, row"]
    model, log = models.blocks_apart(settings)
    seen = []
    for index, stage in enumerate((model.layer1, model.layer2, model.layer3)):
        for block in stage:
            block.conv2.register_forward_hook(lambda _, inputs, __, index=index: seen.append((index, len(inputs[0]))))
    x, labels = models.images(settings), torch.zeros(4, dtype=torch.long)
    dropped = 0
    for seed in range(4):
        for network in (skipping, model):
            torch.manual_seed(seed)
            network.zero_grad()
            nn.functional.cross_entropy(network(x), labels).backward()
        assert log[-1] == drawn[-1]
        assert seen == [(index // 3, round(4 * share)) for index, share in enumerate(log[-1]) if share > 0]
        ours, apart = ({n for n, p in net.named_parameters() if p.grad is not None} for net in (skipping, model))
        assert ours == apart
        dropped += log[-1].count(0.0)
        seen.clear()
    assert dropped > 0
    assert len(log) == 4


def test_blocks_apart_see_what_the_network_computes_and_learn_from_their_own_outputs():
    settings = args("--p-last", "1")
    model, _ = models.blocks_apart(settings)
    whole, x, outputs = models.ours(settings, 1.0), models.images(settings), []
    blocks = [block for name in whole.stages for block in getattr(whole, name)]
    for block in blocks:
        block.register_forward_pre_hook(lambda _, inputs: (inputs[0].detach(),))
        block.register_forward_hook(lambda _, __, out: outputs.append(out))
    logits = model(x)
    torch.testing.assert_close(logits, whole(x))
    logits.sum().backward()
    sum(out.square().sum() / 2 for out in outputs).backward()
    assert len(outputs) == 9
    for (name, parameter), expected in zip(model.named_parameters(), whole.parameters(), strict=True):
        if name.startswith("layer"):
            torch.testing.assert_close(parameter.grad, expected.grad, rtol=1e-4, atol=1e-3)


def test_masks_compute_every_branch_and_throw_it_away():
    seen = []
    for name, (model, _) in models.candidates(args("--p-last", "0")).items():
        if not name.startswith("ours"):
            last = model.layer3[2]
            last.conv2.register_forward_hook(lambda *_, name=name: seen.append(name))
            last.bn2.register_forward_hook(lambda _, inputs, out: seen.append(bool(inputs[0].any() and not out.any())))
            model(torch.rand(4, 3, 32, 32))
    masks = ["masked twin", "torchvision.ops, row", "torchvision.ops, batch", "timm drop_path"]
    assert seen == [entry for name in masks for entry in (name, True)]


def test_timm_is_left_out_where_it_is_absent(monkeypatch, capsys):
    monkeypatch.setattr(models, "TimmDropPath", None)
    assert "timm drop_path" not in models.candidates(args())
    assert capsys.readouterr().out == "timm is not installed: its drop_path is left out\n"


def test_warnings_of_the_recompile_limit_are_counted():
    logger = logging.getLogger("torch._dynamo.convert_frame")
    with benchmark.recompile_limit_hits() as hits:
        logger.warning("torch._dynamo hit config.%s (%s)", "recompile_limit", 8)
        logger.warning("something else")
    assert hits == ["torch._dynamo hit config.recompile_limit (8)"]
    assert not logger.filters


@pytest.mark.filterwarnings("ignore:The .grad attribute:UserWarning")  # the compiler reads it while it traces
def test_compiling_reports_graphs_that_stay(monkeypatch):
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))  # traced, not translated
    row = benchmark.compile_row("ours, batch", models.ours(args(), 0.5), args())
    assert row["graphs, warm"] == row["graphs, end"] == 0  # left to eager mode
    row = benchmark.compile_row("ours, survival 1", models.ours(args(), 1.0), args())
    assert row["graphs, warm"] == row["graphs, end"] == 1
    assert row["recompile limit hits"] == 0
    assert row["limit"] == 1.0


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (["--batch-size", "1"], "--batch-size must be at least 2, --repeats and --image-size at least 1"),
        (["--repeats", "0"], "--batch-size must be at least 2, --repeats and --image-size at least 1"),
        (["--image-size", "0"], "--batch-size must be at least 2, --repeats and --image-size at least 1"),
        (["--model", "resnet19"], "--model: no model 'resnet19' in the zoo; did you mean resnet18"),
        (["--p-last", "1.5"], "--p-last must be a probability in [0, 1], got 1.5"),
        (["--json", "/no/such/folder/x.json"], "--json: there is no folder /no/such/folder"),
    ],
)
def test_settings_that_cannot_be_measured_are_refused(wrong, message, capsys):
    with pytest.raises(SystemExit, match="2"):
        args(*wrong)
    assert message in capsys.readouterr().err


def test_a_model_is_named_with_or_without_its_suffix():
    assert args("--model", "cifar_resnet20_stodepth_lineardecay").model == "cifar_resnet20"


def test_a_small_run_from_end_to_end(tmp_path, capsys):
    file = tmp_path / "report.json"
    benchmark.main(["train", "memory", "eval", *TINY, "--json", str(file)])
    report = json.loads(file.read_text())
    assert report["settings"]["model"] == "cifar_resnet20"
    assert report["settings"]["p_last"] == 0.5
    table = {case: {row["candidate"]: row for row in rows} for case, rows in report["results"].items()}
    gated = [f"ours, {mode}" for mode in ("batch", "row", "subset")]
    masks = ["masked twin", "torchvision.ops, row", "torchvision.ops, batch", "timm drop_path"]
    assert list(table["memory"]) == ["ours, survival 1", *gated, "blocks taken out", *masks]
    assert list(table["train"]) == [*table["memory"], "blocks apart"]
    assert list(table["eval"]) == ["ours, survival 1", "ours, scaled", "ours, fold_rescale"]
    for row in table["train"].values():
        assert row["ratio"] == sorted(row["ratio"])
        assert 0 < row["limit"] <= 1
    survival = sdm.linear_decay(9)
    assert table["train"]["timm drop_path"]["limit"] == limits.executed_share(args())(survival)
    memory = table["memory"]
    for name in masks:  # a mask is saved beside everything else
        assert memory[name]["ratio"] == pytest.approx([1.0, 1.0, 1.0], abs=1e-3)
    assert 0.5 < memory["ours, batch"]["limit"] < 1.0
    for name in ("ours, batch", "blocks taken out"):
        assert memory[name]["ratio_to_limit"] == pytest.approx([1.0, 1.0, 1.0], rel=1e-6)
    assert capsys.readouterr().out.count("| limit |") == 3


@pytest.mark.filterwarnings("ignore:The .grad attribute:UserWarning")
def test_a_pass_that_draws_gates_is_compiled_to_no_graph(monkeypatch, tmp_path):
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    benchmark.main(["compile", *TINY, "--modes", "batch", "--json", str(tmp_path / "report.json")])
    rows = json.loads((tmp_path / "report.json").read_text())["results"]["compile"]
    assert [row["graphs, end"] > 0 for row in rows] == [True, False]


def peak_of_64_mebibytes():
    return measure.peak_of(lambda: torch.ones(2**24).sum(), "cpu")


def peak_with_holes_of_48_mebibytes():
    def step():
        torch.ones(2**22)  # once it is freed, the heap takes in whatever is smaller
        kept = [torch.ones(3 * 2**17) for _ in range(64)][::2]
        return kept, [torch.ones(2**19) for _ in range(64)]  # too large for the holes

    return measure.peak_of(step, "cpu")


def test_the_peak_is_what_a_step_holds_at_most():
    assert measure.in_own_process(peak_of_64_mebibytes) == pytest.approx(64, abs=8)
    assert measure.in_own_process(peak_with_holes_of_48_mebibytes) == pytest.approx(48 + 128, abs=8)


def test_peak_compares_with_and_without_checkpointing():
    rows = benchmark.run_peak(args("--modes", "batch", "--batch-size", "64"))
    names = [row["candidate"] for row in rows]
    assert all(row["limit"] is None for row in rows)
    assert names == [f"ours, {name}{end}" for name in ("survival 1", "batch") for end in ("", ", checkpoint_stages")]
    assert all(row["median"] > 1 for row in rows)  # MiB; test_stage.py holds that less is kept
