"""From training data to `stable`, as an Airflow DAG: the stages and the gate, each a task.

A task runs `python -m endcap_pipelines...` in the pipelines' own environment, which Airflow's never sees. Settings are
those of Airflow's processes: ENDCAP_PYTHON (that environment's Python), ENDCAP_PARAMS (params.yaml), ENDCAP_WORK (the
work folder, which all workers must see), ENDCAP_BIN, ENDCAP_REGISTRY_URL and ENDCAP_GATEWAY_URL (the fleet).
`overrides` of a run go over params.yaml: {"overrides": ["train.recipe=lightgbm"]}.
"""

import os
import subprocess
import sys
from pathlib import Path

from airflow.sdk import DAG, Param, get_current_context, task
from airflow.sdk.exceptions import AirflowFailException

# At the end: the folder `airflow` of this file must not come before Airflow itself.
PIPELINES = Path(__file__).resolve().parents[1]
sys.path.append(str(PIPELINES))
from endcap_pipelines.stages import GATE, STAGES  # noqa: E402

PYTHON = os.environ.get("ENDCAP_PYTHON", str(PIPELINES.parents[1] / ".tools/pipelines/bin/python"))
PARAMS = os.environ.get("ENDCAP_PARAMS", str(PIPELINES / "params.yaml"))
WORK = os.environ.get("ENDCAP_WORK", str(PIPELINES / "work"))


@task
def run(module: str, step: str) -> None:
    """Copies the step's output to the task's log; a step that fails is a failed task with the step's last words."""
    overrides = get_current_context()["params"]["overrides"]
    command = [PYTHON, "-m", module, step, "--params", PARAMS, "--work", WORK]
    command += [word for override in overrides for word in ("--set", override)]
    environment = {**os.environ, "PYTHONPATH": str(PIPELINES)}
    said: list[str] = []
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment
    ) as running:
        for line in running.stdout:
            print(line, end="", flush=True)
            said.append(line)
    if running.returncode != 0:
        # Nothing of this gets better by trying again.
        raise AirflowFailException(f"{step} ended with {running.returncode}: {''.join(said[-20:]).strip()}")


with DAG(
    dag_id="endcap_pipeline",
    description="From training data to stable, or a refusal that says why",
    schedule=None,
    catchup=False,
    # A work folder is one run's.
    max_active_runs=1,
    params={"overrides": Param([], type="array", items={"type": "string"}, description="over params.yaml")},
    doc_md=__doc__,
) as dag:
    before = None
    for module, steps in [("endcap_pipelines.stages", STAGES), ("endcap_pipelines.gate", GATE)]:
        for step in steps:
            this = run.override(task_id=step)(module, step)
            if before is not None:
                before >> this
            before = this
