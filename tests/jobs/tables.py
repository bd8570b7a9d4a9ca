"""Tables of drawn pictures, to be sharded and grown, and datasets made of them."""

from pathlib import Path

from lglm_core.dataset.reader import Dataset
from tests.jobs.commands import Here, Result, picture

PER_SHARD = 4


def table(folder: Path, numbers: range, labels: str = "dog|cat") -> tuple[object, ...]:
    """A table of pictures, as the arguments that shard it."""
    rows = ["image,labels"]
    for number in numbers:
        picture(folder / "images" / f"{number}.png", number)
        rows.append(f"{number}.png,{labels if number % 2 else 'cow'}")
    (folder / "table.csv").write_text("\n".join(rows) + "\n")
    sizes = ("--max-samples-per-shard", PER_SHARD)
    return ("table", "--table", folder / "table.csv", "--image-root", folder / "images", *sizes)


def keys(dataset: Path) -> dict[str, list[str]]:
    opened = Dataset.open(str(dataset))
    return {name: opened.split(name).keys for name in opened.manifest.splits}


def train(run: Here, dataset: Path, folder: Path) -> Result:
    return run(
        *("train", "--dataset", dataset, "--out", folder / "run", "--num-workers", 0),
        *("--head", "plain", "--backbone", "mobilenet_v3_small", "--weights", "none"),
        *("--image-size", 32, "--epochs", 1, "--batch-size", 4),
    )
