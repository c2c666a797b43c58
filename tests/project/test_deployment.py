"""Dockerfile, docker-compose.yml and render.yaml are consistent with the code."""

import json
import re
import shlex
import tomllib
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import pytest
import yaml

from api.operations import health
from config.access import access_problems
from config.destinations import DicomDestination
from config.settings import Settings, load
from dicom_node.cli import COMMANDS
from dicom_node.commands import node as serve
from dicom_node.worker import __main__ as worker

ANYWHERE = str(IPv4Address(0))
ROOT = Path(__file__).resolve().parents[2]
DEFAULTS = load(None, {})
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PACKAGES = PROJECT["tool"]["setuptools"]["packages"]


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    services = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
    return dict(services)


def instructions(name: str) -> list[str]:
    """Return the arguments of each instruction `name` in the Dockerfile."""
    text = (ROOT / "Dockerfile").read_text().replace("\\\n", " ")
    return re.findall(rf"(?m)^{name}\s+(.*)$", text)


def variables(words: str) -> dict[str, str]:
    return dict(re.findall(r"(FRACTURE_NODE__\w+)=(\S+)", words))


def test_compose_node_uses_the_mounted_settings_file(
    compose: dict[str, Any],
) -> None:
    node = compose["node"]
    command, option, target = node["command"]
    source = f"./config/compose.toml:{target}:ro"
    settings = load(ROOT / "config" / "compose.toml", {})
    published = {int(each.split(":")[-1]) for each in node["ports"]}
    volumes = {each.split(":")[1] for each in node["volumes"]}

    assert command in COMMANDS
    assert option == "--config"
    assert source in node["volumes"]
    assert published == {settings.receiver.port, settings.api.port}
    assert str(settings.storage.directory) in volumes
    assert settings.api.host == settings.receiver.host == ANYWHERE


def test_compose_node_and_orthanc_have_matching_addresses(
    compose: dict[str, Any],
) -> None:
    settings = load(ROOT / "config" / "compose.toml", {})
    environment = compose["orthanc"]["environment"]
    (modality,) = json.loads(environment["ORTHANC__DICOM_MODALITIES"]).values()

    assert modality == [settings.receiver.ae_title, "node", settings.receiver.port]
    assert settings.destinations == (
        DicomDestination(
            name="orthanc",
            type="dicom",
            ae_title=environment["ORTHANC__DICOM_AET"],
            host="orthanc",
            port=int(environment["ORTHANC__DICOM_PORT"]),
        ),
    )
    assert environment["ORTHANC__DICOM_ALWAYS_ALLOW_STORE"] == "true"


def test_compose_stop_grace_period_is_longer_than_the_drain(
    compose: dict[str, Any],
) -> None:
    (seconds,) = re.findall(r"^(\d+)s$", compose["node"]["stop_grace_period"])

    assert worker.DRAIN_S < serve.DRAIN_S < int(seconds)


def test_hospital_example_has_the_settings_of_a_hospital() -> None:
    settings = load(ROOT / "config" / "hospital.example.toml", {})

    assert settings.receiver.max_study_age_days == 7
    assert settings.receiver.allowed_callers
    assert settings.destinations


def test_docker_image_copies_every_package_and_build_file() -> None:
    packages = {name.split(".")[0] for name in PACKAGES}
    files = {PROJECT["project"]["readme"], *PROJECT["project"]["license-files"]}
    copied = {
        word
        for copy in instructions("COPY")
        if not copy.startswith("--from")
        for word in copy.split()[:-1]
    }
    sent = set((ROOT / ".dockerignore").read_text().replace("!", "").split())

    assert packages | files | {"pyproject.toml"} == copied
    assert copied <= sent


def test_docker_health_check_uses_the_api_port() -> None:
    (check,) = instructions("HEALTHCHECK")
    (exposed,) = instructions("EXPOSE")
    (address,) = re.findall(r"http://127\.0\.0\.1:(\d+)(/\w+)", check)

    assert address == (str(DEFAULTS.api.port), "/readyz")
    assert set(map(int, exposed.split())) == {DEFAULTS.receiver.port, DEFAULTS.api.port}


def test_docker_environment_has_valid_settings() -> None:
    environment = variables(" ".join(instructions("ENV")))
    settings = load(None, environment)

    assert len(environment) == 2
    assert settings.api.host == ANYWHERE
    assert [str(settings.storage.directory)] == instructions("VOLUME")


def secrets_of(settings: Settings) -> set[str]:
    """Return the names of the environment variables with tokens.

    The function asserts that the API requires a login, and trusts no proxy.
    """
    assert settings.api.guarded
    assert not settings.api.trusted_proxies
    return {each.env.variable for each in settings.api.tokens if each.env}


def test_compose_node_starts_only_with_a_token(compose: dict[str, Any]) -> None:
    settings = load(ROOT / "config" / "compose.toml", {})
    given = compose["node"]["environment"]

    assert secrets_of(settings) == given.keys() - {"TZ"}
    for name in secrets_of(settings):
        value = given[name]
        assert value.startswith(f"${{{name}:?")  # compose stops if it is not set
    assert access_problems(settings.api) != []
    with_token = dict.fromkeys(given, "x" * 43)
    assert access_problems(load(ROOT / "config" / "compose.toml", with_token).api) == []


def test_containers_have_the_time_zone_of_the_environment(
    compose: dict[str, Any],
) -> None:
    services = [each for each in compose.values() if each["image"] == "fracture-node"]

    assert len(services) == 5
    assert {each["environment"]["TZ"] for each in services} == {"${TZ:-Etc/UTC}"}
    assert any("/usr/share/zoneinfo/" in each for each in instructions("RUN"))


def test_docker_image_starts_only_with_a_token() -> None:
    (command,) = map(json.loads, instructions("CMD"))
    copied = [each.split()[-2:] for each in instructions("COPY")]
    environment = variables(" ".join(instructions("ENV")))
    settings = load(ROOT / "config" / "container.toml", environment)
    (secret,) = secrets_of(settings)

    assert command == ["serve", "--config", "/etc/fracture-node/node.toml"]
    assert ["/build/config/container.toml", command[-1]] in copied
    assert f"-e {secret}=" in (ROOT / "Dockerfile").read_text()
    assert access_problems(settings.api) != []
    assert settings.api.host == ANYWHERE


def test_containers_run_without_root_and_capabilities(compose: dict[str, Any]) -> None:
    node = compose["node"]
    (user,) = instructions("USER")

    assert user not in {"root", "0"}
    assert node["read_only"] is True
    assert node["cap_drop"] == ["ALL"]
    assert "user" not in node
    assert "privileged" not in node


def test_render_starts_the_api_with_valid_settings() -> None:
    (service,) = yaml.safe_load((ROOT / "render.yaml").read_text())["services"]
    start = service["startCommand"]
    environment = variables(start.replace("$PORT", "10000"))
    *_, program, command, _, config = shlex.split(start)
    settings = load(ROOT / config, environment)
    routes = {getattr(each, "path", "") for each in health.router.routes}
    given = {each.pop("key"): each for each in service["envVars"]}
    python = given["PYTHON_VERSION"]["value"]

    assert (program, command) == ("fracture-node", "api")
    assert secrets_of(settings) == given.keys() - {"PYTHON_VERSION"}
    assert given["FRACTURE_NODE_TOKEN"] == {"generateValue": True}
    assert len(environment) == 2
    assert (settings.api.host, settings.api.port) == (ANYWHERE, 10000)
    assert (
        service["plan"] == "standard"
    )  # the smallest plan with enough memory for the model
    assert service["healthCheckPath"] in routes
    assert PROJECT["project"]["requires-python"] == ">=3.11"
    assert tuple(map(int, python.split("."))) >= (3, 11)
