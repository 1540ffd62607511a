import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

PIPELINES = Path(__file__).parents[2]
TOOLS = PIPELINES.parents[1] / ".tools"


def tool(name: str, variable: str, default: str) -> Path:
    """A program of an environment of its own; without it the test reads as skipped, by name."""
    path = Path(os.environ.get(variable, TOOLS / default))
    if not path.is_file():
        pytest.skip(f"{path} is missing; `make {name}` gets it, or {variable} names one")
    return path


@pytest.fixture
def parameters(data: Path, tmp_path: Path) -> Path:
    """The shipped params.yaml, for the small shop."""
    text = (PIPELINES / "params.yaml").read_text()
    path = tmp_path / "params.yaml"
    path.write_text(text.replace("../../.tools/shop", str(data)).replace("steps: 1500", "steps: 60"))
    return path


@pytest.fixture
def environment(fleet: Mapping[str, str]) -> Iterator[dict[str, str]]:
    """What both drivers are told, with nothing of the machine's own settings."""
    yield {**os.environ, **fleet, "ENDCAP_PYTHON": sys.executable, "OMP_NUM_THREADS": "1"}


def ran(command: list[object], environment: Mapping[str, str], folder: Path) -> tuple[int, str]:
    """Exit code, and everything it said."""
    done = subprocess.run(
        [str(word) for word in command],
        env=environment,
        cwd=folder,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=False,
    )
    return done.returncode, done.stdout
