import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import timm
import torch
import torchvision
from safetensors.torch import save_file
from torch import Tensor, nn

from lglm_core.errors import InputError
from lglm_core.images.transforms import IMAGENET_MEAN, IMAGENET_STD, Preprocessing
from lglm_core.model.backbone import Backbone, check_backbone, read_weights


def resnet_map(network: nn.Module, x: Tensor) -> Tensor:
    x = network.maxpool(network.relu(network.bn1(network.conv1(x))))
    return network.layer4(network.layer3(network.layer2(network.layer1(x))))


def mobilenet_map(network: nn.Module, x: Tensor) -> Tensor:
    return network.features(x)


def shufflenet_map(network: nn.Module, x: Tensor) -> Tensor:
    x = network.maxpool(network.conv1(x))
    return network.conv5(network.stage4(network.stage3(network.stage2(x))))


MAPS = {
    "resnet18": (512, resnet_map),
    "mobilenet_v3_small": (576, mobilenet_map),
    "shufflenet_v2_x0_5": (1024, shufflenet_map),
}


def network_of(name: str) -> nn.Module:
    torch.manual_seed(1)
    return torchvision.models.get_model(name, weights=None).eval()


@torch.no_grad()
def with_statistics(network: nn.Module) -> nn.Module:
    """Set batch statistics from some pictures; a new network's map is nearly zero in eval mode without."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
    network.train()(torch.randn(4, 3, 64, 64, generator=torch.Generator().manual_seed(0)))
    return network.eval()


@pytest.fixture(scope="module")
def backbones() -> dict[str, Backbone]:
    return {name: Backbone(name) for name in MAPS}


@pytest.mark.parametrize("name", MAPS)
def test_width_and_stride_are_measured(backbones: dict[str, Backbone], name: str):
    assert (backbones[name].width, backbones[name].stride) == (MAPS[name][0], 32)


@pytest.mark.parametrize("name", MAPS)
def test_a_backbone_returns_the_networks_last_feature_map(
    backbones: dict[str, Backbone], name: str, tmp_path: Path
):
    network, last_map = with_statistics(network_of(name)), MAPS[name][1]
    torch.save(network.state_dict(), tmp_path / "weights.pth")
    backbone = backbones[name].eval()
    backbone.load_weights(f"{tmp_path}/weights.pth")
    images = torch.randn(2, 3, 96, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = last_map(network, images)
        assert expected.shape[-2:] == (3, 2) and expected.std() > 0.05
        torch.testing.assert_close(backbone(images), expected)


def test_a_map_behind_a_functional_relu_is_found():
    """DenseNet applies its last ReLU as a function, after the module ``features``."""
    network = torchvision.models.densenet._densenet(8, (1, 1, 1, 1), 16, None, False)
    from lglm_core.model.backbone import _last_feature_map

    assert _last_feature_map(network) == "relu"


def test_any_size_above_the_stride_is_accepted(backbones: dict[str, Backbone]):
    with torch.no_grad():
        assert backbones["resnet18"].eval()(torch.zeros(1, 3, 33, 131)).shape == (1, 512, 2, 5)


@pytest.mark.parametrize("write", [torch.save, save_file], ids=["torch", "safetensors"])
def test_weights_are_loaded_from_a_file_with_torchvisions_names(
    backbones: dict[str, Backbone], tmp_path: Path, write: Callable[..., None]
):
    state = network_of("shufflenet_v2_x0_5").state_dict()
    path = tmp_path / ("w.safetensors" if write is save_file else "w.pth")
    write(state, path)
    backbone = backbones["shufflenet_v2_x0_5"]
    backbone.load_weights(str(path))
    assert all(torch.equal(tensor, state[name]) for name, tensor in backbone.cnn.state_dict().items())


def test_a_state_dict_of_a_data_parallel_checkpoint_is_unwrapped(tmp_path: Path):
    state = {"state_dict": {f"module.{name}": torch.ones(2) for name in "ab"}, "epoch": 3}
    torch.save(state, tmp_path / "w.pth")
    assert set(read_weights(f"{tmp_path}/w.pth")) == {"a", "b"}


def test_none_does_not_change_the_weights(backbones: dict[str, Backbone]):
    backbone = backbones["shufflenet_v2_x0_5"]
    before = {name: tensor.clone() for name, tensor in backbone.state_dict().items()}
    backbone.load_weights("none")
    assert all(torch.equal(tensor, before[name]) for name, tensor in backbone.state_dict().items())


def test_a_missing_tensor_is_refused_by_name(backbones: dict[str, Backbone], tmp_path: Path):
    state = network_of("shufflenet_v2_x0_5").state_dict()
    del state["stage2.0.branch1.0.weight"]
    torch.save(state, tmp_path / "w.pth")
    with pytest.raises(
        InputError,
        match=r"w\.pth: not weights of shufflenet_v2_x0_5: .* no 'stage2\.0\.branch1\.0\.weight', where",
    ):
        backbones["shufflenet_v2_x0_5"].load_weights(f"{tmp_path}/w.pth")


def test_a_tensor_of_another_shape_is_refused_by_name(backbones: dict[str, Backbone], tmp_path: Path):
    state = network_of("shufflenet_v2_x0_5").state_dict()
    state["conv1.0.weight"] = torch.zeros(24, 1, 7, 7)
    torch.save(state, tmp_path / "w.pth")
    with pytest.raises(
        InputError, match=r"conv1\.0\.weight' of shape \(24, 1, 7, 7\), where \(24, 3, 3, 3\)"
    ):
        backbones["shufflenet_v2_x0_5"].load_weights(f"{tmp_path}/w.pth")


def test_a_refused_file_changes_nothing(backbones: dict[str, Backbone], tmp_path: Path):
    backbone = backbones["shufflenet_v2_x0_5"]
    before = backbone.cnn.state_dict()["conv1.0.weight"].clone()
    torch.save(
        {**network_of("shufflenet_v2_x0_5").state_dict(), "conv5.1.bias": torch.zeros(3)},
        tmp_path / "w.pth",
    )
    with pytest.raises(InputError):
        backbone.load_weights(f"{tmp_path}/w.pth")
    assert torch.equal(backbone.cnn.state_dict()["conv1.0.weight"], before)


class Payload:
    def __reduce__(self) -> tuple[Callable[..., None], tuple[str]]:
        return Path.touch, (Path("pwned"),)  # type: ignore[return-value]


def test_a_pickle_is_refused_and_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"conv1.weight": Payload()}, tmp_path / "w.pth")
    with pytest.raises(InputError, match=r"w\.pth: cannot be read as weights"):
        read_weights("w.pth")
    assert not Path("pwned").exists()


@pytest.mark.parametrize("content", [b"", b"not weights at all"])
@pytest.mark.parametrize("name", ["w.pth", "w.safetensors"])
def test_a_broken_file_is_refused(tmp_path: Path, name: str, content: bytes):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match="cannot be read as weights"):
        read_weights(f"{tmp_path}/{name}")


def test_a_file_that_holds_no_tensors_is_refused(tmp_path: Path):
    torch.save({"epoch": 3}, tmp_path / "w.pth")
    with pytest.raises(InputError, match="holds no state dict of tensors"):
        read_weights(f"{tmp_path}/w.pth")


def test_a_missing_file_is_refused(tmp_path: Path):
    with pytest.raises(InputError, match="no such weights file"):
        read_weights(f"{tmp_path}/w.pth")


def test_an_unknown_name_is_refused_with_the_closest():
    with pytest.raises(InputError, match=r"'resnet11' is no torchvision classification CNN.*resnet101"):
        check_backbone("resnet11")


@pytest.mark.parametrize("name", ["vit_b_16", "swin_t", "maxvit_t", "fasterrcnn_resnet50_fpn", "r3d_18"])
def test_a_network_that_is_no_classification_cnn_is_refused(name: str):
    with pytest.raises(InputError, match=f"'{name}' is no torchvision classification CNN"):
        Backbone(name)


def test_a_new_backbone_is_in_training_mode_with_initial_statistics():
    """The probe that measures its feature map must not change the statistics."""
    fresh = Backbone("mobilenet_v3_small")
    assert all(module.training for module in fresh.modules())
    assert all(not t.any() for name, t in fresh.state_dict().items() if name.endswith("running_mean"))


@pytest.mark.parametrize(("name", "stride"), [("alexnet", 32), ("squeezenet1_1", 16)])
def test_the_stride_is_exact_where_missing_padding_makes_the_map_smaller(name: str, stride: int):
    """224 pixels give 6 and 13 cells, not 7 and 14."""
    assert Backbone(name).stride == stride


def test_pictures_are_prepared_as_torchvisions_weights_expect(backbones: dict[str, Backbone]):
    expected = Preprocessing(64, IMAGENET_MEAN, IMAGENET_STD)
    assert backbones["resnet18"].preprocessing(64) == expected


def test_torchvisions_weights_that_cannot_be_downloaded_are_refused_in_one_line(
    backbones: dict[str, Backbone], monkeypatch: pytest.MonkeyPatch
):
    def refuse(*_: object, **__: object) -> None:
        raise OSError("no way out")

    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", refuse)
    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", refuse)
    with pytest.raises(InputError) as refusal:
        backbones["resnet18"].load_weights("imagenet")
    message = str(refusal.value)
    assert "the ImageNet weights of resnet18 cannot be downloaded (no way out)" in message
    assert "name it with `weights` resnet18-f37072fd.pth" in message and "\n" not in message


TIMM_MAPS = {"timm/test_resnet": 96, "timm/lcnet_050": 1280, "timm/mobilenetv3_small_050.lamb_in1k": 1024}


@pytest.fixture(scope="module")
def timm_backbone() -> Backbone:
    return Backbone("timm/test_resnet")


@pytest.mark.parametrize("name", TIMM_MAPS)
def test_width_and_stride_of_timms_networks_are_measured(name: str):
    backbone = Backbone(name)
    assert (backbone.width, backbone.stride) == (TIMM_MAPS[name], 32)


def test_a_network_of_timm_returns_the_map_before_its_pooling(timm_backbone: Backbone):
    network = with_statistics(timm.create_model("test_resnet", pretrained=False))
    backbone = timm_backbone.eval()
    backbone.cnn.load_state_dict(network.state_dict(), strict=False)
    images = torch.randn(2, 3, 96, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = network.forward_features(images)
        assert expected.shape == (2, 96, 3, 2) and expected.std() > 0.05
        torch.testing.assert_close(backbone(images), expected)


def test_pictures_are_prepared_as_timms_weights_expect(timm_backbone: Backbone):
    assert timm_backbone.preprocessing(64) == Preprocessing(64, (0.5,) * 3, (0.5,) * 3)


@pytest.mark.parametrize("write", [torch.save, save_file], ids=["torch", "safetensors"])
def test_weights_are_loaded_from_a_file_with_timms_names(
    timm_backbone: Backbone, tmp_path: Path, write: Callable[..., None]
):
    """Such a file also holds a classifier, which is ignored."""
    torch.manual_seed(1)
    state = timm.create_model("test_resnet", pretrained=False).state_dict()
    path = tmp_path / ("w.safetensors" if write is save_file else "w.pth")
    write(state, path)
    timm_backbone.load_weights(str(path))
    assert "fc.weight" in state
    assert all(torch.equal(tensor, state[name]) for name, tensor in timm_backbone.cnn.state_dict().items())


def test_weights_of_another_network_of_timm_are_refused(timm_backbone: Backbone, tmp_path: Path):
    torch.save(timm.create_model("lcnet_050", pretrained=False).state_dict(), tmp_path / "w.pth")
    with pytest.raises(InputError, match=r"w\.pth: not weights of timm/test_resnet: it holds no 'conv1"):
        timm_backbone.load_weights(f"{tmp_path}/w.pth")


def test_imagenet_stands_for_timms_own_weights(timm_backbone: Backbone, monkeypatch: pytest.MonkeyPatch):
    torch.manual_seed(2)
    trained = timm.create_model("test_resnet", pretrained=False, num_classes=0)
    calls: list[tuple[str, bool]] = []

    def create_model(name: str, *, pretrained: bool, **_: object) -> nn.Module:
        calls.append((name, pretrained))
        return trained

    monkeypatch.setattr(timm, "create_model", create_model)
    timm_backbone.load_weights("imagenet")
    assert calls == [("test_resnet", True)]
    assert torch.equal(
        timm_backbone.cnn.state_dict()["conv1.0.weight"], trained.state_dict()["conv1.0.weight"]
    )


def test_timms_weights_that_cannot_be_downloaded_are_refused_in_one_line(
    timm_backbone: Backbone, monkeypatch: pytest.MonkeyPatch
):
    def refuse(*_: object, **__: object) -> nn.Module:
        raise ConnectionError("no way out\nand a long story")

    monkeypatch.setattr(timm, "create_model", refuse)
    with pytest.raises(InputError) as refusal:
        timm_backbone.load_weights("imagenet")
    message = str(refusal.value)
    assert "the weights of timm/test_resnet cannot be downloaded (no way out);" in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("name", "closest"), [("timm/resnet19", "timm/resnet18"), ("timm/resnet19.a1_in1k", "timm/resnet18")]
)
def test_a_name_unknown_to_timm_is_refused_with_the_closest(name: str, closest: str):
    with pytest.raises(InputError, match=f"'{name}' is unknown to timm; the closest are {closest}, timm/"):
        Backbone(name)


@pytest.mark.parametrize("name", ["timm/@@@@", "timm/", "@@@@", ""])
def test_every_unknown_name_has_closest_names(name: str):
    with pytest.raises(InputError, match=r"the closest are \S+, \S+, \S+$"):
        check_backbone(name)


def test_weights_unknown_to_timm_are_refused_with_the_known_ones():
    with pytest.raises(InputError, match=r"no weights 'mine' of timm/resnet18; it has a1_in1k, a2_in1k"):
        Backbone("timm/resnet18.mine")


@pytest.mark.parametrize(
    "name",
    ["timm/test_vit", "timm/swin_tiny_patch4_window7_224", "timm/inception_next_atto", "timm/coat_tiny"],
)
def test_a_network_of_timm_without_a_feature_map_is_refused(name: str):
    with pytest.raises(InputError, match=f"'{name}' gives no feature map"):
        Backbone(name)


def test_without_timm_its_backbones_are_refused_in_one_line(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(InputError) as refusal:
        check_backbone("timm/resnet18")
    assert str(refusal.value) == "backbones of timm need it installed: pip install 'lglm[timm]'"
