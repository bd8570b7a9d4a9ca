"""What the documents name exists: links, paths, commands, flags, the rooms' files and columns, modules."""

import ast
import importlib
import io
import json
import re
import shlex
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import lglm_core
from jobs import arguments, command_line, tag
from jobs.arguments import Choices
from jobs.options import Options
from lglm_core.dataset.duplicates import DUPLICATES_SCHEMA
from lglm_core.dataset.layout import INDEX_SCHEMA, REJECTS_SCHEMA
from lglm_core.rooms import Manifest
from lglm_core.rooms.manifest import kind_named
from pipelines import options as flows
from pipelines.cli import FLOWS, JOBS
from tests.test_architecture import PACKAGES, modules_of

ROOT = Path(__file__).parents[1]
README_BYTES = 8192
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
CURRENT = [path for path in DOCUMENTS if path.name != "CHANGELOG.md"]  # which tells of what was, too
OURS = re.compile(r"(?:lglm_core|jobs|pipelines|tests|infra|docs|\.ci)/[\w./-]*")
MODULE = re.compile(r"(?:lglm_core|jobs|pipelines|tests)(?:\.\w+)+")
FENCE = re.compile(r"^ *```(\w*)\n(.*?)^ *```", re.MULTILINE | re.DOTALL)
OTHERS_FLAGS = {"--address"}  # of ray job submit
VERBS = {*JOBS}
COMING_TARGETS = {"quick", "chaos"}
ROOMS = ROOT / "docs" / "reference" / "rooms.md"
FIXTURE = Path(__file__).parent / "rooms_0_4_0" / "rooms.zip"
ROOMS_OF_FIXTURE = {
    "dataset": "dataset",
    "dataset-coco": "dataset",
    "dataset-grown": "dataset",
    "labels": "label embeddings",
    "labels-ppmi": "label embeddings",
    "run": "run",
    "run/model": "model",
    "extended": "model",
    "exported": "model",
    "evaluation": "evaluation",
    "embeddings": "embeddings",
    "tags": "tags",
    "explanation": "explanation",
}
ARROW_TYPES = {"double": "float64", "float": "float32", "halffloat": "float16"}


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def prose_of(path: Path) -> str:
    """A document without its code blocks."""
    return FENCE.sub("", path.read_text())


def blocks_of(path: Path, *languages: str) -> list[str]:
    return [text for language, text in FENCE.findall(path.read_text()) if language in languages]


def spans_of(path: Path) -> list[str]:
    """What stands in backticks outside code blocks."""
    return [span.replace("\\|", "|") for span in re.findall(r"`([^`\n]+)`", prose_of(path))]


def anchors_of(path: Path) -> set[str]:
    headings = re.findall(r"^#+ (.*)$", prose_of(path), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_bytes()) <= README_BYTES


@pytest.mark.parametrize("path", DOCUMENTS, ids=name_of)
def test_every_relative_link_leads_somewhere(path: Path):
    links = re.findall(r"\]\(([^)\s]+)\)", prose_of(path))
    lost = []
    for link in (link for link in links if "://" not in link):
        file, _, anchor = link.partition("#")
        target = (path.parent / file).resolve() if file else path
        if not target.exists() or (anchor and anchor not in anchors_of(target)):
            lost.append(link)
    assert lost == []


@pytest.mark.parametrize("path", CURRENT, ids=name_of)
def test_every_path_that_is_named_exists(path: Path):
    named = {span for span in spans_of(path) if OURS.fullmatch(span)}
    assert [name for name in sorted(named) if not (ROOT / name).exists()] == []


@pytest.mark.parametrize("path", CURRENT, ids=name_of)
def test_every_module_and_name_of_ours_that_is_named_exists(path: Path):
    """``lglm_core.rooms.Room`` and the imports in examples."""
    named = {
        match for span in spans_of(path) if (match := span.partition("(")[0]) and MODULE.fullmatch(match)
    }
    for block in blocks_of(path, "python"):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in PACKAGES:
                named |= {f"{node.module}.{alias.name}" for alias in node.names}
    assert [name for name in sorted(named) if not is_defined(name)] == []


def is_defined(name: str) -> bool:
    """Tell whether a dotted name is a module, or a name at the top of one; nothing is imported."""
    parts = name.split(".")
    for stop in range(len(parts), 0, -1):
        place = ROOT.joinpath(*parts[:stop])
        file = place.with_suffix(".py") if place.with_suffix(".py").is_file() else place / "__init__.py"
        if file.is_file():
            return stop == len(parts) or (stop == len(parts) - 1 and parts[-1] in names_in(file))
    return False


def names_in(file: Path) -> set[str]:
    """The names at the top of a module; of ``lglm_core`` itself those that it loads when asked for."""
    if file == Path(lglm_core.__file__):
        return {*lglm_core.__all__}
    names: set[str] = set()
    for node in ast.parse(file.read_text()).body:
        match node:
            case ast.FunctionDef(name=name) | ast.ClassDef(name=name):
                names.add(name)
            case ast.Import(names=imported) | ast.ImportFrom(names=imported):
                names |= {alias.asname or alias.name for alias in imported}
            case ast.Assign(targets=[ast.Name(id=name)]) | ast.AnnAssign(target=ast.Name(id=name)):
                names.add(name)
    return names


@pytest.fixture(scope="module")
def verbs() -> dict[str, type[Options] | Choices]:
    """The options of every verb and flow, as their jobs hand them to the command line."""
    found: dict[str, type[Options] | Choices] = {}

    def note(verb: str, options: type[Options] | Choices, *_: Any) -> int:
        found[verb] = options
        return 0

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(command_line, "main", note)
        for verb in VERBS:
            importlib.import_module(f"jobs.{verb.replace('-', '_')}").main([])
    for flow in FLOWS:
        found[f"flow {flow}"] = getattr(flows, "".join(word.capitalize() for word in flow.split("-")))
    return found


def commands_in(path: Path) -> Iterator[list[str]]:
    """The arguments of every ``lglm …`` in the code blocks of a document."""
    for block in blocks_of(path, "bash"):
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            if "lglm" in words and words[0] in ("lglm", "ray"):
                yield words[words.index("lglm") + 1 :]


@pytest.mark.parametrize("path", DOCUMENTS, ids=name_of)
def test_every_command_in_a_code_block_parses(
    path: Path, verbs: Mapping[str, Any], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(arguments, "_read_config", lambda _: {"dataset": "dataset", "head": "plain"})
    for words in commands_in(path):
        verb = " ".join(words[: 2 if words[0] == "flow" else 1])
        assert verb in verbs, f"lglm {' '.join(words)}"
        try:
            arguments.parse(verb, verbs[verb], words[len(verb.split()) :])
        except SystemExit:
            pytest.fail(f"lglm {' '.join(words)}")


def flags_of(kinds: Iterable[type[Options] | Choices]) -> set[str]:
    flags = {"--config", "--json", "--help"}
    for kind in kinds:
        for each in kind.values() if isinstance(kind, Mapping) else (kind,):
            flags |= {f"--{name.replace('_', '-')}" for name in each.model_fields}
    return flags


@pytest.mark.parametrize("path", CURRENT, ids=name_of)
def test_every_flag_that_is_named_exists(path: Path, verbs: Mapping[str, Any]):
    named = {flag for span in spans_of(path) for flag in re.findall(r"(?:^|\s)(--[a-z][\w-]*)", span)}
    assert sorted(named - flags_of(verbs.values()) - OTHERS_FLAGS) == []


@pytest.mark.parametrize("path", CURRENT, ids=name_of)
def test_every_make_target_that_is_named_exists(path: Path):
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    named = re.findall(r"(?:^ +|`)make ([\w-]+)", prose_of(path), re.MULTILINE)
    assert sorted({*named} - {*targets} - COMING_TARGETS) == []


def test_the_list_of_verbs_is_complete():
    table = (ROOT / "docs" / "manual" / "commands.md").read_text().partition("## Rooms")[0]
    assert set(re.findall(r"^\| `([a-z-]+)` \|", table, re.MULTILINE)) == VERBS


# rooms.md


def sections(text: str, level: int) -> dict[str, str]:
    """The text below each heading of a level."""
    parts = re.split(rf"^{'#' * level} (.*)$", text, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def rows_of(text: str, first: str) -> list[list[str]]:
    """The cells of the tables whose first column is called *first*, without backticks."""
    rows: list[list[str]] = []
    inside = False
    for line in text.splitlines():
        if not line.startswith("|"):
            inside = False
            continue
        cells = [cell.strip().replace("`", "") for cell in line.strip("|").split(" | ")]
        if cells[0] == first:
            inside = True
        elif inside and not cells[0].startswith("---"):
            rows.append(cells)
    return rows


def as_pattern(name: str) -> str:
    """A name with SPLIT, NAME and runs of N as a regular expression."""
    pattern = re.escape(name).replace("SPLIT", r"[\w-]+").replace("NAME", ".+")
    return re.sub(r"N{2,}", lambda run: rf"\d{{{len(run[0])}}}", pattern)


@pytest.fixture(scope="module")
def fixture() -> dict[str, bytes]:
    """The rooms of 0.4.0, file by file; of large files only that they are there."""
    with zipfile.ZipFile(FIXTURE) as archive:
        return {
            name: archive.read(name) if name.endswith((".parquet", ".json")) else b""
            for name in archive.namelist()
        }


def files_of(fixture: Mapping[str, bytes], room: str) -> dict[str, bytes]:
    below = f"{room}/"
    return {name.removeprefix(below): data for name, data in fixture.items() if name.startswith(below)}


def documented(room: str) -> dict[str, str]:
    """The tables of a room's section, by the file that their heading names."""
    below = sections(sections(ROOMS.read_text(), 2)[room], 3)
    return {re.search("`(.*?)`", heading)[1]: text for heading, text in below.items()}


def test_rooms_md_has_a_section_for_every_room():
    assert set(ROOMS_OF_FIXTURE.values()) == {*sections(ROOMS.read_text(), 2)} - {"Every room"}


@pytest.mark.parametrize("room", sorted(set(ROOMS_OF_FIXTURE.values())))
def test_rooms_md_names_every_file_of_a_room_and_no_other(room: str, fixture: Mapping[str, bytes]):
    every = sections(ROOMS.read_text(), 2)
    listed = [row[0] for row in rows_of(sections(every[room], 3).get("", every[room]), "file")]
    found = {name for of, kind in ROOMS_OF_FIXTURE.items() if kind == room for name in files_of(fixture, of)}
    patterns = [as_pattern(name) for name in [*listed, "manifest.json"]]
    assert [name for name in sorted(found) if not any(re.fullmatch(each, name) for each in patterns)] == []
    assert [each for each in patterns if not any(re.fullmatch(each, name) for name in found)] == []


def told_type(kind: pa.DataType) -> str:
    if pa.types.is_fixed_size_list(kind):
        return f"{told_type(kind.value_type)}[]"
    if pa.types.is_list(kind):
        return f"list<{told_type(kind.value_type)}>"
    return ARROW_TYPES.get(str(kind), str(kind))


def told_schema(schema: pa.Schema) -> list[tuple[str, str]]:
    return [(field.name, told_type(field.type)) for field in schema]


def columns_in(text: str) -> list[tuple[str, str]]:
    return [(row[0], re.sub(r"\[\w\]$", "[]", row[1])) for row in rows_of(text, "column")]


@pytest.mark.parametrize("of", ROOMS_OF_FIXTURE)
def test_rooms_md_lists_every_column_of_every_table(of: str, fixture: Mapping[str, bytes]):
    room = ROOMS_OF_FIXTURE[of]
    tables = {name: text for name, text in documented(room).items() if name.endswith(".parquet")}
    if room == "model":
        tables = documented("label embeddings")
    for name, data in files_of(fixture, of).items():
        if not name.endswith(".parquet") or (room == "run" and name.startswith("model/")):
            continue
        first = re.sub(r"\.\d{4}\.parquet$", ".parquet", name)  # of the tables of an append
        (text,) = (text for pattern, text in tables.items() if re.fullmatch(as_pattern(pattern), first))
        assert columns_in(text) == told_schema(pq.read_schema(io.BytesIO(data))), name


@pytest.mark.parametrize(
    ("room", "file", "schema"),
    [
        ("dataset", "index/SPLIT.parquet", INDEX_SCHEMA),
        ("dataset", "rejects.parquet", REJECTS_SCHEMA),
        ("dataset", "duplicates.parquet", DUPLICATES_SCHEMA),
        ("tags", "part-NNNNN.parquet", tag.SCHEMA),
    ],
)
def test_rooms_md_agrees_with_the_schemas_in_the_code(room: str, file: str, schema: pa.Schema):
    assert columns_in(documented(room)[file]) == told_schema(schema)


def test_rooms_md_lists_what_the_training_loop_tells_of_an_epoch():
    tree = ast.parse((ROOT / "lglm_core" / "training" / "loop.py").read_text())
    (end,) = (node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == "EpochEnd")
    fields = [node.target.id for node in end.body if isinstance(node, ast.AnnAssign)]
    assert [name for name, _ in columns_in(documented("run")["history.parquet"])] == fields


def keys_in(value: Any, path: str = "") -> Iterator[str]:
    """The paths of a JSON value's leaves: ``details.shards[].name``, and ``x[]`` of an empty list."""
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from keys_in(inner, f"{path}.{name}" if path else name)
    elif isinstance(value, list) and value:
        for inner in value:
            yield from keys_in(inner, f"{path}[]")
    else:
        yield f"{path}[]" if value == [] else path


@pytest.mark.parametrize("room", sorted(set(ROOMS_OF_FIXTURE.values())))
def test_rooms_md_lists_every_key_of_every_json_file_and_no_other(room: str, fixture: Mapping[str, bytes]):
    common = rows_of(sections(ROOMS.read_text(), 2)["Every room"], "key")
    for file, text in documented(room).items():
        if not file.endswith(".json"):
            continue
        rows = rows_of(text, "key") + (common if file == "manifest.json" else [])
        patterns = {as_pattern(row[0]): row for row in rows}
        found = {
            key
            for of, kind in ROOMS_OF_FIXTURE.items()
            if kind == room
            for name, data in files_of(fixture, of).items()
            if re.fullmatch(as_pattern(file), name)
            for key in keys_in(json.loads(data))
        }
        assert found, file
        unknown = [key for key in sorted(found) if not any(re.fullmatch(each, key) for each in patterns)]
        assert [key for key in unknown if not any(row[0].startswith(f"{key}.") for row in rows)] == []
        unseen = [row for each, row in patterns.items() if not any(re.fullmatch(each, key) for key in found)]
        assert [row[0] for row in unseen if "optional" not in row[1]] == []


@pytest.mark.parametrize("room", sorted(set(ROOMS_OF_FIXTURE.values())))
def test_rooms_md_lists_the_details_of_every_kind_of_manifest(room: str):
    kind = kind_named(room.replace(" ", "-"))
    details = {field.name for field in fields(kind)} - {field.name for field in fields(Manifest)}
    listed = {row[0] for row in rows_of(documented(room)["manifest.json"], "key")}
    assert {re.split(r"[.\[]", key)[1] for key in listed if key.startswith("details.")} == details


# architecture.md


def test_architecture_md_names_every_module_and_no_other():
    named = []
    for heading, text in sections((ROOT / "docs" / "architecture.md").read_text(), 3).items():
        if folder := re.fullmatch(r"`(.*)/`", heading):
            named += [f"{folder[1]}/{row[0]}" for row in rows_of(text, "file")]
    modules = {
        name_of(path) for package in PACKAGES for path in modules_of(package) if path.name != "__init__.py"
    }
    assert sorted(modules - set(named)) == [], "not in docs/architecture.md"
    assert sorted(set(named) - modules) == [], "only in docs/architecture.md"
    assert len(named) == len(set(named))
