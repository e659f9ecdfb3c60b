"""The commands that convert weights and classify images."""

import json
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from randomised import randomise_norms
from torchvision.ops import FrozenBatchNorm2d
from torchvision.transforms._presets import ImageClassification

import stodepth_models as sdm
from stodepth_models.training.data.images import open_rgb
from stodepth_models.weights.checkpoint import write_file
from stodepth_models.weights.config import config_of
from stodepth_models.weights.preprocessing import saved_preprocessing
from stodepth_models.weights.sources import resolve_source

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"
X = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def tiny(**kwargs):
    torch.manual_seed(0)
    return randomise_norms(sdm.cifar_resnet20_stodepth_lineardecay(**kwargs)).eval()


@pytest.fixture
def call(monkeypatch, capsys):
    """Run a script in this process; return its exit status, what it printed, and what it complained about."""

    def run(script, *arguments):
        monkeypatch.setattr(sys, "argv", [script, *map(str, arguments)])
        with pytest.raises(SystemExit, match=r"\d") as left:
            runpy.run_path(str(SCRIPTS / script), run_name="__main__")
        printed = capsys.readouterr()
        return left.value.code, printed.out, printed.err

    return run


def test_convert_a_published_layout_into_a_folder(call, tmp_path):
    source = tiny(prob_0_L=(1.0, 1.0), shortcut="B", num_classes=4)
    torch.save({"state_dict": {f"module.{k}": v for k, v in source.state_dict().items()}}, tmp_path / "theirs.th")
    status, out, _ = call("convert_weights.py", tmp_path / "theirs.th", tmp_path / "ours")
    assert status == 0
    assert out.endswith("ours: cifar_resnet20_stodepth_lineardecay\n")
    model = sdm.CifarResNet.from_pretrained(tmp_path / "ours")
    assert torch.equal(model(X), source(X))
    assert sdm.survival_probs(model) == [1.0] * 9


def test_convert_finds_the_network_in_a_file_that_holds_more(call, tmp_path):
    source = tiny(prob_0_L=(1.0, 1.0), shortcut="B", num_classes=4)
    state = source.state_dict()
    theirs = {f"net.backbone.{name}": value for name, value in state.items() if not name.startswith("fc.")}
    head = {"net.cls_head.weight": state["fc.weight"], "net.cls_head.bias": state["fc.bias"]}
    torch.save({"state_dict": {**theirs, **head, "criterion.weight": torch.ones(4)}}, tmp_path / "theirs.ckpt")
    assert call("convert_weights.py", tmp_path / "theirs.ckpt", tmp_path / "ours")[0] == 0
    assert torch.equal(sdm.CifarResNet.from_pretrained(tmp_path / "ours")(X), source(X))


@pytest.mark.parametrize("flag", ["--model.weights_prefix", "--weights-prefix"])
def test_prefix_chooses_a_network_of_several_in_convert_and_predict(flag, call, photos, tmp_path):
    state = tiny(prob_0_L=(1.0, 1.0), shortcut="B", num_classes=4).state_dict()
    networks = {f"encoder_q.{name}": value for name, value in state.items()}
    networks |= {f"encoder_k.{name}": value + 1 for name, value in state.items()}
    torch.save(networks, tmp_path / "moco.pth")
    status, _, err = call("convert_weights.py", tmp_path / "moco.pth", tmp_path / "one.pth")
    assert status == 1
    assert "--model.weights_prefix encoder_q." in err
    assert call("convert_weights.py", tmp_path / "moco.pth", tmp_path / "one.pth", flag, "encoder_k.")[0] == 0
    assert torch.equal(torch.load(tmp_path / "one.pth")["conv1.weight"], state["conv1.weight"] + 1)
    chosen = call("predict.py", "--weights", tmp_path / "moco.pth", flag, "encoder_k.", photos)
    assert chosen[:2] == call("predict.py", "--weights", tmp_path / "one.pth", photos)[:2]


@pytest.mark.parametrize("out", ["folder.d", "one.safetensors"])
def test_convert_keeps_how_images_were_prepared(call, tmp_path, out):
    training = {"image_size": 24, "mean": [0.1, 0.2, 0.3], "std": [0.5, 0.6, 0.7]}
    write_file(tmp_path / "best.safetensors", tiny().state_dict(), {**config_of(tiny()), "training": training})
    (tmp_path / "folder.d").mkdir()
    assert call("convert_weights.py", tmp_path / "best.safetensors", tmp_path / out)[0] == 0
    saved = saved_preprocessing(resolve_source(tmp_path / out, None, "the test"))
    assert saved == (24, (0.1, 0.2, 0.3), (0.5, 0.6, 0.7), None)
    beside = tmp_path / ("one.json" if out.startswith("one") else "folder.d/config.json")
    assert json.loads(beside.read_text())["training"] == training


def test_convert_keeps_our_configuration(call, tmp_path):
    source = tiny(mode="row")
    source.save_pretrained(tmp_path / "ours")
    assert call("convert_weights.py", tmp_path / "ours", tmp_path / "new" / "one.safetensors")[0] == 0
    assert json.loads((tmp_path / "new" / "one.json").read_text())["mode"] == "row"
    target = sdm.cifar_resnet20_stodepth_lineardecay(weights=tmp_path / "new" / "one.safetensors").eval()
    assert torch.equal(target(X), source(X))


def test_convert_to_a_torchvision_file_folds_the_scales_in(call, tmp_path):
    torch.manual_seed(0)
    source = randomise_norms(sdm.resnet18_stodepth_lineardecay(num_classes=3)).eval()
    source.save_pretrained(tmp_path / "ours")
    assert call("convert_weights.py", tmp_path / "ours", tmp_path / "plain.pth")[0] == 0
    plain = torchvision.models.resnet18(num_classes=3).eval()
    plain.load_state_dict(torch.load(tmp_path / "plain.pth", weights_only=True))
    x = torch.randn(2, 3, 64, 64)
    torch.testing.assert_close(plain(x), source(x), rtol=0, atol=1e-5)


def test_convert_folds_the_cifar_family_too(call, tmp_path):
    source = tiny()
    source.save_pretrained(tmp_path / "ours")
    assert call("convert_weights.py", tmp_path / "ours", tmp_path / "plain.pt")[0] == 0
    constant = sdm.cifar_resnet20_stodepth_lineardecay(prob_0_L=(1.0, 1.0)).eval()
    constant.load_state_dict(torch.load(tmp_path / "plain.pt", weights_only=True))
    torch.testing.assert_close(constant(X), source(X), rtol=0, atol=1e-4)


def test_convert_takes_the_same_flag_and_the_same_names_as_the_other_commands(call, tmp_path):
    shipped = ("--weights", "CIFAR10_JPEG_V1", "--model", "cifar_resnet20")
    assert call("convert_weights.py", *shipped, tmp_path / "ours")[0] == 0
    assert sdm.CifarResNet.from_pretrained(tmp_path / "ours").categories[3] == "cat"
    status, _, err = call("convert_weights.py", *shipped)
    assert (status, err.split(";")[0]) == (2, "error: the following arguments are required: IN OUT")


def test_convert_says_what_it_cannot_do(call, tmp_path):
    torch.save({"a": torch.zeros(1)}, tmp_path / "odd.pth")
    status, _, err = call("convert_weights.py", tmp_path / "odd.pth", tmp_path / "out")
    assert status == 2
    assert "odd.pth matches no builder: name it with --model" in err
    for name in ("cifar_resnet20_stodepth_lineardecay", "cifar_resnet20"):
        status, _, err = call("convert_weights.py", tmp_path / "odd.pth", tmp_path / "out", "--model", name)
        assert status == 1
        assert "odd.pth does not fit the model" in err
    status, _, err = call("convert_weights.py", tmp_path / "odd.pth", tmp_path / "out", "--model", "resnet5")
    assert status == 1
    assert err.startswith("error: no model 'resnet5' in the zoo; did you mean resnet50")
    tiny().save_pretrained(tmp_path / "ours")
    status, _, err = call("convert_weights.py", tmp_path / "ours", tmp_path / "out.onnx")
    assert status == 1
    assert "OUT must be a folder or end in .safetensors" in err


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos" / "more"
    folder.mkdir(parents=True)
    for number, colour in enumerate(["red", "green", "blue"]):
        Image.new("RGB", (40, 30), colour).save(folder / f"{number}.png")
    Image.new("L", (32, 32)).save(tmp_path / "grey.jpg")
    (folder / "notes.txt").write_text("not an image")
    return tmp_path


@pytest.fixture
def predict(call, photos):
    model = tiny()
    model.categories = [f"kind {letter}" for letter in "abcdefghij"]
    model.save_pretrained(photos / "model")
    arguments = ("--model", "cifar_resnet20", "--weights", photos / "model")
    return lambda *more: call("predict.py", *arguments, *more)


def test_predict_prints_a_table(predict, photos):
    status, out, _ = predict(photos / "grey.jpg", photos / "photos", "--batch-size", 3)
    lines = out.splitlines()
    assert status == 0
    assert len(lines) == 4 * 6
    assert lines[0] == str(photos / "grey.jpg")
    assert all(" %  kind " in line for line in lines[1:6])


def test_predict_turns_a_photograph_upright(predict, photos):
    picture = Image.linear_gradient("L").convert("RGB")
    picture.save(photos / "upright.png")
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise by a quarter
    picture.rotate(90).save(photos / "turned.png", exif=exif)
    _, out, _ = predict(photos / "upright.png", photos / "turned.png", "--json")
    upright, turned = (json.loads(line)["probabilities"] for line in out.splitlines())
    assert turned == pytest.approx(upright, rel=1e-5)


def test_predict_as_json_agrees_with_the_model(predict, photos):
    status, out, _ = predict(photos / "photos", "--json", "--top", 2)
    results = [json.loads(line) for line in out.splitlines()]
    assert status == 0
    assert [Path(result["image"]).name for result in results] == ["0.png", "1.png", "2.png"]
    transforms = sdm.CifarResNet20_Weights.CIFAR10_IDELBAYEV.transforms()
    image = transforms(Image.open(photos / "photos" / "more" / "1.png"))
    probabilities, classes = tiny()(image[None]).softmax(1)[0].topk(2)
    assert results[1]["classes"] == [f"kind {'abcdefghij'[index]}" for index in classes.tolist()]
    assert results[1]["probabilities"] == pytest.approx(probabilities.tolist(), rel=1e-4)


def test_predict_builds_what_the_file_was_saved_from(call, photos):
    model = tiny(shortcut="B", num_classes=3)
    model.categories = ["cat", "dog", "eel"]
    write_file(photos / "best.safetensors", model.state_dict(), config_of(model))
    status, out, _ = call("predict.py", photos / "grey.jpg", "--weights", photos, "--json")  # as a run leaves it
    assert status == 0
    result = json.loads(out)
    assert set(result["classes"]) == {"cat", "dog", "eel"}
    x = sdm.CifarResNet20_Weights.CIFAR10_IDELBAYEV.transforms()(open_rgb(photos / "grey.jpg"))[None]
    expected = model(x).softmax(1)[0].sort(descending=True).values
    assert result["probabilities"] == pytest.approx(expected.tolist(), rel=1e-4)


def test_predict_takes_files_of_any_dtype_and_norm(call, photos):
    model = tiny(norm_layer=FrozenBatchNorm2d).bfloat16()
    write_file(photos / "best.safetensors", model.state_dict(), config_of(model))
    status, out, _ = call(
        "predict.py", "--model", "cifar_resnet20", "--weights", photos / "best.safetensors", photos / "grey.jpg"
    )
    assert status == 0
    assert "%" in out


def test_predict_leaves_out_what_a_mac_puts_beside_images(predict, photos):
    (photos / "photos" / "._1.png").write_bytes(b"no picture")
    (photos / "photos" / "dir.png").mkdir()
    status, out, _ = predict(photos / "photos", "--json")
    assert status == 0
    assert "._1" not in out


def test_predict_finds_the_images_that_training_finds(predict, photos):
    inside = photos / "photos"
    image = Image.open(photos / "grey.jpg")
    for name in ("@eaDir/1.png", ".thumbnails/1.png", "Thumbs.db", "notes.txt"):
        (inside / name).parent.mkdir(exist_ok=True)
        (inside / name).write_bytes(b"no picture")
    image.save(inside / "new.JFIF", "jpeg")
    image.save(inside / "without suffix", "png")
    (photos / "elsewhere").mkdir()
    image.save(photos / "elsewhere" / "linked.png")
    (inside / "link").symlink_to(photos / "elsewhere")
    (inside / "up").symlink_to(photos)
    before = {path.relative_to(inside).as_posix() for path in inside.rglob("*") if path.suffix in (".png", ".jpg")}
    expected = {name for name in before if "@" not in name and ".thumbnails" not in name}
    status, out, _ = predict(inside, "--json")
    assert status == 0
    found = [Path(json.loads(line)["image"]).relative_to(inside).as_posix() for line in out.splitlines()]
    assert sorted(found) == sorted(expected | {"new.JFIF", "without suffix", "link/linked.png"})


def test_predict_prepares_images_as_the_training_run_did(call, photos):
    config = {**config_of(tiny()), "training": {"image_size": 24, "mean": [0.1, 0.2, 0.3], "std": [0.5, 0.6, 0.7]}}
    write_file(photos / "best.safetensors", tiny().state_dict(), config)
    arguments = ("--model", "cifar_resnet20_stodepth_lineardecay", "--weights", photos / "best.safetensors")
    image = Image.open(photos / "photos" / "more" / "1.png")
    _, out, _ = call("predict.py", *arguments, photos / "photos" / "more" / "1.png", "--json")
    x = ImageClassification(crop_size=24, resize_size=24, mean=(0.1, 0.2, 0.3), std=(0.5, 0.6, 0.7))(image)
    expected = tiny()(x[None]).softmax(1)[0].topk(5).values
    assert json.loads(out)["probabilities"] == pytest.approx(expected.tolist(), rel=1e-4)


def test_predict_cuts_large_images_and_scales_16_bits_as_evaluation_does(call, photos):
    config = {**config_of(tiny()), "training": {"image_size": 70, "mean": [0.1] * 3, "std": [0.5] * 3}}
    write_file(photos / "best.safetensors", tiny().state_dict(), config)
    ramp = np.arange(100 * 90).reshape(100, 90)
    Image.fromarray((ramp * 7).astype(np.uint16)).save(photos / "deep.png")
    _, out, _ = call("predict.py", "--model", "cifar_resnet20", "--weights", photos / "best.safetensors", "--json",
                     photos / "deep.png")  # fmt: skip
    image = Image.fromarray((ramp * 7 // 256).astype(np.uint8)).convert("RGB")
    x = ImageClassification(crop_size=70, resize_size=80, mean=(0.1,) * 3, std=(0.5,) * 3)(image)
    expected = tiny()(x[None]).softmax(1)[0].topk(5).values
    assert json.loads(out)["probabilities"] == pytest.approx(expected.tolist(), rel=1e-4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["missing.png"], "there is no file or folder missing.png"),
        (["photos/more/notes.txt"], "notes.txt cannot be read as an image (cannot identify image file)"),
        (["cut.jpg"], "cut.jpg cannot be read as an image ("),
        (["empty"], "empty holds no images"),
        (["grey.jpg", "--top", "0"], "--top: must be a whole number from 1 on, got 0"),
        (["grey.jpg", "--tpo", "0"], "there is no --tpo; did you mean --top?"),
        (["grey.jpg", "--batch_size", "many"], "--batch-size: must be a whole number from 1 on, got many"),
    ],
)
def test_predict_says_what_it_cannot_do(arguments, message, predict, photos, monkeypatch):
    monkeypatch.chdir(photos)
    (photos / "empty").mkdir()
    (photos / "cut.jpg").write_bytes((photos / "grey.jpg").read_bytes()[:-20])
    status, _, err = predict(*arguments)
    assert status == (2 if len(arguments) > 1 else 1)
    assert message in err
