import pytest
import torch
from torch import Tensor, nn
from torchvision.models import ResNet101_Weights

from lglm_core.errors import InputError
from lglm_core.inference.complexity import PAPER_SETTING, Complexity, Setting, complexities, count_operations
from lglm_core.model.backbone import Backbone
from lglm_core.model.config import HEADS, head_config
from lglm_core.model.fold import fold
from lglm_core.model.head import Head
from lglm_core.model.heads import BUILDERS
from tests.lglm_core.model.small_heads import FOLDABLE, SMALL, VARIANTS, draw_knowledge, small_head

pytestmark = pytest.mark.weighty

NOT_FOLDABLE = [name for name in BUILDERS if not HEADS[name].foldable]
SMALL_SETTING = Setting("shufflenet_v2_x0_5", 64, 9, 16)
WIDTH, CELLS = 1024, 4


def costs_of(*heads: str, setting: Setting = SMALL_SETTING) -> list[Complexity]:
    return complexities(
        setting, [(name, head_config(name, options)) for name, *options in map(str.split, heads)]
    )


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return Backbone(SMALL_SETTING.backbone).eval()


@pytest.fixture(scope="module")
def costs() -> dict[str, Complexity]:
    """The costs of every small head."""
    heads = [(name, head_config(name, options)) for name, options in VARIANTS.values()]
    return dict(zip(VARIANTS, complexities(SMALL_SETTING, heads), strict=True))


def built(variant: str) -> Head:
    """Return the head with real parameters."""
    return small_head(variant, WIDTH, draw_knowledge(9, 16))


def numel(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.fixture(scope="module")
def paper_costs() -> list[Complexity]:
    return costs_of("lglm conditioning=text", "ml-gcn", "a-gcn", setting=PAPER_SETTING)


def test_the_papers_model_has_the_parameters_counted_by_hand(paper_costs: list[Complexity]):
    lglm = paper_costs[0]
    assert lglm.backbone == 42_500_160
    assert lglm.components == {
        "label graph": 2 * (300 * 1024 + 1024),
        "graph layers": 300 * 1024 + 1024 * 2048,
        "label projection": 2048 * 1024 + 1024,
        "image projection": 2048 * 1024 + 1024,
        "score": 512,
        "biases": 1,
    }
    assert lglm.components["label graph"] == 616_448
    assert lglm.components["graph layers"] == 2_404_352
    assert lglm.components["label projection"] + lglm.components["image projection"] == 4_196_352
    assert lglm.parameters == 49_717_825


def test_the_papers_difference_between_lglm_and_a_gcn_is_a_fusion_of_358():
    a_gcn, lglm = costs_of(
        "a-gcn conditioning=text", "lglm conditioning=text m=358 group=358", setting=PAPER_SETTING
    )
    projections = lglm.components["label projection"] + lglm.components["image projection"]
    assert projections == 2 * (2048 * 358 + 358)
    assert round((lglm.parameters - a_gcn.parameters) / 1e6, 2) == round(44.04 - 42.57, 2)


def test_resnet101_needs_31_billion_multiply_accumulates(paper_costs: list[Complexity]):
    """torchvision lists the operations of the whole network at 224 pixels."""
    assert {cost.macs_backbone for cost in paper_costs} == {31_197_429_760}
    listed = ResNet101_Weights.DEFAULT.meta["_ops"]
    assert paper_costs[0].macs_backbone / 4 + 2048 * 1000 == pytest.approx(listed * 1e9, rel=1e-4)


def test_the_operations_of_label_and_image_side_by_hand(paper_costs: list[Complexity]):
    labels, d, d_l, hidden, width, m = 80, 300, 1024, 1024, 2048, 1024
    graph = 2 * labels * d * d_l + labels * labels * d_l
    layers = labels * labels * d + labels * d * hidden + labels * labels * hidden + labels * hidden * width
    assert paper_costs[0].macs_label_side == graph + layers + labels * width * m
    assert paper_costs[0].macs_image_side == width * m + m * labels
    assert paper_costs[1].macs_label_side == layers
    assert paper_costs[2].macs_label_side == graph + layers
    assert paper_costs[0].macs == sum(
        (paper_costs[0].macs_backbone, paper_costs[0].macs_label_side, paper_costs[0].macs_image_side)
    )


@pytest.mark.parametrize("name", ["shufflenet_v2_x0_5", "googlenet", "timm/resnet10t"])
def test_the_operations_of_a_backbone_are_those_of_its_convolutions(name: str):
    """They are counted in another way, from the shapes of each convolution's output."""
    network, counts = Backbone(name).eval(), []

    def count(convolution: nn.Conv2d, _: object, output: Tensor) -> None:
        counts.append(output.numel() * convolution.weight[0].numel())

    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(count)
    with torch.no_grad():
        network(torch.zeros(1, 3, 96, 96))
    (cost,) = costs_of("plain", setting=Setting(name, 96, 9, 16))
    assert cost.macs_backbone == sum(counts) > 1e6
    assert cost.backbone == numel(network)


@pytest.mark.parametrize("variant", VARIANTS)
def test_parameters_are_counted_as_in_the_real_head(
    backbone: Backbone, costs: dict[str, Complexity], variant: str
):
    assert costs[variant].parameters == numel(backbone) + numel(built(variant))
    assert all(costs[variant].components.values())


@pytest.mark.parametrize("variant", FOLDABLE)
def test_after_folding_backbone_and_layer_are_left(
    backbone: Backbone, costs: dict[str, Complexity], variant: str
):
    cost = costs[variant]
    assert cost.folded == numel(backbone) + numel(fold(built(variant)))
    assert cost.macs_folded == cost.macs_backbone + WIDTH * 9 <= cost.macs


@pytest.mark.parametrize("name", NOT_FOLDABLE)
def test_a_head_that_does_not_fold_has_no_folded_cost(costs: dict[str, Complexity], name: str):
    cost = costs[name]
    assert cost.folded is cost.macs_folded is None
    assert cost.macs > cost.macs_backbone


def test_every_product_of_ss_grl_is_counted(costs: dict[str, Complexity]):
    """Its attention multiplies a matrix by a vector, which torch's own counter does not count."""
    d_1, d_2, state, output = SMALL["ss-grl"].values()
    labels, words = 9, 16
    attention = CELLS * WIDTH * d_1 + labels * words * d_1 + d_1 * d_2 + labels * CELLS * d_1
    gathered = labels * CELLS * WIDTH + labels * WIDTH * state
    step = 2 * labels * labels * state + labels * (2 * state * 3 * state + state * 2 * state + state * state)
    assert costs["ss-grl"].macs_image_side == attention + gathered + 3 * step + labels * 2 * state * output


def test_only_the_heads_options_change_the_cost():
    wide, narrow, again = costs_of("lglm m=512", "lglm m=64", "lglm m=512")
    assert wide == again
    assert wide.components["image projection"] == 8 * narrow.components["image projection"]
    assert wide.macs_backbone == narrow.macs_backbone


def test_the_number_of_labels_and_the_width_of_vectors_are_the_settings():
    (few,), (many,) = (
        costs_of("lglm conditioning=text", setting=Setting("shufflenet_v2_x0_5", 64, *numbers))
        for numbers in ((5, 16), (6000, 50))
    )
    assert many.components["label graph"] == 2 * (50 * 1024 + 1024)
    assert few.components["label projection"] == many.components["label projection"]  # shared by all labels
    assert many.folded is not None and few.folded is not None
    assert many.folded - few.folded == 5995 * (WIDTH + 1)


class MatrixProductsAndMore(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return ((x @ x.T) @ x[:, 0]).relu().softmax(0)[None, :]


def test_operations_that_are_not_counted_are_named():
    _, operations = count_operations(MatrixProductsAndMore(), torch.zeros(3, 5))
    assert operations.macs == 3 * 5 * 3 + 3 * 3
    assert operations.not_counted == {"relu", "softmax"}


def test_the_uncounted_operations_of_a_backbone_are_named():
    (cost,) = costs_of("plain")
    assert {"batch_norm", "relu", "max_pool2d", "amax"} <= cost.not_counted
    assert not {"convolution", "addmm", "mm"} & cost.not_counted


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        (Setting(backbone="resnet100"), "resnet101"),
        (Setting(backbone="inception_v3", image_size=32), "image size 32 is too small for inception_v3"),
    ],
)
def test_an_impossible_setting_is_refused(setting: Setting, message: str):
    with pytest.raises(InputError, match=message):
        costs_of("plain", setting=setting)
