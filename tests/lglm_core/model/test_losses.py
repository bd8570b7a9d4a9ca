from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch.autograd import gradcheck

from lglm_core.model.losses import GraphReduction, asymmetric_loss, graph_loss, multi_label_loss

LOSSES = [multi_label_loss, asymmetric_loss]
EXTREMES = [0.0, 1e-3, -1e-3, 20.0, -20.0, 100.0, -100.0, 65504.0, -65504.0]


def random_batch(low: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    rng = torch.Generator().manual_seed(0)
    return torch.randn(4, 7, generator=rng), torch.randint(low, 2, (4, 7), generator=rng).to(torch.int8)


def test_the_multi_label_loss_is_cross_entropy_summed_over_labels():
    logits, targets = random_batch()
    theirs = F.binary_cross_entropy_with_logits(logits, targets.float(), reduction="none").sum(1)
    torch.testing.assert_close(multi_label_loss(logits, targets), theirs)


def test_unknown_labels_add_nothing():
    logits, targets = random_batch(low=-1)
    assert (targets < 0).any()
    known = [
        F.binary_cross_entropy_with_logits(x[t >= 0], t[t >= 0].float(), reduction="sum")
        for x, t in zip(logits, targets, strict=True)
    ]
    torch.testing.assert_close(multi_label_loss(logits, targets), torch.stack(known))


def test_unknown_labels_have_no_gradient_and_known_ones_the_sigmoids():
    logits, targets = random_batch(low=-1)
    logits.requires_grad_()
    multi_label_loss(logits, targets).sum().backward()
    assert logits.grad is not None
    expected = torch.where(targets >= 0, logits.detach().sigmoid() - targets, 0.0)
    torch.testing.assert_close(logits.grad, expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_loss_of_half_precision_is_finite_and_float32(dtype: torch.dtype):
    logits = torch.tensor([[-60000.0, 60000.0, -100.0, 100.0]], dtype=dtype, requires_grad=True)
    loss = multi_label_loss(logits, torch.tensor([[1, 0, 0, 1]]))
    loss.sum().backward()
    assert loss.dtype == torch.float32 and loss.isfinite().all()
    assert logits.grad is not None and logits.grad.isfinite().all()


def test_half_precision_rounds_only_the_logits():
    logits, targets = random_batch()
    half = logits.half()
    torch.testing.assert_close(multi_label_loss(half, targets), multi_label_loss(half.float(), targets))


def test_the_loss_of_float64_is_exact_to_float64():
    logits, targets = random_batch()
    theirs = F.binary_cross_entropy_with_logits(logits.double(), targets.double(), reduction="none").sum(1)
    torch.testing.assert_close(multi_label_loss(logits.double(), targets), theirs, rtol=1e-12, atol=0)


def test_the_gradient_of_cross_entropy_is_correct():
    logits, targets = random_batch(low=-1)
    for reduction in ("sum", "mean"):
        loss = partial(multi_label_loss, targets=targets, reduction=reduction)
        assert gradcheck(loss, logits.double().requires_grad_())


@pytest.mark.parametrize("loss", LOSSES)
def test_the_mean_divides_by_the_number_of_all_labels(loss: Callable[..., torch.Tensor]):
    """With one known label of four, the mean is its loss divided by four."""
    logits, targets = torch.tensor([[0.3, 1.0, -2.0, 0.5]]), torch.tensor([[1, -1, -1, -1]])
    one = loss(logits[:, :1], targets[:, :1])
    torch.testing.assert_close(loss(logits, targets), one)
    torch.testing.assert_close(loss(logits, targets, reduction="mean"), one / 4)


@pytest.mark.parametrize("loss", LOSSES)
def test_an_unknown_reduction_is_refused(loss: Callable[..., torch.Tensor]):
    with pytest.raises(AssertionError, match="median"):
        loss(*random_batch(), reduction="median")


def asymmetric_in_numpy(
    logits: torch.Tensor, targets: torch.Tensor, gamma_pos: float, gamma_neg: float, margin: float
) -> np.ndarray:
    """Return nats [B, C] by the paper's equations, with probabilities in float64."""
    p = 1 / (1 + np.exp(-logits.double().numpy()))
    shifted = np.maximum(p - margin, 0)
    present = (1 - p) ** gamma_pos * np.log(p)
    absent = shifted**gamma_neg * np.log(1 - shifted)
    return -np.select([targets.numpy() == 1, targets.numpy() == 0], [present, absent], 0)


def test_asymmetric_loss_by_hand():
    """ln 2 for the present label, 0.45**4 * -ln 0.55 for the absent one, nothing for the unknown one."""
    loss = asymmetric_loss(torch.zeros(1, 3), torch.tensor([[1, 0, -1]]))
    assert loss.tolist() == pytest.approx([0.693147 + 0.024515], abs=1e-5)


def test_focused_present_labels_by_hand():
    """At probability 1/2: 0.5**2 * ln 2 for each of two."""
    loss = asymmetric_loss(torch.zeros(1, 2), torch.ones(1, 2), gamma_pos=2)
    assert loss.tolist() == pytest.approx([2 * 0.25 * 0.693147], abs=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_without_focusing_and_margin_it_is_cross_entropy(dtype: torch.dtype):
    logits, targets = random_batch(low=-1)
    logits = logits.to(dtype)
    for reduction in ("sum", "mean"):
        ours = asymmetric_loss(logits, targets, gamma_neg=0, margin=0, reduction=reduction)
        torch.testing.assert_close(ours, multi_label_loss(logits, targets, reduction=reduction))


@pytest.mark.parametrize("margin", [0, 0.05, 0.3])
@pytest.mark.parametrize("gamma_neg", [0, 0.5, 1, 4])
@pytest.mark.parametrize("gamma_pos", [0, 0.5, 1, 4])
def test_the_asymmetric_loss_is_the_papers_formula(gamma_pos: float, gamma_neg: float, margin: float):
    rng = torch.Generator().manual_seed(0)
    logits = 4 * torch.randn(30, 7, generator=rng, dtype=torch.float64)
    targets = torch.randint(-1, 2, (30, 7), generator=rng)
    nats = asymmetric_in_numpy(logits, targets, gamma_pos, gamma_neg, margin)
    loss = partial(asymmetric_loss, gamma_pos=gamma_pos, gamma_neg=gamma_neg, margin=margin)
    np.testing.assert_allclose(loss(logits, targets), nats.sum(axis=1), rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(loss(logits, targets, reduction="mean"), nats.mean(axis=1), rtol=1e-9)
    assert loss(logits.float(), targets).dtype == torch.float32
    np.testing.assert_allclose(loss(logits.float(), targets), nats.sum(axis=1), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("margin", [0, 0.05, 0.3])
@pytest.mark.parametrize("gamma", [0, 0.5, 1, 4])
def test_the_gradient_of_the_asymmetric_loss_is_correct(gamma: float, margin: float):
    """The logits avoid the kink at the probability at which absent labels begin to cost."""
    logits = torch.linspace(-8.3, 8.1, 24, dtype=torch.float64).view(4, 6).requires_grad_()
    targets = torch.arange(24).view(4, 6) % 3 - 1
    loss = partial(asymmetric_loss, targets=targets, gamma_pos=gamma, gamma_neg=gamma, margin=margin)
    assert gradcheck(loss, logits)


@pytest.mark.parametrize("margin", [0, 0.05, 0.99])
@pytest.mark.parametrize("gamma", [0, 0.5, 1, 4])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.filterwarnings("ignore:Anomaly Detection")
def test_the_asymmetric_loss_and_its_gradient_are_finite_at_the_extremes(
    dtype: torch.dtype, gamma: float, margin: float
):
    """No intermediate gradient is NaN either, even if later steps would turn it into a zero."""
    logits = torch.tensor(EXTREMES, dtype=dtype).repeat(3, 1).requires_grad_()
    targets = torch.tensor([[1], [0], [-1]]).expand(3, len(EXTREMES))
    with torch.autograd.detect_anomaly():
        loss = asymmetric_loss(logits, targets, gamma_pos=gamma, gamma_neg=gamma, margin=margin)
        loss.sum().backward()
    assert loss.dtype == torch.promote_types(dtype, torch.float32) and loss.isfinite().all()
    assert logits.grad is not None and logits.grad.isfinite().all()
    assert loss[2] == 0 and (logits.grad[2] == 0).all()


def test_absent_labels_within_the_margin_have_no_loss_and_no_gradient():
    p = torch.tensor([[0.001, 0.02, 0.049]])
    logits = (p / (1 - p)).log().requires_grad_()
    loss = asymmetric_loss(logits, torch.zeros(1, 3), gamma_neg=0)
    loss.sum().backward()
    assert loss == 0 and logits.grad is not None and (logits.grad == 0).all()


def test_the_asymmetric_loss_of_half_precision_rounds_only_the_logits():
    logits, targets = random_batch()
    half = logits.half()
    torch.testing.assert_close(asymmetric_loss(half, targets), asymmetric_loss(half.float(), targets))


@pytest.mark.parametrize(
    ("reduction", "expected"), [("mean", 0.6 / 4), ("sum", 0.6), ("frobenius", 0.14**0.5)]
)
def test_graph_loss_by_hand(reduction: GraphReduction, expected: float):
    """0.8 - 1, 0.1, -0.3 and 1 - 1: four entries."""
    graph = torch.tensor([[0.8, 0.1], [-0.3, 1.0]])
    assert graph_loss(graph, reduction).item() == pytest.approx(expected)


def test_the_graph_loss_is_the_mean_by_default():
    graph = torch.tensor([[0.8, 0.1], [-0.3, 1.0]])
    assert torch.equal(graph_loss(graph), graph_loss(graph, "mean"))


@pytest.mark.parametrize("reduction", ["mean", "sum", "frobenius"])
def test_the_identity_has_no_loss_and_no_gradient(reduction: GraphReduction):
    graph = torch.eye(5, requires_grad=True)
    loss = graph_loss(graph, reduction)
    loss.backward()
    assert loss == 0 and graph.grad is not None and (graph.grad == 0).all()


@pytest.mark.parametrize("reduction", ["mean", "sum", "frobenius"])
def test_the_gradient_of_the_graph_loss_is_correct(reduction: GraphReduction):
    graph = torch.randn(4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert gradcheck(partial(graph_loss, reduction=reduction), graph.requires_grad_())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_a_graph_in_half_precision_is_summed_in_float32(dtype: torch.dtype):
    """The sum over 80² entries that differ by 0.5 from the identity, 3200, is not exact in bfloat16."""
    loss = graph_loss(torch.eye(80, dtype=dtype) + 0.5, "sum")
    assert loss.dtype == torch.promote_types(dtype, torch.float32) and loss == 3200


def test_an_unknown_reduction_of_the_graph_is_refused():
    with pytest.raises(AssertionError, match="median"):
        graph_loss(torch.eye(3), "median")  # type: ignore[arg-type]


def test_graph_loss_is_a_mean_whatever_the_number_of_labels():
    costs = [graph_loss(torch.eye(n) + 0.1).item() for n in (2, 20, 80)]
    np.testing.assert_allclose(costs, 0.1, rtol=1e-5)
