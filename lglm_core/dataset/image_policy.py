"""What becomes of a picture's bytes on their way into a shard."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from lglm_core.images.codec import ImageInfo, inspect, inspect_header, shrink

QUALITY = 90


@dataclass(frozen=True)
class ImagePolicy:
    """How pictures are checked, and whether they are made smaller.

    Args:
        verify: ``decode`` every picture to its end, or trust its ``header`` and its last bytes.
        max_side: Pictures with a longer side, in pixels, are scaled down to it and become JPEGs, upright;
            None: all keep their bytes.
        quality: Of those JPEGs, 1 to 95.
    """

    verify: Literal["decode", "header"] = "decode"
    max_side: int | None = None
    quality: int = QUALITY

    def options(self) -> Mapping[str, Any]:
        """The settings that decide what is in the shards, where they are not the defaults."""
        options: dict[str, Any] = {} if self.verify == "decode" else {"verify": self.verify}
        if self.max_side is not None:
            options |= {"max_side": self.max_side, "quality": self.quality}
        return options

    def take(self, data: bytes) -> tuple[bytes, ImageInfo]:
        """Return the bytes to store, and what they are.

        Raises:
            UnreadableImage: they are no whole picture.
        """
        if self.verify == "decode" and self.max_side is None:
            return data, inspect(data)
        info = inspect_header(data)
        if self.max_side is not None and max(info.width, info.height) > self.max_side:
            smaller = shrink(data, self.max_side, self.quality)
            return smaller, inspect_header(smaller)
        return data, inspect(data) if self.verify == "decode" else info
