"""The README's notebook example, run as it is written, on the small rooms of the fixture."""

import re
import shutil
import zipfile
from pathlib import Path

import pytest
import torch
from torchvision.models import mobilenet_v2

pytestmark = pytest.mark.weighty

ROOT = Path(__file__).parents[2]
ROOMS = ROOT / "tests" / "rooms_0_4_0" / "rooms.zip"


def test_the_notebook_example_leads_from_data_to_tags(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    (example,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    monkeypatch.chdir(tmp_path)
    with zipfile.ZipFile(ROOMS) as archive:
        archive.extractall("work")
    shutil.move("work/photos/p00.jpg", "photo.jpg")
    torch.manual_seed(0)
    torch.save(mobilenet_v2(weights=None).state_dict(), "mobilenet_v2.pth")

    exec(example, {})

    *epochs, tags = capsys.readouterr().out.splitlines()
    assert len(epochs) == 60 and epochs[-1].startswith("epoch 59: loss ")
    assert re.fullmatch(r"\[('bright'|'red'|'striped'|, )*\]", tags)
    assert (tmp_path / "work" / "model" / "manifest.json").is_file()
