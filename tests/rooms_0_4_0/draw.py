"""Draw small pictures, labels, word vectors and weights, and make a room of every kind from them.

    python -m tests.rooms_0_4_0.draw DRAWN FOLDER      # only draw the inputs, below FOLDER
    python -m tests.rooms_0_4_0.draw MADE FOLDER       # draw them, and run the verbs of the lglm at hand

``rooms.zip`` beside this file was made by ``MADE`` with lglm 0.4.0, from a checkout of that version, where
``lglm append`` was still ``lglm shard --append``.
"""

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torchvision.models import shufflenet_v2_x0_5

LABELS = ("bright", "red", "striped")
LATER = "framed"  # a label that comes with the pictures added
WORDS = 12
PICTURES = 20
ADDED = 6
SIDE = 40

TABLE = ("table", "--image-root", "photos", "--max-rejected", "0.5", "--max-samples-per-shard", "8")
ON_VAL = ("--model", "run/model", "--dataset", "dataset", "--split", "val")
# The verbs that write rooms, in order, with what they are given; all run in one folder.
COMMANDS: tuple[tuple[str, ...], ...] = (
    ("shard", *TABLE, "--table", "labels.csv", "--out", "dataset"),
    ("shard", *TABLE, "--table", "labels.csv", "--out", "dataset-grown"),
    ("append", *TABLE, "--table", "more.csv", "--out", "dataset-grown", "--extend-labels"),
    ("shard", "coco", "--root", "coco", "--out", "dataset-coco"),
    ("label-embeddings", "--dataset", "dataset", "--out", "labels-ppmi"),
    ("label-embeddings", "--dataset", "dataset", "--out", "labels", "--glove", "words.txt"),
    (
        *("train", "--dataset", "dataset", "--label-embeddings", "labels", "--out", "run"),
        *("--backbone", "shufflenet_v2_x0_5", "--weights", "weights.pth", "--image-size", "32"),
        *("--num-workers", "0", "--batch-size", "4", "--epochs", "2", "--freeze-backbone"),
        *("--head-option", "d_l=8", "graph_width=8", "m=8", "group=2"),
    ),
    ("evaluate", *ON_VAL, "--out", "evaluation"),
    ("embed", *ON_VAL, "--out", "embeddings"),
    ("tag", "--model", "run/model", "--images", "photos", "--out", "tags"),
    ("explain", "--model", "run/model", "--image", "photos/p00.jpg", "--out", "explanation"),
    ("extend", "--model", "run/model", "--label", LATER, "--glove", "words.txt", "--out", "extended"),
    ("export", "--model", "run/model", "--evaluation", "evaluation", "--out", "exported"),
)


def draw(root: Path) -> None:
    """Write pictures, two tables, a COCO, word vectors and weights below *root*."""
    rng = np.random.default_rng(40)
    photos = root / "photos"
    photos.mkdir(parents=True)
    rows = []
    for number in range(PICTURES + ADDED):
        present = [name for name in LABELS if rng.random() < 0.5]
        if number >= PICTURES and number % 2:
            present.append(LATER)
        picture = paint(present, rng)
        name = f"p{number:02d}.{'png' if number % 5 == 4 else 'jpg'}"
        picture.save(photos / name, quality=80)
        split = "val" if number % 3 == 2 else "train"
        unknown = ["striped"] if number % 7 == 6 and "striped" not in present else []
        rows.append(f"{name},{'|'.join(present)},{'|'.join(unknown)},{split}")
    (photos / "twin.jpg").write_bytes((photos / "p00.jpg").read_bytes())
    (photos / "cut.jpg").write_bytes((photos / "p01.jpg").read_bytes()[:200])
    twin = rows[0].replace("p00", "twin")
    header = "image,labels,unknown,split"
    write_lines(root / "labels.csv", [header, *rows[:PICTURES], twin, "cut.jpg,red,,train"])
    write_lines(root / "more.csv", [header, *rows[PICTURES:]])
    write_coco(root / "coco", rng)
    words = ("bright", "red", "striped", "framed")
    vectors = np.random.default_rng(41).normal(size=(len(words), WORDS)).round(3)
    write_lines(
        root / "words.txt", [" ".join([w, *map(str, v)]) for w, v in zip(words, vectors, strict=True)]
    )
    torch.save(few_valued_weights(), root / "weights.pth")


def paint(present: Sequence[str], rng: np.random.Generator) -> Image.Image:
    """Paint a picture in which its labels can be seen."""
    pixels = rng.normal(160 if "bright" in present else 60, 15, (SIDE, SIDE, 3))
    pixels[..., 0] += 60 if "red" in present else 0
    pixels[::4] -= 50 if "striped" in present else 0
    if LATER in present:
        pixels[[0, -1]] = pixels[:, [0, -1]] = 255
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def write_coco(root: Path, rng: np.random.Generator) -> None:
    """Write a COCO of 2017 of eight pictures with the same labels."""
    categories = [{"id": 2 * number + 1, "name": name} for number, name in enumerate(LABELS)]
    (root / "annotations").mkdir(parents=True)
    for split, numbers in (("train", range(6)), ("val", range(6, 8))):
        (root / f"{split}2017").mkdir()
        images, annotations = [], []
        for number in numbers:
            present = [name for name in LABELS if rng.random() < 0.5]
            name = f"{number:012d}.jpg"
            paint(present, rng).save(root / f"{split}2017" / name, quality=80)
            images.append({"id": number, "file_name": name, "width": SIDE, "height": SIDE})
            annotations += [
                {"id": 10 * number + column, "image_id": number, "category_id": 2 * column + 1}
                for column, label in enumerate(LABELS)
                if label in present
            ]
        content = {"images": images, "annotations": annotations, "categories": categories}
        (root / "annotations" / f"instances_{split}2017.json").write_text(json.dumps(content))


def few_valued_weights() -> dict[str, torch.Tensor]:
    """Return weights of few different values, which pack small, and with which activations stay in range."""
    rng = torch.Generator().manual_seed(42)
    weights = shufflenet_v2_x0_5(weights=None).state_dict()
    for name, tensor in weights.items():
        if tensor.ndim > 1:
            signs = torch.randint(0, 2, tensor.shape, generator=rng) * 2.0 - 1.0
            weights[name] = signs * 2.0 ** round(np.log2(tensor[0].numel() ** -0.5))
    return weights


def write_lines(path: Path, lines: Sequence[str]) -> None:
    """Write a text file."""
    path.write_text("\n".join(lines) + "\n")


def make(root: Path) -> None:
    """Run every verb that writes a room, below *root*."""
    for verb, *arguments in COMMANDS:
        code = f"import sys; from jobs.{verb.replace('-', '_')} import main; sys.exit(main())"
        subprocess.run([sys.executable, "-c", code, *arguments], cwd=root, check=True)


if __name__ == "__main__":
    what, folder = sys.argv[1], Path(sys.argv[2]).absolute()
    draw(folder)
    if what == "MADE":
        make(folder)
