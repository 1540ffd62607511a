"""DVC runs the stages that a change concerns, and no other."""

import json
import re
import shutil
from pathlib import Path

import pytest

from .conftest import PIPELINES, ran, tool


def repro(folder: Path, environment: dict[str, str]) -> list[str]:
    """The stages that ran."""
    dvc = tool("trainers", "DVC_BIN", "trainers/bin/dvc")
    code, said = ran([dvc, "repro"], environment | {"DVC_GLOBAL_CONFIG_DIR": str(folder)}, folder)
    assert code == 0, said
    return re.findall(r"^Running stage '(\w+)'", said, flags=re.MULTILINE)


@pytest.fixture
def project(parameters: Path, tmp_path: Path) -> Path:
    """The pipeline's folder outside git."""
    folder = tmp_path / "project"
    shutil.copytree(PIPELINES / "endcap_pipelines", folder / "endcap_pipelines")
    (folder / ".dvc").mkdir()
    for name in ["dvc.yaml", ".dvcignore", ".dvc/config"]:
        shutil.copyfile(PIPELINES / name, folder / name)
    with (folder / ".dvc/config").open("a") as config:
        config.write("    no_scm = true\n")
    shutil.copyfile(parameters, folder / "params.yaml")
    return folder


def test_repro_runs_what_has_changed_and_nothing_else(
    project: Path, environment: dict[str, str], data: Path, tmp_path: Path
) -> None:
    stages = ["check", "prepare", "train", "evaluate", "optimize", "bundle", "register"]
    assert repro(project, environment) == stages
    assert repro(project, environment) == []
    first = json.loads((project / "work/registered.json").read_text())

    parameters = project / "params.yaml"
    parameters.write_text(parameters.read_text().replace("budget: 0.005", "budget: 0.1"))
    assert repro(project, environment) == ["optimize", "bundle", "register"]
    second = json.loads((project / "work/registered.json").read_text())
    assert (first["version"], second["version"]) == (1, 2)
    assert first["lineage"]["ranker.trained"] == second["lineage"]["ranker.trained"]

    # The lock names the data by digests, and so does the version.
    passed = json.loads((project / "work/checked/passed.json").read_text())
    assert {f"data.{name}": digest for name, digest in passed.items()}.items() <= second["lineage"].items()
