"""`python -m endcap_pipelines.stages STAGE`: runs one stage."""

import argparse

from endcap_pipelines import stages
from endcap_pipelines.cli import Arguments, add_arguments, stopping_on_faults


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("stage", choices=stages.STAGES)
    add_arguments(parser)
    arguments = parser.parse_args(namespace=Arguments())
    with stopping_on_faults(arguments.stage):
        stages.run(arguments.stage, arguments.read_params(), arguments.work)


if __name__ == "__main__":
    main()
