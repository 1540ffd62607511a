"""What the commands of the pipeline have in common."""

import argparse
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from endcap_pipelines.data import DataError
from endcap_pipelines.fleet import FleetError
from endcap_pipelines.params import Params, read


class Arguments(argparse.Namespace):
    params: Path
    set: list[str]
    work: Path

    def read_params(self) -> Params:
        return read(self.params, self.set)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--params", type=Path, default=Path("params.yaml"), help="default: params.yaml")
    parser.add_argument("--work", type=Path, default=Path("work"), help="the folder of a run's files; default: work")
    parser.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE", help="over the file, such as train.recipe=lightgbm"
    )


@contextmanager
def stopping_on_faults(what: str) -> Iterator[None]:
    """What a person can mend ends the program with its message and 1."""
    try:
        yield
    except (DataError, FleetError) as error:
        sys.exit(f"{what}: {error}")
