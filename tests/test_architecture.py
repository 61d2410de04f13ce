"""The house's walls: who may import whom, and a test file for every source file."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "hrnet_jax"
SOURCES = sorted(PACKAGE.rglob("*.py"))

# A file imports from lower levels or from its own folder.
LEVELS = [
    ["hrnet_jax", "types", "files", "memory"],
    ["compiling"],
    [
        "models",
        "data",
        "checksums",
        "metrics",
        "optim",
        "per_image",
        "processes",
        "signals",
        "visualize",
        "writer",
    ],
    ["copies", "protocol", "report", "submission"],
    ["batching", "config", "losses", "inference", "sharding"],
    ["compare", "recipes", "step"],
    ["checkpoint", "evaluator", "monitor"],
    ["zoo"],
    ["interop"],
    ["setup", "predict", "prepare", "workdir"],
    ["benchmark", "doctor", "evaluate", "plan", "samples", "train"],
    ["main"],
]
LEVEL_OF = {name: level for level, names in enumerate(LEVELS) for name in names}
SLOW = {"matplotlib", "scipy", "tensorflow_datasets"}
SEE_CONFIGS = {"main", "commands", "train", "config"}  # all below work with values and records


def imports_of(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found.add(node.module)
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def room(module: str) -> str:
    """hrnet_jax.models.fcn -> models; hrnet_jax.train -> train."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else parts[0]


def name_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_imports_go_downwards(path):
    here = room(name_of(path))
    assert here in LEVEL_OF, f"{here} has no level; give it one in LEVELS"
    for module in imports_of(path):
        if not module.startswith("hrnet_jax.") or room(module) not in LEVEL_OF:
            continue
        there = room(module)
        assert there == here or LEVEL_OF[there] < LEVEL_OF[here], f"{here} imports {there}"


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_the_data_side_never_sees_a_device(path):
    modules = {module.split(".")[0] for module in imports_of(path)}
    assert not modules & {"tensorflow", "torch"}
    if room(name_of(path)) in ("data", "types"):
        assert not modules & {"jax", "flax"}


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_configs_stop_where_they_become_things(path):
    modules = imports_of(path)
    if any(module.startswith(("ml_collections", "hrnet_jax.config")) for module in modules):
        assert room(name_of(path)) in SEE_CONFIGS


def test_every_source_file_has_its_tests():
    for path in SOURCES:
        inside = path.relative_to(PACKAGE)
        if path.name == "__init__.py" or inside.parts[:2] == ("data", "minicity"):
            continue  # minicity is one thing in several files, tested as one
        if str(inside) in ("types.py",):  # types only
            continue
        assert (ROOT / "tests" / inside.parent / f"test_{inside.name}").exists(), inside


def test_only_what_is_slow_to_import_is_imported_inside_a_function():
    for path in SOURCES:
        for function in ast.walk(ast.parse(path.read_text())):
            if not isinstance(function, ast.FunctionDef):
                continue
            for node in ast.walk(function):
                if isinstance(node, ast.ImportFrom):
                    assert node.module.split(".")[0] in SLOW, f"{path}:{node.lineno}"
                elif isinstance(node, ast.Import):
                    assert {alias.name.split(".")[0] for alias in node.names} <= SLOW, path
