"""Sizes and symmetries of the fusion; test_reference compares it with the equations."""

from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from lglm_core.model.head import Head, LabelKnowledge
from tests.lglm_core.model.small_heads import LGLM, small_head

C, D, WIDTH = 7, 10, 5


def build(vectors: Tensor, feature_width: int = D, **options: Any) -> Head:
    return small_head("lglm", feature_width, LabelKnowledge(len(vectors), vectors), **options)


class LargestTensor(TorchDispatchMode):
    """Records the size of the largest tensor that any operation returns, forwards or backwards."""

    elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, (tuple, list)) else (result,):
            if isinstance(tensor, Tensor):
                self.elements = max(self.elements, tensor.numel())
        return result


def test_no_tensor_holds_products_of_every_picture_with_every_label():
    """Eq. 7 taken literally has B·C·m such products, here 192,000; the largest tensor has 4,800 numbers."""
    labels, images, m, feature_width = 40, 50, 96, 20
    head = build(torch.randn(labels, WIDTH), feature_width, m=m).train()
    maps = torch.randn(images, feature_width, 1, 1, requires_grad=True)
    with LargestTensor() as largest:
        head(maps).logits.sum().backward()
    sizes = [m * feature_width, images * m, labels * m, images * labels, images * feature_width]
    assert largest.elements == max(sizes) == 4800


def test_units_within_a_group_are_interchangeable_and_units_of_two_groups_are_not():
    """M1 ∘ M2 is summed over groups of g neighbouring units."""
    rng = torch.Generator().manual_seed(1)
    vectors = torch.randn(C, WIDTH, generator=rng)
    maps = torch.randn(4, D, 2, 2, generator=rng).double()
    head = build(vectors, conditioning="text").double().eval()
    side: Any = head.label_side
    image_side: Any = head.image_side
    before = head(maps).logits

    def swapped(one: int, other: int) -> Tensor:
        order = torch.arange(LGLM["m"])
        order[[one, other]] = order[[other, one]]
        with torch.no_grad():
            for projection in (side.fusion.projection, image_side.projection):
                projection.weight.copy_(projection.weight[order].clone())
                projection.bias.copy_(projection.bias[order].clone())
        return head(maps).logits

    torch.testing.assert_close(swapped(3, 5), before, rtol=0, atol=1e-12)
    assert (swapped(2, 3) - before).abs().max() > 1e-4
