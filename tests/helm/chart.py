"""The chart as its users meet it: rendered with values, and what the rendered objects say about each other."""

from __future__ import annotations

import functools
import os
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import helm_python as helm
import yaml

ROOT = Path(__file__).resolve().parents[2]
CHART = ROOT / "helm" / "endcap"
EXAMPLES = sorted(path.stem for path in (CHART / "examples").glob("*.yaml"))
RELEASE, NAMESPACE = "endcap", "shop"
WORKLOADS = ("Deployment", "StatefulSet", "Job", "Pod")

Object = dict[str, Any]


@functools.cache
def loaded() -> helm.Chart:
    return helm.Chart.load(CHART)


def example(name: str) -> dict[str, Any]:
    return yaml.safe_load((CHART / "examples" / f"{name}.yaml").read_text())


def files(values: dict[str, Any], **release: Any) -> dict[str, str]:
    """Rendered text by template, checked against the schema first, as an installation does."""
    loaded().validate_schema(values)
    return loaded().render(values, **{"name": RELEASE, "namespace": NAMESPACE, **release})


def objects(values: dict[str, Any], **release: Any) -> list[Object]:
    return documents(files(values, **release))


def documents(rendered: dict[str, str]) -> list[Object]:
    found = []
    for name, text in rendered.items():
        if not name.endswith("NOTES.txt"):
            found.extend(document for document in yaml.load_all(text, yaml.CSafeLoader) if document)
    return sorted(found, key=identity)


@functools.cache
def example_objects(name: str) -> list[Object]:
    """The objects of an example, shared by tests, which only read them."""
    return objects(example(name))


def identity(obj: Object) -> tuple[str, str]:
    return obj["kind"], obj["metadata"]["name"]


def of_kind(found: list[Object], *kinds: str) -> list[Object]:
    return [obj for obj in found if obj["kind"] in kinds]


def named(found: list[Object], kind: str, name: str) -> Object:
    [obj] = [obj for obj in found if identity(obj) == (kind, name)]
    return obj


def pod(obj: Object) -> Object:
    """Metadata and spec of the pods that an object makes."""
    return obj if obj["kind"] == "Pod" else obj["spec"]["template"]


def pods(found: list[Object]) -> Iterator[tuple[Object, Object]]:
    for obj in of_kind(found, *WORKLOADS):
        yield obj, pod(obj)


def matches(labels: dict[str, str], selector: dict[str, str]) -> bool:
    return selector.items() <= labels.items()


def selected(found: list[Object], selector: dict[str, str]) -> list[Object]:
    """Workloads that stay and whose pods a selector matches."""
    stay = of_kind(found, "Deployment", "StatefulSet")
    return [obj for obj in stay if matches(pod(obj)["metadata"]["labels"], selector)]


def settings_file(found: list[Object]) -> str:
    [configmap] = [obj for obj in of_kind(found, "ConfigMap") if "endcap.toml" in obj["data"]]
    return configmap["data"]["endcap.toml"]


def flat(table: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    keys: dict[str, Any] = {}
    for key, value in table.items():
        path = f"{prefix}{key}"
        keys.update(flat(value, f"{path}.") if isinstance(value, dict) else {path: value})
    return keys


def shipped_settings() -> dict[str, Any]:
    return flat(tomllib.loads((ROOT / "deploy/config/endcap.toml").read_text()))


def binary_metrics() -> set[str]:
    """Names in the catalogue that `endcap metrics` prints; one of its own tests holds the file to the binary."""
    catalogue = (ROOT / "deploy/prometheus/METRICS.md").read_text()
    return set(re.findall(r"^\| `(endcap_\w+)`", catalogue, re.MULTILINE))


def binary() -> Path:
    """The debug build, which `cargo test` leaves; or the one in ENDCAP_BINARY."""
    target = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
    path = Path(os.environ.get("ENDCAP_BINARY", target / "debug" / "endcap"))
    assert path.exists(), f"{path} is missing; cargo build --bin endcap makes it"
    return path
