"""Is the data fit? Nothing is done with data that is not."""

from pathlib import Path

from endcap_pipelines import checks
from endcap_pipelines.data import fingerprints
from endcap_pipelines.params import Params
from endcap_pipelines.source import say, write_json

# Written when the data has passed; what later stages wait for.
PASSED = "checked/passed.json"
# Stays from run to run: what the next run's data is compared with.
PROFILE = "checked/profile.json"


def run(params: Params, work: Path) -> None:
    profile = work / PROFILE
    profile.parent.mkdir(parents=True, exist_ok=True)
    (work / PASSED).unlink(missing_ok=True)
    for line in checks.pass_or_stop(params.data, None if params.check.accept_drift else profile, profile):
        say(f"  {line}")
    write_json(work / PASSED, fingerprints(params.data))
