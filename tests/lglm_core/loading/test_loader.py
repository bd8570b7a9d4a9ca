import itertools
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from lglm_core import seeds
from lglm_core.dataset.image_policy import ImagePolicy
from lglm_core.dataset.reader import Dataset
from lglm_core.errors import DamageError, InputError
from lglm_core.images.codec import decode
from lglm_core.images.transforms import Augmentation, squash
from lglm_core.loading.loader import Batch, Loader

ROOT = Path(__file__).parents[3]


@pytest.fixture
def loader(numbered: Dataset) -> Loader:
    fingerprint = numbered.manifest.fingerprint
    return Loader(
        split=numbered.split("train"), fingerprint=fingerprint, image_size=6, batch_size=5, threads=2
    )


def numbers(batch: Batch) -> torch.Tensor:
    """Return the number drawn into each picture's red channel."""
    red = batch.images[:, 0].flatten(1)
    assert (red == red[:, :1]).all()
    return red[:, 0].long()


def bits(number: torch.Tensor) -> torch.Tensor:
    return (number[:, None] >> torch.arange(5) & 1).to(torch.int8)


def epochs_of(loader: Loader) -> Iterator[Batch]:
    for epoch in range(2):
        yield from loader.training_epoch(epoch)
    yield from loader.in_order()


@pytest.mark.parametrize(("rank", "world_size"), [(0, 1), (0, 2), (1, 2), (2, 3), (3, 4)])
def test_pictures_targets_and_rows_belong_to_the_same_sample(loader: Loader, rank: int, world_size: int):
    for batch in epochs_of(replace(loader, rank=rank, world_size=world_size)):
        assert torch.equal(numbers(batch), torch.from_numpy(batch.rows))
        assert torch.equal(bits(numbers(batch)), batch.targets)


@pytest.mark.parametrize("world_size", [1, 2, 3, 4])
@pytest.mark.parametrize("batch_size", [1, 4, 23, 40])
def test_an_epoch_shows_every_picture_exactly_once(loader: Loader, world_size: int, batch_size: int):
    ranks = [replace(loader, rank=r, world_size=world_size, batch_size=batch_size) for r in range(world_size)]
    seen = torch.cat([numbers(b)[b.weights == 1] for part in ranks for b in part.training_epoch(3)])
    assert sorted(seen.tolist()) == list(range(23))


@pytest.mark.parametrize("world_size", [1, 2, 3, 4])
def test_every_rank_takes_the_announced_number_of_steps(loader: Loader, world_size: int):
    for rank in range(world_size):
        part = replace(loader, rank=rank, world_size=world_size)
        assert len(list(part.training_epoch(0))) == part.steps == 5


@pytest.mark.parametrize("augmentation", [Augmentation(), Augmentation(rand_augment=2, cutout=0.5)])
def test_an_epoch_is_the_same_again_with_any_number_of_threads(loader: Loader, augmentation: Augmentation):
    loader = replace(loader, augmentation=augmentation)
    for a, b in zip(loader.training_epoch(1), replace(loader, threads=4).training_epoch(1), strict=True):
        assert torch.equal(a.images, b.images) and torch.equal(a.targets, b.targets)


def test_a_sample_has_the_same_view_on_any_number_of_workers(learnable: Dataset):
    loader = Loader(split=learnable.split("train"), fingerprint="f", image_size=16, batch_size=4)

    def views(world_size: int) -> dict[int, torch.Tensor]:
        found = {}
        for rank in range(world_size):
            for batch in replace(loader, rank=rank, world_size=world_size).training_epoch(0):
                found |= {
                    int(row): image
                    for row, image, w in zip(batch.rows, batch.images, batch.weights, strict=True)
                    if w
                }
        return found

    alone, together = views(1), views(3)
    assert all(torch.equal(alone[row], together[row]) for row in range(10))


def test_training_views_change_with_the_epoch_and_views_in_order_do_not(learnable: Dataset):
    loader = Loader(split=learnable.split("train"), fingerprint="f", image_size=16, batch_size=10)

    def sorted_views(batches: Iterator[Batch]) -> torch.Tensor:
        batch = next(batches)
        return batch.images[np.argsort(batch.rows)]

    assert not torch.equal(sorted_views(loader.training_epoch(0)), sorted_views(loader.training_epoch(1)))
    assert torch.equal(sorted_views(loader.in_order()), sorted_views(loader.in_order()))


@pytest.mark.parametrize("augmentation", [Augmentation(), Augmentation(False, rand_augment=2, cutout=0.5)])
def test_training_views_are_augmented_and_views_in_order_are_squashed(
    learnable: Dataset, augmentation: Augmentation
):
    split = learnable.split("train")
    loader = Loader(
        split=split, fingerprint="f", image_size=16, batch_size=10, seed=3, augmentation=augmentation
    )
    for batch in loader.training_epoch(2):
        for row, image in zip(batch.rows.tolist(), batch.images, strict=True):
            rng = seeds.rng("view", 3, 2, row)
            assert torch.equal(image, augmentation.view(decode(split.read_image(row)), 16, rng))
    for batch in loader.in_order():
        for row, image in zip(batch.rows.tolist(), batch.images, strict=True):
            assert torch.equal(image, squash(decode(split.read_image(row)), 16))


def test_in_order_is_the_order_of_the_index(loader: Loader):
    rows = np.concatenate([batch.rows[batch.weights.bool().numpy()] for batch in loader.in_order()])
    np.testing.assert_array_equal(rows, np.arange(23))


def test_a_batch_has_the_documented_types(loader: Loader):
    batch = next(loader.training_epoch(0))
    assert (batch.images.dtype, batch.images.shape) == (torch.uint8, (5, 3, 6, 6))
    assert (batch.targets.dtype, batch.targets.shape) == (torch.int8, (5, 5))
    assert (batch.weights.dtype, batch.total_weight) == (torch.float32, 5)


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        ({"batch_size": -8}, "`batch_size` -8: 1 or more"),
        ({"batch_size": 0}, "`batch_size` 0: 1 or more"),
        ({"image_size": 0}, "`image_size` 0: 1 or more"),
        ({"world_size": 0}, "`world_size` 0: 1 or more"),
        ({"threads": 0}, "`threads` 0: 1 or more"),
        ({"rank": -1}, "`rank` -1: .*, ranks are 0 to 0"),
        ({"rank": 2, "world_size": 2}, "`rank` 2: with `world_size` 2, ranks are 0 to 1"),
        ({"split": "train"}, r"`split` 'train' is a name; give dataset.split\('train'\)"),
    ],
)
def test_a_parameter_out_of_range_is_refused(loader: Loader, given: dict[str, Any], complaint: str):
    with pytest.raises(InputError, match=complaint):
        replace(loader, **given)


def test_the_manuals_example_runs_as_it_is_written(
    numbered: Dataset, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs/manual/training.md").read_text(), re.DOTALL)
    (example,) = [block for block in blocks if "Loader(" in block]
    monkeypatch.chdir(Path(numbered.url).parent)
    exec(example, {})
    assert capsys.readouterr().out == "torch.Size([32, 3, 224, 224]) torch.Size([32, 5])\n"


def test_stopping_early_leaves_no_thread_behind(loader: Loader):
    import threading

    batches = loader.training_epoch(0)
    next(batches)
    batches.close()  # type: ignore[attr-defined]
    for thread in threading.enumerate():
        if thread.name.startswith("loader"):
            thread.join(timeout=5)
            assert not thread.is_alive()


def test_a_damaged_picture_is_refused_by_name(
    tmp_path: Path, encode: Callable[..., bytes], write_dataset: Callable[..., Any]
):
    rows = [("train", encode(Image.new("RGB", (8, 8), (n, 0, 0))), ["a"], ()) for n in range(6)]
    dataset = write_dataset(tmp_path, ["a", "b"], rows)
    split = dataset.split("train")
    shard = Path(dataset.url, "shards/train/train-000001.tar")
    data = bytearray(shard.read_bytes())
    data[split.index["offset"][5].as_py() + 30] ^= 1
    shard.write_bytes(data)
    loader = Loader(split=split, fingerprint="f", image_size=4, batch_size=3)
    with pytest.raises(DamageError, match=r"train-000001\.tar, sample s5: the image is not the one"):
        list(loader.training_epoch(0))


def test_a_broken_picture_that_was_checked_by_header_only_is_refused_with_advice(
    tmp_path: Path, encode: Callable[..., bytes], write_dataset: Callable[..., Any]
):
    data = bytearray(encode(Image.effect_noise((64, 64), 90).convert("RGB"), "PNG"))
    data[len(data) // 2] ^= 0xFF  # decoding it fails by its checksum
    rows = [("train", bytes(data), ["a"], ())]
    split = write_dataset(tmp_path, ["a", "b"], rows, policy=ImagePolicy(verify="header")).split("train")
    loader = Loader(split=split, fingerprint="f", image_size=4, batch_size=3)
    with pytest.raises(
        DamageError, match=r"s0 cannot be decoded \(.*write a new dataset with `verify` = decode"
    ):
        list(loader.training_epoch(0))


@pytest.mark.parametrize("before", [1, 2, 3, 4])
@pytest.mark.parametrize("after", [1, 2, 3, 4])
@pytest.mark.parametrize("steps", [0, 1, 3, 5])
def test_stopped_anywhere_and_resumed_on_any_world_size_every_picture_is_shown_once(
    loader: Loader, before: int, after: int, steps: int
):
    """Also with another batch size."""
    seen = []
    for rank in range(before):
        batches = replace(loader, rank=rank, world_size=before).training_epoch(2)
        seen += [numbers(b)[b.weights == 1] for b in itertools.islice(batches, steps)]
    state = loader.state(2, steps)
    assert sum(map(len, seen)) == state.position
    for rank in range(after):
        resumed = replace(loader, rank=rank, world_size=after, batch_size=4).resume(state)
        seen += [numbers(b)[b.weights == 1] for b in resumed]
    assert sorted(torch.cat(seen).tolist()) == list(range(23))


def test_a_resumed_epoch_continues_as_it_would_have_without_a_stop(loader: Loader):
    whole = list(loader.training_epoch(1))
    for steps in range(len(whole) + 1):
        rest = list(loader.resume(loader.state(1, steps)))
        assert len(rest) == len(whole) - steps
        for resumed, expected in zip(rest, whole[steps:], strict=True):
            assert torch.equal(resumed.images, expected.images)
            np.testing.assert_array_equal(resumed.rows, expected.rows)
            assert torch.equal(resumed.weights, expected.weights)


def test_a_state_of_another_dataset_is_refused(loader: Loader):
    with pytest.raises(InputError, match="the state to resume from belongs to another dataset"):
        loader.resume(replace(loader.state(0, 1), fingerprint="other"))
