"""The chart renders, for five kinds of clusters, what it rendered before, and what Kubernetes knows."""

import os
from pathlib import Path

import helm_python as helm
import kubernetes_validate
import pytest
import yaml

import chart

SNAPSHOTS = Path(__file__).parent / "snapshots"
# Of operators and gateways, which Kubernetes' own schemas do not have.
FOREIGN = {"ServiceMonitor", "PrometheusRule", "GRPCRoute"}
VERSIONS = ["1.27", kubernetes_validate.latest_version()]


@pytest.mark.parametrize("name", chart.EXAMPLES)
def test_helm_lint_finds_nothing(name):
    report = helm.lint(chart.CHART, chart.example(name), strict=True)
    findings = [message for message in report["messages"] if message["severity"] > 1]
    assert not findings and not report["errors"]


def test_the_chart_renders_with_nothing_but_its_defaults():
    assert chart.objects({})


@pytest.mark.parametrize("name", chart.EXAMPLES)
def test_what_is_rendered_is_what_was_reviewed(name):
    """UPDATE_SNAPSHOTS=1 writes them anew: read the difference before you commit it."""
    path = SNAPSHOTS / f"{name}.yaml"
    text = yaml.dump_all([shortened(obj) for obj in chart.example_objects(name)], Dumper=yaml.CSafeDumper, width=120)
    if os.environ.get("UPDATE_SNAPSHOTS"):
        path.write_text(text)
    assert text == path.read_text(), f"{path.name} differs; if that was meant: UPDATE_SNAPSHOTS=1"


def shortened(obj):
    """Without what is copied from elsewhere, so that a new alert or panel does not change every snapshot."""
    if obj["kind"] == "PrometheusRule":
        return {**obj, "spec": "deploy/prometheus"}
    if "grafana_dashboard" in obj["metadata"].get("labels", {}):
        return {**obj, "data": "deploy/grafana"}
    return obj


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("name", chart.EXAMPLES)
def test_kubernetes_knows_every_field(name, version):
    for obj in chart.example_objects(name):
        if obj["kind"] not in FOREIGN:
            kubernetes_validate.validate(obj, version, strict=True)


@pytest.mark.parametrize("name", chart.EXAMPLES)
def test_no_object_comes_twice(name):
    identities = [chart.identity(obj) for obj in chart.example_objects(name)]
    assert len(identities) == len(set(identities))


def test_two_releases_in_one_namespace_share_nothing():
    def identities(release):
        return {chart.identity(obj) for obj in chart.objects({}, name=release)}

    assert not identities("spring") & identities("summer")
    spring, summer = (chart.settings_file(chart.objects({}, name=name)) for name in ("spring", "summer"))
    assert 'coordination.prefix = "/endcap/shop/spring-endcap"' in spring
    assert 'coordination.prefix = "/endcap/shop/summer-endcap"' in summer


def test_names_stay_within_what_kubernetes_allows():
    for obj in chart.objects(chart.example("minimal"), name="a-release-name-of-fifty-three-letters-is-the-longest"):
        limit = 52 if obj["kind"] == "StatefulSet" else 63
        assert len(obj["metadata"]["name"]) <= limit, chart.identity(obj)


def test_the_notes_say_what_comes_next():
    notes = chart.files({})["endcap/templates/NOTES.txt"]
    assert "endcap model register" in notes and "helm -n" not in notes
    notes = chart.files(chart.example("minimal"))["endcap/templates/NOTES.txt"]
    assert "helm -n shop test endcap" in notes and "promotions do not" in notes
    open_notes = chart.files({"networkPolicy": {"enabled": False}})["endcap/templates/NOTES.txt"]
    assert "no authentication" in open_notes


def test_a_packaged_chart_renders_the_same(tmp_path):
    """Its files are links into the repository; a package must hold what they point to."""
    archive = helm.package(chart.CHART, destination=tmp_path)
    values = chart.example("production")
    with helm.Chart.load(archive) as packed:
        rendered = packed.render(values, name=chart.RELEASE, namespace=chart.NAMESPACE)
    assert rendered == chart.files(values)
