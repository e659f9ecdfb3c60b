"""Loading keeps the evaluation function: published files, other people's names, what does not fit."""

import io
import itertools
import logging
import tarfile

import pytest
import timm
import torch
import torchvision
from huggingface_hub.errors import EntryNotFoundError
from PIL import Image
from randomised import randomise_norms
from torch import nn
from torch.optim.swa_utils import AveragedModel
from torchvision.models import WeightsEnum, get_model

import stodepth_models as sdm
from stodepth_models.weights import download as fetch
from stodepth_models.weights.checkpoint import write_file
from stodepth_models.weights.config import config_of

PUBLISHED = {20: ("resnet20-12fca82f.th", 81.03), 32: ("resnet32-d509ac18.th", 82.56)}
MEMBER = sdm.CifarResNet20_Weights.CIFAR10_IDELBAYEV
X = torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def cifar20(**kwargs):
    """A model that looks trained, or one with the weights that are given."""
    torch.manual_seed(0)
    model = sdm.cifar_resnet20_stodepth_lineardecay(**kwargs).eval()
    return model if "weights" in kwargs else randomise_norms(model)


def assert_same_function(model, other, x=X):
    torch.testing.assert_close(model(x), other(x), rtol=0, atol=1e-4)


def read_test_images(shared_data, member):
    """The 10,000 JPEG test images of CIFAR-10, prepared for some weights, and their labels."""
    transforms, classes = member.transforms(), member.meta["categories"]
    images, labels = [], []
    with tarfile.open(shared_data / "cifar10-jpeg.tar.xz") as archive:
        for member in archive:
            parts = member.name.split("/")
            if member.isfile() and "test" in parts:
                images.append(transforms(Image.open(io.BytesIO(archive.extractfile(member).read())).convert("RGB")))
                labels.append(classes.index(parts[-2]))
    return torch.stack(images).to(memory_format=torch.channels_last), torch.tensor(labels)


@pytest.fixture(scope="module")
def test_images(shared_data):
    return read_test_images(shared_data, MEMBER)


@torch.inference_mode()
def logits(model, images):
    model.to(memory_format=torch.channels_last)  # a third faster on one core
    return torch.cat([model(batch) for batch in images.split(50)])


@pytest.mark.parametrize("depth", [20, 32])
def test_published_files_keep_their_accuracy_with_and_without_scaling(depth, shared_data, test_images):
    file, accuracy = PUBLISHED[depth]
    images, labels = test_images
    name = f"cifar_resnet{depth}_stodepth_lineardecay"
    plain = get_model(name, weights=shared_data / file, mult_flag=False).eval()
    scaled = get_model(name, mult_flag=True).eval()
    sdm.load_pretrained(scaled, shared_data / file, check_hash=True)
    outputs = logits(plain, images)
    torch.testing.assert_close(logits(scaled, images[::10]), outputs[::10], rtol=0, atol=1e-4)
    assert len(labels) == 10_000
    assert round(100 * (outputs.argmax(1) == labels).double().mean().item(), 2) == accuracy


def test_a_model_that_ships_has_the_accuracy_of_the_index(shared_data):
    member = sdm.CifarResNet20_Weights.DEFAULT
    images, labels = read_test_images(shared_data, member)
    outputs = logits(sdm.cifar_resnet20_stodepth_lineardecay(pretrained=True).eval(), images)
    figures = member.meta["_metrics"]["CIFAR-10 (JPEG)"]
    assert figures["acc@1"] == round(100 * (outputs.argmax(1) == labels).double().mean().item(), 2)
    assert figures["nll"] == pytest.approx(torch.nn.functional.cross_entropy(outputs, labels).item(), abs=2e-5)


CONFIGURATIONS = [
    {"prob_0_L": probs, "mode": mode, **scaling}
    for probs, mode, scaling in itertools.product(
        [(1.0, 0.5), (0.9, 0.2), (1.0, 1.0)],
        ["batch", "row", "subset"],
        [{"mult_flag": True}, {"mult_flag": False}, {"rescale": "train"}, {"rescale": "none"}],
    )
]


@pytest.mark.parametrize("configuration", CONFIGURATIONS, ids=str)
def test_loading_keeps_the_function_both_ways(configuration, tmp_path):
    constant = cifar20(prob_0_L=(1.0, 1.0))
    target = cifar20(weights=constant.state_dict(), **configuration)
    assert_same_function(target, constant)

    source = cifar20(**configuration)
    source.save_pretrained(tmp_path)
    for options in ({"prob_0_L": (1.0, 1.0)}, {"prob_0_L": (0.7, 0.4)}, {"rescale": "train"}, configuration):
        back = cifar20(weights=tmp_path / "model.safetensors", **options)
        assert_same_function(back, source)
    assert all(torch.equal(a, b) for a, b in zip(back.state_dict().values(), source.state_dict().values(), strict=True))


@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")  # of torch.compile itself, in torch 2.11
@pytest.mark.parametrize(
    "wrap",
    [
        lambda model: model.state_dict(),
        lambda model: {"state_dict": nn.DataParallel(model).state_dict(), "epoch": 3},
        lambda model: {"model_ema": AveragedModel(model).state_dict()},
        lambda model: torch.compile(model).state_dict(),
    ],
    ids=["plain", "parallel", "average", "compiled"],
)
def test_a_saved_state_dict_keeps_the_function_too(wrap, tmp_path, caplog):
    source = cifar20(prob_0_L=(0.9, 0.3))
    torch.save(wrap(source), tmp_path / "ours.pth")
    for weights in (tmp_path / "ours.pth", wrap(source)):
        for options in ({"prob_0_L": (0.9, 0.3)}, {}, {"prob_0_L": (1.0, 1.0)}, {"rescale": "train"}):
            assert_same_function(cifar20(weights=weights, **options), source)
    assert not caplog.records
    copied = dict(source.state_dict())  # no notes any more
    assert_same_function(cifar20(weights=copied), cifar20(weights=copied, prob_0_L=(1.0, 1.0)))
    assert [record.getMessage()[:57] for record in caplog.records] == [
        "the state dict does not say how its network scales its br"
    ]


def test_a_block_that_stands_twice_is_noted_under_both_names():
    source, target = cifar20(prob_0_L=(0.9, 0.3)), cifar20(prob_0_L=(0.8, 0.6))
    for model in (source, target):
        model.layer1[2] = model.layer1[1]
    sdm.load_pretrained(target, source.state_dict())
    assert_same_function(target, source)


def test_torchvision_sees_the_state_dict_that_it_knows(tmp_path):
    model = sdm.resnet18_stodepth_lineardecay()
    torch.save(model.state_dict(), tmp_path / "ours.pth")
    torchvision.models.resnet18().load_state_dict(torch.load(tmp_path / "ours.pth"))
    with pytest.raises(
        ValueError, match=r"scales layer1\.1 by 0\.928571 in evaluation, and the model has 0 stochastic branches there"
    ):
        sdm.load_pretrained(torchvision.models.resnet18(), model.state_dict())


def test_weights_handed_out_by_their_enum_keep_their_function():
    member = sdm.CifarResNet20_Weights.DEFAULT
    source = cifar20(weights=member)
    assert min(member.read().saved_scales.values()) < 1.0
    assert_same_function(cifar20(weights=member.get_state_dict(), prob_0_L=(1.0, 0.4)), source)


def test_load_state_dict_stays_the_literal_copy():
    source, target = cifar20(prob_0_L=(1.0, 1.0)), cifar20()
    target.load_state_dict(source.state_dict())
    assert torch.equal(target.layer3[2].bn2.weight, source.layer3[2].bn2.weight)
    assert not torch.allclose(target(X), source(X), atol=1e-2)


def test_half_precision_is_folded_in_the_precision_of_the_model():
    state = {k: v.half() if v.is_floating_point() else v for k, v in cifar20().state_dict().items()}
    target = cifar20(weights=state, prob_0_L=(0.7, 0.7))
    expected = (state["layer3.2.bn2.weight"].double() / 0.7).float()
    torch.testing.assert_close(target.layer3[2].bn2.weight, expected, rtol=1e-6, atol=0)


def test_the_state_dict_that_is_given_is_left_alone():
    state = cifar20(prob_0_L=(1.0, 1.0)).state_dict()
    before = {key: value.clone() for key, value in state.items()}
    cifar20(weights=state)
    assert all(torch.equal(before[key], value) for key, value in state.items())


def prefixed(state, prefix):
    return {f"{prefix}{key}": value for key, value in state.items()}


def renamed(state, *pairs):
    for old, new in pairs:
        state = {key.replace(old, new): value for key, value in state.items()}
    return state


OTHER = {"epoch": 3, "best_prec1": 91.0, "optimizer": {"state": {}, "param_groups": []}}
LAYOUTS = {
    "bare": lambda s: s,
    "DataParallel": lambda s: prefixed(s, "module."),
    "compiled inside and outside of DDP": lambda s: prefixed(s, "_orig_mod.module._orig_mod."),
    "one stage compiled": lambda s: renamed(s, ("layer2.", "layer2._orig_mod.")),
    "akamaster": lambda s: {"state_dict": renamed(prefixed(s, "module."), ("fc.", "linear.")), "best_prec1": 91.0},
    "kuangliu": lambda s: {
        "net": renamed(s, ("fc.", "linear."), ("downsample.", "shortcut.")),
        "acc": 95.0,
        "epoch": 3,
    },
    "torchvision references": lambda s: {"model": s, **OTHER},
    "timm": lambda s: {"state_dict": s, "arch": "resnet20", **OTHER},
    "model_state": lambda s: {"model_state": s, **OTHER},
    "model_state_dict": lambda s: {"model_state_dict": s, **OTHER},
    "Lightning": lambda s: {"state_dict": prefixed(s, "model."), "pytorch-lightning_version": "2.0.0", **OTHER},
    "nested": lambda s: {"checkpoint": 1, "model": {"state_dict": prefixed(s, "module.")}},
    "before PyTorch 0.4.1": lambda s: {k: v for k, v in s.items() if not k.endswith("num_batches_tracked")},
    "profiled": lambda s: {**s, "total_ops": torch.zeros(1), "layer1.0.conv1.total_params": torch.zeros(1)},
    "a home-made average": lambda s: {"model": {k: v * 0 for k, v in s.items()}, "ema": {"decay": 0.999, "shadow": s}},
    "average beside": lambda s: {"model": {k: v * 0 for k, v in s.items()}, "model_ema": s},
    "timm average": lambda s: {"state_dict": {k: v * 0 for k, v in s.items()}, "state_dict_ema": s},
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shortcut", ["A", "B"])
def test_other_peoples_layouts(layout, shortcut, tmp_path):
    source = cifar20(prob_0_L=(1.0, 1.0), shortcut=shortcut)
    torch.save(LAYOUTS[layout](source.state_dict()), tmp_path / "theirs.pth")
    assert_same_function(cifar20(weights=tmp_path / "theirs.pth", shortcut=shortcut), source)


def test_averaged_models():
    source = cifar20(prob_0_L=(1.0, 1.0))
    average = AveragedModel(source)
    assert "n_averaged" in average.state_dict()
    assert_same_function(cifar20(weights={"model_ema": average.state_dict()}), source)
    assert_same_function(cifar20(weights=average.state_dict()), source)


def test_wide_models_take_files_with_shortcut_and_linear():
    torch.manual_seed(0)
    source = randomise_norms(sdm.cifar_resnet18_stodepth_lineardecay(prob_0_L=(1.0, 1.0))).eval()
    theirs = renamed(source.state_dict(), ("downsample.", "shortcut."), ("fc.", "linear."))
    assert_same_function(sdm.cifar_resnet18_stodepth_lineardecay(weights=theirs).eval(), source)


@pytest.mark.parametrize("theirs", [torchvision.models.resnet18, lambda: timm.create_model("resnet18.tv_in1k")])
def test_torchvision_and_timm(theirs):
    torch.manual_seed(0)
    source, x = randomise_norms(theirs()).eval(), torch.randn(2, 3, 64, 64)
    ours = sdm.resnet18_stodepth_lineardecay(weights=source.state_dict()).eval()
    assert_same_function(ours, source, x)


@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")  # of torch.compile itself, in torch 2.11
@pytest.mark.parametrize("wrap", [nn.DataParallel, torch.compile, lambda model: nn.Sequential(model)[0]])
def test_wrapped_models_take_the_same_files(wrap):
    source, target = cifar20(prob_0_L=(1.0, 1.0)), cifar20()
    sdm.load_pretrained(wrap(target), source.state_dict())
    assert_same_function(target, source)


@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")  # of torch.compile itself, in torch 2.11
def test_averages_and_compiled_models_take_weights_by_name():
    source = cifar20(weights="CIFAR10_JPEG_V1")
    for wrap in (AveragedModel, torch.compile, lambda model: nn.DataParallel(AveragedModel(model))):
        target = cifar20()
        target.register_buffer("total_ops", torch.zeros(1))  # of a profiler
        wrapped = wrap(target)
        sdm.load_pretrained(wrapped, "CIFAR10_JPEG_V1")
        loaded = getattr(wrapped, "_orig_mod", wrapped).state_dict()
        assert_same_function(cifar20(weights=loaded), source)
    plain = torchvision.models.resnet18()
    with pytest.raises(ValueError, match=r"give the whole name, such as 'ResNet18_Weights\.IMAGENET1K_V1'"):
        sdm.load_pretrained(plain, "IMAGENET1K_V1")
    with pytest.raises(ValueError, match=r"no weights 'DEFAULT' for .*cifar_resnet18.*; none are published yet"):
        sdm.cifar_resnet18_stodepth_lineardecay(weights="DEFAULT")


def test_models_of_others_with_their_own_names():
    source, target = torchvision.models.resnet18(num_classes=4), torchvision.models.resnet18(num_classes=4)
    target.linear = target.fc
    del target.fc
    sdm.load_pretrained(target, source.state_dict())
    assert torch.equal(target.linear.weight, source.fc.weight)


def test_pretrained_is_imagenet1k_v1_through_torchvision(monkeypatch):
    torch.manual_seed(0)
    source, asked = randomise_norms(torchvision.models.resnet18()).eval(), []

    def get_state_dict(self, **kwargs):
        asked.append((self, kwargs["check_hash"], kwargs["weights_only"]))
        return source.state_dict()

    monkeypatch.setattr(WeightsEnum, "get_state_dict", get_state_dict)
    member, x = torchvision.models.ResNet18_Weights.IMAGENET1K_V1, torch.randn(2, 3, 64, 64)
    for options in ({"pretrained": True}, {"weights": member}, {"weights": "IMAGENET1K_V1"}, {"weights": "DEFAULT"}):
        model = sdm.resnet18_stodepth_lineardecay(**options).eval()
        assert_same_function(model, source, x)
        assert model.categories == member.meta["categories"]
    sdm.load_pretrained(model, "ResNet18_Weights.IMAGENET1K_V1")
    sdm.load_pretrained(torchvision.models.resnet18(), "ResNet18_Weights.IMAGENET1K_V1")
    assert asked == 6 * [(member, True, True)]


def test_another_number_of_classes_keeps_a_new_classifier_and_says_so_once(caplog):
    state = cifar20().state_dict()
    for num_classes in (3, 100):
        fresh = sdm.cifar_resnet20_stodepth_lineardecay(num_classes=num_classes, prob_0_L=(1.0, 1.0))
        classifier = fresh.fc.weight.clone()
        with caplog.at_level(logging.INFO, "stodepth_models"):
            sdm.load_pretrained(fresh, state)
        assert torch.equal(fresh.fc.weight, classifier)
        assert torch.equal(fresh.layer1[0].conv1.weight, state["layer1.0.conv1.weight"])
    assert [record.getMessage() for record in caplog.records] == 2 * [
        "the state dict: all but the classifier is loaded, the number of classes differs"
    ]


def test_a_builder_follows_the_classes_of_the_weights():
    state = cifar20(num_classes=7).state_dict()
    assert cifar20(weights=state).fc.out_features == 7
    assert cifar20(weights=state, num_classes=3).fc.out_features == 3


def test_what_does_not_fit_is_listed_with_a_hint_and_nothing_is_loaded():
    deeper = sdm.cifar_resnet56_stodepth_lineardecay().state_dict()
    model = cifar20()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(sdm.CheckpointError) as caught:
        sdm.load_pretrained(model, deeper)
    message = str(caught.value)
    assert "keys match cifar_resnet56_stodepth_lineardecay with shortcut='A'" in message
    assert "180 unexpected: layer1.3.conv1.weight, layer1.3.bn1.weight," in message
    assert message.count("layer1") == 10
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (
            lambda s: {k: v for k, v in s.items() if "layer3.1.conv" not in k},
            r"2 missing: layer3\.1\.conv1\.weight, layer3",
        ),
        (lambda s: {**s, "head.weight": torch.zeros(1)}, r"1 unexpected: head\.weight$"),
        (
            lambda s: {**s, "bn1.weight": torch.zeros(5)},
            r"1 of another shape: bn1\.weight \(5,\), the model has \(16,\)",
        ),
    ],
)
def test_keys_that_do_not_fit(change, match):
    with pytest.raises(sdm.CheckpointError, match=match):
        sdm.load_pretrained(cifar20(), change(cifar20().state_dict()))


def test_the_other_shortcut_is_hinted():
    with pytest.raises(sdm.CheckpointError, match="keys match cifar_resnet20_stodepth_lineardecay with shortcut='B'"):
        sdm.load_pretrained(cifar20(), cifar20(shortcut="B").state_dict())


def test_strict_false_loads_what_there_is_and_logs_the_rest(caplog):
    source, target = cifar20(prob_0_L=(1.0, 1.0)), cifar20()
    state = {k: v for k, v in source.state_dict().items() if not k.startswith("bn1")} | {"extra": torch.zeros(1)}
    sdm.load_pretrained(target, state, strict=False)
    assert torch.equal(target.conv1.weight, source.conv1.weight)
    assert "4 missing: bn1.weight, bn1.bias, bn1.running_mean, bn1.running_var" in caplog.text
    assert "1 unexpected: extra" in caplog.text


@pytest.mark.parametrize(
    ("source", "error", "match"),
    [
        ("CIFAR10_IDELBAYEW", ValueError, r"no weights 'CIFAR10_IDELBAYEW' for .*; did you mean 'CIFAR10_IDELBAYEV'\?"),
        (
            "ResNet18_Weights.IMAGENET1K_V9",
            ValueError,
            "no weights 'ResNet18_Weights.IMAGENET1K_V9' for cifar_resnet20",
        ),
        (
            torchvision.models.ResNet18_Weights.IMAGENET1K_V1,
            TypeError,
            "must come from CifarResNet20_Weights, got ResNet",
        ),
        (
            "CifarResNet32_Weights.CIFAR10_IDELBAYEV",
            TypeError,
            "must come from CifarResNet20_Weights, got CifarResNet32",
        ),
        ("missing.pth", FileNotFoundError, r"there is no file or folder missing\.pth"),
        (
            3,
            TypeError,
            "(weights|source) must be a member of a weights enum or its name, a path, a URL .* got 3 of type int",
        ),
        ("hf://just_a_name", ValueError, r"must look like hf://org/repo\[/file\]\[@revision\], got 'hf://just_a_name'"),
    ],
)
def test_sources_that_do_not_exist(source, error, match):
    with pytest.raises(error, match=match):
        sdm.load_pretrained(cifar20(), source)
    with pytest.raises(error, match=match):
        sdm.cifar_resnet20_stodepth_lineardecay(weights=source)


def test_weights_and_pretrained():
    with pytest.raises(
        ValueError, match=r"no stochastic-depth weights of cifar_resnet44.*: weights='CIFAR10_IDELBAYEV'"
    ):
        sdm.cifar_resnet44_stodepth_lineardecay(pretrained=True)
    with pytest.raises(ValueError, match=r"no stochastic-depth weights of cifar_resnet164.* weights of others: none"):
        sdm.cifar_resnet164_stodepth_lineardecay(pretrained=True)
    with pytest.raises(ValueError, match="pretrained=True and weights='IMAGENET1K_V1' are two sources"):
        sdm.resnet18_stodepth_lineardecay(pretrained=True, weights="IMAGENET1K_V1")
    with pytest.raises(TypeError, match=r"model must be a torch\.nn\.Module, got str"):
        sdm.load_pretrained("cifar_resnet20", {})


def test_a_folder_without_weights_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"holds no weights, looked for model\.safetensors"):
        sdm.load_pretrained(cifar20(), tmp_path)


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("hf://org/repo", ("org/repo", "model.safetensors", None)),
        ("hf://org/repo@v1.0", ("org/repo", "model.safetensors", "v1.0")),
        ("hf://org/repo/sub/weights.pth", ("org/repo", "sub/weights.pth", None)),
        ("hf://org/re.po-2/w.safetensors@refs/pr/1", ("org/re.po-2", "w.safetensors", "refs/pr/1")),
    ],
)
def test_hub_sources(source, expected, monkeypatch, tmp_path):
    model, asked = cifar20(), []
    model.save_pretrained(tmp_path)

    def download(repo, file, *, revision, local_files_only):
        asked.append((repo, file, revision))
        return str(tmp_path / "model.safetensors")

    monkeypatch.setattr(fetch, "hf_hub_download", download)
    assert_same_function(cifar20(weights=source, rescale="none"), model)
    assert asked == [expected]


def test_hub_repositories_with_a_pickle_alone(monkeypatch, tmp_path):
    model, asked = cifar20(prob_0_L=(1.0, 1.0)), []
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")

    def download(repo, file, **kwargs):
        asked.append(file)
        if not (tmp_path / file).exists():
            raise EntryNotFoundError(f"no {file}")
        return str(tmp_path / file)

    monkeypatch.setattr(fetch, "hf_hub_download", download)
    assert_same_function(cifar20(weights="hf://org/repo"), model)
    assert asked == ["model.safetensors", "pytorch_model.safetensors", "pytorch_model.bin"]
    with pytest.raises(sdm.DownloadError, match=r"hf://org/repo/other\.pth cannot be fetched, looked for other\.pth"):
        cifar20(weights="hf://org/repo/other.pth")


@pytest.mark.parametrize(
    ("option", "error", "match"),
    [({"shortcut": "C"}, ValueError, "shortcut must be"), ({"norm": "C"}, TypeError, "takes no norm")],
)
def test_a_wrong_option_is_told_before_anything_is_downloaded(option, error, match, monkeypatch):
    monkeypatch.setattr(fetch, "urlopen", lambda *args, **kwargs: pytest.fail("downloads"))
    with pytest.raises(error, match=match):
        sdm.cifar_resnet20_stodepth_lineardecay(weights="CIFAR10_IDELBAYEV", **option)


def test_a_file_of_constant_depth_loads_into_a_plain_model(tmp_path):
    source = cifar20(prob_0_L=(1.0, 1.0))
    source.save_pretrained(tmp_path)
    plain = cifar20()
    sdm.remove_stochastic_depth(plain)
    sdm.load_pretrained(plain, tmp_path)
    assert_same_function(plain, source)


def test_a_header_whose_length_begins_like_a_web_page_is_one(tmp_path):
    model = cifar20()
    path, note = tmp_path / "page.safetensors", ""
    for _ in range(2):
        write_file(path, model.state_dict(), {**config_of(model), "note": note})
        length = int.from_bytes(path.read_bytes()[:8], "little")
        note = note or "x" * (15392 - length)
    assert path.read_bytes()[:2] == b" <"
    assert_same_function(cifar20(weights=tmp_path / "page.safetensors"), model)


def test_the_log_tells_a_missing_classifier_from_one_of_another_size(caplog):
    source, headless = cifar20(), cifar20()
    headless.fc = nn.Identity()
    with caplog.at_level(logging.WARNING, "stodepth_models"):
        sdm.load_pretrained(headless, source.state_dict())
    assert "all but the classifier is loaded, the model has no classifier" in caplog.text


def test_digits_of_a_hash_are_found_in_a_url_with_a_query():
    with pytest.raises(sdm.DownloadError):
        sdm.load_pretrained(cifar20(), "http://127.0.0.1:9/a-12fca82f.th?download=true", check_hash=True)


def test_a_header_whose_length_begins_like_a_zip_file_is_read(tmp_path):
    path, source = tmp_path / "model.safetensors", cifar20(prob_0_L=(0.3, 0.3))

    def write(padding):
        write_file(path, source.state_dict(), {**config_of(source), "note": "x" * padding})
        return int.from_bytes(path.read_bytes()[:8], "little")

    target = int.from_bytes(b"PK", "little")
    assert write(target - write(0)) == target
    assert_same_function(sdm.cifar_resnet20_stodepth_lineardecay(weights=path).eval(), source)


def stochastic_at(part, **options):
    """torchvision's ResNet-18 with stochastic blocks in one stage alone."""
    torch.manual_seed(0)
    model = randomise_norms(torchvision.models.resnet18()).eval()
    sdm.apply_stochastic_depth(model.get_submodule(part) if part else model, **options)
    return model


@pytest.mark.parametrize("target", [{}, {"rescale": "eval", "drop_rate": 0.3}], ids=str)
def test_scales_find_their_blocks_by_name(target):
    x = torch.randn(2, 3, 32, 32)
    source = stochastic_at("layer4", drop_rate=0.6, rescale="eval")
    for part in ("", "layer4"):
        model = stochastic_at(part, **target)
        sdm.load_pretrained(model, source.state_dict())
        assert_same_function(model, source, x)
    with pytest.raises(ValueError, match=r"scales layer4\.0 by 0\.7 in evaluation, and the model has 0 stochastic"):
        sdm.load_pretrained(stochastic_at("layer3", **target), source.state_dict())


class Nest(nn.Module):
    """A block whose branch holds another block, registered behind it."""

    def __init__(self):
        super().__init__()
        self.inner = torchvision.models.resnet.BasicBlock(4, 4)
        self.bn = nn.BatchNorm2d(4)

    def forward(self, x):
        return x + self.bn(self.inner(x))


def test_scales_of_blocks_within_blocks_find_theirs():
    sdm.register_block(Nest, lambda block, x: block.bn(block.inner(x)), last_norm=lambda block: block.bn)
    x, models = torch.randn(2, 4, 8, 8), []
    for seed in range(2):
        torch.manual_seed(seed)
        models.append(randomise_norms(nn.Sequential(Nest(), Nest())).eval())
        sdm.apply_stochastic_depth(models[-1], drop_rate=0.8, rescale="eval")
    sdm.load_pretrained(models[0], models[1].state_dict())
    assert_same_function(models[0], models[1], x)


def test_an_average_that_was_switched_off_is_passed_over():
    source = cifar20(prob_0_L=(1.0, 1.0))
    for average in ({}, {"decay": 0.99}, {"shadow": {}}):
        assert_same_function(cifar20(weights={"state_dict": source.state_dict(), "model_ema": average}), source)


@pytest.mark.parametrize("holder", ["backbone", "model"])
def test_a_classifier_beside_that_of_the_backbone_keeps_its_name(holder):
    def net(seed):
        torch.manual_seed(seed)
        return nn.ModuleDict({holder: torchvision.models.resnet18(num_classes=3), "fc": nn.Linear(512, 3)})

    source, target = net(0), net(1)
    sdm.load_pretrained(target, source.state_dict())
    assert all(map(torch.equal, target.state_dict().values(), source.state_dict().values()))
