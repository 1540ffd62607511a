"""Every metric that the chart names comes out of the binary."""

import json
import re

import yaml

import chart

SUFFIXES = re.compile(r"_(bucket|sum|count)$")


def adapter():
    return yaml.safe_load((chart.CHART / "files/prometheus-adapter.yaml").read_text())["rules"]["custom"]


def metrics_of(text):
    return {SUFFIXES.sub("", name) for name in re.findall(r"\bendcap_[a-z_]+", text)}


def test_the_adapters_rules_read_metrics_of_the_binary():
    for rule in adapter():
        assert metrics_of(rule["seriesQuery"]) <= chart.binary_metrics(), rule


def test_autoscalers_ask_for_what_the_adapter_makes():
    made = {rule["name"]["as"] for rule in adapter()}
    scalers = chart.of_kind(chart.example_objects("production"), "HorizontalPodAutoscaler")
    asked = {m["pods"]["metric"]["name"] for s in scalers for m in s["spec"]["metrics"] if m["type"] == "Pods"}
    assert asked == made


def test_prometheus_finds_the_admin_port_of_every_role():
    found = chart.example_objects("production")
    [monitor] = chart.of_kind(found, "ServiceMonitor")
    wanted = monitor["spec"]["selector"]["matchLabels"]
    scraped = set()
    for service in chart.of_kind(found, "Service"):
        for endpoint in monitor["spec"]["endpoints"]:
            if chart.matches(service["metadata"]["labels"], wanted):
                named = [port for port in service["spec"]["ports"] if port["name"] == endpoint["port"]]
                scraped |= {service["spec"]["selector"]["app.kubernetes.io/component"] for _ in named}
    assert scraped == {"gateway", "worker", "registry", "feature-cache", "etcd"}


def test_the_rules_are_those_of_the_repository_and_read_metrics_of_the_binary():
    [rule] = chart.of_kind(chart.example_objects("production"), "PrometheusRule")
    written = (chart.ROOT / "deploy/prometheus/rules.yaml").read_text()
    assert rule["spec"] == yaml.safe_load(written) and rule["spec"]["groups"]
    expressions = " ".join(entry["expr"] for group in rule["spec"]["groups"] for entry in group["rules"])
    asked = metrics_of(expressions)
    assert asked and asked <= chart.binary_metrics()


def test_the_dashboards_are_those_of_the_repository():
    found = chart.of_kind(chart.example_objects("production"), "ConfigMap")
    carried = {name: text for obj in found for name, text in obj["data"].items() if name.endswith(".json")}
    written = {path.name: path.read_text() for path in (chart.ROOT / "deploy/grafana").glob("*.json")}
    assert carried == written and written
    assert all(json.loads(text)["panels"] for text in carried.values())


def test_the_chart_carries_nothing_else_of_the_folders_that_it_links_to():
    carried = {file["name"] for file in chart.loaded().files if file["name"].startswith("files/")}
    dashboards = {f"files/grafana/{path.name}" for path in (chart.ROOT / "deploy/grafana").glob("*.json")}
    assert carried == dashboards | {
        "files/endcap.toml",
        "files/prometheus/rules.yaml",
        "files/prometheus-adapter.yaml",
    }
