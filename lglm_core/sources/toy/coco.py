"""Writer of the toy dataset: drawn scenes in COCO's format, for a dataset that needs no download.

Some objects appear together more often than others (boats with fish, cups with clocks). All objects draw
their colours at random from one palette, so that a model has to recognise shapes.

A scene is a list of polygons in pixels, and each object a list of polygons in a unit box, x to the right and
y down. A scene's content is decided without drawing it, so annotations need no rendering.
"""

import io
import json
from collections.abc import Callable
from typing import Any

from PIL import Image, ImageDraw

from lglm_core import storage
from lglm_core.sources.toy.drawings import DRAWINGS, LABELS
from lglm_core.sources.toy.scenes import HEIGHT, WIDTH, Scene, Thing, compose

SUPERSAMPLING = 2  # scenes are drawn this many times larger, then averaged, for smooth edges
JPEG_QUALITY = 90
TEST_IMAGES = 24  # BROKEN is one of them
BROKEN = "broken.jpg"
SCENES_PER_SEED = 1_000_000  # so that two seeds have no image id, and hence no file name, in common


def write_toy_coco(
    root: str, *, samples: int, seed: int, progress: Callable[[int, int], object] | None = None
) -> None:
    """Write the images and annotations of a small COCO; the same arguments give the same bytes.

    Images that exist are kept, so a call that was interrupted is completed by the same call.

    Args:
        root: URL of the folder to write ``train2017`` (80% of the samples), ``val2017`` (20%), ``test2017``
            (24 images without annotations, one of which, ``broken.jpg``, is cut in half) and ``annotations``
            into.
        samples: The number of annotated images, train and val together; at least 5, so that both have some.
        seed: Different seeds have neither scenes nor file names in common.
        progress: Called every 50 images and at the end, with the number of images done and their total.

    Raises:
        ValueError: *samples* is out of range.
    """
    if not 5 <= samples <= SCENES_PER_SEED - TEST_IMAGES:
        raise ValueError(f"`samples` is {samples}, expected 5 to {SCENES_PER_SEED - TEST_IMAGES}")
    first_val = samples * 4 // 5
    splits = {
        "train2017": range(first_val),
        "val2017": range(first_val, samples),
        "test2017": range(samples, samples + TEST_IMAGES),
    }
    storage.remove_unfinished(root)
    total, done = samples + TEST_IMAGES, 0
    for split, indices in splits.items():
        for index in indices:
            broken = index == total - 1
            name = BROKEN if broken else _file_name(_image_id(seed, index))
            _draw_if_missing(storage.join(root, split, name), seed, index, broken)
            done += 1
            if progress and (done % 50 == 0 or done == total):
                progress(done, total)
    for split in ("train2017", "val2017"):
        annotations = json.dumps(_annotations(seed, splits[split]), sort_keys=True)
        storage.write_bytes(
            storage.join(root, "annotations", f"instances_{split}.json"), annotations.encode()
        )


def render(scene: Scene) -> Image.Image:
    """Draw a scene as an RGB image of WIDTH by HEIGHT pixels."""
    large = Image.new("RGB", (WIDTH * SUPERSAMPLING, HEIGHT * SUPERSAMPLING))
    pen = ImageDraw.Draw(large)
    for colour, points in (*scene.backdrop, *(fill for thing in scene.things for fill in thing.fills)):
        pen.polygon((points * SUPERSAMPLING).ravel().tolist(), fill=colour)
    return large.reduce(SUPERSAMPLING)


def _draw_if_missing(url: str, seed: int, index: int, broken: bool) -> None:
    if storage.is_file(url):
        return
    encoded = io.BytesIO()
    render(compose(seed, index)).save(encoded, "JPEG", quality=JPEG_QUALITY)
    data = encoded.getvalue()
    storage.write_bytes(url, data[: len(data) // 2] if broken else data)


def _image_id(seed: int, index: int) -> int:
    return seed * SCENES_PER_SEED + index + 1


def _file_name(image_id: int) -> str:
    return f"{image_id:012d}.jpg"


def _annotations(seed: int, indices: range) -> dict[str, Any]:
    """Return a split's annotations in the format of COCO's instances files."""
    return {
        "info": {
            "description": f"Drawn scenes, seed {seed}",
            "url": "",
            "version": "1.0",
            "year": 2017,
            "contributor": "lglm",
            "date_created": "2017/09/01",
        },
        "licenses": [
            {"id": 1, "name": "Public domain", "url": "https://creativecommons.org/publicdomain/zero/1.0/"}
        ],
        "categories": [
            {"id": number, "name": label, "supercategory": DRAWINGS[label].supercategory}
            for number, label in enumerate(LABELS, start=1)
        ],
        "images": [_image(_image_id(seed, index)) for index in indices],
        "annotations": [
            _instance(_image_id(seed, index), number, thing)
            for index in indices
            for number, thing in enumerate(compose(seed, index).things)
        ],
    }


def _image(image_id: int) -> dict[str, Any]:
    return {
        "id": image_id,
        "file_name": _file_name(image_id),
        "width": WIDTH,
        "height": HEIGHT,
        "license": 1,
        "coco_url": "",
        "flickr_url": "",
        "date_captured": "2017-09-01 00:00:00",
    }


def _instance(image_id: int, number: int, thing: Thing) -> dict[str, Any]:
    """Return the annotation of one object; its outline is its box."""
    left, top, right, bottom = (round(edge, 2) for edge in thing.box())
    width, height = round(right - left, 2), round(bottom - top, 2)
    return {
        "id": image_id * 10 + number,
        "image_id": image_id,
        "category_id": LABELS.index(thing.label) + 1,
        "bbox": [left, top, width, height],
        "area": round(width * height, 2),
        "iscrowd": 0,
        "segmentation": [[left, top, right, top, right, bottom, left, bottom]],
    }
