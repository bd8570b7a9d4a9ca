"""What ``lglm_core`` offers by name, and that it loads nothing else."""

import importlib
import subprocess
import sys

import pytest

import lglm_core


def test_dir_lists_the_public_names():
    assert dir(lglm_core) == sorted([*lglm_core.__all__, "__version__"])
    assert {"Dataset", "LabelVocabulary", "Tagger", "load_bundle"} <= set(dir(lglm_core))


@pytest.mark.parametrize("name", lglm_core.__all__)
def test_every_public_name_is_the_one_of_its_module(name: str):
    found = getattr(lglm_core, name)
    assert found is getattr(importlib.import_module(found.__module__), name)


def test_an_unknown_name_is_refused():
    name = "Tagge"
    with pytest.raises(AttributeError, match="module 'lglm_core' has no attribute 'Tagge'"):
        getattr(lglm_core, name)


@pytest.mark.process
def test_listing_the_names_imports_none_of_them():
    script = "import sys, lglm_core; dir(lglm_core); print('torch' in sys.modules, 'numpy' in sys.modules)"
    command = [sys.executable, "-c", script]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "False False\n"
