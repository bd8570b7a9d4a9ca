import numpy as np
import pytest
import torch
from torch import Tensor, nn

from lglm_core.model.backbone import Backbone
from lglm_core.model.config import PlainConfig
from lglm_core.model.head import Head, HeadOutput, ImageSide
from lglm_core.model.recogniser import ImagePath, Recogniser
from tests.lglm_core.model.small_heads import draw_knowledge, small_head

KNOWLEDGE = draw_knowledge(3, 8)


def pixels(batch: int = 2) -> Tensor:
    return torch.randn(batch, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def new_model(variant: str = "lglm", *, frozen: bool = False) -> Recogniser:
    torch.manual_seed(0)
    backbone = Backbone("mobilenet_v3_small")
    return Recogniser(backbone, small_head(variant, backbone.width, KNOWLEDGE), frozen=frozen)


def test_every_first_logit_is_the_log_odds_of_its_label():
    """They are of (k + ½) / (n + 1) for n known samples, and so finite for k = 0 and k = n."""
    model = new_model()
    targets = np.tile(np.array([0, 0, 1], np.int8), (100, 1))
    targets[:25, 1] = 1
    targets[50:, 1] = -1  # unknown
    model.start_at_prior(targets)
    odds = np.array([0.5 / 100.5, 25.5 / 25.5, 100.5 / 0.5])
    logits = model(pixels()).logits
    np.testing.assert_allclose(logits.detach().numpy(), np.tile(np.log(odds), (2, 1)), rtol=1e-5, atol=1e-6)


def test_the_score_of_a_picture_does_not_depend_on_its_batch_in_eval_mode(trained_model: Recogniser):
    images = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        together = trained_model(images).logits
        apart = torch.cat([trained_model(image[None]).logits for image in images])
    assert together.std() > 0.01
    torch.testing.assert_close(together, apart, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("variant", ["lglm", "plain"])
def test_a_frozen_backbone_keeps_weights_and_batch_statistics(variant: str):
    model = new_model(variant, frozen=True).train()
    before = {name: tensor.clone() for name, tensor in model.backbone.state_dict().items()}
    model(pixels()).logits.sum().backward()
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.backbone.state_dict().items())
    assert all(parameter.grad is None for parameter in model.backbone.parameters())
    assert model.head.training


def test_a_backbone_that_is_not_frozen_trains():
    model = new_model().train()
    assert model.backbone.training and all(p.requires_grad for p in model.backbone.parameters())


@pytest.mark.parametrize("variant", ["lglm", "plain"])
def test_the_image_path_with_the_label_weights_is_the_whole_model(variant: str):
    model = new_model(variant).eval()
    path = ImagePath(model).eval()
    side = model.head.label_weights()
    with torch.no_grad():
        logits = path(pixels(), None if side is None else side.weights).logits
        assert torch.equal(logits, model(pixels()).logits)


def test_the_image_path_has_the_models_parameters_but_those_of_the_label_side():
    model = new_model()
    assert model.head.label_side is not None
    whole = {id(parameter) for parameter in model.parameters()}
    label_side = {id(parameter) for parameter in model.head.label_side.parameters()}
    assert {id(parameter) for parameter in ImagePath(model).parameters()} == whole - label_side


class Identity(nn.Module):
    """A backbone whose feature map is the picture."""

    def forward(self, images: Tensor) -> Tensor:
        return images


class Echo(ImageSide):
    """Returns its feature map as logits."""

    wants_mirror = True

    def forward(self, feature_map: Tensor, label_weights: Tensor | None = None) -> HeadOutput:
        return HeadOutput(feature_map)


def test_a_head_that_wants_mirror_images_gets_them_behind_the_pictures_in_training_alone():
    model = Recogniser(Identity(), Head("echo", PlainConfig(), Echo()))
    path = ImagePath(model)
    images = torch.arange(12.0).view(2, 1, 2, 3)
    assert torch.equal(path.train()(images, None).logits, torch.cat([images, images.flip(3)]))
    assert torch.equal(path.eval()(images, None).logits, images)
