import torch

from lglm_core.model.head import LabelKnowledge
from tests.lglm_core.model.published_heads import (
    C,
    as_if_trained,
    both_conditionings,
    image_side_of,
    knowledge,
    maps,
    seeded,
)


def test_every_label_attends_to_its_own_positions():
    image_side = as_if_trained(image_side_of("ss-grl"))
    features = maps(3).flatten(2).transpose(1, 2)
    attention = image_side.decoupling.attention(features)
    assert attention.shape == (3, C, 12)
    torch.testing.assert_close(attention.sum(dim=2), torch.ones(3, C))
    assert (attention[:, 0] - attention[:, 1]).abs().max() > 0.01


def test_messages_are_weighted_by_conditional_probabilities_by_hand():
    counts = torch.tensor([[4, 2, 0], [2, 8, 0], [0, 0, 0]])
    known = LabelKnowledge(3, torch.randn(3, 7, generator=seeded()), counts)
    states = torch.tensor([1.0, 10.0, 100.0]).expand(1, 4, 3).mT
    for conditioning, expected_along, expected_against in (
        ("text", [6, 10.25, 0], [3.5, 10.5, 0]),
        ("conditioned", [6 / 1.5, 10.25 / 1.25, 0], [3.5 / 1.25, 10.5 / 1.5, 0]),
    ):
        image_side = image_side_of(
            "ss-grl", known, feature_width=4, conditioning=conditioning, state_width=None
        )
        messages = image_side.interaction.messages(states)
        assert messages.shape == (1, 3, 8)
        torch.testing.assert_close(messages[0, :, 0], torch.tensor(expected_along))
        torch.testing.assert_close(messages[0, :, 7], torch.tensor(expected_against))


@both_conditionings
def test_zero_counts_and_zero_vectors_give_no_nan(conditioning: str):
    known = LabelKnowledge(C, torch.zeros(C, 7), torch.zeros(C, C, dtype=torch.int64))
    image_side = as_if_trained(image_side_of("ss-grl", known, conditioning=conditioning))
    logits = image_side(maps(4)).logits
    logits.sum().backward()
    assert logits.isfinite().all()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in image_side.parameters())


def test_labels_receive_messages_along_the_graph():
    known = knowledge()
    assert known.counts is not None
    alone = LabelKnowledge(C, known.vectors, torch.diag(known.counts.diagonal()))
    one, other, again = (
        as_if_trained(image_side_of("ss-grl", k, conditioning="text")) for k in (known, alone, known)
    )
    torch.testing.assert_close(one(maps(4)).logits, again(maps(4)).logits)
    assert not torch.allclose(one(maps(4)).logits, other(maps(4)).logits, atol=1e-3)
