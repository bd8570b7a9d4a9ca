import torch
from torch import Tensor

from tests.lglm_core.model.published_heads import (
    C,
    as_if_trained,
    both_conditionings,
    image_side_of,
    maps,
)


@both_conditionings
def test_every_picture_has_its_own_dynamic_graph(conditioning: str):
    image_side = as_if_trained(image_side_of("add-gcn", conditioning=conditioning)).eval()
    graph, recorded = image_side.graph, []

    def recording(*arguments: Tensor) -> Tensor:
        recorded.append(graph(*arguments))
        return recorded[-1]

    image_side.graph = recording
    logits = image_side(maps(2)).logits
    (graphs,) = recorded
    assert graphs.shape == (2, C, C) and ((graphs > 0) & (graphs < 1)).all()
    assert (graphs[0] - graphs[1]).abs().max() > 0.05
    image_side.graph = lambda *arguments: graph(*arguments).flip(0)
    assert (image_side(maps(2)).logits - logits).abs().max() > 1e-3  # the logits depend on the graph


def test_map_scores_pool_as_chosen():
    feature_map = maps(4)
    largest, mean = (
        as_if_trained(image_side_of("add-gcn", conditioning="text", pooling=pooling)).eval()
        for pooling in ("max", "average")
    )
    activation = torch.einsum("bdhw,cd->bchw", feature_map, largest.activation_maps.weight)
    expected = (activation.amax(dim=(2, 3)) - activation.mean(dim=(2, 3))) / 2
    torch.testing.assert_close(largest(feature_map).logits - mean(feature_map).logits, expected)
