"""Rules for the code: imports, module names, docstrings, and writers of states."""

import ast
import subprocess
import sys
import tomllib
from functools import cache
from pathlib import Path

import pytest

from config import destinations

ROOT = Path(__file__).parents[2]

# The packages that a package may import, apart from itself. A package imports only
# packages above it in this table.
MAY_IMPORT: dict[str, set[str]] = {
    "config": set(),
    "dicom_node": set(),
    "dicom_node.log": set(),
    "dicom_node.storage.migrations": set(),
    "inference": set(),
    "dicom_node.dataset": {"dicom_node", "inference"},
    "dicom_node.storage": {"config", "dicom_node"},
    "inference.drawing": {"inference"},
    "inference.phantom": {"inference"},
    "models": {"config"},
    "dicom_node.metrics": {"dicom_node", "inference", "dicom_node.storage"},
    "dicom_node.network": {
        "config",
        "dicom_node",
        "dicom_node.log",
        "dicom_node.dataset",
        "dicom_node.storage",
    },
    "dicom_node.pixels": {"dicom_node", "inference", "dicom_node.dataset"},
    "inference.classification": {"inference", "inference.phantom", "models"},
    "dicom_node.audit": {
        "config",
        "dicom_node",
        "dicom_node.storage",
        "dicom_node.network",
    },
    "dicom_node.delivery": {
        "config",
        "dicom_node",
        "dicom_node.dataset",
        "dicom_node.network",
    },
    "dicom_node.results": {
        "config",
        "dicom_node",
        "inference",
        "dicom_node.dataset",
        "inference.drawing",
        "dicom_node.pixels",
    },
    "dicom_node.runtime": {
        "config",
        "dicom_node",
        "dicom_node.log",
        "dicom_node.storage",
        "dicom_node.network",
    },
    "inference.training": {
        "config",
        "inference",
        "inference.drawing",
        "inference.phantom",
        "models",
        "inference.classification",
    },
    "api.http": {"dicom_node", "dicom_node.storage"},
    "dicom_node.decoder": {
        "dicom_node.runtime",
        "dicom_node",
        "dicom_node.log",
        "inference",
        "dicom_node.dataset",
        "dicom_node.pixels",
        "dicom_node.results",
    },
    "dicom_node.journal": {
        "config",
        "dicom_node",
        "dicom_node.log",
        "inference",
        "dicom_node.storage",
        "inference.drawing",
        "dicom_node.metrics",
        "dicom_node.network",
        "dicom_node.pixels",
        "dicom_node.results",
    },
    "api.auth": {
        "dicom_node.storage",
        "config",
        "dicom_node",
        "dicom_node.audit",
        "api.http",
    },
    "dicom_node.analysis": {
        "config",
        "dicom_node",
        "dicom_node.log",
        "inference",
        "dicom_node.dataset",
        "inference.drawing",
        "dicom_node.pixels",
        "inference.classification",
        "models",
        "dicom_node.results",
        "dicom_node.decoder",
    },
    "dicom_node.queries": {
        "dicom_node",
        "inference",
        "dicom_node.dataset",
        "dicom_node.storage",
        "dicom_node.audit",
        "dicom_node.results",
        "dicom_node.journal",
    },
    "dicom_node.receiver": {
        "config",
        "dicom_node",
        "dicom_node.log",
        "dicom_node.dataset",
        "dicom_node.storage",
        "dicom_node.metrics",
        "dicom_node.network",
        "dicom_node.audit",
        "dicom_node.runtime",
        "dicom_node.journal",
    },
    "api.operations": {
        "config",
        "dicom_node",
        "inference",
        "dicom_node.storage",
        "dicom_node.metrics",
        "api.http",
        "api.auth",
        "dicom_node.queries",
        "dicom_node.receiver",
    },
    "dicom_node.commands": {
        "config",
        "dicom_node",
        "dicom_node.log",
        "inference",
        "dicom_node.dataset",
        "dicom_node.storage",
        "inference.drawing",
        "models",
        "inference.classification",
        "dicom_node.audit",
        "dicom_node.delivery",
        "dicom_node.runtime",
        "inference.training",
        "dicom_node.decoder",
        "dicom_node.journal",
        "dicom_node.analysis",
        "dicom_node.queries",
        "dicom_node.receiver",
    },
    "dicom_node.worker": {
        "config",
        "dicom_node",
        "inference",
        "dicom_node.log",
        "dicom_node.storage",
        "inference.classification",
        "inference.drawing",
        "models",
        "dicom_node.metrics",
        "dicom_node.network",
        "dicom_node.pixels",
        "dicom_node.audit",
        "dicom_node.delivery",
        "dicom_node.results",
        "dicom_node.runtime",
        "dicom_node.decoder",
        "dicom_node.journal",
        "dicom_node.analysis",
        "dicom_node.queries",
    },
    "api.predict": {
        "config",
        "dicom_node",
        "inference",
        "inference.drawing",
        "models",
        "dicom_node.pixels",
        "dicom_node.audit",
        "api.http",
        "dicom_node.decoder",
        "api.auth",
        "dicom_node.analysis",
        "api.operations",
    },
    "api.v1": {
        "config",
        "dicom_node",
        "inference",
        "dicom_node.dataset",
        "dicom_node.storage",
        "inference.drawing",
        "dicom_node.network",
        "dicom_node.pixels",
        "dicom_node.audit",
        "dicom_node.delivery",
        "dicom_node.results",
        "api.http",
        "dicom_node.decoder",
        "dicom_node.journal",
        "api.auth",
        "dicom_node.queries",
        "dicom_node.receiver",
        "api.operations",
    },
    "dicom_node.demo": {
        "config",
        "dicom_node",
        "dicom_node.log",
        "inference",
        "dicom_node.storage",
        "inference.drawing",
        "inference.phantom",
        "dicom_node.network",
        "dicom_node.delivery",
        "dicom_node.runtime",
        "dicom_node.queries",
        "dicom_node.commands",
    },
    "api": {
        "config",
        "dicom_node.storage",
        "inference.phantom",
        "inference.classification",
        "dicom_node.audit",
        "dicom_node.runtime",
        "dicom_node.decoder",
        "api.http",
        "api.auth",
        "api.operations",
        "api.predict",
        "api.v1",
    },
}
NO_DICOM = ("inference", "models", "config")
USE_SQLALCHEMY = {"dicom_node.storage", "dicom_node.journal", "dicom_node.queries"}
SOURCES = [
    path
    for folder in ("api", "config", "dicom_node", "inference", "models")
    for path in (ROOT / folder).rglob("*.py")
]


def package_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).parent.parts)


@cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


@cache
def imported(path: Path) -> set[str]:
    """Return the full name of each import in a file, also inside functions."""
    found: set[str] = set()
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


@cache
def imported_packages(path: Path) -> set[str]:
    """Return the packages of the project from which a file imports."""
    packages = set()
    for name in imported(path):
        parts = name.split(".")
        if parts[0] in {"api", "config", "dicom_node", "inference", "models"}:
            while not (ROOT / Path(*parts) / "__init__.py").is_file():
                parts.pop()
            packages.add(".".join(parts))
    return packages


# The failing files are in the message of a failed test. One test for each file and rule
# would take much more processor time.
def test_packages_import_only_packages_in_the_table() -> None:
    others = {
        str(path): imported_packages(path) - MAY_IMPORT[package] - {package}
        for path in SOURCES
        for package in (package_of(path),)
    }

    assert {path: packages for path, packages in others.items() if packages} == {}


def test_inference_imports_no_dicom_library() -> None:
    importing = [
        path
        for path in SOURCES
        if package_of(path).startswith(NO_DICOM)
        if libraries(path) & {"pydicom", "pynetdicom", "highdicom"}
    ]

    assert importing == []


def test_only_the_packages_of_the_database_import_sqlalchemy() -> None:
    importing = [path for path in SOURCES if "sqlalchemy" in libraries(path)]

    assert {package_of(path) for path in importing} <= USE_SQLALCHEMY, importing


def libraries(path: Path) -> set[str]:
    return {name.split(".")[0] for name in imported(path)}


def test_modules_have_specific_names() -> None:
    general = {"utils", "helpers", "common", "misc", "manager"}

    assert [path for path in SOURCES if path.stem in general] == []


def test_modules_have_docstrings() -> None:
    assert [path for path in SOURCES if not ast.get_docstring(parsed(path))] == []


def test_package_imports_only_packages_above_it_in_the_table() -> None:
    above: set[str] = set()
    for package, packages in MAY_IMPORT.items():
        assert packages <= above, package
        above.add(package)


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_table_lists_only_packages_that_are_imported(package: str) -> None:
    files = (ROOT / package.replace(".", "/")).glob("*.py")

    used = set().union(*map(imported_packages, files)) - {package}

    assert used == MAY_IMPORT[package]


def test_only_the_settings_distinguish_types_of_destinations() -> None:
    """Other code calls methods of a destination or of its client."""
    classes = {each.__name__ for each in destinations._Destination.__subclasses__()}
    found = [
        f"{path}:{node.lineno}"
        for path in SOURCES
        for node in ast.walk(parsed(path))
        if isinstance(node, ast.Call | ast.MatchClass) and classes & class_names(node)
    ]

    assert not found


def class_names(node: ast.Call | ast.MatchClass) -> set[str]:
    """Return the names of the classes that isinstance or a class pattern tests for.

    For any other call, the set is empty.
    """
    if isinstance(node, ast.MatchClass):
        return {ast.unparse(node.cls)}
    if ast.unparse(node.func) != "isinstance":
        return set()
    names = (each for each in ast.walk(node.args[1]) if isinstance(each, ast.Name))
    return {each.id for each in names}


STATE_MACHINE = ROOT / "dicom_node" / "journal" / "state_machine.py"
TABLES_WITH_STATES = {"instance", "delivery", "delivered_object"}


def test_only_the_state_machine_writes_states() -> None:
    """This test reads the source. test_state_machine.py checks states at run time."""
    found = [
        f"{path}:{node.lineno}"
        for path in SOURCES
        if path != STATE_MACHINE and package_of(path).startswith("dicom_node")
        for node in ast.walk(parsed(path))
        if isinstance(node, ast.Call | ast.Dict) and writes_a_state(node)
    ]

    assert not found


def writes_a_state(node: ast.Call | ast.Dict) -> bool:
    """Return whether a syntax node writes a state.

    Such a node is a dict with the key "state", a call of `values` with the argument
    `state`, or a call that inserts or deletes rows of TABLES_WITH_STATES.
    """
    if isinstance(node, ast.Dict):
        keys = {each.value for each in node.keys if isinstance(each, ast.Constant)}
        return "state" in keys
    called = ast.unparse(node.func)
    owner, _, method = called.rpartition(".")
    if method == "values":
        return "state" in {each.arg for each in node.keywords}
    tables = {owner, *map(ast.unparse, node.args)} & TABLES_WITH_STATES
    return bool(tables) and method in {"insert", "delete", "upsert"}


@pytest.mark.parametrize(
    "statement",
    [
        "instance.update().values(state='failed')",
        "delivery.update().values({'state': 'failed'})",
        "delivered_object.delete().where(is_old)",
        "sa.delete(delivery)",
        "sa.insert(instance)",
        "upsert(connection, delivery, values, changes)",
    ],
)
def test_a_statement_that_writes_a_state_is_found(statement: str) -> None:
    nodes = ast.walk(ast.parse(statement))

    assert any(
        writes_a_state(node) for node in nodes if isinstance(node, ast.Call | ast.Dict)
    )


LARGE = {"torch", "cv2", "highdicom", "fastapi", "api"}


@pytest.mark.parametrize(
    ("module", "absent"),
    [
        ("dicom_node.cli", LARGE),
        ("dicom_node.commands.serve", LARGE | {"pydicom", "pydantic", "sqlalchemy"}),
        ("dicom_node.commands.node", LARGE | {"pydicom", "sqlalchemy", "dbos"}),
        ("dicom_node.receiver.__main__", LARGE),
    ],
)
def test_small_process_does_not_import_large_libraries(
    module: str, absent: set[str]
) -> None:
    script = f"import sys, {module}; print(*sys.modules)"

    loaded = subprocess.run(
        [sys.executable, "-c", script],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()

    assert absent.isdisjoint(loaded)


def test_wheel_has_every_package() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())

    packages = {package_of(path) for path in SOURCES}

    assert packages == set(project["tool"]["setuptools"]["packages"]) == set(MAY_IMPORT)
