"""The console command: its verbs and flows, and what it says to a wrong name."""

import pytest

from pipelines import cli
from pipelines.cli import FLOWS, JOBS


@pytest.mark.parametrize("arguments", [[], ["--help"], ["-h"], ["flow", "--help"]])
def test_help_lists_every_verb_and_flow(capsys: pytest.CaptureFixture[str], arguments: list[str]):
    assert cli.main(arguments) == 0
    shown = capsys.readouterr().out
    for name, text in (*JOBS.items(), *FLOWS.items()):
        assert name in shown
        assert text in shown


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["trian"], "lglm: unknown verb 'trian'; did you mean train? see lglm --help"),
        (["label_embeddings"], "lglm: unknown verb 'label_embeddings'; did you mean label-embeddings? see"),
        (["train-lglm"], "lglm: unknown verb 'train-lglm'; did you mean flow train-lglm? see lglm --help"),
        (
            ["flow", "tag-buckets"],
            "lglm: unknown flow 'tag-buckets'; did you mean tag-bucket? see lglm",
        ),
        (["flow", "nope"], "lglm: unknown flow 'nope'; the flows are train-lglm, tag-bucket"),
        (["flow"], "lglm: no flow named; the flows are train-lglm, tag-bucket"),
        (["frobnicate"], "lglm: unknown verb 'frobnicate'; the verbs are shard, append, retry, "),
        (["--frobnicate"], "lglm: unknown verb '--frobnicate'; the verbs are "),
    ],
)
def test_an_unknown_name_is_one_line_with_the_nearest_or_all_known_ones(
    capsys: pytest.CaptureFixture[str], arguments: list[str], line: str
):
    assert cli.main(arguments) == 2
    stdout, stderr = capsys.readouterr()
    assert stdout == ""
    assert stderr.startswith(line)
    assert len(stderr.splitlines()) == 1
