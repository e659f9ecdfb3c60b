"""The libraries' own trainers on converted models: the losses are those of the libraries' masks with the same rows."""

import copy

import lightning.pytorch as pl
import pytest
import torch
import transformers as hf
from library_masks import Draws, give_gates, give_masks
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, Dataset
from torchvision.models.swin_transformer import SwinTransformer

import stodepth_models as sdm

pytestmark = pytest.mark.filterwarnings("ignore:.*LeafSpec.*:FutureWarning")

BATCH = 4
STEPS = 3


class Images(Dataset):
    """Random images with labels, always the same."""

    def __init__(self, size=32):
        generator = torch.Generator().manual_seed(0)
        self.images = torch.randn(BATCH * STEPS, 3, size, size, generator=generator)

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        return {"pixel_values": self.images[index], "labels": index % 3}


def losses_of_trainer(model, folder):
    arguments = hf.TrainingArguments(
        str(folder),
        per_device_train_batch_size=BATCH,
        max_steps=STEPS,
        logging_steps=1,
        learning_rate=0.01,
        report_to=[],
        use_cpu=True,
        save_strategy="no",
        disable_tqdm=True,
    )
    trainer = hf.Trainer(model, arguments, train_dataset=Images())
    trainer.train()
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


class Classifier(pl.LightningModule):
    def __init__(self, model):
        super().__init__()
        self.model = model
        self.losses = []

    def training_step(self, batch, index):
        loss = cross_entropy(self.model(batch["pixel_values"]), batch["labels"])
        self.losses.append(loss.item())
        return loss

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def losses_of_lightning(model, folder):
    module = Classifier(model)
    trainer = pl.Trainer(
        accelerator="cpu",
        max_steps=STEPS,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
    )
    trainer.fit(module, DataLoader(Images(), BATCH))
    return module.losses


def convnext():
    labels = {number: str(number) for number in range(3)}
    config = hf.ConvNextConfig(hidden_sizes=[8, 16], num_stages=2, depths=[2, 2], drop_path_rate=0.5, id2label=labels)
    return hf.ConvNextForImageClassification(config)


def swin():
    return SwinTransformer([4, 4], 8, [2, 2], [2, 2], [4, 4], stochastic_depth_prob=0.5, num_classes=3)


@pytest.mark.parametrize(
    ("build", "train"),
    [(convnext, losses_of_trainer), (swin, losses_of_lightning)],
    ids=["huggingface", "lightning"],
)
def test_a_library_trains_a_converted_model_to_the_losses_of_masks(build, train, monkeypatch, tmp_path):
    torch.manual_seed(0)
    model = build()
    masked, drawn = Draws(BATCH, never_none=True), Draws(BATCH, never_none=True)
    twin = give_masks(copy.deepcopy(model), masked)
    sdm.apply_stochastic_depth(model, drop_rate=None, stochastic_method="sample")
    give_gates(monkeypatch, drawn)
    torch.manual_seed(1)
    expected = train(twin, tmp_path)
    torch.manual_seed(1)
    actual = train(model, tmp_path)
    assert masked.count == drawn.count > 2 * STEPS
    assert len(set(expected)) >= STEPS
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5)
