"""Name what pictures show with the ResNet-20 that ships, then fine-tune it on scikit-learn's handwritten digits.

Fine-tunes twice: with stochastic depth and at constant depth. Plain PyTorch, made to be copied. Nothing is downloaded.
Prints the likeliest classes and a table, and saves a picture.
"""

import argparse
import time

import matplotlib
import torch
from PIL import Image
from skimage import data, img_as_ubyte
from skimage.color import gray2rgb
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn
from torch.nn.functional import cross_entropy, interpolate
from torch.utils.data import DataLoader, TensorDataset
from tqdm import tqdm

import stodepth_models as sdm

matplotlib.use("Agg")  # draw into a file, also where there is no screen
from matplotlib import pyplot as plt

TWINS = {"constant depth": (1.0, 1.0), "stochastic depth": (1.0, 0.5)}  # survival of the first and the last block
WEIGHTS = sdm.CifarResNet20_Weights.DEFAULT
COLOURS = dict(zip(TWINS, ("#0072B2", "#D55E00"), strict=True))  # told apart by colour-blind readers too


@torch.no_grad()
def name_pictures():
    """Print the three likeliest classes of two pictures that scikit-image bundles."""
    model = sdm.cifar_resnet20_stodepth_lineardecay(pretrained=True).eval()
    print(f"{WEIGHTS} sees")
    for name, picture in {
        "a photograph of a cat": data.cat(),
        "a silhouette of a horse": gray2rgb(data.horse()),
    }.items():
        image = Image.fromarray(img_as_ubyte(picture))
        scores, classes = model(WEIGHTS.transforms()(image)[None]).softmax(1)[0].topk(3)
        likely = ", ".join(f"{model.categories[c]} {s:.1%}" for s, c in zip(scores.tolist(), classes, strict=True))
        print(f"  in {name}: {likely}")


def load_data(limit, batch_size):
    """Loaders of training and of held-out images, 80 : 20, the same split every time."""
    digits = load_digits()
    grey = torch.tensor(digits.images / 16.0, dtype=torch.float32).unsqueeze(1)  # (1797, 1, 8, 8) in [0, 1]
    images = interpolate((grey - grey.mean()) / grey.std(), size=32, mode="bilinear").expand(-1, 3, -1, -1)
    labels = torch.tensor(digits.target)
    train, test = train_test_split(range(len(labels)), test_size=0.2, random_state=0, stratify=labels)
    train, test = (TensorDataset(images[rows][:limit], labels[rows][:limit]) for rows in (train, test))
    return DataLoader(train, batch_size, shuffle=True, drop_last=True), DataLoader(test, 360)


def count_flops(model):
    """Count the FLOPs of every convolution that is really executed: a dropped block calls none."""
    executed = {"flops": 0}

    def count(conv, _, output):
        executed["flops"] += 2 * output.numel() * conv.weight[0].numel()

    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(count)
    return executed


@torch.no_grad()
def accuracy(model, loader):
    """Percentage of images that the network in evaluation mode, at full depth, gets right."""
    model.eval()
    right = sum((model(x).argmax(1) == y).sum().item() for x, y in loader)
    return 100.0 * right / len(loader.dataset)


def train(name, model, train_data, test_data, epochs):
    """Fine-tune with SGD and a one-cycle schedule; return what the table and the picture show."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4, nesterov=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.05, total_steps=epochs * len(train_data))
    log = {"loss": [], "accuracy": [], "seconds": 0.0, "flops": 0, "survival": sdm.survival_probs(model)}
    executed = count_flops(model)
    for epoch in range(epochs):
        model.train()
        started, before, losses = time.process_time(), executed["flops"], []
        bar = tqdm(train_data, desc=f"{name}, epoch {epoch + 1}/{epochs}")
        for x, y in bar:
            loss = cross_entropy(model(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            losses.append(loss.item())
            bar.set_postfix(loss=f"{losses[-1]:.3f}")
        log["seconds"] += (time.process_time() - started) / epochs
        log["flops"] += executed["flops"] - before
        log["loss"].append(sum(losses) / len(losses))
        log["accuracy"].append(accuracy(model, test_data))
    return log


def print_table(logs, expected):
    """One row a twin. The executed FLOPs are those of the gates that were drawn, backward passes left aside."""
    full = logs["constant depth"]["flops"]
    print(f"\n{'ResNet-20':<18}{'held-out accuracy':>19}{'CPU s per epoch':>19}{'FLOPs executed':>16}{'expected':>10}")
    for name, log in logs.items():
        row = f"{log['accuracy'][-1]:>17.1f} %{log['seconds']:>19.1f}{100 * log['flops'] / full:>14.1f} %"
        print(f"{name:<18}{row}{100 * expected[name]:>8.1f} %")


def draw(logs, path):
    """Loss, held-out accuracy, and survival probability of each block."""
    figure, (loss, right, survival) = plt.subplots(1, 3, figsize=(13, 4), layout="constrained")
    for name, log in logs.items():
        style = {"label": name, "color": COLOURS[name], "linestyle": "--" if name == "constant depth" else "-"}
        epochs = range(1, len(log["loss"]) + 1)
        loss.plot(epochs, log["loss"], marker="o", **style)
        right.plot(epochs, log["accuracy"], marker="o", **style)
        survival.plot(range(1, len(log["survival"]) + 1), log["survival"], marker="o", **style)
    loss.set(xlabel="epoch", ylabel="training loss (cross-entropy)", yscale="log")
    right.set(xlabel="epoch", ylabel="held-out accuracy (%)")
    survival.set(xlabel="residual block", ylabel="survival probability", ylim=(0, 1.05))
    for axes in (loss, right, survival):
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.grid(alpha=0.3)
        axes.legend()
    figure.savefig(path, dpi=120)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--epochs", type=int, default=6, help="passes over the training images (default: %(default)s)")
    parser.add_argument("--batch-size", type=int, default=32, help="images a step (default: %(default)s)")
    parser.add_argument("--images", type=int, help="at most so many images in each split (default: all)")
    parser.add_argument("--seed", type=int, default=0, help="of weights, data order and gates (default: %(default)s)")
    parser.add_argument("--picture", default="demo.png", help="file to draw into (default: %(default)s)")
    args = parser.parse_args()
    if args.images is not None and args.images < args.batch_size:
        parser.error(f"--images must be at least --batch-size, {args.batch_size}")

    # Several threads wait for one another at each layer of a network this small, without end where cores are busy. With
    # one, processor time is the time that an idle machine takes.
    torch.set_num_threads(1)
    name_pictures()
    train_data, test_data = load_data(args.images, args.batch_size)
    logs, expected = {}, {}
    for name, prob_0_L in TWINS.items():
        torch.manual_seed(args.seed)
        # Scaled in training, the evaluation function stays the loaded one, whatever the survival probabilities are.
        model = sdm.cifar_resnet20_stodepth_lineardecay(weights=WEIGHTS, prob_0_L=prob_0_L, rescale="train")
        model.fc.reset_parameters()  # digits are other classes than CIFAR-10's
        expected[name] = sdm.expected_flops(model, (1, 3, 32, 32)).share
        logs[name] = train(name, model, train_data, test_data, args.epochs)
    print_table(logs, expected)
    draw(logs, args.picture)
    print(f"Picture: {args.picture}")


if __name__ == "__main__":
    main()
