"""The training recipe: named presets, of which every value can be overridden. Imports nothing heavy."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from lglm_core.model.config import TRAINABLE, HeadConfig, LabelLoss, LabelReduction, RidgeConfig, head_config

PositiveInt = Annotated[int, Field(gt=0)]
Seed = Annotated[int, Field(ge=0, lt=2**31)]
Fraction = Annotated[float, Field(ge=0, lt=1)]
Rate = Annotated[float, Field(gt=0)]
Weight = Annotated[float, Field(ge=0)]
Preset = Literal["simple", "paper", "modern"]
Views = Literal["flip", "crop"]

PRESETS: Mapping[Preset, Mapping[str, Any]] = {
    # The simplest recipe that trains well, from hundreds of pictures up.
    "simple": {
        "epochs": 40,
        "optimizer": "adamw",
        "schedule": "cosine",
        "lr": 1e-3,
        "backbone_lr_fraction": 0.1,
        "weight_decay": 0.05,
        "loss": "bce",
        "label_reduction": "sum",
        "gamma_neg": 4.0,
        "gamma_pos": 0.0,
        "margin": 0.05,
        "clip": 0.0,
        "ema": 0.0,
        "views": "crop",
        "rand_augment": 0,
        "cutout": 0.0,
    },
    # Section 4.2 of the paper; details that the text leaves open follow the authors' code: L_M averaged over
    # labels (lr 0.1 diverges with the sum), the backbone at a tenth of the head's rate, gradients clipped at
    # 10.
    "paper": {
        "epochs": 50,
        "optimizer": "sgd",
        "schedule": "step",
        "lr": 0.1,
        "backbone_lr_fraction": 0.1,
        "weight_decay": 1e-4,
        "loss": "bce",
        "label_reduction": "mean",
        "gamma_neg": 4.0,
        "gamma_pos": 0.0,
        "margin": 0.05,
        "clip": 10.0,
        "ema": 0.0,
        "views": "crop",
        "rand_augment": 0,
        "cutout": 0.0,
    },
    # What improved later models: asymmetric loss, an averaged model, RandAugment, Cutout and OneCycle
    # (Ridnik et al. 2021, whose pictures are squashed, not cropped).
    "modern": {
        "epochs": 40,
        "optimizer": "adamw",
        "schedule": "one-cycle",
        "lr": 1e-3,
        "backbone_lr_fraction": 0.1,
        "weight_decay": 1e-4,
        "loss": "asymmetric",
        "label_reduction": "sum",
        "gamma_neg": 4.0,
        "gamma_pos": 0.0,
        "margin": 0.05,
        "clip": 0.0,
        "ema": 0.9997,
        "views": "flip",
        "rand_augment": 2,
        "cutout": 0.5,
    },
}


class TrainingRecipe(BaseModel):
    """How to train; values that are not given are taken from the preset."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    recipe: Preset = "simple"
    """Preset for values that are not given. simple: AdamW, cosine decay, cross-entropy, crops and flips.
    paper: SGD at 0.1, divided by 10 every 40 epochs. modern: AdamW with OneCycle, asymmetric loss, an
        averaged
    model, RandAugment and Cutout."""
    head: str = "lglm"
    """Everything behind the backbone: lglm, plain, probe, ridge, ml-gcn, a-gcn, add-gcn, ss-grl or vacit."""
    head_option: tuple[str, ...] = ()
    """NAME=VALUE of the head's own options, such as m=512 fusion=dot; a wrong name lists them all."""
    backbone: str = "resnet101"
    """Any classification CNN of torchvision, by name, or of timm as timm/NAME."""
    weights: str = "imagenet"
    """Weights that the backbone starts from: imagenet, none, or a file."""
    image_size: Annotated[int, Field(ge=32)] = 448
    """Side of the square pictures, in pixels."""
    freeze_backbone: bool = False
    """Train only the head. With the views flip and no augmentation the features are computed once."""
    epochs: PositiveInt | None = None
    """Passes over the training split; 40, or 50 with the paper's recipe."""
    batch_size: PositiveInt = 32
    """Pictures per optimiser step, over all workers together."""
    accumulate: PositiveInt = 1
    """Micro-batches that a worker's slice of a batch is divided into, to save memory."""
    optimizer: Literal["adamw", "sgd"] | None = None
    """adamw, or sgd with momentum 0.9."""
    schedule: Literal["cosine", "step", "one-cycle"] | None = None
    """cosine: up over 5% of the steps, then down to 0; step: divided by 10 every 40 epochs; one-cycle: up
    over 30%, then down, along cosines."""
    lr: Rate | None = None
    """Peak learning rate of the head; 1e-3, or 0.1 with the paper's recipe."""
    backbone_lr: Rate | None = None
    """Peak learning rate of the backbone; default lr / 10, or lr where the weights are none."""
    weight_decay: Weight | None = None
    """Decay of weight matrices; 0.05, or 1e-4 with the recipes paper and modern."""
    loss: LabelLoss | None = None
    """L_M: binary cross-entropy (Eq. 8), or the asymmetric loss."""
    label_reduction: LabelReduction | None = None
    """L_M of a picture: sum over labels, or mean."""
    gamma_neg: Weight | None = None
    """Asymmetric loss: focusing power for absent labels; 4."""
    gamma_pos: Weight | None = None
    """Asymmetric loss: focusing power for present labels; 0."""
    margin: Fraction | None = None
    """Asymmetric loss: an absent label below this probability costs nothing; 0.05."""
    clip: Weight | None = None
    """Largest norm of a step's gradient; 0: no limit. 10 with the paper's recipe."""
    ema: Fraction | None = None
    """Decay of the averaged model, which is then kept and used; 0: none. 0.9997 with the modern recipe."""
    views: Views | None = None
    """Training views. crop: crops at several scales, flipped half of the time; flip: the whole picture,
    flipped half of the time."""
    rand_augment: Annotated[int, Field(ge=0, le=10)] | None = None
    """RandAugment operations per training view."""
    cutout: Fraction | None = None
    """Side of the square that is blanked in each training view, as a fraction of the picture's side."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """Precision of backbone and image side in training; the label side is always fp32."""
    compile: bool = False
    """Compile the model (torch.compile): slower to start, faster on GPUs."""
    seed: Seed = 0
    """Seed of weights, order, views and dropout."""

    @model_validator(mode="after")
    def _head_is_known(self) -> Self:
        if self.head not in TRAINABLE:
            raise ValueError(f"head {self.head!r} is unknown; the heads are {', '.join(TRAINABLE)}")
        config = self.head_config
        if self.head == "ridge" and not self.freeze_backbone:
            raise ValueError(
                "the head ridge is solved on the features of a fixed backbone; add `freeze_backbone`"
            )
        if isinstance(config, RidgeConfig) and config.ridge is None and self.epochs not in (None, 1):
            # Cross-validation would take several views of one picture for several pictures.
            raise ValueError(
                "the head ridge chooses its ridge in one pass; leave `epochs` out, or name its option ridge"
            )
        return self

    @property
    def head_config(self) -> HeadConfig:
        """The options of the head."""
        return head_config(self.head, self.head_option)

    def filled_in(self) -> "FullRecipe":
        """Return the recipe with every value that was not given filled in from its preset."""
        preset = dict(PRESETS[self.recipe])
        backbone_lr_fraction = preset.pop("backbone_lr_fraction")
        values = self.model_dump() | {name: v for name, v in preset.items() if getattr(self, name) is None}
        if self.backbone_lr is None:
            # A backbone with random weights has as much to learn as the head.
            fraction = 1.0 if self.weights == "none" else backbone_lr_fraction
            values["backbone_lr"] = values["lr"] * fraction
        if self.head == "ridge" and self.epochs is None:
            values["epochs"] = 1  # the closed form needs one pass
        names = FullRecipe.model_fields
        return FullRecipe(**{name: value for name, value in values.items() if name in names})


class FullRecipe(TrainingRecipe):
    """A recipe in which every value is given."""

    epochs: PositiveInt
    optimizer: Literal["adamw", "sgd"]
    schedule: Literal["cosine", "step", "one-cycle"]
    lr: Rate
    backbone_lr: Rate
    weight_decay: Weight
    loss: LabelLoss
    label_reduction: LabelReduction
    gamma_neg: Weight
    gamma_pos: Weight
    margin: Fraction
    clip: Weight
    ema: Fraction
    views: Views
    rand_augment: int
    cutout: Fraction
