"""Every import inside the core runs down the line of the wings."""

from tests.test_architecture import imports_of, modules_of, name_of

LINE = (
    *("errors seeds", "storage images metrics", "rooms", "labels", "sources", "dataset", "loading model"),
    *("inference", "training", "pages"),
)
LEVELS = {wing: level for level, wings in enumerate(LINE) for wing in wings.split()}


def wing_of(module: str) -> str:
    return module.split(".")[1]


def test_no_import_inside_the_core_runs_up():
    running_up = {
        (name_of(path), name)
        for path in modules_of("lglm_core")
        if (here := name_of(path)) != "lglm_core"
        for name in imports_of(path)
        if name.startswith("lglm_core.") and wing_of(name) in LEVELS
        if wing_of(name) != wing_of(here) and LEVELS[wing_of(name)] >= LEVELS[wing_of(here)]
    }
    assert running_up == set()
