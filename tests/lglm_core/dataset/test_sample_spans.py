"""Where the bytes of a sample lie in its tar."""

from collections.abc import Callable
from pathlib import Path

from lglm_core.dataset.receipt import Receipt
from lglm_core.dataset.sample_spans import SampleSpans, with_stops
from tests.lglm_core.dataset.samples import GOOD, shard

Encode = Callable[..., bytes]


def test_every_byte_of_a_shard_belongs_to_one_sample(receipt: Receipt, out: Path):
    data = shard(out).read_bytes()
    index = with_stops(receipt.index, {receipt.shard: receipt.bytes})
    spans = [SampleSpans(index)[row] for row in range(len(GOOD))]
    assert [e.start for e in spans] == [0, *(e.start + e.size for e in spans[:-1])]
    assert spans[-1].start + spans[-1].size == len(data)
    for span in spans:
        own = bytearray(data[span.start : span.start + span.size])
        assert span.problem(bytes(own)) is None
        for position in range(len(own)):
            own[position] ^= 1
            assert span.problem(bytes(own)), position
            own[position] ^= 1
