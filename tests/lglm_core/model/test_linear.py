import pytest
import torch

from lglm_core.model.linear import LinearScores


def scores(*, conditioned: bool) -> LinearScores:
    torch.manual_seed(0)
    return LinearScores(6, 3, pooling="max", conditioned=conditioned)


def test_a_conditioned_layer_starts_at_the_log_odds():
    layer = scores(conditioned=True).eval()
    layer.start_at_prior(torch.tensor([-2.0, 0.0, 1.0]))
    assert layer.score(torch.ones(1, 6)).tolist() == [[-2.0, 0.0, 1.0]]


def test_a_plain_layer_keeps_torchs_initialisation():
    torch.manual_seed(0)
    linear = torch.nn.Linear(6, 3)
    layer = scores(conditioned=False)
    layer.start_at_prior(torch.tensor([-2.0, 0.0, 1.0]))
    assert torch.equal(layer.linear.weight, linear.weight) and torch.equal(layer.linear.bias, linear.bias)


@pytest.mark.parametrize("conditioned", [True, False])
def test_weight_and_bias_give_the_same_logits(conditioned: bool):
    layer = scores(conditioned=conditioned)
    rng = torch.Generator().manual_seed(1)
    torch.nn.init.normal_(layer.linear.weight, generator=rng)
    layer.score(torch.randn(20, 6, generator=rng))  # sets running statistics, where there are any
    layer.eval()
    features = torch.randn(4, 6, generator=rng)
    weight, bias = layer.affine(None)
    assert weight.dtype == bias.dtype == torch.float64
    torch.testing.assert_close((features.double() @ weight.T + bias).float(), layer.score(features))
