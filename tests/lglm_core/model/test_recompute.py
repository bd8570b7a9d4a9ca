import pytest
import torch
from torch import Tensor

from lglm_core.model import add_gcn, ss_grl
from lglm_core.model.recompute import in_chunks
from tests.lglm_core.model.published_heads import (
    as_if_trained,
    image_side_of,
    maps,
    seeded,
)


def test_rows_in_chunks_are_as_exact_as_all_at_once():
    rows, more = (
        torch.randn(7, 3, requires_grad=True, generator=seeded()),
        torch.randn(7, 1, generator=seeded(1)),
    )
    calls = []

    def function(a: Tensor, b: Tensor) -> Tensor:
        calls.append(len(a))
        return (a * b).tanh()

    at_once = in_chunks(function, rows, more, row_size=3, chunk_size=21)
    (expected,) = torch.autograd.grad(at_once.sum(), rows)
    assert calls == [7]
    chunked = in_chunks(function, rows, more, row_size=3, chunk_size=8)
    assert torch.equal(chunked, at_once) and calls[1:] == [2, 2, 2, 1]
    assert torch.equal(torch.autograd.grad(chunked.sum(), rows)[0], expected)
    assert calls[5:] in ([2, 2, 2, 1], [1, 2, 2, 2])  # again, for the backward pass
    assert torch.equal(in_chunks(function, rows, more, row_size=3, chunk_size=1), at_once)


@pytest.mark.parametrize("name", ["add-gcn", "ss-grl"])
def test_logits_and_gradients_do_not_depend_on_the_chunk_size(name: str, monkeypatch: pytest.MonkeyPatch):
    image_side = as_if_trained(image_side_of(name))
    feature_map = maps(6).requires_grad_()

    def logits_and_gradients() -> list[Tensor]:
        logits = image_side(feature_map).logits
        wanted = [feature_map, *image_side.parameters()]
        return [logits.detach(), *torch.autograd.grad(logits.square().sum(), wanted)]

    at_once = logits_and_gradients()
    monkeypatch.setattr(add_gcn, "CHUNK_SIZE", 1)
    monkeypatch.setattr(ss_grl, "ATTENTION_CHUNK_SIZE", 1)
    monkeypatch.setattr(ss_grl, "GATES_CHUNK_SIZE", 1)
    for chunked, expected in zip(logits_and_gradients(), at_once, strict=True):
        torch.testing.assert_close(chunked, expected, rtol=1e-4, atol=1e-4)
