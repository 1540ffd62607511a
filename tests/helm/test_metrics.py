"""Every metric that the chart names comes out of the binary."""

import re

import pytest
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
