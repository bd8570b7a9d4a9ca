"""Datasets of tables and pictures that lie on web servers."""

import csv
import io
from pathlib import Path

from PIL import Image

from lglm_core.dataset.plan import make_plan
from lglm_core.dataset.shard_writer import write_shard
from lglm_core.labels.vocabulary import LabelVocabulary
from lglm_core.sources.table import TableSource
from tests.servers.web import Website


def jpeg(shade: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (8, 8), (shade, 0, 0)).save(file, "JPEG")
    return file.getvalue()


def test_a_table_and_its_pictures_may_lie_on_web_servers(site: Website, tmp_path: Path):
    site.files |= {f"/p/{n}.jpg": jpeg(n) for n in range(3)}
    rows = [("0.jpg", "dog"), (f"{site.url}/p/1.jpg?sig=1", "cat"), ("gone.jpg", "")]
    text = io.StringIO()
    csv.writer(text).writerows([("image", "labels", "split"), *[(*row, "train") for row in rows]])
    site.files["/labels.csv"] = text.getvalue().encode()
    source = TableSource(f"{site.url}/labels.csv?sig=1", f"{site.url}/p")
    (shard,) = make_plan(source, 10).shards
    receipt = write_shard(shard, LabelVocabulary(source.labels()), str(tmp_path))
    assert len(receipt.index) == 2
    assert [(reject.status, reject.error) for reject in receipt.rejects] == [
        ("missing", "the web server has no such file (404 Not Found)")
    ]
