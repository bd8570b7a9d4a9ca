"""Labels known by their names alone, from the command line."""

import json
from pathlib import Path

import pytest

from tests.jobs.commands import Here, assert_refused
