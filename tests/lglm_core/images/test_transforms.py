from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import v2

from lglm_core import seeds
from lglm_core.images.transforms import (
    CROP_SCALES,
    MAGNITUDE,
    MEAN_COLOUR,
    OFFSETS,
    OPERATIONS,
    Augmentation,
    Preprocessing,
    cutout,
    rand_augment,
    squash,
)

EVERYTHING = Augmentation(rand_augment=3, cutout=0.5)
AUGMENTATIONS = [
    Augmentation(),
    Augmentation(crop=False),
    Augmentation(rand_augment=2),
    Augmentation(cutout=0.5),
    EVERYTHING,
]


def gradient(height: int, width: int) -> torch.Tensor:
    """Return a picture whose red encodes the row and green the column, from 0 to 250."""
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


@pytest.mark.parametrize("size", [(37, 51), (1, 1), (1, 40), (40, 1), (16, 16)])
def test_squashing_is_torchvisions_resize_in_any_memory_format(size: tuple[int, int]):
    height, width = size
    whole = noise(height + 4, width + 6)
    window = whole[:, 2 : 2 + height, 3 : 3 + width]
    channels_last = window.permute(1, 2, 0).contiguous().permute(2, 0, 1)
    theirs = v2.functional.resize(channels_last, [16, 16], antialias=True)
    expected = squash(channels_last, 16)
    without_avx2 = torch.backends.cpu.get_cpu_capability() not in ("AVX2", "AVX512")
    assert (expected.int() - theirs.int()).abs().max() <= (1 if without_avx2 else 0)
    for image in (window, window.contiguous(), channels_last):
        batch = torch.zeros((3, 3, 16, 16), dtype=torch.uint8).to(memory_format=torch.channels_last)
        assert torch.equal(squash(image, 16), expected)
        assert squash(image, 16, batch[1]).data_ptr() == batch[1].data_ptr()
        assert torch.equal(batch[1], expected)
        assert not batch[0].any() and not batch[2].any()


def test_a_view_is_written_to_its_place():
    whole = torch.zeros((24, 3, 16, 16), dtype=torch.uint8).to(memory_format=torch.channels_last)
    for number, out in enumerate(whole):
        assert EVERYTHING.view(noise(40, 50), 16, seeds.rng(number), out) is out
        assert torch.equal(out, EVERYTHING.view(noise(40, 50), 16, seeds.rng(number)))


def test_a_picture_of_the_right_size_stays_as_it_is():
    assert torch.equal(squash(gradient(20, 20), 20), gradient(20, 20))


def noise(height: int, width: int, seed: int = 0) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).integers(0, 256, (3, height, width), dtype=np.uint8))


def texture(side: int = 40) -> Tensor:
    """Return a smooth picture of many tones, none of which is the fill."""
    return squash(noise(5, 5), side).clamp(20, 230)


def first_view(image: Tensor, size: int, rng: np.random.Generator) -> Tensor:
    """Return the view that the first release made, with its code unchanged."""
    height, width = image.shape[-2:]
    base = min(height, width)
    first = int(rng.integers(len(CROP_SCALES)))
    second = int(np.clip(first + rng.integers(-1, 2), 0, len(CROP_SCALES) - 1))
    crop_height, crop_width = (max(1, round(base * CROP_SCALES[scale])) for scale in (first, second))
    down, right = OFFSETS[rng.integers(len(OFFSETS))]
    top, left = round(down * (height - crop_height)), round(right * (width - crop_width))
    view = squash(image[:, top : top + crop_height, left : left + crop_width], size)
    return view.flip(-1) if rng.random() < 0.5 else view


@pytest.mark.parametrize("size", [(60, 80), (81, 47), (32, 32), (1, 5)])
def test_by_default_views_are_those_of_the_first_release_byte_for_byte(size: tuple[int, int]):
    image = noise(*size)
    for number in range(100):
        then, now = seeds.rng("golden", number), seeds.rng("golden", number)
        assert torch.equal(Augmentation().view(image, 32, now), first_view(image, 32, then))
        assert then.random() == now.random()  # the same number of draws


@pytest.mark.parametrize("augmentation", AUGMENTATIONS)
def test_a_view_depends_on_its_generator_alone(augmentation: Augmentation):
    image = noise(60, 80)
    views = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        views.append([augmentation.view(image, 32, seeds.rng("view", n)) for n in range(20)])
    assert all(torch.equal(a, b) for a, b in zip(*views, strict=True))
    assert len({view.numpy().tobytes() for view in views[0]}) > 1


def test_views_leave_torchs_own_generator_alone():
    before = torch.get_rng_state()
    for number in range(50):
        EVERYTHING.view(noise(20, 30), 16, seeds.rng(number))
    assert torch.equal(before, torch.get_rng_state())


def test_views_are_the_same_in_any_thread():
    def view(number: int) -> Tensor:
        return EVERYTHING.view(noise(60, 80), 64, seeds.rng(number))

    with ThreadPoolExecutor(4) as pool:
        assert all(torch.equal(a, view(n)) for n, a in enumerate(pool.map(view, range(60))))


@pytest.mark.parametrize("augmentation", AUGMENTATIONS)
def test_a_view_leaves_its_picture_alone(augmentation: Augmentation):
    """Even a picture of the right size, which squashing does not change."""
    image = noise(24, 24)
    before = image.clone()
    for number in range(40):
        augmentation.view(image, 24, seeds.rng(number))
    assert torch.equal(image, before)


@pytest.mark.parametrize("augmentation", AUGMENTATIONS)
@pytest.mark.parametrize("size", [(1, 1), (1, 50), (3, 2), (60, 80)])
def test_pictures_of_any_size_have_views(size: tuple[int, int], augmentation: Augmentation):
    for number in range(30):
        view = augmentation.view(noise(*size), 16, seeds.rng(number))
        assert (view.shape, view.dtype) == ((3, 16, 16), torch.uint8)


def test_without_a_crop_the_whole_picture_is_squashed_and_half_of_the_views_flipped():
    image, rng = noise(30, 50), seeds.rng("whole")
    whole = squash(image, 16)
    views = [Augmentation(crop=False).view(image, 16, rng) for _ in range(400)]
    assert all(torch.equal(view, whole) or torch.equal(view, whole.flip(-1)) for view in views)
    assert np.mean([torch.equal(view, whole) for view in views]) == pytest.approx(0.5, abs=0.08)


def test_further_augmentation_does_not_change_crop_and_flip():
    """Outside the square, the view is the plain one."""
    for number in range(20):
        plain = Augmentation().view(texture(), 32, seeds.rng(number))
        cut = Augmentation(cutout=0.25).view(texture(), 32, seeds.rng(number))
        kept = (cut != fill()).any(dim=0)
        assert 0 < kept.sum() < 32 * 32 and torch.equal(cut[:, kept], plain[:, kept])


def windows(height: int, width: int, views: int = 400) -> list[tuple[float, float, bool]]:
    """Return the height and width of each view's crop in pixels, and whether it was flipped."""
    found = []
    for number in range(views):
        view = Augmentation().view(gradient(height, width), 64, seeds.rng("w", number)).float()
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


def fill() -> Tensor:
    return torch.tensor(MEAN_COLOUR, dtype=torch.uint8).view(3, 1, 1)


def test_the_fill_is_what_normalising_makes_zero():
    """By hand: 0.485, 0.456 and 0.406 of 255."""
    assert MEAN_COLOUR == [124, 116, 104]
    assert Preprocessing(1).normalise(fill()[None]).abs().max() < 0.01


NAMES_IN_TORCHVISION = {
    "identity": "Identity",
    "shear x": "ShearX",
    "shear y": "ShearY",
    "translate x": "TranslateX",
    "translate y": "TranslateY",
    "rotate": "Rotate",
    "brightness": "Brightness",
    "color": "Color",
    "contrast": "Contrast",
    "sharpness": "Sharpness",
    "posterize": "Posterize",
    "solarize": "Solarize",
    "autocontrast": "AutoContrast",
    "equalize": "Equalize",
}


def in_torchvision(name: str, image: Tensor, step: int, sign: int) -> Tensor:
    """Apply torchvision's operation at *step* of 30, in the given direction if it has two."""
    theirs = v2.RandAugment()
    magnitudes, signed = theirs._AUGMENTATION_SPACE[NAMES_IN_TORCHVISION[name]]
    steps = magnitudes(31, *image.shape[-2:])
    magnitude = 0.0 if steps is None else float(steps[step]) * (sign if signed else 1)
    return theirs._apply_image_or_video_transform(
        image, NAMES_IN_TORCHVISION[name], magnitude, "nearest", {torch.Tensor: MEAN_COLOUR}
    )


def test_the_operations_are_torchvisions():
    assert {NAMES_IN_TORCHVISION[name] for name in OPERATIONS} == set(v2.RandAugment._AUGMENTATION_SPACE)


# These may differ by 1 in uint8, because torchvision's magnitudes and its mean for the contrast are float32.
BLENDS = {"brightness", "color", "contrast", "sharpness"}


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("step", [0, 9, 20, 30])
@pytest.mark.parametrize("name", OPERATIONS)
def test_each_operation_does_what_torchvisions_does(name: str, step: int, sign: int):
    for image in (texture(), noise(40, 40)):
        ours = OPERATIONS[name](image, sign * step / 30)
        theirs = in_torchvision(name, image, step, sign)
        assert ours.dtype == torch.uint8
        if name in BLENDS:
            assert (ours.int() - theirs.int()).abs().max() <= 1
        else:
            assert torch.equal(ours, theirs)


@pytest.mark.parametrize("name", sorted(OPERATIONS.keys() - {"identity"}))
def test_each_operation_changes_a_picture_and_leaves_the_original(name: str):
    image = texture()
    before = image.clone()
    assert not torch.equal(OPERATIONS[name](image, 1.0), image)
    assert torch.equal(image, before)


def test_translating_by_hand():
    """0.3 * 150 / 331 of 100 pixels is 13."""
    image = texture(100)
    right = OPERATIONS["translate x"](image, 0.3)
    assert torch.equal(right[:, :, 13:], image[:, :, :-13])
    assert (right[:, :, :13] == fill()).all()
    up = OPERATIONS["translate y"](image, -0.3)
    assert torch.equal(up[:, :-13], image[:, 13:])
    assert (up[:, -13:] == fill()).all()


def test_shearing_by_hand():
    """At full strength a row 10 pixels below the top moves by 3, and the one at the top stays."""
    image = texture()
    for sheared, original in (
        (OPERATIONS["shear x"](image, -1.0), image),
        (OPERATIONS["shear y"](image, -1.0).mT, image.mT),
    ):
        assert torch.equal(sheared[:, 0], original[:, 0])
        assert torch.equal(sheared[:, 10, 3:], original[:, 10, :-3])
        assert (sheared[:, 10, :3] == fill()[:, 0]).all()


def test_rotating_fills_the_corners():
    turned = OPERATIONS["rotate"](texture(), 1.0)
    for corner in (turned[:, 0, 0], turned[:, 0, -1], turned[:, -1, 0], turned[:, -1, -1]):
        assert corner.tolist() == MEAN_COLOUR
    assert torch.equal(OPERATIONS["rotate"](texture().flip(-1), -1.0), turned.flip(-1))


def tones(operation: str, level: float, *values: int) -> list[int]:
    """Apply an operation to grey pixels of the given values."""
    image = torch.tensor(values, dtype=torch.uint8).expand(3, 1, len(values))
    changed = OPERATIONS[operation](image, level)
    assert (changed == changed[:1]).all()
    return changed[0, 0].tolist()


def test_operations_on_tones_by_hand():
    assert tones("brightness", 0.3, 0, 100, 250) == [0, 127, 255]  # times 1.27
    assert tones("brightness", -1.0, 0, 100, 250) == [0, 10, 25]  # times 0.1
    assert tones("contrast", -1.0, 50, 150) == [94, 104]  # 0.1 of the way from the mean, cut to 99
    assert tones("posterize", 1.0, 15, 16, 255) == [0, 16, 240]  # four bits are left
    assert tones("posterize", 0.3, 15, 16, 255) == [14, 16, 254]  # seven
    assert tones("solarize", 0.3, 178, 179, 255) == [178, 76, 0]  # inverted from 178.5 on
    assert tones("autocontrast", 0.3, 50, 75, 101) == pytest.approx([0, 125, 255], abs=1)
    assert tones("equalize", 0.3, *([10, 11, 12, 13] * 255))[:4] == [0, 85, 170, 255]
    assert tones("color", -1.0, 50, 150) == [49, 149]  # grey has none to lose, but is cut


def test_less_color_is_nearer_to_grey():
    red = torch.tensor([200, 0, 0], dtype=torch.uint8).view(3, 1, 1)
    grey = int(0.2989 * 200)
    expected = [int(0.1 * 200 + 0.9 * grey), int(0.9 * grey), int(0.9 * grey)]
    assert OPERATIONS["color"](red, -1.0).flatten().tolist() == expected


def test_sharpening_widens_an_edge_and_blurring_narrows_it():
    edge = torch.full((3, 5, 6), 100, dtype=torch.uint8)
    edge[:, :, 3:] = 150
    sharp, blurred = OPERATIONS["sharpness"](edge, 1.0)[0, 2], OPERATIONS["sharpness"](edge, -1.0)[0, 2]
    assert sharp[2] < 100 and sharp[3] > 150
    assert 100 < blurred[2] < blurred[3] < 150


def test_contrast_is_the_same_on_any_number_of_threads():
    """torchvision's is not: the last bit of its mean depends on the number of threads."""
    threads = torch.get_num_threads()
    try:
        found = []
        for number in (1, 2, 3):
            torch.set_num_threads(number)
            found.append([OPERATIONS["contrast"](noise(448, 448, seed), 0.3) for seed in range(5)])
    finally:
        torch.set_num_threads(threads)
    for alone, two, three in zip(*found, strict=True):
        assert torch.equal(alone, two) and torch.equal(alone, three)


@pytest.fixture
def applied(monkeypatch: pytest.MonkeyPatch) -> Counter[tuple[str, float]]:
    """Counts the operations and levels that are drawn, instead of applying them."""
    counts: Counter[tuple[str, float]] = Counter()

    def counter(name: str) -> Callable[[Tensor, float], Tensor]:
        def count(image: Tensor, level: float) -> Tensor:
            counts[name, level] += 1
            return image

        return count

    for name in OPERATIONS:
        monkeypatch.setitem(OPERATIONS, name, counter(name))
    return counts


def test_operations_are_drawn_equally_often_and_in_both_directions(applied: Counter[tuple[str, float]]):
    """2 * 5,600 draws: 400 of each of 14 operations in each of two directions, standard deviation 20."""
    rng = seeds.rng("drawn")
    for _ in range(5600):
        rand_augment(texture(4), 2, rng)
    assert applied.keys() == {(name, sign * MAGNITUDE) for name in OPERATIONS for sign in (1, -1)}
    assert all(320 < count < 480 for count in applied.values())


@pytest.mark.parametrize("operations", [0, 1, 5])
def test_as_many_operations_are_applied_as_are_asked_for(
    operations: int, applied: Counter[tuple[str, float]]
):
    Augmentation(rand_augment=operations).view(texture(), 8, seeds.rng(0))
    assert applied.total() == operations


def test_the_operations_follow_one_another():
    """The draws are the operation's number, then its direction."""
    for number in range(30):
        rng, image = seeds.rng(number), texture()
        for _ in range(2):
            name = tuple(OPERATIONS)[rng.integers(14)]
            image = OPERATIONS[name](image, 9 / 30 if rng.random() < 0.5 else -9 / 30)
        assert torch.equal(rand_augment(texture(), 2, seeds.rng(number)), image)


def blanked(image: Tensor) -> np.ndarray:
    """Return where a picture without the fill's colour was blanked, bool [S, S]."""
    return (image == fill()).all(dim=0).numpy()


@pytest.mark.parametrize(("fraction", "side"), [(0.25, 10), (0.5, 20), (0.275, 11), (0.75, 30)])
def test_cutout_blanks_a_square_that_may_extend_over_the_edge(fraction: float, side: int):
    rng, found = seeds.rng("cutout"), []
    for _ in range(300):
        cut = cutout(texture(), fraction, rng)
        where = blanked(cut)
        rows, columns = np.flatnonzero(where.any(axis=1)), np.flatnonzero(where.any(axis=0))
        assert where.sum() == len(rows) * len(columns)
        for inside in (rows, columns):
            assert len(inside) <= side and inside[-1] - inside[0] == len(inside) - 1
            assert len(inside) == side or inside[0] == 0 or inside[-1] == 39
        assert torch.equal(cut[:, ~where], texture()[:, ~where])
        found.append((len(rows), len(columns)))
    assert max(found) == (side, side)  # wholly inside
    assert min(rows for rows, _ in found) <= (side + 1) // 2 + 1  # about half of it


def test_every_pixel_is_the_squares_centre_equally_often():
    """A square of one pixel is its own centre: 64 places, 100 each, standard deviation 10."""
    rng = seeds.rng("centres")
    counts = sum(blanked(cutout(texture(8), 1 / 8, rng)).astype(int) for _ in range(6400))
    assert counts.sum() == 6400 and counts.min() > 60 and counts.max() < 140


def test_no_cutout_is_no_square():
    assert not any(blanked(Augmentation().view(texture(), 16, seeds.rng(n))).any() for n in range(20))


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
