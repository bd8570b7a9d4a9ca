"""Count the parameters and multiply-accumulates of models, as in Table 2 of the paper.

lglm complexity
lglm complexity --head lglm 'lglm m=358 group=358' plain --backbone mobilenet_v2 --image-size 224
"""

import sys
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from jobs import command_line
from jobs.columns import aligned
from jobs.command_line import Outcome
from jobs.options import Complexity as Options
from lglm_core.errors import InputError
from lglm_core.model.config import HeadConfig, head_config

if TYPE_CHECKING:
    from lglm_core.inference.complexity import Complexity, PaperFigures, Setting

COLUMNS = ("model", "parameters", "folded", "MACs", "label side", "folded")
PAPER_COLUMNS = ("paper: parameters", "FLOPs")
WIDTH = 110
NOTES = """\
folded: the backbone and one linear layer, which is all that inference needs. MACs: multiply-accumulates for
one picture; those of the label side are computed once per model, not per picture; folding removes them."""
PAPER_NOTE = """\
The paper's 42.50 M are ResNet-101 alone, so its Table 2 leaves out the graph layers; 44.04 M - 42.57 M is MFC
at m = g = 358 (2 · (2048 · 358 + 358)), not at m = 1024, g = 2 as in its text. Its FLOPs are
multiply-accumulates; all three models have the same, so they leave out what the models differ by."""


def run(options: Options) -> Outcome:
    """Count, and return the counts as a table and as metrics."""
    named = [_head(text) for text in options.head]
    from lglm_core.inference.complexity import PAPER_SETTING, Setting, complexities, paper_figures

    setting = Setting(options.backbone, options.image_size, options.labels, options.vector_width)
    costs = complexities(setting, named)
    not_counted = sorted(set().union(*(cost.not_counted for cost in costs)))
    models = [" ".join(text.split()) for text in options.head]
    lines = [
        f"{setting.backbone}, one picture of {setting.image_size} × {setting.image_size}, "
        f"{setting.labels} labels, label vectors {setting.vector_width} wide",
        "",
        *_overview(models, named, costs, setting),
        "",
        *_components(models, costs, setting),
        "",
        NOTES,
        *textwrap.wrap(f"Not counted, as they are not matrix products: {', '.join(not_counted)}.", WIDTH),
    ]
    lines += [PAPER_NOTE] if setting == PAPER_SETTING else []
    metrics = {
        "models": [
            _record(model, cost, paper_figures(setting, name, config))
            for model, (name, config), cost in zip(models, named, costs, strict=True)
        ],
        "not_counted": not_counted,
    }
    return Outcome("done", None, "\n".join(lines), counts={"models": len(models)}, metrics=metrics)


def _head(text: str) -> tuple[str, HeadConfig]:
    """Parse a head given as ``name option=value ...`` into its name and its options."""
    name, *options = text.split() or [""]
    if not name:
        raise InputError("--head: the name of a head was expected, but an empty text was given")
    return name, head_config(name, options)


def _overview(
    models: Sequence[str],
    named: Sequence[tuple[str, HeadConfig]],
    costs: "Sequence[Complexity]",
    setting: "Setting",
) -> list[str]:
    from lglm_core.inference.complexity import PAPER_SETTING, paper_figures

    as_in_paper = setting == PAPER_SETTING
    rows = [[*COLUMNS, *(PAPER_COLUMNS if as_in_paper else ())]]
    for model, (name, config), cost in zip(models, named, costs, strict=True):
        row = [model, _millions(cost.parameters), _millions(cost.folded)]
        row += [_billions(cost.macs), _billions(cost.macs_label_side or None), _billions(cost.macs_folded)]
        if as_in_paper:
            figures = paper_figures(setting, name, config)
            row += [f"{figures.parameters:.2f} M", f"{figures.flops:.2f} G"] if figures else ["", ""]
        rows.append(row)
    return aligned(rows)


def _components(models: Sequence[str], costs: "Sequence[Complexity]", setting: "Setting") -> list[str]:
    rows = [["parameters by component", ""]]
    for model, cost in zip(models, costs, strict=True):
        rows += [[model, ""], [f"  backbone {setting.backbone}", f"{cost.backbone:,}"]]
        rows += [[f"  {name}", f"{count:,}"] for name, count in cost.components.items()]
        rows += [["  total", f"{cost.parameters:,}"]]
        rows += [["  folded", "does not fold" if cost.folded is None else f"{cost.folded:,}"]]
    return aligned(rows)


def _record(model: str, cost: "Complexity", figures: "PaperFigures | None") -> dict[str, Any]:
    return {
        "model": model,
        "parameters": cost.parameters,
        "parameters_by_part": {"backbone": cost.backbone, **cost.components},
        "parameters_folded": cost.folded,
        "macs": cost.macs,
        "macs_backbone": cost.macs_backbone,
        "macs_image_side": cost.macs_image_side,
        "macs_label_side": cost.macs_label_side,
        "macs_folded": cost.macs_folded,
        "paper": {"parameters_millions": figures.parameters, "flops_billions": figures.flops}
        if figures
        else None,
    }


def _millions(count: int | None) -> str:
    return "–" if count is None else f"{count / 1e6:.2f} M"


def _billions(count: int | None) -> str:
    return "–" if count is None else f"{count / 1e9:.2f} G"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the job from its command line."""
    return command_line.main("complexity", Options, run, argv)


if __name__ == "__main__":
    sys.exit(main())
