"""The parts of a dataset that was added to: each has files of its own, and none is ever written again."""


def in_part(name: str, part: int) -> str:
    """Return what a file of the first part, 0, is called in a later one: ``index/train.0001.parquet``."""
    stem, _, suffix = name.rpartition(".")
    return name if part == 0 else f"{stem}.{part:04d}.{suffix}"


def earlier_manifest(part: int) -> str:
    """Return where the manifest is kept of the dataset as it was when *part* was its last."""
    return f"manifests/{part:04d}.json"
