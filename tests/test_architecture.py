"""The house's arrows: pipelines → jobs → lglm_core; nothing heavy before it is needed."""

import ast
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipelines.cli import JOBS

ROOT = Path(__file__).parents[1]
PACKAGES = ("lglm_core", "jobs", "pipelines")
OUT_OF_BOUNDS = {
    "lglm_core": {"ray", "prefect", "argparse", "optparse", "click", "tyro", "jobs", "pipelines"},
    "jobs": {"prefect", "pipelines"},
    "pipelines": {"torch", "torchvision", "ray"},
}
# Of Ray, flows know the client of the Jobs API, and that in one place.
EXCEPTIONS = {
    ("pipelines.ray_jobs", name)
    for name in (
        *("ray.job_submission", "ray.job_submission.JobSubmissionClient", "ray.job_submission.JobDetails"),
        *("ray.exceptions", "ray.exceptions.AuthenticationError"),
    )
}
OPEN_TO_PIPELINES = {"jobs.options", "jobs.arguments", "jobs.command_line"}
VERBS = tuple(verb.replace("-", "_") for verb in JOBS)


def modules_of(package: str) -> list[Path]:
    """The Python files of a package."""
    return sorted((ROOT / package).rglob("*.py"))


def imports_of(path: Path) -> Iterator[str]:
    """Every module a file imports, at its top or within a function; of ``from a import b`` a and a.b."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative imports hide where they lead"
            assert node.module
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def name_of(path: Path) -> str:
    """``jobs/shard.py`` → ``jobs.shard``."""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


@pytest.mark.parametrize("package", PACKAGES)
def test_no_import_goes_against_the_arrows(package: str):
    against = {
        (name_of(path), name)
        for path in modules_of(package)
        for name in imports_of(path)
        if name.partition(".")[0] in OUT_OF_BOUNDS[package] and (name_of(path), name) not in EXCEPTIONS
    }
    assert against == set()


def test_pipelines_see_of_the_jobs_their_options_and_the_command_line():
    seen = {name for path in modules_of("pipelines") for name in imports_of(path) if name.startswith("jobs.")}
    assert {".".join(name.split(".")[:2]) for name in seen} <= OPEN_TO_PIPELINES


def test_only_jobs_and_the_client_of_the_jobs_api_know_ray():
    users = {
        name_of(path)
        for package in PACKAGES
        for path in modules_of(package)
        if any(name.partition(".")[0] == "ray" for name in imports_of(path))
    }
    assert {name for name in users if not name.startswith("jobs.")} == {"pipelines.ray_jobs"}


@pytest.mark.parametrize("package", ["jobs", "pipelines"])
def test_torch_and_ray_are_imported_within_functions(package: str):
    at_top = {
        (name_of(path), node.lineno)
        for path in modules_of(package)
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in ([node.module] if isinstance(node, ast.ImportFrom) else [a.name for a in node.names])
        if name and name.partition(".")[0] in ("torch", "torchvision", "ray")
    }
    assert at_top == set()


def test_infra_holds_no_python():
    assert list((ROOT / "infra").rglob("*.py")) == []


@pytest.mark.parametrize("package", PACKAGES)
def test_every_module_says_what_it_is(package: str):
    silent = [
        name_of(path)
        for path in modules_of(package)
        if path.read_text().strip() and not ast.get_docstring(ast.parse(path.read_text()))
    ]
    assert silent == []


def loaded_after(code: str, cwd: Path) -> set[str]:
    """The top-level modules that a fresh interpreter has loaded once it ran *code*."""
    script = (
        f"import sys\n{code}\nprint('\\n' + ' '.join({{name.partition('.')[0] for name in sys.modules}}))"
    )
    command = [sys.executable, "-c", script]
    finished = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=120)
    assert finished.returncode == 0, finished.stderr
    return set(finished.stdout.splitlines()[-1].split())


@pytest.mark.process
def test_the_options_load_nothing_heavy(tmp_path: Path):
    heavy = {"torch", "ray", "prefect", "numpy", "pyarrow", "PIL", "pycocotools", "torchvision"}
    assert not loaded_after("import jobs.options, jobs.command_line, lglm_core.rooms.room", tmp_path) & heavy


@pytest.mark.process
def test_importing_every_job_leaves_torch_ray_and_prefect_out(tmp_path: Path):
    names = ", ".join(name_of(path) for path in modules_of("jobs"))
    assert not loaded_after(f"import {names}", tmp_path) & {"torch", "torchvision", "ray", "prefect"}


@pytest.mark.process
def test_importing_the_console_command_loads_nothing_heavy(tmp_path: Path):
    heavy = {"torch", "ray", "prefect", "pydantic", "numpy", "pyarrow"}
    assert not loaded_after("import pipelines.cli", tmp_path) & heavy


@pytest.mark.process
def test_importing_every_flow_leaves_torch_and_ray_out(tmp_path: Path):
    names = ", ".join(name_of(path) for path in modules_of("pipelines"))
    state = "import os; os.environ['PREFECT_HOME'] = os.getcwd()"
    assert not loaded_after(f"{state}\nimport {names}", tmp_path) & {"torch", "torchvision", "ray"}


@pytest.mark.process
def test_help_leaves_everything_heavy_out(tmp_path: Path):
    """All modules run in one process, one after another; the first that loads something heavy is named."""
    code = (
        "import runpy\n"
        f"for module in {[*(f'jobs.{verb}' for verb in VERBS), 'pipelines.cli']}:\n"
        "    sys.argv = [module, '--help']\n"
        "    try: runpy.run_module(module, run_name='__main__', alter_sys=True)\n"
        "    except SystemExit as exit: assert exit.code == 0, module\n"
        "    else: raise AssertionError(f'{module} went on')\n"
        "    heavy = {'torch', 'torchvision', 'ray', 'prefect'} & {*sys.modules}\n"
        "    assert not heavy, f'{module} loads {heavy}'\n"
    )
    assert "pydantic" in loaded_after(code, tmp_path)


@pytest.mark.slow
def test_the_wheel_holds_the_packages_and_the_page_templates(tmp_path: Path):
    source, wheels = tmp_path / "source", tmp_path / "wheels"
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        source.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, source / name)
    for package in (*PACKAGES, "tests"):
        shutil.copytree(ROOT / package, source / package, ignore=shutil.ignore_patterns("__pycache__"))
    options = ["--no-deps", "--no-build-isolation", "--no-index", "--quiet", "--wheel-dir", str(wheels)]
    subprocess.run([sys.executable, "-m", "pip", "wheel", *options, str(source)], check=True, timeout=240)
    (wheel,) = wheels.iterdir()
    held = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    files = {path.relative_to(ROOT).as_posix() for package in PACKAGES for path in modules_of(package)}
    templates = {path.relative_to(ROOT).as_posix() for path in (ROOT / "lglm_core" / "pages").glob("*.j2")}
    assert templates
    assert held == files | templates
    entry_points = next(name for name in zipfile.ZipFile(wheel).namelist() if "entry_points" in name)
    assert "lglm = pipelines.cli:main" in zipfile.ZipFile(wheel).read(entry_points).decode()
