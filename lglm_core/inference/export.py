"""Export of a trained model: folded to a backbone and one linear layer, and as an ONNX graph."""

import json
import warnings
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, nn

from lglm_core.errors import RunError
from lglm_core.images.transforms import Preprocessing
from lglm_core.labels.vocabulary import LabelVocabulary
from lglm_core.model.config import FoldedConfig
from lglm_core.model.fold import fold
from lglm_core.model.head import LabelKnowledge, PooledSide, pool
from lglm_core.model.heads import build_head
from lglm_core.model.linear import LinearScores
from lglm_core.model.recogniser import Recogniser

ONNX_FILE = "model.onnx"
ONE_FILE_BYTES = 2**31 - 2**24
"""Larger weights are written to a second file, because a protobuf message holds at most 2 GiB."""


def folded_model(model: Recogniser) -> Recogniser:
    """Return *model* in eval mode with its head folded to one linear layer; both share the backbone.

    Raises:
        InputError: the head does not fold.
    """
    linear, side = fold(model.head), model.head.image_side
    assert isinstance(side, PooledSide)  # or it would not fold
    config = FoldedConfig(pooling=side.pooling)
    head = build_head("folded", config, model.backbone.width, LabelKnowledge(linear.out_features))
    assert isinstance(head.image_side, LinearScores)
    head.image_side.linear = linear
    return Recogniser(model.backbone, head).eval()


def to_onnx(
    model: Recogniser, preprocessing: Preprocessing, labels: LabelVocabulary, thresholds: Sequence[float]
) -> dict[str, bytes]:
    """Return the contents of the ONNX files of a folded model (see :func:`folded_model`), by file name.

    The graph takes ``images``, uint8 [N, 3, S, S], which are pictures squashed to the square; it normalises
    them itself, and gives ``logits``, float32 [N, C], and the pooled ``features``, float32 [N, D]. Its
    metadata hold ``labels`` and ``thresholds`` (JSON lists, in column order) and ``image_size`` (S). The same
    model gives the same bytes.

    Raises:
        RunError: ONNX cannot express an operation of the backbone.
    """
    program = _export_program(
        _OnnxModel(model, preprocessing).eval(), preprocessing.image_size, model.backbone.name
    )
    graph = program.model.graph
    # The exporter records the source line of every node: paths of this machine, and half a megabyte.
    for annotated in (graph, *graph.inputs, *graph.all_nodes()):
        annotated.metadata_props.clear()
    for node in graph.all_nodes():
        for value in node.outputs:
            value.metadata_props.clear()
    program.model.metadata_props.update(
        labels=json.dumps(list(labels), ensure_ascii=False),
        thresholds=json.dumps([float(threshold) for threshold in thresholds]),
        image_size=str(preprocessing.image_size),
    )
    weights = sum(tensor.nbytes for tensor in model.state_dict().values())
    with TemporaryDirectory(prefix="lglm-onnx-") as folder:
        program.save(str(Path(folder, ONNX_FILE)), external_data=weights > ONE_FILE_BYTES)
        return {path.name: path.read_bytes() for path in sorted(Path(folder).iterdir())}


class _OnnxModel(nn.Module):
    """Maps squashed uint8 pictures to the logits and pooled features that :class:`Tagger` computes."""

    def __init__(self, model: Recogniser, preprocessing: Preprocessing) -> None:
        super().__init__()
        side = model.head.image_side
        assert isinstance(side, LinearScores)
        self.backbone = model.backbone
        self.pooling = side.pooling
        self.linear = side.linear
        self.preprocessing = preprocessing

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits [N, C] and features [N, D] of pictures [N, 3, S, S]."""
        features = pool(self.backbone(self.preprocessing.normalise(images)), self.pooling)
        return self.linear(features), features


def _export_program(module: nn.Module, image_size: int, name: str) -> Any:
    pictures = torch.zeros(2, 3, image_size, image_size, dtype=torch.uint8)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return torch.onnx.export(
                module,
                (pictures,),
                dynamo=True,
                input_names=["images"],
                output_names=["logits", "features"],
                dynamic_shapes=({0: torch.export.Dim("N")},),
                verbose=False,
            )
        except torch.onnx.OnnxExporterError as error:
            reason = str(error).strip().partition("\n")[0]
            raise RunError(f"the backbone {name} cannot be written as ONNX ({reason})") from error
