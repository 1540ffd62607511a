"""The DAG in a real Airflow: every task runs, the last one promotes, and a refusal is a failed task that says why."""

import json
import re
from pathlib import Path

import pytest

from endcap_pipelines.stages import GATE, STAGES

from .conftest import PIPELINES, ran, tool


@pytest.fixture
def airflow(environment: dict[str, str], parameters: Path, tmp_path: Path) -> dict[str, str]:
    """The environment of an Airflow with a database of its own, which knows this DAG alone."""
    home = tmp_path / "airflow"
    found = environment | {
        "AIRFLOW_HOME": str(home),
        "AIRFLOW__CORE__DAGS_FOLDER": str(PIPELINES / "airflow"),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__USAGE_DATA_COLLECTION__ENABLED": "False",
        "ENDCAP_PARAMS": str(parameters),
        "ENDCAP_WORK": str(tmp_path / "work"),
    }
    program = tool("airflow", "AIRFLOW_BIN", "airflow/bin/airflow")
    code, said = ran([program, "db", "migrate"], found, tmp_path)
    assert code == 0, said
    return found | {"AIRFLOW_BIN": str(program)}


def test_the_dag_ends_in_a_promotion_or_in_a_task_that_says_why_not(airflow: dict[str, str], tmp_path: Path) -> None:
    test = [airflow["AIRFLOW_BIN"], "dags", "test", "endcap_pipeline"]
    code, said = ran(test, airflow, tmp_path)
    assert code == 0, said[-5000:]
    assert re.findall(r"end task task_id=(\w+)", said) == [*STAGES, *GATE]
    assert stable(airflow, tmp_path) == 1

    code, said = ran([*test, "--conf", json.dumps({"overrides": ["train.shuffle_labels=true"]})], airflow, tmp_path)
    assert code != 0, said[-5000:]
    assert "promote ended with 1" in said and "search-ranker version 2 is refused" in said, said[-5000:]
    assert stable(airflow, tmp_path) == 1


def test_the_scheduler_runs_the_dag(airflow: dict[str, str], parameters: Path, tmp_path: Path) -> None:
    # Airflow's log servers listen on every address: in here there is none but loopback.
    alone = ["unshare", "--net", "--pid", "--fork", "--kill-child", "--mount-proc"]
    if ran([*alone, "true"], airflow, tmp_path)[0] != 0:
        pytest.skip("needs the right to make network namespaces")
    code, said = ran([*alone, "bash", Path(__file__).parent / "standalone.sh"], airflow, tmp_path)
    assert code == 0, said[-8000:]
    assert "state: success" in said and "stable=1" in said, said[-8000:]


def stable(environment: dict[str, str], folder: Path) -> int:
    code, said = ran([environment["ENDCAP_BIN"], "-o", "json", "model", "list"], environment, folder)
    assert code == 0, said
    return json.loads(said)[0]["rollout"]["aliases"]["stable"]
