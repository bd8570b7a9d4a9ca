import pytest
import torch

from lglm_core.model.head import Standardise, pool


def trained_norm(width: int = 4) -> Standardise:
    """Return a standardisation with running statistics of its own, in eval mode."""
    rng = torch.Generator().manual_seed(0)
    norm = Standardise(width)
    norm.norm.running_mean = torch.randn(width, generator=rng)
    norm.norm.running_var = torch.rand(width, generator=rng) + 0.5
    return norm.eval()


@pytest.mark.parametrize(("pooling", "expected"), [("max", [[4.0, 9.0]]), ("average", [[2.5, 3.0]])])
def test_pooling_by_hand(pooling: str, expected: list[list[float]]):
    feature_map = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]], [[9.0, 1.0], [1.0, 1.0]]]])
    assert pool(feature_map, pooling).tolist() == expected


def test_standardising_subtracts_the_mean_and_divides_by_the_deviation():
    norm = trained_norm()
    features = torch.randn(5, 4, generator=torch.Generator().manual_seed(1))
    expected = (features - norm.norm.running_mean) / (norm.norm.running_var + norm.norm.eps).sqrt()
    torch.testing.assert_close(norm(features), expected)


@pytest.mark.parametrize(
    ("given", "returned"),
    [(torch.bfloat16, torch.float32), (torch.float32, torch.float32), (torch.float64, torch.float64)],
)
def test_standardised_features_are_at_least_float32(given: torch.dtype, returned: torch.dtype):
    norm = trained_norm().to(returned)
    assert norm(torch.ones(2, 4, dtype=given)).dtype == returned


def test_a_layer_on_standardised_features_folds_to_a_layer_on_raw_ones():
    rng = torch.Generator().manual_seed(2)
    norm = trained_norm().double()
    weight, bias = (torch.randn(*shape, generator=rng).double() for shape in ((3, 4), (3,)))
    features = torch.randn(5, 4, generator=rng).double()
    raw_weight, raw_bias = norm.fold_into(weight, bias)
    torch.testing.assert_close(features @ raw_weight.T + raw_bias, norm(features) @ weight.T + bias)
