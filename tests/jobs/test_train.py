"""What training warns of and refuses in the data that it is given."""

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lglm_core.rooms import Room
from lglm_core.sources.coco import CocoSource
from lglm_core.sources.source import LabelledImage
from tests.jobs.commands import COCO_LABELS, Here, Result, make_dataset, write_coco
from tests.jobs.conftest import TINY_RECIPE
from tests.jobs.test_wrong_input import assert_refused


class NamedAsInTables(CocoSource):
    """A COCO whose split ``val`` has the name that it has in many tables."""

    def images(self) -> Iterator[LabelledImage]:
        for image in super().images():
            yield replace(image, split="validation") if image.split == "val" else image


def train(here: Here, dataset: Path, out: Path, *head: object) -> Result:
    return here("train", "--dataset", dataset, *(head or ("--head", "plain")), *TINY_RECIPE, "--out", out)


def test_without_a_split_val_it_warns_that_nothing_is_measured(here: Here, coco: Path, tmp_path: Path):
    dataset = make_dataset(NamedAsInTables(str(coco)), tmp_path / "dataset")
    result = train(here, dataset, tmp_path / "run")
    assert result.code == 0, result.stderr
    assert result.stderr.splitlines()[0] == (
        f"{dataset}: no split 'val' (it has train, validation): nothing is measured while training"
    )


def test_with_a_split_val_it_does_not_warn(here: Here, tiny_dataset: Path, tmp_path: Path):
    result = train(here, tiny_dataset, tmp_path / "run")
    assert result.code == 0, result.stderr
    assert "no split 'val'" not in result.stderr


def test_a_dataset_that_changes_before_the_training_is_refused(
    here: Here, tiny_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    dataset = shutil.copytree(tiny_dataset, tmp_path / "dataset")
    find = Room.find

    def find_late(room: Room) -> Any:
        if room.url == str(tmp_path / "run"):
            shutil.rmtree(dataset)
            make_dataset(CocoSource(str(write_coco(tmp_path / "coco", samples=16))), dataset)
        return find(room)

    monkeypatch.setattr(Room, "find", find_late)
    result = train(here, dataset, tmp_path / "run")
    assert_refused(result, f"{dataset}: another run changed this dataset meanwhile", out=tmp_path / "run")


def test_held_out_labels_must_leave_two_others(
    here: Here, tiny_dataset: Path, tiny_labels: Path, tmp_path: Path
):
    held = ("--label-embeddings", tiny_labels, "--hold-out", *COCO_LABELS[1:])
    result = train(here, tiny_dataset, tmp_path / "run", *held)
    assert_refused(result, f"--hold-out names 3 of the 4 labels of {tiny_dataset}", out=tmp_path / "run")
