"""The flow train-lglm: from labelled pictures to a model, its evaluation, its embeddings, and tags.

lglm flow train-lglm --source toy --out demo
python -m pipelines.train_lglm --source coco --root COCO --out work --backbone resnet50
"""

import os
import sys
from typing import Any

if __name__ == "__main__":  # before Prefect is imported, with other settings than an embedded run needs
    os.execv(sys.executable, [sys.executable, "-m", "pipelines.cli", "flow", "train-lglm", *sys.argv[1:]])

from prefect import flow

from jobs import options as jobs
from jobs.command_line import Outcome
from jobs.options import Options, Recipe
from lglm_core import rooms
from lglm_core.data import storage
from lglm_core.errors import InputError
from pipelines.launch import run_job
from pipelines.options import TrainLglm

Results = dict[str, dict[str, Any]]


@flow(name="train-lglm")
def train_lglm(options: TrainLglm) -> Results:
    """Shard, embed the labels, train, evaluate, embed, tag, and find neighbours of one picture."""
    place = {
        name: storage.join(options.out, name)
        for name in ("dataset", "labels", "run", "evaluation", "embeddings", "tags")
    }
    ray: dict[str, Any] = {"ray_address": options.ray_address}
    model, on_val = storage.join(place["run"], "model"), {"dataset": place["dataset"], "split": "val"}
    results = {"shard": run_job("shard", _shard(options, place["dataset"]), choice=options.source)}
    _refuse_without_validation(place["dataset"])
    results["label-embeddings"] = run_job("label-embeddings", _label_embeddings(options, place))
    results["train"] = run_job("train", _train(options, place))
    results["evaluate"] = run_job(
        "evaluate", jobs.Evaluate(model=model, out=place["evaluation"], **on_val, **ray)
    )
    results["embed"] = run_job("embed", jobs.Embed(model=model, out=place["embeddings"], **on_val, **ray))
    images = options.images or (storage.join(_raw(options), "test2017") if options.source == "toy" else None)
    if images:
        results["tag"] = run_job("tag", jobs.Tag(model=model, images=images, out=place["tags"], **ray))
    query = options.query or (_first_tagged(place["tags"]) if images else None)
    if query:
        page = storage.join(options.out, "neighbours.html")
        search = jobs.Search(model=model, embeddings=place["embeddings"], query=query, out=page)
        results["search"] = run_job("search", search)
    return results


def _raw(options: TrainLglm) -> str:
    return options.root or storage.join(options.out, "raw")


def _shard(options: TrainLglm, out: str) -> Options:
    shared: dict[str, Any] = {"out": out, "ray_address": options.ray_address}
    if options.source == "toy":
        return jobs.ShardToy(samples=options.samples, seed=options.seed, root=_raw(options), **shared)
    if options.source == "coco":
        named = options.model_dump(include={"root", "year", "unlabelled"})
        return jobs.ShardCoco.model_validate(named | shared)
    named = options.model_dump(include={"table", "image_root", "validation_share"})
    return jobs.ShardTable.model_validate(named | shared)


def _refuse_without_validation(dataset: str) -> None:
    """Say so before the training, not after it."""
    splits = rooms.require(dataset, "dataset").details["splits"]
    if not splits.get("val", {}).get("samples"):
        raise InputError(f"{dataset}: no samples in a split 'val', which the model would be measured on")


def _label_embeddings(options: TrainLglm, place: dict[str, str]) -> Options:
    return jobs.MakeLabelEmbeddings(
        dataset=place["dataset"],
        out=place["labels"],
        glove=options.glove,
        alias=options.alias,
        oov=options.oov,
    )


def _train(options: TrainLglm, place: dict[str, str]) -> Options:
    return jobs.Train(
        **options.model_dump(include=set(Recipe.model_fields)),
        dataset=place["dataset"],
        label_embeddings=place["labels"],
        out=place["run"],
        num_workers=options.num_workers,
        ray_address=options.ray_address,
    )


def _first_tagged(tags: str) -> str | None:
    """The first file that could be read, of those that were tagged."""
    rows = storage.read_parquet(
        storage.join(tags, "part-00000.parquet"), columns=["uri", "status"]
    ).to_pylist()
    return next((row["uri"] for row in rows if row["status"] == "ok"), None)


def run(options: TrainLglm) -> Outcome:
    """Run the flow on this machine and sum it up."""
    results: Results = train_lglm(options)
    metrics = results["evaluate"]["metrics"]
    repeated = all(
        result["status"] == "already complete" for verb, result in results.items() if verb != "search"
    )
    return Outcome(
        status="already complete" if repeated else "done",
        out=options.out,
        summary=_summary(options.out, results, metrics),
        counts=results["evaluate"]["counts"],
        metrics=metrics,
    )


def _summary(out: str, results: Results, metrics: dict[str, Any]) -> str:
    made = {
        "dataset": storage.join(out, "dataset"),
        "model": storage.join(out, "run", "model"),
        "report": storage.join(out, "evaluation", "report.html"),
        "embeddings": storage.join(out, "embeddings"),
        **({"tags": results["tag"]["out"]} if "tag" in results else {}),
        **({"neighbours": results["search"]["out"]} if "search" in results else {}),
    }
    return "\n".join(
        [
            "",
            f"{'on ' + str(metrics['n_images']) + ' validation pictures':<32}{'LGLM':>8}{'prior':>8}",
            *(
                f"{name:<32}{metrics[name]:>8.1f}{metrics[f'prior_{name}']:>8.1f}"
                for name in ("mAP", "CF1", "OF1")
            ),
            "",
            *(f"{name:<12}{path}" for name, path in made.items()),
        ]
    )
