"""The Kubernetes and Compose files for several machines agree with the code."""

import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from api.operations import health
from config.access import access_problems
from config.settings import Settings, load
from dicom_node.cli import COMMANDS
from dicom_node.receiver import server
from dicom_node.worker import __main__ as worker
from tests.project.test_deployment import DEFAULTS, PROJECT, instructions

ROOT = Path(__file__).resolve().parents[2]
MANIFESTS = sorted((ROOT / "docs" / "kubernetes").glob("*.yaml"))
DATABASE = "FRACTURE_NODE__STORAGE__DATABASE"
SECRET = {DATABASE: "postgresql://db/node", "FRACTURE_NODE_TOKEN": "x" * 43}
ROLES = {"receiver": "Deployment", "worker": "StatefulSet", "api": "Deployment"}


def resources() -> Iterator[dict[str, Any]]:
    for path in MANIFESTS:
        yield from yaml.safe_load_all(path.read_text())


def named(kind: str, name: str) -> dict[str, Any]:
    (found,) = [
        each
        for each in resources()
        if each["kind"] == kind and each["metadata"]["name"] == name
    ]
    return found


def pod_of(role: str) -> dict[str, Any]:
    kind = {**ROLES, "migrate": "Job"}[role]
    spec: dict[str, Any] = named(kind, f"fracture-node-{role}")["spec"]["template"]
    return spec["spec"]


def secrets_of(container: dict[str, Any]) -> set[str]:
    """Return the keys of the secret `fracture-node` that a container gets."""
    if "envFrom" in container:
        assert container["envFrom"] == [{"secretRef": {"name": "fracture-node"}}]
        return {*SECRET}
    found = [each for each in container["env"] if "valueFrom" in each]
    for each in found:
        source = each["valueFrom"]["secretKeyRef"]
        assert source == {"name": "fracture-node", "key": each["name"]}
    return {each["name"] for each in found}


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """Return the settings of the pods, from their ConfigMap and SECRET."""
    file = tmp_path_factory.mktemp("settings") / "node.toml"
    file.write_text(named("ConfigMap", "fracture-node")["data"]["node.toml"])
    return load(file, SECRET)


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.stem)
def test_manifest_is_valid(path: Path) -> None:
    newest = kubernetes_validate.latest_version()
    for resource in yaml.safe_load_all(path.read_text()):
        kubernetes_validate.validate(resource, newest, strict=True)


def test_validation_rejects_an_invalid_manifest() -> None:
    wrong = named("Deployment", "fracture-node-api")
    wrong["spec"]["template"]["spec"]["containers"][0]["comand"] = ["serve"]

    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, "1.37", strict=True)


@pytest.mark.parametrize("role", [*ROLES, "migrate"])
def test_pod_runs_its_role_with_the_mounted_settings(
    role: str, settings: Settings
) -> None:
    pod = pod_of(role)
    (container,) = pod["containers"]
    command, option, file = container["args"]
    mounts = {each["mountPath"] for each in container["volumeMounts"]}
    (user,) = instructions("USER")
    security = container["securityContext"]

    assert (command, option) == (role, "--config")
    assert command in COMMANDS
    assert str(Path(file).parent) in mounts
    assert container["image"].endswith(f":{PROJECT['project']['version']}")
    assert secrets_of(container) == ({*SECRET} if role == "api" else {DATABASE})
    assert f"--uid {pod['securityContext']['runAsUser']}" in " ".join(
        each for each in instructions("RUN") if user in each
    )
    assert security["readOnlyRootFilesystem"]
    assert security["capabilities"] == {"drop": ["ALL"]}
    if role in ROLES:  # a migration needs no spool
        assert str(settings.storage.directory) in mounts
        longest = max(server.DRAIN_S, worker.DRAIN_S)
        assert pod["terminationGracePeriodSeconds"] > longest


def test_services_use_the_ports_of_the_roles(settings: Settings) -> None:
    ports = {"receiver": settings.receiver.port, "api": settings.api.port}
    for role, port in ports.items():
        (container,) = pod_of(role)["containers"]
        (given,) = container["ports"]
        (served,) = named("Service", f"fracture-node-{role}")["spec"]["ports"]

        assert given["containerPort"] == port
        assert served["targetPort"] == given["name"]


def test_selectors_match_the_pods_of_their_role() -> None:
    for role, kind in ROLES.items():
        template = named(kind, f"fracture-node-{role}")["spec"]
        labels = template["template"]["metadata"]["labels"]
        service = named("Service", f"fracture-node-{role}")["spec"]["selector"]

        assert template["selector"]["matchLabels"] == labels == service


def test_probes_use_routes_of_the_api() -> None:
    (container,) = pod_of("api")["containers"]
    routes = {getattr(each, "path", "") for each in health.router.routes}

    for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
        path, _, query = container[probe]["httpGet"]["path"].partition("?")
        assert path in routes
        # If the worker is dead, the pages must stay available to show it.
        assert query == ("role=api" if path == "/readyz" else "")


def test_settings_of_the_pods_are_complete(settings: Settings) -> None:
    assert settings.storage.database
    assert settings.destinations
    assert access_problems(settings.api) == []


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    services = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
    return dict(services)


SCALED = re.compile(r"docker compose --profile scaled up ([a-z ]+)$", re.MULTILINE)


def scaled_services(compose: dict[str, Any]) -> set[str]:
    """Return the services that the command in docker-compose.yml starts.

    These are the services that it names, and those that they depend on.
    """
    (named,) = SCALED.findall((ROOT / "docker-compose.yml").read_text())
    started: set[str] = set()
    waiting = set(named.split())
    while waiting:
        started.add(service := waiting.pop())
        waiting |= {*compose[service].get("depends_on", ())} - started
    return started


def named_volumes(service: dict[str, Any]) -> set[str]:
    sources = {each.split(":")[0] for each in service.get("volumes", ())}
    return {each for each in sources if not each.startswith(".")}


def test_command_for_the_scaled_services_is_the_same_in_both_documents() -> None:
    texts = [ROOT / "docker-compose.yml", ROOT / "docs" / "scaling.md"]

    (first,), (second,) = (SCALED.findall(path.read_text()) for path in texts)

    assert first == second


def test_command_starts_each_role_but_not_the_node(compose: dict[str, Any]) -> None:
    started = scaled_services(compose)

    assert {*ROLES, "migrate", "postgres", "balancer", "orthanc"} == started
    assert all(compose[each].get("profiles") in (None, ["scaled"]) for each in started)


@pytest.mark.parametrize("is_scaled", [True, False])
def test_services_that_run_together_publish_each_port_once(
    compose: dict[str, Any], *, is_scaled: bool
) -> None:
    plain = {name for name, each in compose.items() if "profiles" not in each}
    started = scaled_services(compose) if is_scaled else plain
    ports = [port for each in started for port in compose[each].get("ports", ())]
    aliases = compose["balancer"]["networks"]["default"]["aliases"]

    assert len(set(ports)) == len(ports) >= 3
    assert not ("balancer" in started and started & {*aliases})


def test_scaled_services_share_no_files_with_the_node(compose: dict[str, Any]) -> None:
    of_node = named_volumes(compose["node"])

    assert of_node
    for each in {*ROLES, "migrate", "postgres"}:
        assert not named_volumes(compose[each]) & of_node
    assert len({frozenset(named_volumes(compose[each])) for each in ROLES}) == 1


def test_header_of_compose_sets_the_variables_that_have_no_default() -> None:
    header, services = (ROOT / "docker-compose.yml").read_text().split("\nservices:")
    optional = {"TORCH_INDEX", *re.findall(r"\$\{(\w+):-[^}]", services)}
    needed = set(re.findall(r"\$\{(\w+)", services)) - optional

    assert set(re.findall(r"export (\w+)=", header)) == needed


@pytest.mark.parametrize("role", [*ROLES, "migrate"])
def test_role_in_compose_uses_the_database_of_compose(
    role: str, compose: dict[str, Any]
) -> None:
    service = compose[role]
    command, _, target = service["command"]
    environment = {
        name: value
        for name, value in service["environment"].items()
        if name.startswith("FRACTURE_NODE__")
    }
    settings = load(ROOT / "config" / "compose.toml", environment)

    has_token = "FRACTURE_NODE_TOKEN" in service["environment"]
    assert has_token == (role == "api")
    assert command == role
    assert service["profiles"] == ["scaled"]
    assert f"./config/compose.toml:{target}:ro" in service["volumes"]
    assert settings.storage.database.endswith("@postgres/node")
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    # Two containers with the same host name would conflict.
    assert "hostname" not in service


def test_load_balancer_has_the_address_that_peers_use(
    compose: dict[str, Any], peer: Callable[[str], str]
) -> None:
    balancer, port = compose["balancer"], DEFAULTS.receiver.port
    file = ROOT / "docs" / "haproxy.cfg"
    text = file.read_text()

    assert balancer["networks"]["default"]["aliases"] == ["node"]
    assert balancer["ports"] == [f"127.0.0.1:{port}:{port}"]
    assert f"bind :{port}" in text
    assert f" receiver:{port} " in text
    assert f"timeout client {server.IDLE_S + 30:.0f}s" in text
    subprocess.run([peer("haproxy"), "-c", "-f", file], check=True)
