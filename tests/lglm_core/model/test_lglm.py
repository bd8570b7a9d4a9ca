import numpy as np
import pytest
import torch

from lglm_core.label_embeddings import LabelEmbeddings
from lglm_core.model.backbone import Backbone
from lglm_core.model.lglm import Lglm, LglmConfig


@pytest.fixture
def model(shape_embeddings: LabelEmbeddings, small_head: LglmConfig) -> Lglm:
    torch.manual_seed(0)
    return Lglm(Backbone("mobilenet_v3_small"), torch.from_numpy(shape_embeddings.vectors), small_head)


def test_at_the_start_every_logit_is_the_log_odds_of_its_label(model: Lglm):
    """(k + ½) / (n + 1), so that labels in none or all of the pictures stay finite."""
    model.start_at_prior(np.array([0, 25, 100]), 100)
    odds = np.array([0.5 / 100.5, 25.5 / 75.5, 100.5 / 0.5])
    logits = model(torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))).logits
    np.testing.assert_allclose(logits.detach().numpy(), np.tile(np.log(odds), (2, 1)), rtol=1e-5)


def test_pictures_in_one_batch_do_not_meet_in_eval_mode(trained_model: Lglm):
    images = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        together = trained_model(images).logits
        apart = torch.cat([trained_model(image[None]).logits for image in images])
    assert together.std() > 0.01
    torch.testing.assert_close(together, apart, rtol=1e-4, atol=1e-4)


def test_a_frozen_backbone_keeps_weights_and_batch_statistics(
    shape_embeddings: LabelEmbeddings, small_head: LglmConfig
):
    vectors = torch.from_numpy(shape_embeddings.vectors)
    model = Lglm(Backbone("mobilenet_v3_small"), vectors, small_head, frozen=True).train()
    before = {name: tensor.clone() for name, tensor in model.backbone.state_dict().items()}
    model(torch.randn(2, 3, 64, 64)).logits.sum().backward()
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.backbone.state_dict().items())
    assert all(parameter.grad is None for parameter in model.backbone.parameters())
    assert model.head.training


def test_the_graph_of_a_prediction_is_that_of_the_label_side(trained_model: Lglm):
    with torch.no_grad():
        graph = trained_model(torch.zeros(1, 3, 32, 32)).graph
        torch.testing.assert_close(graph, trained_model.head.label_embeddings()[0])
