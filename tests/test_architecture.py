"""Rules of the architecture that a test can check."""

import ast
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

# A folder may import itself and the folders listed here.
MAY_IMPORT = {
    "api": {"config", "dicom_node", "inference", "models"},
    "dicom_node": {"config", "inference", "models"},
    "inference": {"config", "models"},
    "models": {"config"},
    "config": set(),
}
NO_DICOM = {"inference", "models", "config"}
SOURCES = [p for folder in MAY_IMPORT for p in (ROOT / folder).rglob("*.py")]


def imported(path: Path) -> set[str]:
    """Return the top-level names of all imports of a file, at any depth."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add((node.module or "").split(".")[0])
    return found


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
class TestSource:
    def test_imports_only_from_allowed_folders(self, path: Path) -> None:
        folder = path.relative_to(ROOT).parts[0]
        project_imports = imported(path) & MAY_IMPORT.keys()

        assert project_imports <= MAY_IMPORT[folder] | {folder}

    def test_inference_does_not_import_dicom_libraries(self, path: Path) -> None:
        if path.relative_to(ROOT).parts[0] in NO_DICOM:
            assert imported(path).isdisjoint({"pydicom", "pynetdicom", "highdicom"})

    def test_has_a_specific_name(self, path: Path) -> None:
        assert path.stem not in {"utils", "helpers", "common", "misc", "manager"}

    def test_has_a_docstring(self, path: Path) -> None:
        assert ast.get_docstring(ast.parse(path.read_text()))


@pytest.mark.parametrize(
    "module", ["dicom_node.cli", "dicom_node.supervisor", "dicom_node.receiver"]
)
def test_small_processes_import_neither_torch_nor_the_api(module: str) -> None:
    script = f"import sys, {module}; print(*sys.modules)"

    loaded = subprocess.run(
        [sys.executable, "-c", script],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()

    assert {"torch", "cv2", "highdicom", "fastapi", "api"}.isdisjoint(loaded)


def test_every_package_is_installed() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    folders = {path.parent.relative_to(ROOT) for path in SOURCES}

    packages = {".".join(each.parts) for each in folders}

    assert packages == set(project["tool"]["setuptools"]["packages"])
