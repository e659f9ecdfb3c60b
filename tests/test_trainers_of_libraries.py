"""The libraries' own trainers on converted models: the losses are those of the libraries' masks with the same rows."""

import copy
import random

import lightning.pytorch as pl
import pytest
import timm
import timm.data
import timm.loss
import timm.optim
import timm.scheduler
import timm.utils
import torch
import transformers as hf
from library_masks import Draws, give_gates, give_masks
from PIL import Image
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, Dataset
from torchvision.models.swin_transformer import SwinTransformer

import stodepth_models as sdm

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*:FutureWarning"),
    pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning"),  # timm's reader of folders
]

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


def image_folder(root):
    """A folder of images with three classes, in the layout that timm's training script reads."""
    generator = torch.Generator().manual_seed(0)
    for index in range(BATCH * STEPS):
        pixels = torch.randint(256, (32, 32, 3), generator=generator, dtype=torch.uint8)
        path = root / "train" / f"class{index % 3}" / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels.numpy()).save(path)
    return root


def losses_of_timm(model, folder):
    """One epoch on a folder of images: timm's training script is not part of its package, and this is its order.

    Dataset, loader, optimizer, schedule, loss, clipping, average of weights and checkpoint are timm's.
    """
    dataset = timm.data.create_dataset("", root=str(image_folder(folder / "images")), split="train", is_training=True)
    loader = timm.data.create_loader(
        dataset, (3, 32, 32), BATCH, is_training=True, use_prefetcher=False, num_workers=0, persistent_workers=False
    )
    optimizer = timm.optim.create_optimizer_v2(model, opt="adamw", lr=0.01, weight_decay=0.05)
    scheduler, _ = timm.scheduler.create_scheduler_v2(
        optimizer, num_epochs=1, warmup_epochs=1, updates_per_epoch=STEPS, step_on_epochs=False
    )
    loss_function = timm.loss.LabelSmoothingCrossEntropy(0.1)
    average = timm.utils.ModelEmaV3(model)
    losses = []
    model.train()
    for update, (x, labels) in enumerate(loader, start=1):
        loss = loss_function(model(x), labels)
        optimizer.zero_grad()
        loss.backward()
        timm.utils.dispatch_clip_grad(model.parameters(), value=1.0)
        optimizer.step()
        average.update(model)
        scheduler.step_update(num_updates=update)
        losses.append(loss.item())
    saver = timm.utils.CheckpointSaver(model, optimizer, model_ema=average, checkpoint_dir=str(folder))
    saver.save_checkpoint(0)
    # The library's own model reads what the converted one wrote.
    timm.models.load_checkpoint(vit(), str(folder / "last.pth.tar"), use_ema=True)
    return losses


def convnext():
    labels = {number: str(number) for number in range(3)}
    config = hf.ConvNextConfig(hidden_sizes=[8, 16], num_stages=2, depths=[2, 2], drop_path_rate=0.5, id2label=labels)
    config.layer_scale_init_value, config.initializer_range = 1.0, 0.2  # so that the branches count
    return hf.ConvNextForImageClassification(config)


def swin():
    return SwinTransformer([4, 4], 8, [2, 2], [2, 2], [4, 4], stochastic_depth_prob=0.5, num_classes=3)


def vit():
    return timm.create_model(
        "vit_tiny_patch16_224", img_size=32, depth=3, embed_dim=24, num_heads=2, num_classes=3, drop_path_rate=0.5
    )


@pytest.mark.parametrize(
    ("build", "train"),
    [(convnext, losses_of_trainer), (swin, losses_of_lightning), (vit, losses_of_timm)],
    ids=["huggingface", "lightning", "timm"],
)
def test_a_library_trains_a_converted_model_to_the_losses_of_masks(build, train, monkeypatch, tmp_path):
    torch.manual_seed(0)
    model = build()
    masked, drawn = Draws(BATCH, never_none=True), Draws(BATCH, never_none=True)
    twin = give_masks(copy.deepcopy(model), masked)
    sdm.apply_stochastic_depth(model, drop_rate=None, stochastic_method="sample")
    give_gates(monkeypatch, drawn)
    random.seed(1)
    torch.manual_seed(1)
    expected = train(twin, tmp_path / "masks")
    random.seed(1)
    torch.manual_seed(1)
    actual = train(model, tmp_path / "gates")
    assert masked.count == drawn.count > 2 * STEPS
    assert len(set(expected)) >= STEPS
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-6)
