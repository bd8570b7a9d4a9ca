"""Measure a model on a split: write its predictions, its metrics and a report.

lglm evaluate --model RUN/model --dataset DATASET --split val --out EVALUATION
"""

import sys
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from jobs import command_line
from jobs.command_line import Outcome
from jobs.make_room import make_room
from jobs.options import Evaluate
from jobs.parts import fixed_size_lists, matrix, read_parts
from jobs.split_scores import SplitInputs, SplitTagger, open_inputs, write_split_parts
from lglm_core import storage
from lglm_core.rooms import EvaluationManifest, Room, read_json, to_json

HEADLINE = ("mAP", "CF1", "OF1")


class Predictions(SplitTagger):
    """Makes the rows of predictions: ``key, labels, unknown, scores``."""

    def table(self, start: int, stop: int) -> pa.Table:
        """Return the predictions for the rows *start* up to *stop* of the split."""
        _, scores = self.predict(start, stop)
        rows = self.split.index.select(["key", "labels", "unknown"]).slice(start, stop - start)
        return rows.append_column("scores", fixed_size_lists(scores[:, self.columns]))


def run(options: Evaluate) -> Outcome:
    """Predict, measure and report, unless the same evaluation is complete."""
    inputs = open_inputs(options)
    room = Room(options.out, inputs.provenance(EvaluationManifest, options.split))

    def metrics() -> dict[str, Any]:
        return dict(read_json(room.path("metrics.json")))

    return make_room(
        room,
        lambda: _evaluate(options, inputs, room),
        lambda manifest, status: _summary(room, metrics(), status),
        lambda manifest: metrics(),
    )


def _summary(room: Room[EvaluationManifest], metrics: Mapping[str, Any], status: str) -> str:
    return (
        f"{room.url}: evaluation, {status}: {metrics['n_images']} pictures, "
        + ", ".join(f"{name} {metrics[name]:.1f}" for name in HEADLINE)
        + f" (predicting the prior: mAP {metrics['prior_mAP']:.1f})\n"
        + _untrained_line(metrics)
        + f"  report: {room.path('report.html')}"
    )


def _untrained_line(metrics: Mapping[str, Any]) -> str:
    if metrics.get("untrained_mAP") is None:
        return ""
    names = ", ".join(metrics["untrained_labels"])
    return f"  on labels known by their names alone ({names}): mAP {metrics['untrained_mAP']:.1f}\n"


def _evaluate(options: Evaluate, inputs: SplitInputs, room: Room[EvaluationManifest]) -> EvaluationManifest:
    from lglm_core.dataset.reader import Dataset
    from lglm_core.metrics.multi_label import evaluate
    from lglm_core.metrics.per_label import per_label_table
    from lglm_core.model.bundle import load_bundle
    from lglm_core.pages.report import report_page
    from lglm_core.pages.report_data import gather_report

    folder = room.path("predictions")
    write_split_parts(Predictions, options, inputs, room, folder)
    predictions = read_parts(folder, inputs.samples)
    scores = matrix(predictions, "scores")
    dataset = Dataset.open(options.dataset, fingerprint=inputs.dataset.fingerprint)
    split = dataset.split(options.split)
    metrics: dict[str, Any] = evaluate(
        scores, split.targets, list(dataset.labels), dataset.training_prevalence()
    )
    per_label = per_label_table(scores, split.targets, dataset.labels)
    bundle = load_bundle(options.model)
    if untrained := [name for name in bundle.untrained if name in dataset.labels.names]:
        ap = per_label.column("ap").to_pylist()
        values = [ap[dataset.labels.column(name)] for name in untrained]
        defined = [value for value in values if value is not None]
        metrics["untrained_labels"] = untrained
        metrics["untrained_mAP"] = sum(defined) / len(defined) if defined else None
    room.write("per_class.parquet", storage.to_parquet(per_label))
    report = gather_report(bundle, inputs.model, dataset, split, scores, metrics, per_label)
    room.write("report.html", report_page(report).encode())
    room.write("metrics.json", to_json(metrics))
    return room.commit(
        EvaluationManifest(
            fingerprint=room.provenance.fingerprint,
            **room.provenance.fields,
            counts={"images": inputs.samples},
            headline={name: metrics[name] for name in (*HEADLINE, "prior_mAP")},
        )
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the job from its command line."""
    return command_line.main("evaluate", Evaluate, run, argv)


if __name__ == "__main__":
    sys.exit(main())
