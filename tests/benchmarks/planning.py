"""Planning a COCO of a million pictures, whose files do not exist, against limits of time and memory.

python -m tests.benchmarks.planning COCO    plan it, and print the CPU seconds and the peak bytes
"""

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from lglm_core.dataset.plan import make_plan
from lglm_core.sources.coco import CocoSource
from tests.benchmarks.registry import Measured, benchmark

LIMIT_S, LIMIT_GB = 120.0, 6.0
LABELS = 80
PER_SHARD = 1000


@benchmark("s", target=1)
def plan_a_million(images: int = 1_000_000, annotations: int = 3_000_000) -> Measured:
    """Planning a COCO of 1,000,000 pictures and 3,000,000 annotations, against the limit of two minutes."""
    seconds, _ = planned(images, annotations)
    return Measured(seconds, LIMIT_S, f"{images} pictures, {annotations} annotations")


@benchmark("GB", target=1)
def plan_a_million_memory(images: int = 1_000_000, annotations: int = 3_000_000) -> Measured:
    """The peak memory of this planning, against the limit of 6 GB."""
    _, peak = planned(images, annotations)
    return Measured(peak, LIMIT_GB, f"{images} pictures, {annotations} annotations")


@cache
def planned(images: int, annotations: int) -> tuple[float, float]:
    """Return the CPU seconds and the gigabytes that a separate process took."""
    with TemporaryDirectory(prefix="lglm-bench-") as root:
        for number, (split, tenths) in enumerate((("train", 9), ("val", 1))):
            Path(root, f"{split}2017").mkdir()
            write(Path(root), split, number * images, images * tenths // 10, annotations * tenths // 10)
        command = [sys.executable, "-m", __name__, root]
        output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    result = json.loads(output)
    assert result["planned"] == images, "the number of pictures is no multiple of ten"
    return result["seconds"], result["bytes"] / 1e9


def write(root: Path, split: str, first: int, images: int, annotations: int) -> None:
    """Write the annotation file of a split, whose pictures are numbered from *first* + 1."""
    rng = np.random.default_rng(first)
    image_numbers = rng.integers(0, images, annotations)
    labels = rng.integers(0, LABELS, annotations)
    folder = root / "annotations"
    folder.mkdir(exist_ok=True)

    def pictures() -> Iterator[dict[str, Any]]:
        for number in range(first + 1, first + images + 1):
            yield {"id": number, "file_name": f"{number:012d}.jpg", "width": 640, "height": 480}

    def objects() -> Iterator[dict[str, Any]]:
        outline = {"bbox": [10.5, 20.5, 30.0, 40.0], "area": 1200.0, "iscrowd": 0}
        outline["segmentation"] = [[10.5, 20.5, 40.5, 20.5, 40.5, 60.5, 10.5, 60.5]]
        for number, (image, label) in enumerate(zip(image_numbers.tolist(), labels.tolist(), strict=True)):
            yield {"id": number, "image_id": first + 1 + image, "category_id": label + 1, **outline}

    categories = [{"id": label + 1, "name": f"label {label}"} for label in range(LABELS)]
    with (folder / f"instances_{split}2017.json").open("w") as file:
        for prefix, rows in (('{"images": [', pictures()), ('], "annotations": [', objects())):
            file.write(prefix)
            for number, row in enumerate(rows):
                file.write((", " if number else "") + json.dumps(row))
        file.write('], "categories": ' + json.dumps(categories) + "}")


def main(root: str) -> None:
    """Plan the COCO at *root*, and print time and memory as JSON."""
    started = time.process_time()
    source = CocoSource(root)
    source.inputs()
    plan = make_plan(source, PER_SHARD)
    seconds = time.process_time() - started
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    peak = int(status["VmHWM"].split()[0]) * 1024  # getrusage would include the parent's peak
    print(json.dumps({"planned": plan.planned, "seconds": seconds, "bytes": peak}))


if __name__ == "__main__":
    main(*sys.argv[1:])
