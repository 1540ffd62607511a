"""Panels of one look: a title that says what, a description that says how to read it, PromQL that a test runs."""

from collections.abc import Iterable
from typing import TypeVar

from grafana_foundation_sdk.builders import dashboard, prometheus, stat, timeseries
from grafana_foundation_sdk.builders.common import VizLegendOptions
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.common import BigValueTextMode, LegendDisplayMode, LegendPlacement
from grafana_foundation_sdk.models.dashboard import DataSourceRef

SOURCE = DataSourceRef(type_val="prometheus", uid="$datasource")
# Grafana's grid is 24 wide; three panels stand side by side.
WIDTH, HEIGHT = 8, 8
# The one whose buckets name traces: on a graph, dots that lead to them.
EXEMPLARS = "endcap_request_duration_seconds_bucket"
Panel = TypeVar("Panel", timeseries.Panel, stat.Panel)


def with_queries(panel: Panel, queries: Iterable[tuple[str, str]]) -> Panel:
    for letter, (expression, legend) in zip("ABCDEF", queries, strict=False):
        target = prometheus.Dataquery().ref_id(letter).expr(expression).legend_format(legend).datasource(SOURCE)
        if EXEMPLARS in expression:
            target = target.exemplar(True)
        panel = panel.with_target(target)
    return panel


def graph(title: str, description: str, unit: str, *queries: tuple[str, str]) -> timeseries.Panel:
    """Lines over time; `queries` are pairs of PromQL and legend."""
    panel = (
        timeseries.Panel()
        .title(title)
        .description(description)
        .datasource(SOURCE)
        .unit(unit)
        .min(0)
        .line_width(1)
        .fill_opacity(8)
        .legend(
            VizLegendOptions().display_mode(LegendDisplayMode.LIST).placement(LegendPlacement.BOTTOM).show_legend(True)
        )
        .span(WIDTH)
        .height(HEIGHT)
    )
    return with_queries(panel, queries)


def names(title: str, description: str, *queries: tuple[str, str]) -> stat.Panel:
    """What the legends say, large; the values do not matter."""
    panel = (
        stat.Panel()
        .title(title)
        .description(description)
        .datasource(SOURCE)
        .text_mode(BigValueTextMode.NAME)
        .span(WIDTH)
        .height(HEIGHT)
    )
    return with_queries(panel, queries)


def page(uid: str, title: str, rows: dict[str, list], by_model: bool = True) -> str:
    """A dashboard as JSON, with a choice of data source and, where it makes a difference, of models."""
    built = (
        dashboard.Dashboard(title)
        .uid(uid)
        .tags(["endcap"])
        .refresh("30s")
        .time("now-1h", "now")
        .timezone("browser")
        .readonly()
        .with_variable(dashboard.DatasourceVariable("datasource").label("Prometheus").type("prometheus"))
    )
    if by_model:
        built = built.with_variable(
            dashboard.QueryVariable("model")
            .label("Model")
            .datasource(SOURCE)
            .query("label_values(endcap_alias_info, model)")
            .include_all(True)
            .all_value(".*")
            .multi(True)
        )
    number = 0
    for name, panels in rows.items():
        built = built.with_row(dashboard.Row(name))
        for panel in panels:
            number += 1
            built = built.with_panel(panel.id(number))
    return JSONEncoder(sort_keys=True, indent=2).encode(built.build()) + "\n"
