"""A folder of random JPEGs as large as photographs, which exists as long as the process."""

import atexit
import io
import shutil
import tempfile
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image

DISTINCT = 64
WIDTH, HEIGHT = 640, 480


@cache
def encoded() -> tuple[bytes, ...]:
    """Return pictures of 640×480 with detail of every size, about 160 kB each like COCO's photographs."""
    rng = np.random.default_rng(0)
    pictures = []
    for _ in range(DISTINCT):
        pixels = np.zeros((HEIGHT, WIDTH, 3))
        for scale, weight in ((1, 16.0), (4, 24.0), (16, 40.0), (64, 60.0)):
            noise = rng.normal(128, weight, (HEIGHT // scale + 1, WIDTH // scale + 1, 3)).clip(0, 255)
            layer = Image.fromarray(noise.astype(np.uint8)).resize((WIDTH, HEIGHT), Image.Resampling.BILINEAR)
            pixels += np.asarray(layer, float) - 128
        data = io.BytesIO()
        Image.fromarray((pixels + 128).clip(0, 255).astype(np.uint8)).save(data, "JPEG", quality=92)
        pictures.append(data.getvalue())
    return tuple(pictures)


@cache
def folder(total_bytes: int) -> Path:
    """Return a folder with *total_bytes* of pictures; a comment in each makes all of them different."""
    path = Path(tempfile.mkdtemp(prefix="lglm-bench-"))
    atexit.register(shutil.rmtree, path, ignore_errors=True)
    written = number = 0
    while written < total_bytes:
        data = encoded()[number % DISTINCT]
        comment = f"{number:06d}".encode()
        data = data[:2] + b"\xff\xfe" + (len(comment) + 2).to_bytes(2) + comment + data[2:]
        (path / f"{number:06d}.jpg").write_bytes(data)
        written += len(data)
        number += 1
    return path
