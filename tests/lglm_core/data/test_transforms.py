import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import v2

from lglm_core.data.order import generator
from lglm_core.data.transforms import CROP_SCALES, OFFSETS, Preprocessing, random_view, squash


def gradient(height: int, width: int) -> torch.Tensor:
    """Red tells the row and green the column, in 0 to 250."""
    rows = torch.linspace(0, 250, height)[:, None].expand(height, width)
    columns = torch.linspace(0, 250, width)[None, :].expand(height, width)
    return torch.stack([rows, columns, torch.zeros(height, width)]).round().to(torch.uint8)


def test_squashing_ignores_the_shape():
    assert squash(gradient(30, 90), 16).shape == (3, 16, 16)


def test_squashing_agrees_with_pillow():
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (37, 51, 3), dtype=np.uint8)
    theirs = np.asarray(Image.fromarray(pixels).resize((16, 16), Image.Resampling.BILINEAR), int)
    ours = squash(torch.from_numpy(pixels).permute(2, 0, 1), 16).permute(1, 2, 0).numpy()
    assert np.abs(ours - theirs).max() <= 1


def test_a_picture_of_the_right_size_stays_as_it_is():
    assert torch.equal(squash(gradient(20, 20), 20), gradient(20, 20))


def test_a_view_depends_on_its_generator_alone():
    views = [random_view(gradient(60, 80), 32, generator("view", 1)) for _ in range(2)]
    assert torch.equal(*views)
    assert not torch.equal(views[0], random_view(gradient(60, 80), 32, generator("view", 2)))


def windows(height: int, width: int, views: int = 400) -> list[tuple[float, float, bool]]:
    """Height and width of each view's crop in pixels, and whether it was flipped, read off the gradient."""
    found = []
    for number in range(views):
        view = random_view(gradient(height, width), 64, generator("w", number)).float()
        down = (view[0, -1, 0] - view[0, 0, 0]) / 250 * height
        right = (view[1, 0, -1] - view[1, 0, 0]) / 250 * width
        found.append((down.item(), abs(right.item()), bool(right < 0)))
    return found


def test_crops_have_the_sides_of_the_field_with_neighbours_paired():
    base, steps = 120, np.array(CROP_SCALES)
    for down, right, _ in windows(120, 200):
        first, second = (int(np.abs(steps - side / base).argmin()) for side in (down, right))
        assert abs(down / base - steps[first]) < 0.04 and abs(right / base - steps[second]) < 0.04
        assert abs(first - second) <= 1


def test_half_of_the_views_are_flipped():
    assert np.mean([flipped for *_, flipped in windows(60, 80)]) == pytest.approx(0.5, abs=0.08)


def test_there_are_thirteen_places_symmetric_about_the_middle():
    assert len(set(OFFSETS)) == 13
    assert {(1 - down, 1 - right) for down, right in OFFSETS} == set(OFFSETS)


@pytest.mark.parametrize("size", [(1, 1), (1, 50), (3, 2)])
def test_the_smallest_pictures_have_views_too(size: tuple[int, int]):
    for number in range(30):
        assert random_view(gradient(*size), 16, generator(number)).shape == (3, 16, 16)


def test_normalising_agrees_with_torchvision():
    images = torch.randint(
        0, 256, (2, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    theirs = v2.functional.normalize(images / 255, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    ours = Preprocessing(8).normalise(images)
    torch.testing.assert_close(ours, theirs)
    assert ours.is_contiguous(memory_format=torch.channels_last)


def test_normalising_uses_the_models_own_mean_and_deviation():
    images = torch.full((1, 3, 2, 2), 255, dtype=torch.uint8)
    ours = Preprocessing(2, (0.5, 0.5, 0.5), (0.5, 0.25, 0.1)).normalise(images)
    torch.testing.assert_close(ours[0, :, 0, 0], torch.tensor([1.0, 2.0, 5.0]))
