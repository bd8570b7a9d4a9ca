import numpy as np
import pytest
import torch
import torch.nn.functional as F

from lglm_core.losses import graph_loss, multi_label_loss


def drawn(low: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    rng = torch.Generator().manual_seed(0)
    return torch.randn(4, 7, generator=rng), torch.randint(low, 2, (4, 7), generator=rng).to(torch.int8)


def test_it_is_cross_entropy_summed_over_labels():
    logits, targets = drawn()
    theirs = F.binary_cross_entropy_with_logits(logits, targets.float(), reduction="none").sum(1)
    torch.testing.assert_close(multi_label_loss(logits, targets), theirs)


def test_unknown_labels_add_nothing():
    logits, targets = drawn(low=-1)
    assert (targets < 0).any()
    known = [
        F.binary_cross_entropy_with_logits(x[t >= 0], t[t >= 0].float(), reduction="sum")
        for x, t in zip(logits, targets, strict=True)
    ]
    torch.testing.assert_close(multi_label_loss(logits, targets), torch.stack(known))


def test_unknown_labels_have_no_gradient_and_known_ones_that_of_the_sigmoid():
    logits, targets = drawn(low=-1)
    logits.requires_grad_()
    multi_label_loss(logits, targets).sum().backward()
    assert logits.grad is not None
    expected = torch.where(targets >= 0, logits.detach().sigmoid() - targets, 0.0)
    torch.testing.assert_close(logits.grad, expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_it_is_finite_and_float32_in_half_precision(dtype: torch.dtype):
    logits = torch.tensor([[-60000.0, 60000.0, -100.0, 100.0]], dtype=dtype, requires_grad=True)
    loss = multi_label_loss(logits, torch.tensor([[1, 0, 0, 1]]))
    loss.sum().backward()
    assert loss.dtype == torch.float32 and loss.isfinite().all()
    assert logits.grad is not None and logits.grad.isfinite().all()


def test_half_precision_costs_no_more_than_its_logits():
    logits, targets = drawn()
    half = logits.half()
    torch.testing.assert_close(multi_label_loss(half, targets), multi_label_loss(half.float(), targets))


def test_graph_loss_by_hand():
    """|0.8 - 1| + |0.1| + |-0.3| + |1 - 1|, over four entries."""
    assert graph_loss(torch.tensor([[0.8, 0.1], [-0.3, 1.0]])).item() == pytest.approx(0.6 / 4)


def test_the_identity_costs_nothing():
    assert graph_loss(torch.eye(5)).item() == 0


def test_graph_loss_is_a_mean_whatever_the_number_of_labels():
    costs = [graph_loss(torch.eye(n) + 0.1).item() for n in (2, 20, 80)]
    np.testing.assert_allclose(costs, 0.1, rtol=1e-5)
