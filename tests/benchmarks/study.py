"""A comparison of all heads, trained in the same way on few pictures, with confidence intervals.

    python -m tests.benchmarks.study --dataset DATASET --label-embeddings LABELS --weights FILE --out STUDY

Each head is trained as ``lglm train --freeze-backbone --views flip`` does. Of the learning rates, dropouts
and decays that a system lists, the best combination is chosen for each number of pictures on the training
split: by training on that many of its pictures and measuring on the others, never on the validation split.
The backbone's features are computed once. The result of each system is a JSON file in STUDY, and an existing
one is kept; STUDY/table.md summarises them.
"""

import argparse
import json
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lglm_core import seeds
from lglm_core.dataset.reader import Dataset, Split
from lglm_core.labels.embeddings import FILE, LabelEmbeddings
from lglm_core.loading.loader import Loader
from lglm_core.metrics.bootstrap import compare
from lglm_core.metrics.multi_label import average_precisions
from lglm_core.model.backbone import Backbone
from lglm_core.model.extend import extend
from lglm_core.model.fold import fold
from lglm_core.model.head import PooledSide, pool
from lglm_core.training.features import Features
from lglm_core.training.loop import score
from lglm_core.training.recipe import TrainingRecipe
from lglm_core.training.run import TrainingRun, build_model, label_knowledge

BACKBONE, IMAGE_SIZE = "mobilenet_v2", 224
STEPS = 300
CPU = torch.device("cpu")


@dataclass(frozen=True)
class System:
    """A head with fixed options, and the values among which the training split chooses."""

    name: str
    head: str
    options: tuple[str, ...] = ()
    dropouts: tuple[float | None, ...] = (0.5, 0.8)
    lrs: tuple[float, ...] = (3e-4, 1e-3, 3e-3)
    weight_decays: tuple[float, ...] = (0.05,)
    folds: int = 3
    precision: str = "fp32"

    def choices(self) -> Iterator[dict[str, Any]]:
        """Yield every combination of the values to choose from."""
        for dropout, lr, decay in product(self.dropouts, self.lrs, self.weight_decays):
            drop = () if dropout is None else (f"feature_dropout={dropout}",)
            yield {
                "head_option": (*self.options, *drop),
                "lr": lr,
                "weight_decay": decay,
                "precision": self.precision,
            }


PROBE = "tuned linear probe"
RESIDUAL = "LGLM with residual weights"
SMALL = ("residual=true", "fusion_dropout=0.7", "d_l=256", "m=128", "graph_width=256")
# These two read whole maps, and even with these options a step takes tenths of a second on a CPU.
SLOW: dict[str, Any] = {"folds": 1, "precision": "bf16"}
NARROW = ("state_width=128", "d_1=128", "d_2=128", "output_width=256")
SYSTEMS = (
    System("linear, average pooling", "plain", ("pooling=average",)),
    System("linear, max pooling", "plain"),
    System(PROBE, "probe", weight_decays=(0.05, 5.0)),
    System("ridge, closed form", "ridge", dropouts=(None,), lrs=(1e-3,)),
    System("ML-GCN", "ml-gcn"),
    System("A-GCN", "a-gcn"),
    System("LGLM without MFC", "lglm", ("fusion=dot",)),
    System("LGLM", "lglm"),
    System(RESIDUAL, "lglm", SMALL, weight_decays=(0.05, 5.0)),
    System("VACIT", "vacit", dropouts=(None,)),
    System("ADD-GCN", "add-gcn", dropouts=(0.5,), lrs=(3e-4, 1e-3), **SLOW),
    System("SS-GRL", "ss-grl", NARROW, dropouts=(None,), lrs=(1e-3, 3e-3), **SLOW),
)
SIZES = (60, 120, 200, None)  # None: all training pictures
SEEDS = 3
HELD_OUT = 16


@dataclass(frozen=True)
class Subset(Dataset):
    """A dataset with some of the training pictures, and the validation split or held-out rows beside them."""

    train: tuple[int, ...] = ()
    held: tuple[int, ...] | None = None

    def split(self, name: str) -> Split:
        """Return the chosen rows of a split."""
        if name == "val" and self.held is None:
            return whole_split(self.url, "val", self.labels.names)
        rows = self.train if name == "train" else self.held
        whole = whole_split(self.url, "train", self.labels.names)
        return replace(whole, name="train", index=whole.index.take(list(rows or ())))


@cache
def whole_split(url: str, name: str, labels: tuple[str, ...]) -> Split:
    """Read a split; it is kept in memory."""
    dataset = Dataset.open(url)
    return dataset.without([label for label in dataset.labels if label not in labels]).split(name)


@dataclass
class Study:
    """The data of the study, and the backbone's feature maps of all pictures."""

    dataset: Dataset
    embeddings: LabelEmbeddings
    maps: dict[str, torch.Tensor]

    def subset(self, train: Sequence[int], held: Sequence[int] | None = None) -> Subset:
        """Return the dataset with some training pictures, and with *held* ones for validation if given."""
        rows = None if held is None else tuple(held)
        return Subset(**vars(self.dataset), train=tuple(train), held=rows)

    def run(
        self,
        system: System,
        choice: dict[str, Any],
        subset: Subset,
        seed: int,
        embeddings: LabelEmbeddings | None = None,
    ) -> tuple[np.ndarray, np.ndarray, TrainingRun]:
        """Train; return the scores and targets of the validation pictures, and the run."""
        steps_per_epoch = -(-len(subset.train) // 32)
        recipe = TrainingRecipe(
            head=system.head,
            backbone=BACKBONE,
            image_size=IMAGE_SIZE,
            freeze_backbone=True,
            views="flip",
            weights="none",
            epochs=1 if system.head == "ridge" else max(1, STEPS // steps_per_epoch),
            seed=seed,
            **choice,
        ).filled_in()
        vectors = (embeddings or self.embeddings).only(subset.labels)
        model = build_model(recipe, label_knowledge(recipe, subset, vectors))
        side = model.head.image_side
        pooling = side.pooling if isinstance(side, PooledSide) and not side.wants_mirror else None
        features = {
            "train": self.features("train", subset.train, pooling),
            "val": self.features("val", None, pooling)
            if subset.held is None
            else self.features("train", subset.held, pooling),
        }
        run = TrainingRun(subset, model, recipe, device=CPU, features=features)
        validation = run.splits.pop("val")  # scored once at the end, and not after every epoch
        for _ in run.epochs():
            pass
        scores, rows = score(run.trainer, run.batches["val"])
        ordered = np.empty_like(scores)
        ordered[rows] = scores
        return ordered, validation.targets, run

    def features(self, split: str, rows: Sequence[int] | None, pooling: Any) -> Features:
        """Return the pooled features of a split, or of some of its rows."""
        maps = self.pooled(split, pooling)
        return Features(maps if rows is None else maps[:, list(rows)])

    @cache  # noqa: B019  (there is one study)
    def pooled(self, split: str, pooling: Any) -> torch.Tensor:
        """Return the pooled maps of a split."""
        maps = self.maps[split]
        if pooling is None:
            return maps
        return pool(maps.flatten(0, 1), pooling).unflatten(0, (2, -1))[..., None, None]

    def __hash__(self) -> int:
        return id(self)


def mean_ap(scores: np.ndarray, targets: np.ndarray) -> float:
    """Return the mAP in percent, over the labels that have positives."""
    return 100 * float(np.nanmean(average_precisions(scores, targets)))


def draws(samples: int, size: int, count: int) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Draw *size* of the training pictures *count* times; return (drawn rows, other rows) of each."""
    drawn = []
    for number in range(count):
        order = seeds.rng("draw", samples, size, number).permutation(samples)
        drawn.append((tuple(map(int, order[:size])), tuple(map(int, order[size:]))))
    return drawn


def open_study(dataset: str, label_embeddings: str, weights: str, kept: Path) -> Study:
    """Read the data, and run the backbone once over all pictures or read its earlier results."""
    data = Dataset.open(dataset)
    embeddings = LabelEmbeddings.load(f"{label_embeddings}/{FILE}")
    file = kept / "maps.pt"
    if not file.exists():
        backbone = Backbone(BACKBONE)
        backbone.load_weights(weights)
        maps = {
            name: Features.compute(
                backbone,
                Loader(split=data.split(name), fingerprint="", image_size=IMAGE_SIZE, batch_size=16),
                None,
                CPU,
            ).maps
            for name in ("train", "val")
        }
        kept.mkdir(parents=True, exist_ok=True)
        torch.save(maps, file)
    return Study(data, embeddings, torch.load(file, weights_only=True))


def choose(study: Study, system: System, size: int | None) -> dict[str, Any]:
    """Choose the best of a system's combinations for a number of pictures, on the training split alone.

    Each is trained on that many pictures (on four fifths if *size* is None) and measured on the others.
    """
    choices = list(system.choices())
    if len(choices) == 1:
        return choices[0]
    samples = len(study.dataset.split("train"))
    folds = draws(samples, size or samples * 4 // 5, system.folds)
    measured = [
        np.mean([mean_ap(*study.run(system, choice, study.subset(*fold), seed=0)[:2]) for fold in folds])
        for choice in choices
    ]
    return choices[int(np.argmax(measured))]


def measure(study: Study, system: System) -> dict[str, Any]:
    """Train a system on each number of pictures from each seed, and measure it on the validation split.

    Returns:
        The seconds, and by number of pictures the chosen combination, the mAPs and the scores of each seed.
    """
    started = time.perf_counter()
    samples = len(study.dataset.split("train"))
    sizes: dict[str, Any] = {}
    for size in SIZES:
        choice = choose(study, system, size)
        maps, scores = [], []
        for seed in range(SEEDS):
            train, _ = draws(samples, size or samples, SEEDS)[seed]
            seed_scores, targets, _ = study.run(system, choice, study.subset(train), seed)
            maps.append(mean_ap(seed_scores, targets))
            scores.append(seed_scores.astype(np.float64).round(6).tolist())
        sizes[str(size or "all")] = {"choice": choice, "mAP": maps, "scores": scores}
    return {"system": asdict(system), "sizes": sizes, "seconds": time.perf_counter() - started}


def never_trained(study: Study, system: System, choice: dict[str, Any]) -> dict[str, list[float]]:
    """Return the mAP per seed on labels added by name to a model trained on the others, and on controls."""
    names = study.dataset.labels.names
    samples = len(study.dataset.split("train"))
    results: dict[str, list[float]] = {"word vectors": [], "permuted vectors": [], "random scores": []}
    for seed in range(SEEDS):
        rng = seeds.rng("never trained", seed)
        held = sorted(rng.choice(len(names), HELD_OUT, replace=False))
        rest = study.subset(range(samples)).without([names[column] for column in held])
        shuffled = replace(study.embeddings, vectors=rng.permutation(study.embeddings.vectors))
        targets = study.dataset.split("val").targets[:, held]
        for kind, embeddings in (("word vectors", study.embeddings), ("permuted vectors", shuffled)):
            _, _, run = study.run(system, choice, rest, seed, embeddings)
            folded = fold(extend(run.trained, torch.from_numpy(embeddings.vectors[held])).head)
            with torch.no_grad():
                logits = folded(study.features("val", None, "max").maps[0].flatten(1))
            results[kind].append(mean_ap(logits[:, -HELD_OUT:].numpy(), targets))
        results["random scores"].append(mean_ap(rng.random(targets.shape), targets))
    return results


def main() -> None:
    """Run the missing systems of the study, and write its table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name in ("--dataset", "--label-embeddings", "--weights", "--out"):
        parser.add_argument(name, required=True)
    parser.add_argument("--only", nargs="*", help="names of systems; default all")
    options = parser.parse_args()
    torch.set_num_threads(1)
    out = Path(options.out)
    study = open_study(options.dataset, options.label_embeddings, options.weights, out)
    for system in SYSTEMS:
        file = out / f"{system.name}.json"
        if (options.only and system.name not in options.only) or file.exists():
            continue
        result = measure(study, system)
        if system.head == "lglm":
            result["never trained"] = never_trained(study, system, result["sizes"]["all"]["choice"])
        file.write_text(json.dumps(result))
        maps = {size: round(float(np.mean(row["mAP"])), 1) for size, row in result["sizes"].items()}
        print(f"{system.name}: {maps} {result['seconds']:.0f} s", file=sys.stderr, flush=True)
    results = {
        system.name: json.loads((out / f"{system.name}.json").read_text())
        for system in SYSTEMS
        if (out / f"{system.name}.json").exists()
    }
    table = table_of(results, study.dataset.split("val").targets)
    (out / "table.md").write_text(table)
    print(table)


def table_of(results: dict[str, Any], targets: np.ndarray) -> str:
    """Return the results as Markdown tables."""
    sizes = [str(size or "all") for size in SIZES]
    lines = [
        "| head | " + " | ".join(sizes) + " | all: against the tuned probe |",
        "|---|" + "---:|" * (len(sizes) + 1),
    ]
    for name, result in results.items():
        cells = [
            f"{np.mean(maps):.1f} ± {np.std(maps):.1f}" for maps in (result["sizes"][s]["mAP"] for s in sizes)
        ]
        versus = (
            ""
            if name == PROBE or PROBE not in results
            else difference_to_probe(result, results[PROBE], targets)
        )
        lines.append(f"| {name} | " + " | ".join(cells) + f" | {versus} |")
    lines += [
        "",
        "| labels never trained | word vectors | permuted vectors | random scores |",
        "|---|---:|---:|---:|",
    ]
    for name, result in results.items():
        if never := result.get("never trained"):
            lines.append(
                f"| {name} | "
                + " | ".join(f"{np.mean(v):.1f} ± {np.std(v):.1f}" for v in never.values())
                + " |"
            )
    lines += ["", "| head | pictures | chosen |", "|---|---:|---|"]
    for name, result in results.items():
        for size, row in result["sizes"].items():
            choice = row["choice"]
            head = " ".join(choice["head_option"])
            lines.append(
                f"| {name} | {size} | `{head}` lr {choice['lr']:g}, decay {choice['weight_decay']:g} |"
            )
    return "\n".join(lines) + "\n"


def difference_to_probe(result: dict[str, Any], probe: dict[str, Any], targets: np.ndarray) -> str:
    """Return the difference to the probe by the paired bootstrap over pictures, averaged over seeds."""
    comparisons = [
        compare(np.array(ours), np.array(theirs), targets)
        for ours, theirs in zip(
            result["sizes"]["all"]["scores"], probe["sizes"]["all"]["scores"], strict=True
        )
    ]
    difference, low, high = (
        100 * np.mean([getattr(each, k) for each in comparisons]) for k in ("difference", "low", "high")
    )
    return f"{difference:+.1f} ({low:+.1f} to {high:+.1f})"


if __name__ == "__main__":
    main()
