"""Rendering of templates: every text is escaped, and every kind of number has one format."""

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
    """Return whether *value* is a finite number, and neither None nor a bool."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def decimals(value: Any, places: int = 1) -> str:
    """Format a number with *places* decimals, or as a dash where there is none."""
    return f"{value:,.{places}f}" if is_number(value) else ABSENT


def signed(value: Any, places: int = 2) -> str:
    """Format a number with its sign, −4.23 or +0.50, zero as 0.00, or as a dash where there is none."""
    if not is_number(value):
        return ABSENT
    rounded = round(value, places)
    return f"{rounded:+,.{places}f}".replace("-", "−") if rounded else f"{0:.{places}f}"


def percent(value: Any) -> str:
    """Format a percentage with one decimal, 71.24 → 71.2%, or as a dash where there is none."""
    return f"{value:.1f}%" if is_number(value) else ABSENT


def fine_percent(value: Any) -> str:
    """Format a percentage with two significant digits if it is small: 46.1%, 0.12%, 0.0034%, or a dash."""
    if not is_number(value) or not 0 < value < 1:
        return percent(value)
    return f"{value:.{1 - math.floor(math.log10(value))}f}%"


def counted(number: int, noun: str) -> str:
    """Format a number with its noun: 1 label, 2,000 labels."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def bar_style(value: Any, mark: Any = None) -> str:
    """Return the CSS variables of a bar: its length and, if any, its mark, in percent of the track."""
    variables = [
        f"--{name}:{min(max(percent, 0.0), 100.0):.1f}"
        for name, percent in (("v", value), ("m", mark))
        if is_number(percent)
    ]
    return ";".join(variables)


@cache
def environment() -> Environment:
    """Return the templates' environment, which escapes values in every template."""
    created = Environment(
        loader=PackageLoader("lglm_core.pages", package_path=""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    created.filters.update(
        decimals=decimals, percent=percent, fine_percent=fine_percent, signed=signed, data_uri=data_uri
    )
    created.globals.update(bar_style=bar_style, counted=counted)
    return created


@cache
def script(name: str) -> tuple[Markup, str]:
    """Return one of our own scripts, unescaped, and its digest in the form of a content security policy."""
    source = environment().get_template(name).render()
    digest = base64.b64encode(hashlib.sha256(source.encode()).digest()).decode("ascii")
    return Markup(source), f"sha256-{digest}"  # safe to leave unescaped: the file holds no user's text


def render(template: str, **values: Any) -> str:
    """Return the page that *template* renders from *values*; the same values give the same text."""
    return environment().get_template(template).render(values)
