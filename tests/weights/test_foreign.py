"""Checkpoints as others publish them: prefixes, heads, names of other libraries, and what lies beside the network."""

import random
import re
import zipfile

import pytest
import torch
import torchvision
from torch import nn
from torchvision.ops import FrozenBatchNorm2d
from transformers import ResNetConfig, ResNetForImageClassification

import stodepth_models as sdm

X = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def source():
    torch.manual_seed(1)
    model = sdm.cifar_resnet20_stodepth_lineardecay(prob_0_L=(1.0, 1.0)).eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.0)
            nn.init.uniform_(module.running_mean, -0.1, 0.1)
    return model


STATE = source().state_dict()
BODY = {name: value for name, value in STATE.items() if not name.startswith("fc.")}
OTHERS = {name: torch.randn_like(value.float()) for name, value in BODY.items()}


def under(prefix, state):
    return {f"{prefix}{name}": value for name, value in state.items()}


def renamed(pattern, replacement):
    return {re.sub(pattern, replacement, name): value for name, value in STATE.items()}


def residual_functions():
    """Names of the CIFAR zoos that build their blocks as sequences."""
    names = {"conv1.": "conv1.0.", "bn1.": "conv1.1."}
    state = {}
    for name, value in STATE.items():
        match = re.match(r"layer(\d)\.(\d+)\.(conv|bn)(\d)\.(.*)", name)
        if match:
            place = 3 * (int(match[4]) - 1) + (match[3] == "bn")
            name = f"conv{int(match[1]) + 1}_x.{match[2]}.residual_function.{place}.{match[5]}"
        for ours, theirs in names.items():
            if name.startswith(ours):
                name = theirs + name.removeprefix(ours)
        state[name] = value
    return state


def sequence(*places):
    """Names of a body in a sequence, with the classifier behind it."""
    parts = dict(zip(("conv1", "bn1", "layer1", "layer2", "layer3"), places, strict=True))
    state = {}
    for name, value in STATE.items():
        first, _, rest = name.partition(".")
        state[f"fc.{rest}" if first == "fc" else f"0.{parts[first]}.{rest}"] = value
    return state


WHOLE = {
    "engine": under("_forward_module.", STATE),
    "attribute": under("net.", STATE),
    "two attributes": under("model.backbone.", STATE),
    "any attribute": under("lit.student_net.", STATE),
    "beside a criterion": under("model.", STATE) | {"criterion.weight": torch.ones(10), "val_acc.tp": torch.ones(1)},
    "beside a queue": under("encoder.", STATE) | {"queue": torch.ones(4, 4), "queue_ptr": torch.ones(1)},
    "head.fc": renamed("^fc", "head.fc"),
    "head": renamed("^fc", "head"),
    "dropout before fc": renamed("^fc", "fc.1"),
    "classifier": renamed("^fc", "classifier"),
    "dropout before classifier": renamed("^fc", "classifier.1"),
    "wrapped head": under("net.", renamed("^fc", "head.fc")),
    "residual functions": residual_functions(),
    "wrapped residual functions": under("model.", residual_functions()),
    "sequence": sequence(0, 1, 4, 5, 6),
    "sequence without pooling": under("net.", sequence(0, 1, 3, 4, 5)),
    "no counters": {name: value for name, value in STATE.items() if not name.endswith("num_batches_tracked")},
}


@pytest.mark.parametrize("name", WHOLE)
def test_the_network_in_a_file_of_others_computes_what_it_computed(name):
    model = sdm.cifar_resnet20_stodepth_lineardecay(weights={"state_dict": WHOLE[name]}).eval()
    torch.testing.assert_close(model(X), source()(X), rtol=0, atol=1e-4)


def linear(name, rows=10, inputs=64):
    """A linear layer with values of its own."""
    return {f"{name}.weight": torch.full((rows, inputs), 0.25), f"{name}.bias": torch.full((rows,), 0.5)}


NORM = {f"classifier.1.{part}": torch.ones(16) for part in ("weight", "bias", "running_mean", "running_var")}
SEGMENTATION = {
    "classifier.0.weight": torch.ones(16, 64, 3, 3),
    **NORM,
    "classifier.4.weight": torch.ones(21, 16, 1, 1),
}
BODIES = {
    "bare": BODY,
    "under a prefix": under("encoder.", BODY),
    "projection head": BODY | {"fc.0.weight": torch.ones(8, 64), "fc.2.weight": torch.ones(4, 8)},
    "projector beside it": under("backbone.", BODY) | {"projector.layers.0.weight": torch.ones(8, 64)},
    "segmentation": BODY | SEGMENTATION | {"classifier.4.bias": torch.ones(21)},
    "segmentation beside it": under("backbone.", BODY) | SEGMENTATION | {"aux_classifier.4.bias": torch.ones(21)},
    "atrous segmentation": under("backbone.", BODY) | {"classifier.0.convs.0.0.weight": torch.ones(8, 64, 1, 1)},
    "another width": BODY | linear("fc", inputs=128),
    "another width and number": BODY | linear("fc", rows=10, inputs=32),
    "convolution": BODY | {"fc.weight": torch.ones(10, 64, 1, 1), "fc.bias": torch.ones(10)},
    "another width under a prefix": under("net.", BODY | linear("fc", inputs=128)),
    "another width beside it": under("enc.", BODY) | linear("head", inputs=128),
    "two heads": under("enc.", BODY) | linear("head_a") | linear("head_b"),
    "perceptron": under("enc.", BODY) | linear("head.0", rows=64) | linear("head.3"),
    "projection": under("enc.", BODY) | linear("proj"),
    "prototypes": under("enc.", BODY) | {"prototypes.weight": torch.ones(300, 64)},
    "queue": under("enc.", BODY) | {"queue": torch.ones(10, 64)},
    "head without bias": under("enc.", BODY) | {"head.weight": torch.ones(10, 64)},
}


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize("name", BODIES)
def test_a_body_without_a_classifier_that_fits_is_loaded_with_one_line_in_the_log(name, strict, caplog):
    torch.manual_seed(5)
    model = sdm.cifar_resnet20_stodepth_lineardecay(num_classes=3, mult_flag=False)
    classifier = model.fc.weight.clone()
    sdm.load_pretrained(model, {"state_dict": BODIES[name]}, strict=strict)
    assert all(torch.equal(model.state_dict()[key], value) for key, value in BODY.items())
    assert torch.equal(model.fc.weight, classifier)
    [line] = [record.getMessage() for record in caplog.records]
    assert "all but the classifier is loaded" in line
    has_own = any(key.endswith("fc.weight") for key in BODIES[name])
    others = len(BODIES[name]) - len(BODY) - 2 * has_own
    assert (f"{others} other tensors are left out: " in line) is (others > 0)
    built = sdm.cifar_resnet20_stodepth_lineardecay(weights={"state_dict": BODIES[name]}, mult_flag=False)
    assert torch.equal(built.layer3[2].conv2.weight, BODY["layer3.2.conv2.weight"])
    assert built.fc.weight.shape == (10, 64)


# Where the classifier stands: names of the body, then the name of the linear layer.
CLASSIFIERS = [
    ("enc.", "cls_head"),
    ("enc.", "fc"),
    ("enc.", "fc.1"),
    ("enc.", "classifier"),
    ("enc.", "classifier.1"),
    ("enc.", "head.fc"),
    ("enc.", "online_linear"),
    ("backbone.", "head"),
    ("backbone.", "cls_head.fc"),
    ("model.backbone.", "model.head"),
    ("model.backbone.", "head.1"),
    ("features.", "logits"),
    ("0.", "1"),  # nn.Sequential(body, nn.Linear)
    ("0.", "2"),
    ("", "last_linear"),
    ("", "output"),
]


@pytest.mark.parametrize("rows", [10, 7])
@pytest.mark.parametrize(("prefix", "name"), CLASSIFIERS)
def test_a_classifier_beside_the_body_is_taken_where_its_shapes_fit(prefix, name, rows, caplog):
    layer = linear(name, rows)
    file = under(prefix, BODY) | layer
    model = sdm.cifar_resnet20_stodepth_lineardecay(weights=file, mult_flag=False)
    assert torch.equal(model.fc.weight, layer[f"{name}.weight"])
    assert torch.equal(model.fc.bias, layer[f"{name}.bias"])
    assert torch.equal(model.conv1.weight, BODY["conv1.weight"])
    assert not caplog.records
    sdm.load_pretrained(model, file | {"projector.0.weight": torch.ones(64, 64), "epoch_loss": torch.ones(1)},
                        strict=False)  # fmt: skip
    assert torch.equal(model.fc.weight, layer[f"{name}.weight"])


def test_of_several_classifiers_the_one_nearest_to_the_network_is_taken():
    student = under("student.backbone.", BODY) | linear("student.head")
    teacher = under("teacher.backbone.", OTHERS) | {name: value + 1 for name, value in linear("teacher.head").items()}
    model = sdm.cifar_resnet20_stodepth_lineardecay(mult_flag=False)
    for prefix, bias in (("student.", 0.5), ("teacher.", 1.5)):
        sdm.load_pretrained(model, student | teacher, prefix=prefix)
        assert torch.equal(model.fc.bias, torch.full((10,), bias))


ROOTS = {
    "momentum": ("backbone.", "backbone_momentum."),
    "average": ("model.", "model_ema."),
    "bare": ("", "momentum_encoder."),
    "one within": ("net.", "target.net."),
    "BYOL": ("online_encoder.net.", "target_encoder.net."),
    "queue": ("encoder_q.", "encoder_k."),
}


@pytest.mark.parametrize("name", ROOTS)
def test_several_networks_that_fit_are_named_and_prefix_chooses(name, caplog):
    first, second = ROOTS[name]
    file = under(first, STATE) | under(second, OTHERS) | {"queue": torch.ones(3), "projector.0.weight": torch.ones(2)}
    model = sdm.cifar_resnet20_stodepth_lineardecay(mult_flag=False)
    named = re.escape(f"2 networks that fit, under {first!r}, {second!r}: choose one with load_pretrained(..., prefix=")
    with pytest.raises(sdm.CheckpointError, match=rf"{named}.*--model\.weights_prefix"):
        sdm.load_pretrained(model, file)
    with pytest.raises(sdm.CheckpointError, match=named):
        sdm.cifar_resnet20_stodepth_lineardecay(weights=file)
    sdm.load_pretrained(model, file, prefix=second)
    assert torch.equal(model.conv1.weight, OTHERS["conv1.weight"])
    for prefix in {first, first.rstrip(".")}:
        sdm.load_pretrained(model, file, prefix=prefix)
        assert torch.equal(model.fc.weight, STATE["fc.weight"])
    assert "other tensors are left out" in caplog.text


@pytest.mark.parametrize("names", [("net.", "online_encoder.net."), ("online_encoder.", "online_encoder.net.")])
def test_a_network_that_is_registered_twice_counts_once(names):
    online = under(names[0], STATE) | under(names[1], STATE)
    model = sdm.cifar_resnet20_stodepth_lineardecay(mult_flag=False)
    sdm.load_pretrained(model, online)
    assert torch.equal(model.conv1.weight, STATE["conv1.weight"])
    with pytest.raises(sdm.CheckpointError, match=f"2 networks that fit, under '{names[0]}', 'target_encoder.net.'"):
        sdm.load_pretrained(model, online | under("target_encoder.net.", OTHERS))


@pytest.mark.parametrize("place", ["module.backbone.", "backbone.", ""])
def test_networks_in_mappings_of_their_own_are_named_and_prefix_chooses(place, tmp_path):
    path = tmp_path / "dino.pth"
    teacher = under(place.removeprefix("module."), OTHERS)
    optimizer = {"state": {0: {"exp_avg": torch.ones(1)}}, "param_groups": [{"lr": 0.1}]}
    torch.save({"student": under(place, STATE), "teacher": teacher, "optimizer": optimizer, "epoch": 3}, path)
    model = sdm.cifar_resnet20_stodepth_lineardecay(mult_flag=False)
    with pytest.raises(sdm.CheckpointError, match=r"2 networks that fit, under 'student\..*', 'teacher\."):
        sdm.load_pretrained(model, path)
    sdm.load_pretrained(model, path, prefix="teacher.")
    assert torch.equal(model.conv1.weight, OTHERS["conv1.weight"])
    sdm.load_pretrained(model, path, prefix="student")
    assert torch.equal(model.fc.weight, STATE["fc.weight"])


@pytest.mark.parametrize("prefix", ["teacher", "teacher.", "teacher.module.", "teacher.module.backbone."])
def test_prefix_chooses_a_mapping_beside_the_one_that_is_taken(prefix):
    file = {"model": under("module.backbone.", STATE), "teacher": under("module.backbone.", OTHERS), "epoch": 3}
    build = sdm.cifar_resnet20_stodepth_lineardecay
    model, other = build(mult_flag=False), build(mult_flag=False)
    sdm.load_pretrained(model, file)
    sdm.load_pretrained(other, file, prefix=prefix)
    assert torch.equal(model.conv1.weight, STATE["conv1.weight"])
    assert torch.equal(other.conv1.weight, OTHERS["conv1.weight"])


def test_prefix_chooses_the_weights_themselves_beside_their_average():
    model = sdm.cifar_resnet20_stodepth_lineardecay(mult_flag=False)
    sdm.load_pretrained(model, {"state_dict": STATE, "model_ema": OTHERS}, prefix="state_dict.")
    assert torch.equal(model.conv1.weight, STATE["conv1.weight"])


def test_the_network_of_the_size_of_the_model_is_taken_from_a_distillation():
    teacher = sdm.cifar_resnet32_stodepth_lineardecay().state_dict()
    for file in (under("teacher.", teacher) | under("student.", STATE), {"teacher": teacher, "student": STATE}):
        model = sdm.cifar_resnet20_stodepth_lineardecay(weights=file, mult_flag=False)
        assert torch.equal(model.conv1.weight, STATE["conv1.weight"])


def test_each_of_several_stochastic_networks_keeps_its_function():
    torch.manual_seed(1)
    networks = {
        "online": sdm.cifar_resnet20_stodepth_lineardecay(prob_0_L=(0.9, 0.3)).eval(),
        "target": sdm.cifar_resnet20_stodepth_lineardecay(prob_0_L=(1.0, 0.6)).eval(),
    }
    together = nn.ModuleDict(networks).state_dict()
    apart = {name: network.state_dict() for name, network in networks.items()}
    for file in (together, apart):
        for name, network in networks.items():
            model = sdm.cifar_resnet20_stodepth_lineardecay().eval()
            sdm.load_pretrained(model, file, prefix=name)
            torch.testing.assert_close(model(X), network(X), rtol=0, atol=1e-4)


def test_a_prefix_that_is_none_is_refused():
    model = sdm.cifar_resnet20_stodepth_lineardecay(mult_flag=False)
    with pytest.raises(
        sdm.CheckpointError, match=r"no names under prefix='teacher\.'; its names begin with encoder_q\."
    ):
        sdm.load_pretrained(model, under("encoder_q.", STATE), prefix="teacher.")
    with pytest.raises(TypeError, match="prefix must be the beginning of names"):
        sdm.load_pretrained(model, STATE, prefix=3)


def shared(levels, width):
    """Mappings of which each holds the next several times: few objects, many paths."""
    content = {}
    for _ in range(levels):
        content = {f"k{index}": content for index in range(width)}
    return content


@pytest.mark.parametrize("content", [shared(15, 10), shared(15, 10) | {"a": {"w": torch.ones(1)}}], ids=["none", "one"])
def test_mappings_that_share_their_parts_are_looked_through_in_bounded_time(content):
    with pytest.raises(sdm.CheckpointError, match=r"must hold named tensors|more than 10000 mappings"):
        sdm.load_pretrained(sdm.cifar_resnet20_stodepth_lineardecay(), content)


def test_what_does_not_belong_to_a_bare_network_is_still_refused():
    model = sdm.cifar_resnet20_stodepth_lineardecay()
    with pytest.raises(sdm.CheckpointError, match=r"1 unexpected: extra\.weight"):
        sdm.load_pretrained(model, STATE | {"extra.weight": torch.ones(1)})
    with pytest.raises(sdm.CheckpointError, match=r"1 missing: layer1\.0\.conv1\.weight"):
        sdm.load_pretrained(model, {name: value for name, value in BODY.items() if name != "layer1.0.conv1.weight"})


@pytest.mark.parametrize("kind", ["basic", "bottleneck"])
def test_resnets_of_transformers_give_their_logits(kind):
    torch.manual_seed(0)
    depths = [2, 2, 2, 2] if kind == "basic" else [3, 4, 6, 3]
    widths = [64, 128, 256, 512] if kind == "basic" else [256, 512, 1024, 2048]
    config = ResNetConfig(depths=depths, hidden_sizes=widths, layer_type=kind, num_labels=5)
    theirs = ResNetForImageClassification(config).eval()
    build = sdm.resnet18_stodepth_lineardecay if kind == "basic" else sdm.resnet50_stodepth_lineardecay
    ours = build(weights=theirs.state_dict()).eval()
    x = torch.randn(1, 3, 64, 64)
    assert ours.fc.out_features == 5
    torch.testing.assert_close(ours(x), theirs(x).logits, rtol=0, atol=1e-4)


def test_frozen_batch_norms_take_weights_with_counters_as_torchvision_does():
    ours = sdm.resnet18_stodepth_lineardecay(norm_layer=FrozenBatchNorm2d)
    state = torchvision.models.resnet18().state_dict()
    sdm.load_pretrained(ours, state)
    assert torch.equal(ours.layer1[0].bn1.running_var, state["layer1.0.bn1.running_var"])
    back = sdm.resnet18_stodepth_lineardecay(mult_flag=False)
    sdm.load_pretrained(back, ours.state_dict())
    assert torch.equal(back.conv1.weight, state["conv1.weight"])


@pytest.mark.parametrize("state", [{"a.weight": torch.ones(2)}, {"fc.weight": torch.ones(10, 64)}])
def test_a_file_of_which_nothing_of_the_body_fits_is_refused_without_strict_too(state):
    with pytest.raises(sdm.CheckpointError, match="does not fit the model"):
        sdm.load_pretrained(sdm.cifar_resnet20_stodepth_lineardecay(), state, strict=False)


def test_a_model_on_the_meta_device_is_refused():
    with torch.device("meta"):
        model = sdm.cifar_resnet20_stodepth_lineardecay()
    with pytest.raises(ValueError, match=r"is on the meta device.*to_empty"):
        sdm.load_pretrained(model, STATE)


class Own(torchvision.models.WeightsEnum):
    FIRST = torchvision.models.Weights("https://localhost/a.pth", None, {})

    def get_state_dict(self, *args, **kwargs):
        return torchvision.models.resnet18().state_dict()


def test_a_member_of_any_enum_is_a_source():
    model = sdm.resnet18_stodepth_lineardecay(mult_flag=False)
    sdm.load_pretrained(model, Own.FIRST)
    assert model.conv1.weight.shape == (64, 3, 7, 7)


@pytest.mark.parametrize("value", [None, 3, 1.5])
def test_a_value_that_is_no_source_is_named_with_the_argument(value):
    with pytest.raises(TypeError, match=f"source must be a member of a weights enum.*got {value}"):
        sdm.load_pretrained(sdm.cifar_resnet20_stodepth_lineardecay(), value)


@pytest.mark.parametrize(("check_hash", "fits"), [(None, False), (True, False), (False, True)])
def test_the_digits_in_the_name_of_a_url_are_not_checked_where_that_is_asked_for(tmp_path, check_hash, fits):
    path = tmp_path / "net-00000000.pth"
    torch.save(STATE, path)
    model = sdm.cifar_resnet20_stodepth_lineardecay(mult_flag=False)
    if fits:
        sdm.load_pretrained(model, path.as_uri(), check_hash=check_hash)
        assert torch.equal(model.conv1.weight, STATE["conv1.weight"])
        return
    with pytest.raises(sdm.CheckpointError, match="has the SHA-256"):
        sdm.load_pretrained(model, path.as_uri(), check_hash=check_hash)


def test_a_flipped_bit_in_a_file_in_zip_form_is_noticed(tmp_path):
    path = tmp_path / "net.pth"
    torch.save({name: value for name, value in STATE.items() if name.startswith("layer1")}, path)
    whole = path.read_bytes()
    model = sdm.cifar_resnet20_stodepth_lineardecay()
    with zipfile.ZipFile(path) as archive:
        entries = [entry for entry in archive.infolist() if "/data/" in entry.filename]
    rng = random.Random(0)
    for _ in range(150):
        entry = rng.choice([entry for entry in entries if entry.file_size > 64])
        damaged = bytearray(whole)
        damaged[entry.header_offset + 128 + rng.randrange(entry.file_size - 64)] ^= 1 << rng.randrange(8)
        path.write_bytes(damaged)
        with pytest.raises(sdm.CheckpointError, match="damaged"):
            sdm.load_pretrained(model, path, strict=False)


def test_a_compressed_archive_is_refused_before_it_is_unpacked(tmp_path):
    path, packed = tmp_path / "net.pth", tmp_path / "packed.pth"
    torch.save({"conv1.weight": torch.zeros(2**22)}, path)
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as target:
        for entry in source.infolist():
            target.writestr(entry.filename, source.read(entry))
    with pytest.raises(sdm.CheckpointError, match="is compressed; save its state dict"):
        sdm.load_pretrained(sdm.cifar_resnet20_stodepth_lineardecay(), packed)


def held_by_itself():
    content = {"state_dict": dict(STATE)}
    content["state_dict"]["model"] = content
    return content


def wrapped(times):
    content = dict(STATE)
    for _ in range(times):
        content = {"model": content}
    return content


@pytest.mark.parametrize("content", [held_by_itself(), wrapped(400), wrapped(5000)], ids=["itself", "400", "5000"])
def test_mappings_without_an_end_are_refused(content):
    with pytest.raises(sdm.CheckpointError):
        sdm.load_pretrained(sdm.cifar_resnet20_stodepth_lineardecay(), content)


@pytest.mark.parametrize("build", [held_by_itself, lambda: wrapped(100)], ids=["itself", "100"])
def test_files_of_mappings_without_an_end_are_refused(build, tmp_path):
    path = tmp_path / "net.pth"
    torch.save(build(), path)
    with pytest.raises(sdm.CheckpointError):
        sdm.load_pretrained(sdm.cifar_resnet20_stodepth_lineardecay(), path)


def test_a_few_wrappers_are_taken_off():
    model = sdm.cifar_resnet20_stodepth_lineardecay(mult_flag=False)
    sdm.load_pretrained(model, wrapped(10))
    assert torch.equal(model.conv1.weight, STATE["conv1.weight"])


@pytest.mark.parametrize(
    ("name", "project"),
    [
        ("backbone.bottom_up.stem.conv1.norm.weight", "detectron2: rename stem.conv1 to conv1"),
        ("bn1._mean", "PaddlePaddle: rename _mean to running_mean"),
        ("conv_init/kernel", "Keras, TensorFlow or Flax: convert them to PyTorch first"),
    ],
)
def test_names_of_a_project_whose_weights_are_not_taken_are_known(name, project):
    with pytest.raises(sdm.CheckpointError, match=f"does not fit the model; its names are those of {project}"):
        sdm.load_pretrained(source(), {name: torch.zeros(3)})


def test_layer_scale_is_no_sign_of_another_project():
    with pytest.raises(sdm.CheckpointError, match="does not fit the model\n"):
        sdm.load_pretrained(source(), {"blocks.0.ls1.gamma": torch.zeros(3)})
