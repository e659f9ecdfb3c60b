"""Callbacks of Lightning and the Hugging Face Trainer, each in a real fit on tiny data."""

import enum
import json
import logging
import re
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.loggers import CSVLogger
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, Dataset, TensorDataset
from torchvision.models.convnext import CNBlock
from torchvision.models.resnet import BasicBlock
from transformers import Trainer, TrainerCallback, TrainingArguments

from stodepth_models import expected_flops, remove_stochastic_depth, survival_probs
from stodepth_models.callbacks.huggingface import StochasticDepthCallback
from stodepth_models.callbacks.lightning import StochasticDepth

# Lightning on a machine with few cores, and on a torch newer than itself.
pytestmark = [
    pytest.mark.filterwarnings("ignore:The 'train_dataloader' does not have many workers"),
    pytest.mark.filterwarnings("ignore:.isinstance.treespec, LeafSpec.. is deprecated:FutureWarning"),
]
BATCHES, EPOCHS = 3, 2
SIZE = (4, 3, 8, 8)


def network() -> nn.Sequential:
    torch.manual_seed(0)
    blocks = [BasicBlock(8, 8) for _ in range(4)]
    return nn.Sequential(nn.Conv2d(3, 8, 3), *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 2))


def samples() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(SIZE[0] * BATCHES, *SIZE[1:], generator=generator), torch.arange(SIZE[0] * BATCHES) % 2


class Classifier(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.net = network()
        self.trained_with: list[list[float]] = []

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)

    def training_step(self, batch: tuple[Tensor, Tensor], index: int) -> Tensor:
        self.trained_with.append(survival_probs(self))
        return cross_entropy(self(batch[0]), batch[1])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.01)


class Headless(Classifier):
    forward = pl.LightningModule.forward

    def training_step(self, batch: tuple[Tensor, Tensor], index: int) -> Tensor:
        return cross_entropy(self.net(batch[0]), batch[1])


def fit(model: pl.LightningModule, callbacks: Any, folder, epochs: int = EPOCHS, ckpt_path=None, **options):
    trainer = pl.Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        callbacks=callbacks,
        logger=CSVLogger(folder, flush_logs_every_n_steps=1),
        log_every_n_steps=1,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **options,
    )
    trainer.fit(model, DataLoader(TensorDataset(*samples()), batch_size=SIZE[0]), ckpt_path=ckpt_path)
    return trainer


def probs_at(share: float) -> list[float]:
    return pytest.approx([1 - share * (i + 1) / 4 * 0.4 for i in range(4)], abs=1e-12)


def test_lightning_applies_schedules_and_logs(tmp_path):
    model, callback = Classifier(), StochasticDepth(drop_rate=0.4, drop_warmup=0.5)
    trainer = fit(model, callback, tmp_path)
    assert model.trained_with == [probs_at(min(step / 3, 1.0)) for step in range(6)]
    assert survival_probs(model) == probs_at(1.0)
    rows = (tmp_path / "lightning_logs" / "version_0" / "metrics.csv").read_text().splitlines()
    logged = [dict(zip(rows[0].split(","), row.split(","), strict=True)) for row in rows[1:]]
    assert len(logged) == 6
    means = [float(row["stochastic_depth/survival_prob"]) for row in logged]
    assert means == pytest.approx([1 - min(step / 3, 1.0) * 0.25 for step in range(6)])
    flops = expected_flops(model, SIZE)
    assert float(logged[-1]["stochastic_depth/flops"]) == pytest.approx(flops.training, rel=1e-6)
    assert float(logged[-1]["stochastic_depth/flops_share"]) == pytest.approx(flops.share, rel=1e-6)
    assert float(logged[0]["stochastic_depth/flops_share"]) == 1.0
    assert trainer.callback_metrics["stochastic_depth/survival_prob"] == pytest.approx(0.75)


def test_lightning_goes_on_from_a_checkpoint(tmp_path):
    whole, stopped, resumed = Classifier(), Classifier(), Classifier()
    arguments = {"drop_rate": 0.4, "drop_warmup": 1.0, "total_steps": 6}
    fit(whole, StochasticDepth(**arguments), tmp_path / "whole")
    trainer = fit(stopped, StochasticDepth(**arguments), tmp_path / "stopped", epochs=1)
    trainer.save_checkpoint(tmp_path / "half.ckpt")
    saved = torch.load(tmp_path / "half.ckpt", weights_only=False)["callbacks"]
    assert saved["StochasticDepth"]["schedule"]["steps"] == 3
    fit(resumed, StochasticDepth(**arguments), tmp_path / "resumed", ckpt_path=tmp_path / "half.ckpt")
    assert stopped.trained_with + resumed.trained_with == whole.trained_with
    assert whole.trained_with == [probs_at(step / 6) for step in range(6)]


def test_lightning_steps_once_an_optimizer_step(tmp_path):
    model = Classifier()
    fit(model, StochasticDepth(drop_rate=0.4, drop_warmup=1.0), tmp_path, accumulate_grad_batches=3)
    assert model.trained_with == [probs_at(0.0)] * 3 + [probs_at(0.5)] * 3


def test_lightning_takes_a_submodule_and_constant_probabilities(tmp_path):
    model = Headless()
    trainer = fit(model, StochasticDepth("BasicBlock", "sample", 0.4, submodule="net"), tmp_path)
    assert survival_probs(model.net) == probs_at(1.0)
    share = expected_flops(model.net, SIZE).share
    assert trainer.callback_metrics["stochastic_depth/net/flops_share"] == pytest.approx(share, rel=1e-6)
    remove_stochastic_depth(model)
    with pytest.raises(ValueError, match=r"drop_rate=None takes.*Sequential carries none above 0"):
        fit(model, StochasticDepth(drop_rate=None, submodule="net"), tmp_path)


def test_lightning_takes_the_rates_of_the_masks_that_a_model_carries(tmp_path):
    model = Headless()
    model.net = nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=4), CNBlock(8, 1e-6, 0.1), CNBlock(8, 1e-6, 0.3), nn.Flatten(), nn.LazyLinear(3)
    )
    model.net(torch.zeros(SIZE))
    fit(model, StochasticDepth(stochastic_method="sample", drop_rate=None, submodule="net"), tmp_path)
    assert survival_probs(model.net) == pytest.approx([0.9, 0.7])


def test_lightning_trains_a_module_without_forward_and_leaves_out_its_flops(tmp_path):
    model = Headless()
    with pytest.warns(UserWarning, match=r"FLOPs of Headless are not logged: it has no forward.*submodule=") as warned:
        trainer = fit(model, StochasticDepth(drop_rate=0.4), tmp_path)
    assert len([w for w in warned if "FLOPs" in str(w.message)]) == 1
    assert survival_probs(model) == probs_at(1.0)
    assert trainer.callback_metrics["stochastic_depth/survival_prob"] == pytest.approx(0.75)
    assert "stochastic_depth/flops" not in trainer.callback_metrics
    assert trainer.global_step == BATCHES * EPOCHS


def test_lightning_takes_a_callback_for_each_of_two_submodules(tmp_path):
    model = Classifier()
    model.other = network()
    callbacks = [
        StochasticDepth(drop_rate=0.4, drop_warmup=1.0, submodule="net"),
        StochasticDepth(drop_rate=0.8, drop_distribution="uniform", drop_warmup=0.5, submodule="other"),
    ]
    trainer = fit(model, callbacks, tmp_path)
    assert survival_probs(model.net) == probs_at(1.0)
    assert survival_probs(model.other) == pytest.approx([0.2] * 4)
    logged = {key: value.item() for key, value in trainer.callback_metrics.items()}
    assert logged["stochastic_depth/net/survival_prob"] == pytest.approx(1 - 5 / 6 * 0.25)
    assert logged["stochastic_depth/other/survival_prob"] == pytest.approx(0.2)
    assert logged["stochastic_depth/other/flops_share"] < logged["stochastic_depth/net/flops_share"]
    trainer.save_checkpoint(tmp_path / "end.ckpt")
    saved = torch.load(tmp_path / "end.ckpt", weights_only=False)["callbacks"]
    assert [saved[callback.state_key]["schedule"]["share"] for callback in callbacks] == [1.0, 0.5]


def test_lightning_needs_an_end_for_a_share_of_the_training(tmp_path):
    with pytest.raises(ValueError, match=r"a training without end: give StochasticDepth\(total_steps=\.\.\.\)"):
        fit(Classifier(), StochasticDepth(drop_warmup=0.5), tmp_path, epochs=-1)


@pytest.mark.parametrize("callback", [StochasticDepth, StochasticDepthCallback])
@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"drop_rate": 2}, r"drop_rate must be a probability in \[0, 1\], got 2"),
        ({"stochastic_method": "x"}, "stochastic_method must be one of 'block', 'sample', .* got 'x'"),
        ({"drop_distribution": "x"}, "drop_distribution must be one of 'linear', 'uniform', got 'x'"),
        ({"rescale": "x"}, "rescale must be one of .* got 'x'"),
    ],
)
def test_an_option_that_is_not_allowed_is_named_at_once(callback, option, message):
    with pytest.raises(ValueError, match=message):
        callback(**option)


def test_lightning_needs_at_least_one_step():
    with pytest.raises(ValueError, match="total_steps must be at least 1, got 0"):
        StochasticDepth(total_steps=0)


class Labelled(nn.Module):
    """A model as the Trainer calls it."""

    def __init__(self) -> None:
        super().__init__()
        self.net = network()
        self.trained_with: list[list[float]] = []

    def forward(self, pixel_values: Tensor, labels: Tensor | None = None) -> dict[str, Tensor]:
        if labels is not None:
            self.trained_with.append(survival_probs(self))
        logits = self.net(pixel_values)
        return {"logits": logits} if labels is None else {"loss": cross_entropy(logits, labels), "logits": logits}


class Images(Dataset):
    def __len__(self) -> int:
        return len(samples()[0])

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {"pixel_values": samples()[0][index], "labels": samples()[1][index]}


class Reporter(TrainerCallback):
    def __init__(self) -> None:
        self.logs: list[dict[str, float]] = []

    def on_log(self, args, state, control, logs=None, **kwargs) -> None:
        self.logs.append(dict(logs))


def train(model: nn.Module, callback: StochasticDepthCallback, folder, *others, resume=None, **options) -> Trainer:
    arguments = TrainingArguments(
        output_dir=folder,
        num_train_epochs=EPOCHS,
        per_device_train_batch_size=SIZE[0],
        logging_steps=1,
        report_to="none",
        disable_tqdm=True,
        use_cpu=True,
        dataloader_pin_memory=False,
        **{"save_strategy": "no", **options},
    )
    trainer = Trainer(model, arguments, train_dataset=Images(), callbacks=[callback, *others])
    trainer.train(resume_from_checkpoint=resume)
    return trainer


def test_trainer_applies_schedules_and_logs(tmp_path):
    model, reporter = Labelled(), Reporter()
    trainer = train(model, StochasticDepthCallback(drop_rate=0.4, drop_warmup=0.5), tmp_path, reporter)
    assert model.trained_with == [probs_at(min(step / 3, 1.0)) for step in range(6)]
    assert survival_probs(model) == probs_at(1.0)
    logged = [log for log in trainer.state.log_history if "loss" in log]
    # A log follows the step of the schedule: it tells what the next batch is trained with.
    means = [1 - min(step / 3, 1.0) * 0.25 for step in range(1, 7)]
    assert [log["stochastic_depth/survival_prob"] for log in logged] == pytest.approx(means)
    flops = expected_flops(model.net, SIZE)
    assert logged[-1]["stochastic_depth/flops"] == pytest.approx(flops.training)
    assert logged[-1]["stochastic_depth/flops_share"] == pytest.approx(flops.share)
    assert [log["stochastic_depth/flops_share"] for log in reporter.logs if "loss" in log] == [
        log["stochastic_depth/flops_share"] for log in logged
    ]


@pytest.mark.parametrize("restore", [False, True])
def test_trainer_goes_on_from_a_checkpoint(tmp_path, restore):
    whole, resumed = Labelled(), Labelled()
    callback = StochasticDepthCallback(BasicBlock, drop_rate=0.4, drop_warmup=1.0)
    train(whole, callback, tmp_path, save_strategy="epoch")
    state = json.loads((tmp_path / "checkpoint-3" / "trainer_state.json").read_text())
    saved = state["stateful_callbacks"]["StochasticDepthCallback"]
    assert saved["attributes"]["schedule_state"]["steps"] == 3
    assert saved["args"]["target_layer_name"] == "BasicBlock"
    callback = StochasticDepthCallback(BasicBlock, drop_rate=0.4, drop_warmup=1.0)
    checkpoint = str(tmp_path / "checkpoint-3")
    train(resumed, callback, tmp_path, resume=checkpoint, restore_callback_states_from_checkpoint=restore)
    assert resumed.trained_with == whole.trained_with[3:]
    assert whole.trained_with == [probs_at(step / 6) for step in range(6)]


def test_trainer_starts_afresh_after_a_training_that_was_resumed(tmp_path):
    arguments = {"drop_rate": 0.4, "drop_warmup": 1.0}
    train(Labelled(), StochasticDepthCallback(**arguments), tmp_path, save_strategy="epoch")
    model, checkpoint = Labelled(), str(tmp_path / "checkpoint-3")
    trainer = train(
        model,
        StochasticDepthCallback(**arguments),
        tmp_path,
        resume=checkpoint,
        restore_callback_states_from_checkpoint=True,
    )
    model.trained_with.clear()
    trainer.train()
    assert model.trained_with == [probs_at(step / 6) for step in range(6)]


class LabelsFirst(Labelled):
    """A model that the FLOPs cannot be counted of with images alone."""

    def forward(self, labels: Tensor, pixel_values: Tensor) -> dict[str, Tensor]:
        return super().forward(pixel_values, labels)


def test_trainer_counts_the_flops_of_a_model_that_takes_more_than_images(tmp_path):
    model = LabelsFirst()
    trainer = train(model, StochasticDepthCallback(drop_rate=0.4), tmp_path)
    share = expected_flops(model.net, SIZE).share
    logged = [log["stochastic_depth/flops_share"] for log in trainer.state.log_history if "loss" in log]
    assert logged == pytest.approx([share] * len(logged), rel=1e-4)


def test_what_cannot_be_counted_does_not_end_the_training(tmp_path):
    with pytest.warns(UserWarning, match=r"the FLOPs of LabelsFirst are not logged: TypeError: .*pixel_values"):
        trainer = train(LabelsFirst(), StochasticDepthCallback(drop_rate=0.4, input_size=SIZE), tmp_path)
    logged = [log for log in trainer.state.log_history if "loss" in log]
    assert len(logged) == 6
    assert all("stochastic_depth/survival_prob" in log and "stochastic_depth/flops" not in log for log in logged)


def test_the_package_imports_no_trainer():
    code = "import sys, stodepth_models; print([m for m in ('lightning', 'transformers', 'timm') if m in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


@pytest.fixture(autouse=True)
def _quiet():
    """Lightning greets in its log."""
    logger = logging.getLogger("lightning.pytorch")
    level = logger.level
    logger.setLevel(logging.ERROR)
    yield
    logger.setLevel(level)


def test_the_documented_snippets_run(monkeypatch):
    """Composer has no release for this PyTorch: its event loop is played, with what its Algorithm is called by."""
    core = types.ModuleType("composer.core")
    core.Algorithm, core.Event = object, enum.Enum("Event", ["INIT", "FIT_START", "BATCH_END"])
    monkeypatch.setitem(sys.modules, "composer", types.ModuleType("composer"))
    monkeypatch.setitem(sys.modules, "composer.core", core)
    page = (Path(__file__).parents[1] / "docs" / "surgery.md").read_text(encoding="utf-8")
    space: dict[str, Any] = {"__name__": "snippets"}
    for snippet in re.findall(r"```python\n(.*?)```", page, re.DOTALL):
        exec(snippet, space)
    assert 0 < space["mutual_information"].max() < space["entropy"].max()
    algorithm, state = space["StochasticDepth"](), types.SimpleNamespace(model=network())
    for event in (core.Event.INIT, core.Event.FIT_START, *[core.Event.BATCH_END] * 50):
        if algorithm.match(event, state):
            algorithm.apply(event, state, logger=None)
    assert survival_probs(state.model) == pytest.approx([1 - 0.5 * (i + 1) / 4 * 0.2 for i in range(4)])
