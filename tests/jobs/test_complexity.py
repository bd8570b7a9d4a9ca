"""``lglm complexity``: Table 2 of the paper, as counted and as printed."""

import pytest

from tests.jobs.commands import Here, Result

pytestmark = pytest.mark.weighty

SMALL = ("--backbone", "shufflenet_v2_x0_5", "--image-size", 64, "--labels", 9, "--vector-width", 16)


@pytest.fixture
def complexity(here: Here) -> Here:
    return lambda *arguments: here("complexity", *arguments)


def row(result: Result, model: str) -> list[str]:
    """Return the cells that follow *model* in its row of the table."""
    line = next(line for line in result.stdout.splitlines() if line.startswith(f"{model} "))
    return [cell.strip() for cell in line.removeprefix(model).split("  ") if cell.strip()]


def test_the_papers_three_models_are_shown_with_the_papers_figures(complexity: Here):
    result = complexity("--json")
    assert result.code == 0, result.stderr
    assert result.stderr == ""
    assert row(result, "ml-gcn")[-2:] == ["42.50 M", "31.37 G"]
    assert row(result, "a-gcn")[-2:] == ["42.57 M", "31.37 G"]
    lglm = ["49.72 M", "42.66 M", "31.62 G", "0.42 G", "31.20 G", "44.04 M", "31.37 G"]
    assert row(result, "lglm") == lglm
    assert "ResNet-101 alone" in result.stdout
    models = result.object["metrics"]["models"]
    assert [model["model"] for model in models] == ["ml-gcn", "a-gcn", "lglm"]
    assert models[2]["paper"] == {"parameters_millions": 44.04, "flops_billions": 31.37}
    assert sum(models[2]["parameters_by_part"].values()) == models[2]["parameters"] == 49_719_952


def test_models_of_one_head_differ_by_their_options(complexity: Here):
    result = complexity(*SMALL, "--head", "lglm", "lglm  m=358 group=358", "plain", "--json")
    assert result.code == 0, result.stderr
    lglm, narrow, plain = result.object["metrics"]["models"]
    assert (lglm["model"], narrow["model"]) == ("lglm", "lglm m=358 group=358")
    parts = [model["parameters_by_part"] for model in (lglm, narrow)]
    assert [part["image projection"] for part in parts] == [1024 * 1024 + 1024, 1024 * 358 + 358]
    assert lglm["parameters_folded"] == narrow["parameters_folded"] == plain["parameters"]
    assert result.object["counts"] == {"models": 3}


def test_in_another_setting_than_the_papers_its_figures_are_not_shown(complexity: Here):
    result = complexity(*SMALL, "--json")
    assert "paper" not in result.stdout.splitlines()[2]
    assert "44.04" not in result.stdout
    assert [model["paper"] for model in result.object["metrics"]["models"]] == [None] * 3


def test_lglm_without_mfc_is_not_a_model_of_table_2(complexity: Here):
    with_mfc, without = complexity("--head", "lglm", "lglm fusion=dot", "--json").object["metrics"]["models"]
    assert with_mfc["paper"] and not without["paper"]


def test_the_table_is_aligned(complexity: Here):
    lines = complexity("--head", "lglm", "plain", "a-gcn pooling=average").stdout.splitlines()
    table = lines[2 : lines.index("", 3)]
    ends = [{place for place, letter in enumerate(line) if letter in "MG"} for line in table[1:]]
    assert ends[0] == ends[2] >= ends[1]
    assert max(map(len, lines)) <= 110


def test_operations_that_are_not_counted_are_named(complexity: Here):
    result = complexity(*SMALL, "--head", "plain")
    assert "Not counted, as they are not matrix products: amax, batch_norm" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "naming"),
    [
        (("--head", "lglm", "gcn"), "the heads are lglm"),
        (("--head", "lglm m=3 group=2"), "divide"),
        (("--head", ""), "--head"),
        (("--backbone", "vit_b_16"), "vit_b_16"),
        (("--backbone", "inception_v3", "--image-size", 32), "too small"),
    ],
)
def test_a_model_that_cannot_be_built_is_refused_in_one_line(
    complexity: Here, arguments: tuple[object, ...], naming: str
):
    result = complexity(*arguments)
    assert result.code == 2
    assert result.stdout == ""
    assert len(result.stderr.splitlines()) == 1
    assert naming in result.stderr
