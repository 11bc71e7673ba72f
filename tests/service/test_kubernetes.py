"""The Kubernetes manifests are valid, and agree with each other, with the service and with compose.yaml."""

from __future__ import annotations

import copy
import re
import tomllib
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from service.own_models.replicas import START_WITHIN_S
from service.settings import Settings
from service.state import _CHECK_INTERVAL_S

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "docker/kubernetes"
TEXTS = {path.name: path.read_text() for path in sorted(FOLDER.glob("*.yaml"))}
FILES = {name: yaml.safe_load(text) for name, text in TEXTS.items()}
KUSTOMIZATION = FILES.pop("kustomization.yaml")
DEPLOYMENT, SERVICE, HPA, PDB = (FILES[f"{name}.yaml"] for name in ("deployment", "service", "hpa", "pdb"))
POD = DEPLOYMENT["spec"]["template"]
[CONTAINER] = POD["spec"]["containers"]
ENVIRONMENT = {variable["name"]: variable for variable in CONTAINER["env"]}
COMPOSE = yaml.safe_load((ROOT / "compose.yaml").read_text())["services"]["replica"]

OLDEST, NEWEST = "1.30", "1.37"
"""Versions of Kubernetes; docs/kubernetes.md names the oldest. preStop's `sleep` is on from 1.30."""


def seconds(duration: str) -> float:
    """Return a duration of compose.yaml such as `20s`."""
    return float(duration.removesuffix("s"))


@pytest.mark.parametrize("version", [OLDEST, NEWEST])
@pytest.mark.parametrize("name", FILES)
def test_schemas(name: str, version: str) -> None:
    """The published schema of that version accepts the file, and knows every field in it."""
    assert kubernetes_validate.validate(FILES[name], version, strict=True) == version


@pytest.mark.parametrize(
    ("name", "path", "wrong", "problem"),
    [
        ("deployment.yaml", "spec.template.spec.enableServiceLink", False, "unexpected"),
        ("deployment.yaml", "spec.template.spec.containers.0.readinessProbe.timeoutSecond", 3, "unexpected"),
        ("deployment.yaml", "spec.template.spec.securityContext.runAsUser", "weighin", "not of type"),
        ("deployment.yaml", "spec.selector", ..., "'selector' is a required property"),
        ("service.yaml", "spec.ports.0.targetport", "http", "unexpected"),
        ("hpa.yaml", "spec.behavior.scaleUp.stabilisationWindowSeconds", 0, "unexpected"),
        ("hpa.yaml", "spec.maxReplicas", "8", "not of type"),
        ("pdb.yaml", "spec.maxUnavailables", 1, "unexpected"),
    ],
)
def test_schemas_refuse_mistakes(name: str, path: str, wrong: object, problem: str) -> None:
    document = copy.deepcopy(FILES[name])
    *parents, last = path.split(".")
    node: Any = document
    for key in parents:
        node = node[int(key) if key.isdigit() else key]
    if wrong is ...:
        del node[last]
    else:
        node[last] = wrong
    with pytest.raises(kubernetes_validate.ValidationError, match=problem):
        kubernetes_validate.validate(document, NEWEST, strict=True)


def test_kustomization() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert sorted(KUSTOMIZATION["resources"]) == sorted(FILES)
    [image] = KUSTOMIZATION["images"]
    assert (image["name"], image["newTag"]) == (CONTAINER["image"], version)
    [settings] = KUSTOMIZATION["configMapGenerator"]
    [source] = CONTAINER["envFrom"]
    assert source["configMapRef"]["name"] == settings["name"]


def test_selectors() -> None:
    labels = POD["metadata"]["labels"]
    assert labels
    assert DEPLOYMENT["spec"]["selector"] == {"matchLabels": labels}
    assert PDB["spec"]["selector"] == {"matchLabels": labels}
    assert SERVICE["spec"]["selector"] == labels
    for spread in POD["spec"]["topologySpreadConstraints"]:
        assert spread["labelSelector"] == {"matchLabels": labels}


def test_autoscaler_owns_the_number_of_pods() -> None:
    target = HPA["spec"]["scaleTargetRef"]
    assert target == {
        "apiVersion": DEPLOYMENT["apiVersion"],
        "kind": DEPLOYMENT["kind"],
        "name": DEPLOYMENT["metadata"]["name"],
    }
    assert "replicas" not in DEPLOYMENT["spec"], "each `kubectl apply` would reset the number of pods"
    assert "cpu" in CONTAINER["resources"]["requests"], "a utilization is a share of the request"
    assert HPA["spec"]["minReplicas"] > PDB["spec"]["maxUnavailable"]


def test_ports_and_paths(openapi: dict[str, Any]) -> None:
    """Service, probes and Prometheus reach routes that exist, on the port that the service listens on."""
    [port] = CONTAINER["ports"]
    assert str(port["containerPort"]) == ENVIRONMENT["WEIGHIN_PORT"]["value"]
    assert [entry["targetPort"] for entry in SERVICE["spec"]["ports"]] == [port["name"]]
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        request = CONTAINER[probe]["httpGet"]
        assert request["port"] == port["name"]
        assert "get" in openapi["paths"][request["path"]]
    annotations = POD["metadata"]["annotations"]
    assert annotations["prometheus.io/scrape"] == "true"
    assert annotations["prometheus.io/port"] == str(port["containerPort"])
    assert "get" in openapi["paths"][annotations["prometheus.io/path"]]


def test_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every variable is a setting with a valid value."""
    literals = dict(line.split("=", 1) for line in KUSTOMIZATION["configMapGenerator"][0]["literals"])
    known = {f"WEIGHIN_{name.upper()}" for name in Settings.model_fields}
    assert {*literals, *ENVIRONMENT} <= known
    values = literals | {name: entry["value"] for name, entry in ENVIRONMENT.items() if "value" in entry}
    for name, value in values.items():
        monkeypatch.setenv(name, value)
    settings = Settings()
    assert str(settings.data_dir) == "/data"
    assert settings.host == "::"


def test_secrets_are_referred_to() -> None:
    for name in ("WEIGHIN_DATABASE_URL", "WEIGHIN_API_KEY"):
        assert "secretKeyRef" in ENVIRONMENT[name]["valueFrom"]
    assert "optional" not in ENVIRONMENT["WEIGHIN_DATABASE_URL"]["valueFrom"]["secretKeyRef"]
    assert not [name for name, text in TEXTS.items() if "://" in text or "kind: Secret" in text]


def test_no_service_links_and_no_token() -> None:
    """A link would set WEIGHIN_PORT; the service talks to no API of Kubernetes."""
    assert POD["spec"]["enableServiceLinks"] is False
    assert POD["spec"]["automountServiceAccountToken"] is False


def test_confinement_of_compose() -> None:
    """User, file systems and capabilities are those of the Dockerfile and compose.yaml."""
    [user] = re.findall(r"useradd --uid (\d+) --user-group", (ROOT / "Dockerfile").read_text())
    pod, container = POD["spec"]["securityContext"], CONTAINER["securityContext"]
    assert pod == {
        "runAsNonRoot": True,
        "runAsUser": int(user),
        "runAsGroup": int(user),
        "fsGroup": int(user),
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    assert COMPOSE["read_only"] is True
    assert container["readOnlyRootFilesystem"] is True
    assert container["capabilities"] == {"drop": COMPOSE["cap_drop"]}
    assert COMPOSE["security_opt"] == ["no-new-privileges:true"]
    assert container["allowPrivilegeEscalation"] is False


def test_volumes_of_compose() -> None:
    """The data directory and /tmp can be written, within limits; /tmp is in memory, as large as there."""
    [[tmp, options]] = [line.split(":") for line in COMPOSE["tmpfs"]]
    mounts = {mount["mountPath"]: mount["name"] for mount in CONTAINER["volumeMounts"]}
    volumes = {volume["name"]: volume["emptyDir"] for volume in POD["spec"]["volumes"]}
    assert set(mounts) == {tmp, ENVIRONMENT["WEIGHIN_DATA_DIR"]["value"]}
    assert set(mounts.values()) == set(volumes)
    assert all("sizeLimit" in volume for volume in volumes.values())
    [size] = re.findall(r"size=(\d+)m", options)
    assert volumes[mounts[tmp]] == {"medium": "Memory", "sizeLimit": f"{size}Mi"}


def test_time_to_stop() -> None:
    """After preStop the service has as long as in compose.yaml, which is longer than its own grace period."""
    grace = (
        POD["spec"]["terminationGracePeriodSeconds"] - CONTAINER["lifecycle"]["preStop"]["sleep"]["seconds"]
    )
    assert grace == seconds(COMPOSE["stop_grace_period"])
    literals = dict(line.split("=", 1) for line in KUSTOMIZATION["configMapGenerator"][0]["literals"])
    own = {float(literals["WEIGHIN_SHUTDOWN_GRACE_S"]), Settings.model_fields["shutdown_grace_s"].default}
    assert max(own) < grace


def test_updates_take_no_pod_away() -> None:
    strategy = DEPLOYMENT["spec"]["strategy"]
    assert strategy == {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}}
    startup, readiness = CONTAINER["startupProbe"], CONTAINER["readinessProbe"]
    bound = startup["periodSeconds"] * startup["failureThreshold"]
    assert 2 * START_WITHIN_S < bound < DEPLOYMENT["spec"]["progressDeadlineSeconds"]
    # A pod whose database does not answer stays ready: the probe after one that waited for it does not wait.
    assert readiness["timeoutSeconds"] + readiness["periodSeconds"] <= _CHECK_INTERVAL_S
    assert readiness["failureThreshold"] >= 2
