"""The packed bundle becomes the model's next version; the same bundle again is the same version."""

from pathlib import Path

from endcap_pipelines.fleet import Endcap
from endcap_pipelines.params import Params
from endcap_pipelines.source import say, write_json
from endcap_pipelines.stages import bundle

REGISTERED = "registered.json"


def run(params: Params, work: Path) -> None:
    version = Endcap.found().register(work / bundle.PACKED)
    write_json(work / REGISTERED, version)
    say(f"  {version['model']} version {version['version']}, digest {version['digest'][:12]}")
