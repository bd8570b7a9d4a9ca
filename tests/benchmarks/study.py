"""Every head, trained alike on few pictures: which is better, by how much, and is it chance?

    python -m tests.benchmarks.study --dataset DATASET --label-embeddings LABELS --weights FILE --out STUDY

Each head is trained as ``lglm train --freeze-backbone --views flip`` trains it, with its own learning rate,
dropout and decay. Those are chosen for each number of pictures on the training split alone: by training on
that many of it and measuring on the others, never on the validation split. The backbone's features are
computed once for all. Each system's result is a JSON file in STUDY, and one that is there is not made again;
STUDY/table.md sums them up.
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
    """A head with the options it is compared under, and the choices to be made on the training split."""

    name: str
    head: str
    options: tuple[str, ...] = ()
    dropouts: tuple[float | None, ...] = (0.5, 0.8)
    lrs: tuple[float, ...] = (3e-4, 1e-3, 3e-3)
    weight_decays: tuple[float, ...] = (0.05,)
    folds: int = 3
    precision: str = "fp32"

    def choices(self) -> Iterator[dict[str, Any]]:
        """Every combination to choose among."""
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
# These two read whole maps: on a CPU a step takes tenths of a second even so.
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
class Part(Dataset):
    """A dataset with some training pictures, measured on others: the validation split, or held ones."""

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
    """Read a split once."""
    dataset = Dataset.open(url)
    return dataset.without([label for label in dataset.labels if label not in labels]).split(name)


@dataclass
class Study:
    """The data of the study, and what the backbone says about them."""

    dataset: Dataset
    embeddings: LabelEmbeddings
    maps: dict[str, torch.Tensor]

    def part(self, train: Sequence[int], held: Sequence[int] | None = None) -> Part:
        """Take some training pictures; measured on *held* ones, or on the validation split."""
        rows = None if held is None else tuple(held)
        return Part(**vars(self.dataset), train=tuple(train), held=rows)

    def run(
        self,
        system: System,
        choice: dict[str, Any],
        part: Part,
        seed: int,
        embeddings: LabelEmbeddings | None = None,
    ) -> tuple[np.ndarray, np.ndarray, TrainingRun]:
        """Train; return scores and targets of what it is measured on, and the run."""
        steps_per_epoch = -(-len(part.train) // 32)
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
        vectors = (embeddings or self.embeddings).only(part.labels)
        model = build_model(recipe, label_knowledge(recipe, part, vectors))
        side = model.head.image_side
        pooling = side.pooling if isinstance(side, PooledSide) and not side.wants_mirror else None
        features = {
            "train": self.features("train", part.train, pooling),
            "val": self.features("val", None, pooling)
            if part.held is None
            else self.features("train", part.held, pooling),
        }
        run = TrainingRun(part, model, recipe, device=CPU, features=features)
        measured = run.splits.pop("val")  # once, at the end, and not after every epoch
        for _ in run.epochs():
            pass
        scores, rows = score(run.trainer, run.batches["val"])
        ordered = np.empty_like(scores)
        ordered[rows] = scores
        return ordered, measured.targets, run

    def features(self, split: str, rows: Sequence[int] | None, pooling: Any) -> Features:
        """Pool and select the features of a split."""
        maps = self.pooled(split, pooling)
        return Features(maps if rows is None else maps[:, list(rows)])

    @cache  # noqa: B019  (there is one study)
    def pooled(self, split: str, pooling: Any) -> torch.Tensor:
        """Pool the maps of a split."""
        maps = self.maps[split]
        if pooling is None:
            return maps
        return pool(maps.flatten(0, 1), pooling).unflatten(0, (2, -1))[..., None, None]

    def __hash__(self) -> int:
        return id(self)


def mean_ap(scores: np.ndarray, targets: np.ndarray) -> float:
    """mAP in percent, over the labels that have positives."""
    return 100 * float(np.nanmean(average_precisions(scores, targets)))


def draws(samples: int, size: int, count: int) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Draw *count* times *size* of the training pictures; the rest is held."""
    found = []
    for number in range(count):
        order = seeds.rng("draw", samples, size, number).permutation(samples)
        found.append((tuple(map(int, order[:size])), tuple(map(int, order[size:]))))
    return found


def open_study(dataset: str, label_embeddings: str, weights: str, kept: Path) -> Study:
    """Read the data and run the backbone once over all pictures, or read what it said before."""
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
    """Choose among a system's choices for a number of pictures, on the training split alone.

    Train on that many of its pictures, on four fifths of them where it is all, and measure on the others.
    """
    choices = list(system.choices())
    if len(choices) == 1:
        return choices[0]
    samples = len(study.dataset.split("train"))
    folds = draws(samples, size or samples * 4 // 5, system.folds)
    measured = [
        np.mean([mean_ap(*study.run(system, choice, study.part(*fold), seed=0)[:2]) for fold in folds])
        for choice in choices
    ]
    return choices[int(np.argmax(measured))]


def measure(study: Study, system: System) -> dict[str, Any]:
    """Train a system on each number of pictures from each seed; measure on the validation split.

    Returns:
        The seconds it took, and by number of pictures the choice made, the mAPs and the scores of each seed.
    """
    started = time.perf_counter()
    samples = len(study.dataset.split("train"))
    sizes: dict[str, Any] = {}
    for size in SIZES:
        choice = choose(study, system, size)
        maps, scores = [], []
        for seed in range(SEEDS):
            train, _ = draws(samples, size or samples, SEEDS)[seed]
            found, targets, _ = study.run(system, choice, study.part(train), seed)
            maps.append(mean_ap(found, targets))
            scores.append(found.astype(np.float64).round(6).tolist())
        sizes[str(size or "all")] = {"choice": choice, "mAP": maps, "scores": scores}
    return {"system": asdict(system), "sizes": sizes, "seconds": time.perf_counter() - started}


def never_trained(study: Study, system: System, choice: dict[str, Any]) -> dict[str, list[float]]:
    """mAP on held-out labels that a model trained on the others knows by name, per seed, beside controls."""
    names = study.dataset.labels.names
    samples = len(study.dataset.split("train"))
    found: dict[str, list[float]] = {"word vectors": [], "permuted vectors": [], "random scores": []}
    for seed in range(SEEDS):
        rng = seeds.rng("never trained", seed)
        held = sorted(rng.choice(len(names), HELD_OUT, replace=False))
        rest = study.part(range(samples)).without([names[column] for column in held])
        shuffled = replace(study.embeddings, vectors=rng.permutation(study.embeddings.vectors))
        targets = study.dataset.split("val").targets[:, held]
        for kind, embeddings in (("word vectors", study.embeddings), ("permuted vectors", shuffled)):
            _, _, run = study.run(system, choice, rest, seed, embeddings)
            folded = fold(extend(run.trained, torch.from_numpy(embeddings.vectors[held])).head)
            with torch.no_grad():
                logits = folded(study.features("val", None, "max").maps[0].flatten(1))
            found[kind].append(mean_ap(logits[:, -HELD_OUT:].numpy(), targets))
        found["random scores"].append(mean_ap(rng.random(targets.shape), targets))
    return found


def main() -> None:
    """Make what is missing of the study, and its table."""
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
        maps = {size: round(float(np.mean(of["mAP"])), 1) for size, of in result["sizes"].items()}
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
    """Write the results as Markdown tables."""
    sizes = [str(size or "all") for size in SIZES]
    lines = [
        "| head | " + " | ".join(sizes) + " | all: against the tuned probe |",
        "|---|" + "---:|" * (len(sizes) + 1),
    ]
    for name, result in results.items():
        cells = [
            f"{np.mean(maps):.1f} ± {np.std(maps):.1f}" for maps in (result["sizes"][s]["mAP"] for s in sizes)
        ]
        versus = "" if name == PROBE or PROBE not in results else against(result, results[PROBE], targets)
        lines.append(f"| {name} | " + " | ".join(cells) + f" | {versus} |")
    lines += [
        "",
        "| labels never trained | word vectors | permuted vectors | random scores |",
        "|---|---:|---:|---:|",
    ]
    for name, result in results.items():
        if found := result.get("never trained"):
            lines.append(
                f"| {name} | "
                + " | ".join(f"{np.mean(v):.1f} ± {np.std(v):.1f}" for v in found.values())
                + " |"
            )
    lines += ["", "| head | pictures | chosen |", "|---|---:|---|"]
    for name, result in results.items():
        for size, of in result["sizes"].items():
            choice = of["choice"]
            head = " ".join(choice["head_option"])
            lines.append(
                f"| {name} | {size} | `{head}` lr {choice['lr']:g}, decay {choice['weight_decay']:g} |"
            )
    return "\n".join(lines) + "\n"


def against(result: dict[str, Any], probe: dict[str, Any], targets: np.ndarray) -> str:
    """Difference to the probe by the paired bootstrap over the validation pictures, mean over seeds."""
    found = [
        compare(np.array(ours), np.array(theirs), targets)
        for ours, theirs in zip(
            result["sizes"]["all"]["scores"], probe["sizes"]["all"]["scores"], strict=True
        )
    ]
    difference, low, high = (
        100 * np.mean([getattr(one, k) for one in found]) for k in ("difference", "low", "high")
    )
    return f"{difference:+.1f} ({low:+.1f} to {high:+.1f})"


if __name__ == "__main__":
    main()
