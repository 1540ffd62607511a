"""What is written about the chart is so."""

import re

import chart
import values_table


def test_the_table_of_values_is_current():
    """`python tests/helm/values_table.py`, with the environment in .tools/helm, writes it."""
    text = values_table.README.read_text()
    assert values_table.written(text) == text


def test_every_example_is_described():
    text = values_table.README.read_text()
    assert all(f"`{name}`" in text for name in chart.EXAMPLES)


def test_the_changelog_and_the_chart_name_the_same_version():
    version = re.search(r'^version = "(.*)"$', (chart.ROOT / "Cargo.toml").read_text(), re.MULTILINE)[1]
    metadata = chart.loaded().metadata
    assert (metadata["version"], metadata["appVersion"]) == (version, version)
    assert f"## [{version}]" in (chart.ROOT / "CHANGELOG.md").read_text()
