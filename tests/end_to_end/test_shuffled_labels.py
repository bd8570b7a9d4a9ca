"""A pipeline that leaks would learn from shuffled labels too."""

import json
import random
from pathlib import Path

import pytest
import yaml

from jobs import label_embeddings, train
from lglm_core.dataset.commit import Written, commit_dataset
from lglm_core.dataset.plan import make_plan
from lglm_core.dataset.reader import Dataset
from lglm_core.dataset.shard_writer import write_shard
from lglm_core.metrics.multi_label import prevalence
from lglm_core.rooms import DatasetManifest, Provenance, Room
from lglm_core.sources.coco import CocoSource
from lglm_core.sources.toy.coco import write_toy_coco

ROOT = Path(__file__).parents[2]
RECIPE = ("backbone", "weights", "image_size", "epochs", "batch_size", "lr")


def shuffle_annotations(path: Path) -> None:
    """Give each picture the annotations of another."""
    content = json.loads(path.read_text())
    ids = [image["id"] for image in content["images"]]
    shuffled = dict(zip(ids, random.Random(0).sample(ids, len(ids)), strict=True))
    for annotation in content["annotations"]:
        annotation["image_id"] = shuffled[annotation["image_id"]]
    path.write_text(json.dumps(content))


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_with_shuffled_training_labels_it_stays_at_the_prior(tmp_path, capsys):
    raw, dataset = tmp_path / "raw", str(tmp_path / "dataset")
    write_toy_coco(str(raw), samples=1000, seed=0)
    shuffle_annotations(raw / "annotations" / "instances_train2017.json")
    plan = make_plan(CocoSource(str(raw)), 1000)
    receipts = [write_shard(shard, plan.labels, dataset) for shard in plan.shards]
    room = Room(dataset, Provenance(DatasetManifest, {}, {}))
    commit_dataset(room, Written(plan, receipts))
    labels, run = str(tmp_path / "labels"), str(tmp_path / "run")
    assert label_embeddings.main(["--dataset", dataset, "--out", labels]) == 0
    demo = yaml.safe_load((ROOT / "infra" / "demo.yaml").read_text())
    recipe = [f"--{name.replace('_', '-')}={demo[name]}" for name in RECIPE]
    capsys.readouterr()
    arguments = [
        "--dataset",
        dataset,
        "--label-embeddings",
        labels,
        "--out",
        run,
        "--num-workers=0",
        "--json",
    ]
    assert train.main([*arguments, *recipe]) == 0
    reached = json.loads(capsys.readouterr().out.splitlines()[-1])["metrics"]["val_map"]
    prior = 100 * prevalence(Dataset.open(dataset).split("val").targets).mean()
    assert abs(reached - prior) < 5
