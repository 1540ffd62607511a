"""`python -m endcap_pipelines.bundle --data FOLDER --out SOURCE`: a data folder becomes a bundle source."""

import argparse
import tempfile
from dataclasses import replace
from pathlib import Path

from endcap_pipelines import checks, fused_bundle, stages
from endcap_pipelines.cli import stopping_on_faults
from endcap_pipelines.params import Optimize, Params
from endcap_pipelines.source import say
from endcap_pipelines.stages import bundle


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="the data folder")
    parser.add_argument("--out", type=Path, required=True, help="the bundle source folder to write")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--against", type=Path, help="the data's profile at the last run; a missing file is none")
    parser.add_argument("--profile", type=Path, help="where to write this data's profile, for the next run")
    parser.add_argument("--as-trained", action="store_true", help="pack the models as they are, in no smaller form")
    parser.add_argument(
        "--ranker",
        choices=["trained", *fused_bundle.RANKERS],
        default="trained",
        help="train one on the labels, pack the folder's own of 22 features, or none but the fusion of both lists",
    )
    arguments = parser.parse_args()
    with stopping_on_faults("endcap_pipelines.bundle"):
        for line in checks.pass_or_stop(arguments.data, arguments.against, arguments.profile):
            say(line)
        if arguments.ranker == "trained":
            params = Params(arguments.data, seed=arguments.seed)
            if arguments.as_trained:
                params = replace(params, optimize=Optimize(models=[]))
            build(params, arguments.out)
        else:
            fused_bundle.build(arguments.data, arguments.out, arguments.ranker, arguments.seed)


def build(params: Params, out: Path) -> None:
    """The stages between the checked data and the packed bundle."""
    with tempfile.TemporaryDirectory() as folder:
        for stage in ["prepare", "train", "evaluate", "optimize"]:
            say(stage)
            stages.run(stage, params, Path(folder))
        bundle.write(params, Path(folder), out)


if __name__ == "__main__":
    main()
