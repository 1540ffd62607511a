"""Writes the table of values in the chart's README from values.yaml: its keys, defaults and `# --` comments."""

import json
import re

import yaml

import chart

README = chart.CHART / "README.md"
BEGIN = "<!-- values: written by tests/helm/values_table.py, checked by a test -->\n"
END = "<!-- end of values -->\n"


def comments() -> dict[str, str]:
    """What is said of each key: the comment right above it that begins with `# --`."""
    said, path, comment = {}, [], []
    for line in (chart.CHART / "values.yaml").read_text().splitlines():
        if found := re.match(r"( *)([A-Za-z0-9]+):", line):
            path = [*path[: len(found[1]) // 2], found[2]]
            said[".".join(path)] = " ".join(comment)
            comment = []
        elif line.strip().startswith("# -- "):
            comment = [line.strip()[5:]]
        elif comment and line.strip().startswith("# "):
            comment.append(line.strip()[2:])
        else:
            comment = []
    return said


def rows() -> list[tuple[str, str, str]]:
    said = comments()

    def walk(values, path):
        for key, value in values.items():
            name = f"{path}{key}"
            if isinstance(value, dict) and value and name != "config" and not name.endswith(("resources", "labels")):
                if said[name]:
                    yield name, "", said[name]
                yield from walk(value, f"{name}.")
            else:
                yield name, json.dumps(value), said[name]

    return list(walk(yaml.safe_load((chart.CHART / "values.yaml").read_text()), ""))


def table() -> str:
    lines = ["| value | default | what |", "|---|---|---|"]
    lines += [f"| `{name}` | {f'`{default}`' if default else ''} | {what} |" for name, default, what in rows()]
    return "\n".join(lines) + "\n"


def written(text: str) -> str:
    before, rest = text.split(BEGIN)
    return before + BEGIN + table() + END + rest.split(END)[1]


if __name__ == "__main__":
    README.write_text(written(README.read_text()))
