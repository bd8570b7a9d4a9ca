"""Filling the templates: every text is escaped, every number is written in one way."""

import base64
import hashlib
import math
from functools import cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from lglm_core.pages.pictures import data_uri

ABSENT = "–"


def is_number(value: Any) -> bool:
    """Tell a number that can be shown from None, a flag, NaN or infinity."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def decimals(value: Any, places: int = 1) -> str:
    """Write a number with a fixed count of decimals, or a dash where there is none."""
    return f"{value:,.{places}f}" if is_number(value) else ABSENT


def signed(value: Any, places: int = 2) -> str:
    """Write a number with its sign, −4.23 or +0.50, but 0.00, or a dash where there is none."""
    if not is_number(value):
        return ABSENT
    rounded = round(value, places)
    return f"{rounded:+,.{places}f}".replace("-", "−") if rounded else f"{0:.{places}f}"


def percent(value: Any) -> str:
    """Write a percentage, 71.24 → 71.2%, or a dash where there is none."""
    return f"{value:.1f}%" if is_number(value) else ABSENT


def share(value: Any) -> str:
    """Write a percentage so that a small one still tells something, 46.1%, 0.12%, 0.0034%, or a dash."""
    if not is_number(value) or not 0 < value < 1:
        return percent(value)
    return f"{value:.{1 - math.floor(math.log10(value))}f}%"


def counted(number: int, noun: str) -> str:
    """Write *number* of *noun*: 1 label, 2,000 labels."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def bar_style(value: Any, mark: Any = None) -> str:
    """Return the CSS variables of a bar: its length and, if any, its mark, in percent of the track."""
    parts = [
        f"--{name}:{min(max(part, 0.0), 100.0):.1f}"
        for name, part in (("v", value), ("m", mark))
        if is_number(part)
    ]
    return ";".join(parts)


@cache
def environment() -> Environment:
    """Return the templates' environment; escaping is on whatever a template is called."""
    made = Environment(
        loader=PackageLoader("lglm_core.pages", package_path=""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters.update(decimals=decimals, percent=percent, share=share, signed=signed, data_uri=data_uri)
    made.globals.update(bar_style=bar_style, counted=counted)
    return made


@cache
def script(name: str) -> tuple[Markup, str]:
    """Return one of our own scripts as it is, and its digest as a content security policy names it."""
    source = environment().get_template(name).render()
    digest = base64.b64encode(hashlib.sha256(source.encode()).digest()).decode("ascii")
    return Markup(source), f"sha256-{digest}"  # our own file: nothing of the user's is in it


def render(template: str, **values: Any) -> str:
    """Return the page that *template* makes of *values*; the same values give the same text."""
    return environment().get_template(template).render(values)
