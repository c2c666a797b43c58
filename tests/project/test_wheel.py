"""The built wheel, installed in an environment that cannot import the checkout."""

import os
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import venv
from pathlib import Path
from zipfile import ZipFile

import pytest

from dicom_node.demo.phantom_instance import phantom_dataset
from inference.phantom.long_bone import draw_phantom

pytestmark = pytest.mark.acceptance

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PACKAGES = {each.split(".")[0] for each in PROJECT["tool"]["setuptools"]["packages"]}
CONFIG = """
destinations = []
[storage]
directory = "node"
min_free_mb = 1
"""
PAGE_AND_CHECK = """
import sys
from pathlib import Path
import api, config, dicom_node, inference, models
from config.settings import load
from api.app import create_app
from starlette.testclient import TestClient
client = TestClient(create_app(load(Path("node.toml"))), "http://localhost")
for path in ("/", "/static/page.css", "/static/page.js"):
    print(path, client.get(path).status_code)
for package in (api, config, dicom_node, inference, models):
    print(Path(package.__file__).parent)
from dicom_node.commands.check import main
sys.argv = ["check", "--config=node.toml"]
main()
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the wheel, and return its path.

    It is built from a copy of the project, because a build leaves files in its folder.
    """
    source = tmp_path_factory.mktemp("source")
    for name in PACKAGES:
        shutil.copytree(
            ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__")
        )
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    pip("wheel", "--no-build-isolation", "--wheel-dir", source, source)
    (built,) = source.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Install the wheel in a new virtual environment; return its bin folder."""
    folder = tmp_path_factory.mktemp("installed")
    builder = venv.EnvBuilder(symlinks=True)
    builder.create(folder)
    python = folder / "bin" / "python"
    pip("--python", python, "install", wheel)
    # dependencies.pth adds the folder of the dependencies to the import path. Python
    # ignores .pth files in such a folder, so the checkout, which is installed there in
    # editable mode, cannot be imported.
    (packages,) = folder.glob("lib/python*/site-packages")
    paths = sysconfig.get_paths()
    (packages / "dependencies.pth").write_text(
        f"{paths['purelib']}\n{paths['platlib']}\n"
    )
    return python.parent


@pytest.fixture
def working_directory(tmp_path: Path) -> Path:
    """Return a folder with settings, and a package `config` that raises if imported."""
    (tmp_path / "config").mkdir()
    for name in ("__init__", "settings"):
        (tmp_path / "config" / f"{name}.py").write_text("raise SystemExit('not ours')")
    (tmp_path / "node.toml").write_text(CONFIG)
    return tmp_path


def pip(*arguments: str | Path) -> None:
    command = (sys.executable, "-m", "pip", "--quiet", *arguments)
    subprocess.run([*command, "--no-deps", "--no-index"], check=True)


def run(folder: Path, *command: str | Path) -> str:
    """Run a command in a folder, and return its standard output.

    If the command fails, an AssertionError is raised.
    """
    # The checkout may be on PYTHONPATH. The installed files are to be used.
    variables = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    done = subprocess.run(
        command, cwd=folder, check=False, capture_output=True, text=True, env=variables
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_wheel_contains_every_file_of_its_packages(wheel: Path) -> None:
    files = {
        str(path.relative_to(ROOT))
        for name in PACKAGES
        for path in (ROOT / name).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    with ZipFile(wheel) as archive:
        names = {each for each in archive.namelist() if ".dist-info/" not in each}

    assert names == files - {"models/README.md"}


def test_installed_command_prints_its_version_and_help(
    installed: Path, working_directory: Path
) -> None:
    output = run(working_directory, installed / "fracture-node", "--version")

    assert output == f"fracture-node {PROJECT['project']['version']}\n"
    assert "serve" in run(working_directory, installed / "fracture-node", "--help")


def test_the_installed_node_analyzes(installed: Path, working_directory: Path) -> None:
    path = working_directory / "phantom.dcm"
    phantom_dataset(draw_phantom(broken=True)).save_as(path, enforce_file_format=True)

    output = run(
        working_directory,
        *(installed / "fracture-node", "analyze", path),
        *("--config=node.toml", "--out=out"),
    )

    assert "phantom.dcm: Fracture" in output
    assert (working_directory / "out" / "phantom.dcm.secondary_capture.dcm").exists()


def test_the_installed_page_is_served_from_the_installed_files_and_the_check_passes(
    installed: Path, working_directory: Path
) -> None:
    command = (installed / "python", "-P", "-c", PAGE_AND_CHECK)
    lines = run(working_directory, *command).splitlines()

    assert lines[:3] == ["/ 200", "/static/page.css 200", "/static/page.js 200"]
    folders, checks = lines[3:][: len(PACKAGES)], lines[3:][len(PACKAGES) :]
    assert {Path(each).name for each in folders} == PACKAGES
    assert all(Path(each).is_relative_to(installed.parent) for each in folders)
    assert any("model: ok, fracture-resnet18" in line for line in checks)
    assert any("database: ok" in line for line in checks)
