"""The CNN that reads the picture: any CNN of torchvision or timm, cut before its pooling and classifier."""

import difflib
import io
from contextlib import redirect_stderr, redirect_stdout
from typing import Any
from urllib.error import URLError

import torch
import torchvision
from safetensors.torch import load as load_tensors
from torch import Tensor, nn
from torchvision.models.feature_extraction import create_feature_extractor, get_graph_node_names

from lglm_core import storage
from lglm_core.errors import InputError
from lglm_core.images.transforms import IMAGENET_MEAN, IMAGENET_STD, Preprocessing

TIMM = "timm/"  # prefix of the names of timm's networks
NOT_CNNS = ("vit_", "swin_", "swin3d", "maxvit")
CLASSIFIERS = ("classifier", "fc", "head", "heads")
PROBE_SIZE = 224  # pixels; every torchvision CNN accepts this size
PROBE_STEP = 64  # pixels; the cells that it adds to the feature map give the stride
TAIL_NODES = 20  # graph nodes searched from the end; pooling and flattening take two or three


class Backbone(nn.Module):
    """CNN(I) of Eq. 2: maps normalised images [B, 3, H, W] to a feature map [B, D, h, w].

    ``width`` is D and ``stride`` is the distance in pixels between neighbouring cells of the feature map;
    both are measured when the network is built. ``mean`` and ``std`` are the channel means and deviations,
    of pixels from 0 to 1, that the pretrained weights expect.

    Args:
        name: A classification CNN of torchvision, or of timm as ``timm/NAME``.

    Raises:
        InputError: there is no such network, or it gives no feature map.
    """

    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name
        if name.startswith(TIMM):
            self.cnn = _timm_network(name)
            pretrained: Any = self.cnn.pretrained_cfg
            self.mean, self.std = tuple(pretrained["mean"]), tuple(pretrained["std"])
        else:
            network = _classification_network(name)
            self.cnn = create_feature_extractor(network, {_last_feature_map(network): "features"})
        with torch.no_grad():
            self.eval()
            small, large = (
                self(torch.zeros(1, 3, size, size)) for size in (PROBE_SIZE, PROBE_SIZE + PROBE_STEP)
            )
        self.train()
        self.width = int(small.shape[1])
        self.stride = PROBE_STEP // int(large.shape[-1] - small.shape[-1])

    def forward(self, images: Tensor) -> Tensor:
        """Return the last feature map [B, D, h, w] of images [B, 3, H, W]."""
        features: Any = self.cnn(images)
        return features if isinstance(features, Tensor) else features["features"]

    def preprocessing(self, image_size: int) -> Preprocessing:
        """Return how pictures are prepared for the pretrained weights: resized and normalised."""
        return Preprocessing(image_size, self.mean, self.std)

    def load_weights(self, weights: str) -> None:
        """Load pretrained weights.

        Args:
            weights: ``imagenet`` downloads the library's own; ``none`` keeps the random ones; anything else
                is a file whose tensors have the names that torchvision or timm gives them.

        Raises:
            InputError: the file is missing or belongs to another network, or the download fails.
        """
        if weights == "none":
            return
        download = _download_timm if self.name.startswith(TIMM) else _download
        state = download(self.name) if weights == "imagenet" else read_weights(weights)
        expected = self.cnn.state_dict()
        missing = [key for key in expected if key not in state and not key.endswith("num_batches_tracked")]
        wrong = [key for key in expected if key in state and state[key].shape != expected[key].shape]
        if missing or wrong:
            found = (
                f"no {missing[0]!r}" if missing else f"{wrong[0]!r} of shape {tuple(state[wrong[0]].shape)}"
            )
            raise InputError(
                f"{weights}: not weights of {self.name}: it holds {found}, where "
                f"{tuple(expected[(missing or wrong)[0]].shape)} was expected"
            )
        # A file may hold more, such as the classifier.
        known = {key: value for key, value in state.items() if key in expected}
        self.cnn.load_state_dict(known, strict=False)


def check_image_size(backbone: Backbone, image_size: int) -> None:
    """Refuse pictures that are too small for a backbone.

    Some networks pool a picture to nothing even where it is larger than the stride, so this tries one.

    Raises:
        InputError: pictures of *image_size* × *image_size* pixels are too small.
    """
    too_small = InputError(
        f"image size {image_size} is too small for {backbone.name}, whose stride is {backbone.stride} pixels"
    )
    if image_size < backbone.stride:
        raise too_small
    try:
        with torch.no_grad():
            backbone.eval()(torch.zeros(1, 3, image_size, image_size))
        backbone.train()
    except RuntimeError as error:
        raise too_small from error


def check_backbone(name: str) -> None:
    """Check that torchvision or timm has a CNN of this name.

    Raises:
        InputError: neither has; the message names the closest ones.
    """
    if name.startswith(TIMM):
        known = [TIMM + model for model in _timm().list_models()]
        network, _, weights = name.partition(".")
        if network not in known:
            raise InputError(
                f"backbone {name!r} is unknown to timm; the closest are {_closest(network, known)}"
            )
        pretrained = _timm().list_pretrained(network.removeprefix(TIMM) + ".*")
        if weights and name.removeprefix(TIMM) not in pretrained:
            raise InputError(
                f"timm knows no weights {weights!r} of {network}; it has "
                f"{', '.join(model.partition('.')[2] for model in pretrained) or 'none'}"
            )
        return
    known = [
        model
        for model in torchvision.models.list_models(torchvision.models)
        if not model.startswith(NOT_CNNS)
    ]
    if name not in known:
        raise InputError(
            f"backbone {name!r} is no torchvision classification CNN; the closest are {_closest(name, known)}"
        )


def _closest(name: str, known: list[str]) -> str:
    return ", ".join(difflib.get_close_matches(name, known, 3, cutoff=0.0))


def read_weights(path: str) -> dict[str, Tensor]:
    """Read a state dict from a .safetensors file or a torch file, without unpickling objects.

    Raises:
        InputError: the file is missing, cannot be read, or holds no state dict of tensors.
    """
    if not storage.is_file(path):
        raise InputError(f"{path}: no such weights file")
    data = storage.read_bytes(path)
    try:
        if path.endswith(".safetensors"):
            return load_tensors(data)
        state = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:  # each kind of damage raises a different type
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise InputError(f"{path}: cannot be read as weights ({reason})") from error
    state = state.get("state_dict", state) if isinstance(state, dict) else None
    if not state or not all(isinstance(value, Tensor) for value in state.values()):
        raise InputError(f"{path}: holds no state dict of tensors")
    return {key.removeprefix("module."): value for key, value in state.items()}


def _download(name: str) -> dict[str, Tensor]:
    weights = torchvision.models.get_model_weights(name).DEFAULT
    file_name = weights.url.rpartition("/")[2]
    try:
        # Silence torch's own lines about the attempt: a refusal is one line.
        with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            return dict(weights.get_state_dict(progress=False, check_hash=True))
    except (URLError, OSError, RuntimeError) as error:
        raise InputError(
            f"the ImageNet weights of {name} cannot be downloaded ({error}); bring the file {file_name} "
            f"and name it with `weights` {file_name}, or start from `weights` none"
        ) from error


def _download_timm(name: str) -> dict[str, Tensor]:
    try:
        network = _timm().create_model(name.removeprefix(TIMM), pretrained=True, num_classes=0)
    except Exception as error:  # the hub passes on whatever its transport raises
        raise InputError(
            f"the weights of {name} cannot be downloaded ({str(error).partition(chr(10))[0]}); "
            "bring a file with timm's names and name it with `weights`, or start from `weights` none"
        ) from error
    return dict(network.state_dict())


def _timm() -> Any:
    try:
        import timm
    except ImportError as error:
        raise InputError("backbones of timm need it installed: pip install 'lglm[timm]'") from error
    return timm


def _timm_network(name: str) -> nn.Module:
    check_backbone(name)
    refusal = f"backbone {name!r} gives no feature map for pictures of any size before its pooling"
    try:
        network: nn.Module = _timm().create_model(
            name.removeprefix(TIMM), pretrained=False, num_classes=0, global_pool=""
        )
        with torch.no_grad():
            small, large = (
                tuple(network.eval()(torch.zeros(1, 3, size, size)).shape)
                for size in (PROBE_SIZE, PROBE_SIZE + PROBE_STEP)
            )
    except (AssertionError, AttributeError, RuntimeError, TypeError) as error:
        raise InputError(refusal) from error
    # A map [B, D, h, w] grows in its last dimension; tokens [B, n, D] and maps [B, h, w, D] do not.
    if len(small) != 4 or small[1] != large[1] or small[-1] >= large[-1]:
        raise InputError(refusal)
    return network


def _classification_network(name: str) -> nn.Module:
    check_backbone(name)
    # These two were trained on inputs of another scale; ``transform_input`` makes them convert.
    rescaling = {"aux_logits": False, "init_weights": True, "transform_input": True}
    options = rescaling if name in ("googlenet", "inception_v3") else {}
    network: nn.Module = torchvision.models.get_model(name, weights=None, **options)
    return network


def _last_feature_map(network: nn.Module) -> str:
    """Return the name of the graph node with the last feature map before pooling and classifier.

    This is the last node whose output has four dimensions and more than one cell, and which belongs neither
    to the classifier nor to an adaptive pooling in front of it.
    """
    modules = dict(network.named_modules())
    training_names, names = get_graph_node_names(network)
    candidates = [
        name
        for name in names
        if name in training_names
        and name.partition(".")[0] not in CLASSIFIERS
        and not isinstance(modules.get(name), nn.AdaptiveAvgPool2d)
    ]
    tail = candidates[-TAIL_NODES:]
    with torch.no_grad():
        outputs = create_feature_extractor(network, tail).eval()(torch.zeros(1, 3, PROBE_SIZE, PROBE_SIZE))
    maps = [name for name in tail if isinstance(outputs[name], Tensor) and outputs[name].ndim == 4]
    return next(name for name in reversed(maps) if outputs[name].shape[-1] > 1)
