"""The options of each head, one class per head; imports nothing heavy.

A head is everything behind the backbone. All heads share data, backbone, training, evaluation and model
room, so that a comparison of two heads compares nothing else.
"""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from lglm_core.errors import InputError

Pooling = Literal["max", "average"]
Activation = Literal["relu", "leaky"]
Normalisation = Literal["absolute", "text", "public"]
Conditioning = Literal["conditioned", "text"]
LabelReduction = Literal["sum", "mean"]
GraphReduction = Literal["mean", "frobenius", "sum"]
LabelLoss = Literal["bce", "asymmetric"]
Width = Annotated[int, Field(ge=1, le=65536)]
Fraction = Annotated[float, Field(ge=0, lt=1)]
Weight = Annotated[float, Field(ge=0)]


class HeadConfig(BaseModel):
    """Options and properties that all heads have."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    needs_vectors: ClassVar[bool] = False
    """Whether the head reads the labels' vectors."""
    needs_counts: ClassVar[bool] = False
    """Whether the head reads how often labels occur together in the training split."""
    foldable: ClassVar[bool] = True
    """Whether the trained head is equivalent to one linear layer on the pooled feature."""

    def penalty_weight(self, reduction: LabelReduction, labels: int, loss: LabelLoss = "bce") -> float:
        """Return λ, the weight with which the head's penalty is added to the classification loss.

        Args:
            reduction: How the classification loss is reduced over labels.
            labels: C, the number of labels.
            loss: The classification loss.
        """
        return 0.0


class GraphConfig(HeadConfig):
    """Heads that turn label vectors into one weight vector per label by graph convolution."""

    needs_vectors: ClassVar[bool] = True

    layers: Annotated[int, Field(ge=2, le=4)] = 2
    """Graph layers (Table 5); the last is as wide as the pooled feature."""
    graph_width: Width = 1024
    """Width of the graph layers before the last."""
    pooling: Pooling = "max"
    """How the feature map becomes one feature (Eq. 2: max)."""
    activation: Activation = "relu"
    """relu behind every graph layer (the text), or leaky (0.2) between them (public code)."""
    conditioning: Conditioning = "conditioned"
    """conditioned: standardised feature, label vectors of unit length, a bias per label that starts at the
    label's log-odds, small first scores; text: none of these."""
    feature_dropout: Fraction = 0.0
    """Fraction of the pooled feature dropped in training; 0.7 suits hundreds of pictures."""


class LearnedGraphConfig(GraphConfig):
    """Heads that learn the label graph from the label vectors (Eqs. 3, 4 and 6)."""

    d_l: Width = 1024
    """d_L: width of the two branches that learn the graph (Eq. 3, Fig. 5)."""
    normalisation: Normalisation = "absolute"
    """absolute: by the degree Σ|Ã|, at least 0.01; text: by ΣÃ as in Eq. 4, NaN where that is negative;
    public: as the text, with a sigmoid behind both branches."""
    graph_loss: GraphReduction = "mean"
    """L_A (Eq. 6) as the mean of absolute differences, the Frobenius norm, or the sum."""
    graph_weight: Weight | None = None
    """λ of Eq. 9. By default 1 with the cross-entropy summed over labels, and 0.1 with the asymmetric loss,
    which is several times smaller; with the mean over labels 1/C of that, which is the same balance."""

    def penalty_weight(self, reduction: LabelReduction, labels: int, loss: LabelLoss = "bce") -> float:
        """Return :attr:`graph_weight`, or its default."""
        if self.graph_weight is not None:
            return self.graph_weight
        weight = 1.0 if loss == "bce" else 0.1
        return weight if reduction == "sum" else weight / labels


class LglmConfig(LearnedGraphConfig):
    """LGLM (Xie et al. 2022): a learned label graph and multi-modal fusion.

    With ``fusion=dot`` it is the paper's *LGLM without MFC* (Table 6).
    """

    fusion: Literal["mfc", "dot"] = "mfc"
    """mfc: Eq. 7; dot: a plain product of feature and label embedding."""
    m: Width = 1024
    """Width of the fused vectors (Fig. 6)."""
    group: Width = 2
    """g: how many products are summed into one (Fig. 7); divides m."""
    fusion_dropout: Fraction = 0.0
    """Fraction of the m products dropped in training, the same ones for all labels of a picture."""
    residual: bool = False
    """Not in the paper: beside the fusion, each label has D weights of its own, which labels with similar
    vectors use in part; better where pictures are few."""

    @model_validator(mode="after")
    def _group_divides_m(self) -> Self:
        if self.m % self.group:
            raise ValueError(f"g = {self.group} does not divide m = {self.m}; choose a divisor")
        return self


class AGcnConfig(LearnedGraphConfig):
    """A-GCN (Li et al. 2020): a learned label graph, LeakyReLU between its layers, and the plain product."""

    activation: Activation = "leaky"
    """leaky (0.2) between the graph layers, as published; or relu behind every one."""


class MlGcnConfig(GraphConfig):
    """ML-GCN (Chen et al. 2019): a graph counted from the training labels, and the plain product."""

    needs_counts: ClassVar[bool] = True

    activation: Activation = "leaky"
    """leaky (0.2) between the graph layers, as published; or relu behind every one."""
    threshold: Fraction = 0.4
    """Conditional probabilities below this value give no edge."""
    reweighting: Fraction = 0.25
    """Total weight of a label's neighbours, beside 1 for the label itself."""


class PlainConfig(HeadConfig):
    """The network's own classifier: one linear layer on the pooled feature, with torch's initialisation."""

    pooling: Pooling = "max"
    """How the feature map becomes one feature; the published baselines of 77 (average) and 82 (max) differ
    only in this."""
    feature_dropout: Fraction = 0.0
    """Fraction of the pooled feature dropped in training."""


class ProbeConfig(HeadConfig):
    """A well-tuned linear probe: standardised feature, weights from 0, biases from log-odds."""

    pooling: Pooling = "max"
    """How the feature map becomes one feature."""
    feature_dropout: Fraction = 0.0
    """Fraction of the pooled feature dropped in training; 0.8 suits hundreds of pictures."""


class RidgeConfig(HeadConfig):
    """Ridge regression in closed form: one pass over the features of a frozen backbone."""

    pooling: Pooling = "max"
    """How the feature map becomes one feature."""
    ridge: Weight | None = None
    """Weight of the squared coefficients, per picture, of standardised features; by default chosen by
    generalised cross-validation."""


class AddGcnConfig(HeadConfig):
    """ADD-GCN (Ye et al. 2020): a label graph that is computed from each picture."""

    foldable: ClassVar[bool] = False

    width: Width = 1024
    """Width of the labels' vectors and of both graph layers."""
    pooling: Pooling = "max"
    """How the class activation maps become one score per label."""
    conditioning: Conditioning = "conditioned"
    """conditioned: standardised feature map, means over positions and labels, first scores at the labels'
    log-odds; text: sums, and none of these."""
    feature_dropout: Fraction = 0.0
    """Fraction of the map's channels dropped in training; not published."""


class SsGrlConfig(HeadConfig):
    """SS-GRL (Chen et al. 2019): word vectors attend to the picture, and a counted graph joins the labels."""

    needs_vectors: ClassVar[bool] = True
    needs_counts: ClassVar[bool] = True
    foldable: ClassVar[bool] = False

    d_1: Width = 1024
    """d_1: width of the product of position and word vector."""
    d_2: Width = 1024
    """d_2: width of the layer behind that product."""
    steps: Annotated[int, Field(ge=1, le=10)] = 3
    """T: steps of the gated graph network."""
    state_width: Width | None = None
    """Width of a label's state; by default the feature's, as published. It sets most of the cost."""
    output_width: Width = 2048
    """Width of a label's output, which the label's classifier reads."""
    conditioning: Conditioning = "conditioned"
    """conditioned: standardised feature map, scaled word vectors, means over labels, first scores at the
    labels' log-odds; text: none of these."""
    feature_dropout: Fraction = 0.0
    """Fraction of the map's channels dropped in training; not published."""


class VacitConfig(HeadConfig):
    """VACIT (Guo et al. 2019): average pooling and one linear layer, whose maps must follow a flip."""

    consistency_weight: Weight | None = None
    """λ of the maps' squared difference under a flip. By default 1 with L_M summed over labels, as published,
    and 1/C with the mean, which is the same balance."""
    penalty_trains: Literal["both", "backbone"] = "both"
    """What the penalty trains. both: head and backbone; backbone: only the backbone (public code), so nothing
    where it is frozen."""
    conditioning: Conditioning = "conditioned"
    """conditioned: standardised feature map, weights from 0, biases from log-odds; text: none of these."""
    feature_dropout: Fraction = 0.0
    """Fraction of the pooled feature dropped in training; not published."""

    def penalty_weight(self, reduction: LabelReduction, labels: int, loss: LabelLoss = "bce") -> float:
        """Return :attr:`consistency_weight`, or its default."""
        if self.consistency_weight is not None:
            return self.consistency_weight
        return 1.0 if reduction == "sum" else 1.0 / labels


class FoldedConfig(HeadConfig):
    """A folded head as an export writes it: one linear layer, which is not trained."""

    pooling: Pooling = "max"
    """How the feature map becomes one feature."""


HEADS: Mapping[str, type[HeadConfig]] = {
    "lglm": LglmConfig,
    "plain": PlainConfig,
    "probe": ProbeConfig,
    "ridge": RidgeConfig,
    "ml-gcn": MlGcnConfig,
    "a-gcn": AGcnConfig,
    "add-gcn": AddGcnConfig,
    "ss-grl": SsGrlConfig,
    "vacit": VacitConfig,
    "folded": FoldedConfig,
}
TRAINABLE = tuple(name for name in HEADS if name != "folded")


def head_config(name: str, options: Mapping[str, Any] | Sequence[str] = ()) -> HeadConfig:
    """Return a head's configuration.

    Args:
        name: One of :data:`HEADS`.
        options: A mapping from names to values, or texts ``NAME=VALUE``; other options keep their defaults.

    Raises:
        InputError: the head or an option is unknown, or a value is invalid; the message lists the choices.
    """
    if name not in HEADS:
        raise InputError(f"head {name!r} is unknown; the heads are {', '.join(TRAINABLE)}")
    kind = HEADS[name]
    values = options if isinstance(options, Mapping) else _parse_options(name, options)
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        fault = error.errors()[0]
        if fault["type"] == "extra_forbidden":
            raise InputError(
                f"the head {name} has no option {fault['loc'][0]!r}; {_list_options(kind)}"
            ) from error
        if not fault["loc"]:  # a rule about several options
            raise InputError(f"head {name}: {fault['ctx']['error']}") from error
        option, message = fault["loc"][0], fault["msg"][0].lower() + fault["msg"][1:]
        raise InputError(f"head {name}: {option}={fault['input']} was given; {message}") from error


def _parse_options(name: str, options: Sequence[str]) -> dict[str, str]:
    for option in options:
        if not all(option.partition("=")):
            raise InputError(f"{option!r}: NAME=VALUE was expected; {_list_options(HEADS[name])}")
    return {option.partition("=")[0]: option.partition("=")[2] for option in options}


def _list_options(kind: type[HeadConfig]) -> str:
    options = (f"{option} ({field.default})" for option, field in kind.model_fields.items())
    return f"its options, with their defaults: {', '.join(options)}"
