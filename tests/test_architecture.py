"""The house: its rooms, who may import whom, how large things are, and a test for every file."""

import ast
import collections
import functools
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "hrnet_jax"
SOURCES = sorted(PACKAGE.rglob("*.py"))

# From top to bottom: a room imports from those below its own line, or from itself.
ORDER = [
    ["main"],
    ["commands", "train"],
    ["config"],
    ["training", "evaluation", "interop"],
    ["zoo", "models", "data"],
    ["ops", "runs"],
    ["parallel"],
]
LEVEL_OF = {name: level for level, names in enumerate(ORDER) for name in names}
SLOW = {"matplotlib", "scipy", "tensorflow_datasets", "jinja2"}  # to import
SEES_CONFIGS = {"config", "commands", "train", "main"}
FACTS = {"data/datasets", "zoo.py", "config/defaults.py"}  # tables may be long


@functools.cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


@functools.cache
def imports_of(path: Path) -> frozenset[str]:
    modules = set()
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Import):
            modules |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            modules.add(node.module)
            modules |= {f"{node.module}.{alias.name}" for alias in node.names}
    return frozenset(modules)


def room(module: str) -> str:
    """hrnet_jax.models.fcn -> models; hrnet_jax.train -> train."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else parts[0]


def name_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def is_fact(path: Path) -> bool:
    return any(str(path.relative_to(PACKAGE)).startswith(fact) for fact in FACTS)


def test_the_house_has_fourteen_entries_at_most():
    entries = {path.relative_to(PACKAGE).parts[0] for path in SOURCES}
    assert len(entries) <= 14
    assert {name.removesuffix(".py") for name in entries} == {"__init__", *LEVEL_OF}


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_imports_go_down_the_list(path):
    here = room(name_of(path))
    if here == "hrnet_jax":  # the package's face may show all
        return
    for module in imports_of(path):
        there = room(module)
        if not module.startswith("hrnet_jax.") or there not in LEVEL_OF:
            continue
        assert there == here or LEVEL_OF[there] > LEVEL_OF[here], f"{here} imports {there}"


def arrows() -> set[tuple[str, str]]:
    """Imports between rooms: the entries of the package, and the folders beside it."""
    found = set()
    for folder in (PACKAGE, ROOT / "benchmarks", ROOT / "configs", ROOT / "convert"):
        for path in folder.rglob("*.py"):
            here = room(name_of(path)) if folder == PACKAGE else folder.name
            for module in imports_of(path):
                there = room(module) if module.startswith("hrnet_jax.") else module.split(".")[0]
                if there in {*LEVEL_OF, "benchmarks", "convert"} - {here}:
                    found.add((here, there))
    return {(a, b) for a, b in found if a != "hrnet_jax"}


def test_the_house_has_few_arrows_and_floors():
    found = arrows()
    below = collections.defaultdict(set)
    for here, there in found:
        below[here].add(there)

    @functools.cache
    def floor(name: str) -> int:
        return 1 + max(map(floor, below[name]), default=0)

    assert len(found) <= 110
    assert max(map(floor, list(below))) <= 8


def test_no_two_rooms_share_a_name():
    names = collections.Counter(p.stem for p in SOURCES if p.name != "__init__.py")
    folders = {p.name for p in PACKAGE.rglob("*") if p.is_dir() and p.name != "__pycache__"}
    assert not [name for name, count in names.items() if count > 1]
    assert not folders & set(names)


def test_the_network_is_short_and_only_about_the_network():
    files = sorted((PACKAGE / "models").rglob("*.py"))
    assert sum(len(path.read_text().splitlines()) for path in files) <= 650
    assert len((PACKAGE / "models" / "layers.py").read_text().splitlines()) <= 180
    for path in files:
        words = re.findall(r"\b(cpus?|compil\w+|memory|malloc|xla)\b", path.read_text(), re.I)
        assert not words, f"{path}: {words}"
        assert {room(m) for m in imports_of(path) if m.startswith("hrnet_jax.")} <= {
            "models", "ops"
        }  # fmt: skip


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_files_and_functions_are_short(path):
    if not is_fact(path):
        assert len(path.read_text().splitlines()) <= 260
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and not is_fact(path):
            limit = 60 if path.name == "train.py" else 40
            body = node.body[1:] if ast.get_docstring(node) else node.body
            lines = body[-1].end_lineno - body[0].lineno + 1 if body else 0
            assert lines <= limit, f"{path}:{node.lineno} {node.name}"


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_the_data_side_never_sees_a_device(path):
    modules = {module.split(".")[0] for module in imports_of(path)}
    assert not modules & {"tensorflow", "torch"}
    if room(name_of(path)) == "data":
        assert not modules & {"jax", "flax"}


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_configs_stop_where_they_become_things(path):
    sees = any(m.startswith(("ml_collections", "hrnet_jax.config")) for m in imports_of(path))
    assert not sees or room(name_of(path)) in SEES_CONFIGS


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_every_source_file_has_its_tests(path):
    inside = path.relative_to(PACKAGE)
    if path.name == "__init__.py" or inside.parts[:2] == ("data", "minicity"):
        return  # minicity is one thing in several files, tested as one
    if str(inside) == "data/types.py":  # types only
        return
    assert (ROOT / "tests" / inside.parent / f"test_{inside.name}").exists(), inside


def test_only_what_is_slow_to_import_is_imported_inside_a_function():
    for path in SOURCES:
        for function in ast.walk(tree_of(path)):
            if not isinstance(function, ast.FunctionDef) or path.parent == PACKAGE:
                continue
            for node in ast.walk(function):
                if isinstance(node, ast.ImportFrom):
                    assert node.module.split(".")[0] in SLOW, f"{path}:{node.lineno}"
                elif isinstance(node, ast.Import):
                    assert {alias.name.split(".")[0] for alias in node.names} <= SLOW, path
