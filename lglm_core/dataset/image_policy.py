"""How an image is checked, and perhaps made smaller, on its way into a shard."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from lglm_core.images.codec import ImageInfo, inspect, inspect_header, shrink

QUALITY = 90


@dataclass(frozen=True)
class ImagePolicy:
    """How images are checked, and whether they are made smaller.

    Args:
        verify: ``decode`` every image to its end, or trust its ``header`` and its last bytes.
        max_side: The longest side in pixels; larger images are scaled down to it, turned upright and stored
            as JPEG. None: all images keep their bytes.
        quality: The quality of those JPEGs, 1 to 95.
    """

    verify: Literal["decode", "header"] = "decode"
    max_side: int | None = None
    quality: int = QUALITY

    def options(self) -> Mapping[str, Any]:
        """Return the settings that differ from the defaults, as a provenance records them."""
        options: dict[str, Any] = {} if self.verify == "decode" else {"verify": self.verify}
        if self.max_side is not None:
            options |= {"max_side": self.max_side, "quality": self.quality}
        return options

    def apply(self, data: bytes) -> tuple[bytes, ImageInfo]:
        """Return the bytes to store, with their format and size.

        Raises:
            UnreadableImage: *data* is not a whole image.
        """
        if self.verify == "decode" and self.max_side is None:
            return data, inspect(data)
        info = inspect_header(data)
        if self.max_side is not None and max(info.width, info.height) > self.max_side:
            smaller = shrink(data, self.max_side, self.quality)
            return smaller, inspect_header(smaller)
        return data, inspect(data) if self.verify == "decode" else info
