"""What an operator copies, judged by the tools of each format: the image, the Compose file, the manifests.

Not judged here: that the images of others can be pulled. `image.sh` builds ours without a container engine, and runs it; it takes
minutes.
"""

from __future__ import annotations

import pathlib
import re
import shutil
import subprocess
import sys
from typing import Any

import pytest
import yaml
from cloudcoil.models.prometheus_operator import v1

from routerd.daemon.settings import DEFAULTS
from routerd.observe import FAMILIES
from tests.support.daemon import ROUTERD
from tests.support.process import clean_environ
from tests.support.prometheus import promtool

REPO = pathlib.Path(__file__).resolve().parents[2]
DEPLOY = REPO / "deploy"
COMPOSE = yaml.safe_load((DEPLOY / "compose" / "compose.yaml").read_text())


def judged(tool: str, *argv: str) -> str:
    """Run a tool of the test extra, or of the machine; its findings are the failure."""
    found = shutil.which(tool, path=str(pathlib.Path(sys.executable).parent)) or shutil.which(tool)
    assert found is not None, f"{tool} is not installed"
    done = subprocess.run([found, *argv], cwd=REPO, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{tool} {' '.join(argv)}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def manifests() -> list[dict[str, Any]]:
    return list(yaml.safe_load_all(judged("kubectl", "kustomize", "deploy/kubernetes")))


def of_kind(manifests: list[dict[str, Any]], kind: str) -> dict[str, Any]:
    (found,) = (item for item in manifests if item["kind"] == kind)
    return found


def valid(routes: pathlib.Path) -> None:
    keys = dict.fromkeys(re.findall(r"\$\{(\w+)\}", routes.read_text()), "sk-test-0123456789")
    done = subprocess.run([*ROUTERD, "check", str(routes)], env=clean_environ(keys), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


ADMIN_PORTS = {
    "Dockerfile": "ROUTERD_ADMIN=127.0.0.1:{}",
    "compose/compose.yaml": "ROUTERD_ADMIN: 0.0.0.0:{}",
    "compose/prometheus.yml": '"routerd:{}"',
    "kubernetes/deployment.yaml": "{{name: admin, containerPort: {}}}",
    "routerd.service": "--admin 127.0.0.1:{} ",
}


@pytest.mark.parametrize("file", ADMIN_PORTS)
def test_the_admin_port_is_the_default_one_everywhere(file: str) -> None:
    """It is written out in each file that an operator copies."""
    port = DEFAULTS["admin"].rpartition(":")[2]
    assert ADMIN_PORTS[file].format(port) in (DEPLOY / file).read_text()
    assert port != "9090"  # where Prometheus takes a `POST /-/reload` as well


# ── the image ──


def test_hadolint_has_nothing_to_say() -> None:
    assert judged("hadolint", "deploy/Dockerfile") == ""


def test_the_image_runs_as_nobody_and_says_how_it_is() -> None:
    text = (DEPLOY / "Dockerfile").read_text()
    assert re.search(r"^USER 10001$", text, re.MULTILINE)
    assert re.search(r'^HEALTHCHECK .*CMD \["routerd", "status"\]$', text, re.MULTILINE)
    assert text.count("\nFROM ") == 2
    assert "PYTHONDONTWRITEBYTECODE=1" in text  # its root is read-only


# ── Compose ──


def test_the_compose_file_keeps_to_the_specification() -> None:
    judged("check-jsonschema", "--builtin-schema", "vendor.compose-spec", "deploy/compose/compose.yaml")


def test_what_compose_mounts_is_there_and_named_networks_and_volumes_are_declared() -> None:
    for name, service in COMPOSE["services"].items():
        for mount in service.get("volumes", ()):
            source = mount.split(":")[0]
            if source.startswith("."):
                assert (DEPLOY / "compose" / source).resolve().exists(), (name, mount)
            else:
                assert source in COMPOSE["volumes"]
        assert set(service["networks"]) <= set(COMPOSE["networks"])
    build = COMPOSE["services"]["routerd"]["build"]
    assert (DEPLOY / "compose" / build["context"] / build["dockerfile"]).resolve() == DEPLOY / "Dockerfile"


def test_the_admin_listener_is_not_published() -> None:
    ports = [port for service in COMPOSE["services"].values() for port in service.get("ports", ())]
    assert ports == ["127.0.0.1:8080:8080", "127.0.0.1:3000:3000"]
    assert COMPOSE["networks"]["inner"] == {"internal": True}


def test_compose_starts_the_daemon_with_flags_that_exist() -> None:
    shown = subprocess.run([*ROUTERD, "serve", "--help"], env=clean_environ(), capture_output=True, text=True, check=True).stdout
    service = COMPOSE["services"]["routerd"]
    for flag in [word for word in service["command"] if word.startswith("--")]:
        assert flag in shown
    assert "ROUTERD_ADMIN" in service["environment"]
    valid(DEPLOY / "compose" / "routerd" / "routes.yaml")


def test_promtool_accepts_the_configuration_of_prometheus_where_compose_mounts_it(tmp_path: pathlib.Path) -> None:
    shutil.copy(DEPLOY / "compose" / "prometheus.yml", tmp_path)
    shutil.copytree(DEPLOY / "prometheus", tmp_path / "routerd")
    assert "2 rule files found" in promtool("check", "config", str(tmp_path / "prometheus.yml"))


def test_grafana_finds_the_dashboard_where_compose_mounts_it() -> None:
    provided = yaml.safe_load((DEPLOY / "compose" / "grafana" / "dashboards.yaml").read_text())["providers"][0]
    mounts = dict(mount.split(":")[:2] for mount in COMPOSE["services"]["grafana"]["volumes"])
    assert mounts["../grafana"] == provided["options"]["path"]
    (source,) = yaml.safe_load((DEPLOY / "compose" / "grafana" / "datasources.yaml").read_text())["datasources"]
    assert source["url"] == "http://prometheus:9090"


# ── Kubernetes ──


def test_every_manifest_keeps_to_the_schema_of_its_kind(manifests: list[dict[str, Any]], tmp_path: pathlib.Path) -> None:
    path = tmp_path / "all.yaml"
    path.write_text(yaml.safe_dump_all(item for item in manifests if item["kind"] != "ServiceMonitor"))
    said = judged("kubernetes-validate", "--strict", str(path))
    assert said.count(" passed for resource ") == len(manifests) - 1


def test_the_service_monitor_keeps_to_the_schema_of_the_operator(manifests: list[dict[str, Any]]) -> None:
    told = of_kind(manifests, "ServiceMonitor")
    read = v1.ServiceMonitor.model_validate(told)
    assert read.model_dump(mode="json", by_alias=True, exclude_unset=True) == told  # a key that it does not know would be gone


def test_what_the_operator_adds_to_a_target_hides_no_label_of_ours(manifests: list[dict[str, Any]]) -> None:
    """A label of the target wins, and ours would be renamed: rules, alerts and dashboard ask for ours."""
    added = {"namespace", "service", "pod", "container", "node", "job", "instance", "endpoint"}  # promcfg.go of the operator
    ours = {label for family in FAMILIES.values() for label in family.labels}
    (scraped,) = of_kind(manifests, "ServiceMonitor")["spec"]["endpoints"]
    dropped = {rule["regex"] for rule in scraped["relabelings"] if rule["action"] == "labeldrop"}
    assert added & ours == dropped


def test_the_autoscaler_asks_for_what_the_adapter_makes_of_a_gauge_of_ours(manifests: list[dict[str, Any]]) -> None:
    """prometheus-adapter names a metric after its series; it finds the pod by the labels that the operator adds."""
    (metric,) = of_kind(manifests, "HorizontalPodAutoscaler")["spec"]["metrics"]
    (rule,) = yaml.safe_load((DEPLOY / "kubernetes" / "prometheus-adapter.yaml").read_text())["rules"]["custom"]
    series, _, labels = rule["seriesQuery"].partition("{")
    assert series == metric["pods"]["metric"]["name"]
    assert FAMILIES[series].kind == "gauge"  # a counter would need a rate
    assert re.findall(r"(\w+)!=", labels) == list(rule["resources"]["overrides"]) == ["namespace", "pod"]
    assert set(re.findall(r"<<\.(\w+)>>", rule["metricsQuery"])) == {"GroupBy", "Series", "LabelMatchers"}


def test_the_manifests_point_at_each_other(manifests: list[dict[str, Any]]) -> None:
    assert {item["metadata"]["namespace"] for item in manifests} == {"routerd"}
    deployment = of_kind(manifests, "Deployment")
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    for kind in ("NetworkPolicy", "PodDisruptionBudget", "Deployment"):
        spec = of_kind(manifests, kind)["spec"]
        assert (spec.get("selector") or spec["podSelector"])["matchLabels"].items() <= labels.items()
    services = [item for item in manifests if item["kind"] == "Service"]
    (pod,) = deployment["spec"]["template"]["spec"]["containers"]
    ports = {port["name"]: port["containerPort"] for port in pod["ports"]}
    assert {port["targetPort"] for item in services for port in item["spec"]["ports"]} == set(ports)
    monitor = of_kind(manifests, "ServiceMonitor")["spec"]
    (watched,) = (item for item in services if monitor["selector"]["matchLabels"].items() <= item["metadata"]["labels"].items())
    assert monitor["endpoints"][0]["port"] == watched["spec"]["ports"][0]["name"]
    assert of_kind(manifests, "HorizontalPodAutoscaler")["spec"]["scaleTargetRef"]["name"] == deployment["metadata"]["name"]
    account = deployment["spec"]["template"]["spec"]["serviceAccountName"]
    assert of_kind(manifests, "ServiceAccount")["metadata"]["name"] == account
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert pod[probe]["httpGet"]["path"] in ("/-/live", "/-/ready")
        assert pod[probe]["httpGet"]["port"] == "admin"


def test_the_configuration_is_a_directory_so_that_it_changes(manifests: list[dict[str, Any]]) -> None:
    spec = of_kind(manifests, "Deployment")["spec"]["template"]["spec"]
    (mount,) = (mount for mount in spec["containers"][0]["volumeMounts"] if mount["name"] == "config")
    assert mount["mountPath"] == "/etc/routerd"
    assert "subPath" not in mount
    assert of_kind(manifests, "ConfigMap")["metadata"]["name"] == spec["volumes"][0]["configMap"]["name"]
    valid(DEPLOY / "kubernetes" / "routes.yaml")


def test_a_pod_has_time_to_drain_and_may_write_nowhere_but_its_state(manifests: list[dict[str, Any]]) -> None:
    spec = of_kind(manifests, "Deployment")["spec"]["template"]["spec"]
    (pod,) = spec["containers"]
    drain_s = int(pod["args"][pod["args"].index("--drain-timeout") + 1].rstrip("s"))
    stop_s = int(pod["lifecycle"]["preStop"]["exec"]["command"][1])
    assert spec["terminationGracePeriodSeconds"] > drain_s + stop_s
    assert pod["securityContext"]["readOnlyRootFilesystem"] is True
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert pod["args"][pod["args"].index("--state-dir") + 1] == pod["volumeMounts"][1]["mountPath"]
    assert {"name": "ROUTERD_LEDGER", "value": "off"} in pod["env"]  # it would grow until the kubelet evicts the pod
    assert not any(mount["name"] == "state" and mount.get("readOnly") for mount in pod["volumeMounts"])
