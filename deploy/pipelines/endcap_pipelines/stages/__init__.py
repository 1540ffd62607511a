"""The way from data to a registered version, stage by stage. Each reads and writes files of a work folder, so that
DVC can leave out what has not changed and Airflow can run each by itself; in one process they are called in order.

A stage is a module with `run(params, work)`. It raises DataError or FleetError when it must stop the run.
"""

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

# Airflow reads the names below without the packages that the stages need.
if TYPE_CHECKING:
    from endcap_pipelines.params import Params

STAGES = ["check", "prepare", "train", "evaluate", "optimize", "bundle", "register"]
# What follows, in endcap_pipelines.gate.
GATE = ["validate", "compare", "promote"]


def run(stage: str, params: "Params", work: Path) -> None:
    import_module(f"endcap_pipelines.stages.{stage}").run(params, work)
