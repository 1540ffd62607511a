"""A running fleet, through the program that operators use. Where it is: ENDCAP_REGISTRY_URL, ENDCAP_GATEWAY_URL."""

import json
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).parents[3]
PROGRAMS = [REPOSITORY / "target/release/endcap", REPOSITORY / "target/debug/endcap"]
RUNTIME = REPOSITORY / ".tools/onnxruntime/libonnxruntime.so"


class FleetError(Exception):
    """The program or the fleet refused; the message is theirs."""


@dataclass(frozen=True)
class Endcap:
    program: Path

    @classmethod
    def found(cls) -> "Endcap":
        """ENDCAP_BIN, or what was built in this clone."""
        given = os.environ.get("ENDCAP_BIN")
        candidates = [Path(given)] if given else PROGRAMS
        for program in candidates:
            if program.is_file():
                return cls(program)
        looked = ", ".join(map(str, candidates))
        raise FleetError(f"there is no endcap program at {looked}; `make build` makes it, or ENDCAP_BIN names it")

    def json(self, *arguments: object) -> Any:  # noqa: ANN401
        """What the program prints as JSON; FleetError with its complaint when it fails."""
        command = [str(self.program), "-o", "json", *map(str, arguments)]
        environment = {"ORT_DYLIB_PATH": str(RUNTIME), **os.environ}
        ran = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
        if ran.returncode != 0:
            said = ran.stderr.strip() or ran.stdout.strip() or f"ended with {ran.returncode}"
            raise FleetError(f"endcap {' '.join(map(str, arguments[:2]))}: {said}")
        return json.loads(ran.stdout)

    def register(self, bundle: Path) -> dict[str, Any]:
        return self.json("model", "register", bundle, "--reason", "endcap_pipelines")["result"]

    def validate(self, model: str, version: int) -> dict[str, Any]:
        return self.json("model", "validate", model, version)["result"]

    def rollout(self, model: str) -> dict[str, Any]:
        """Aliases and revision; before anything was promoted there are none."""
        found = [entry for entry in self.json("model", "list", model) if entry["name"] == model]
        rollout = found[0]["rollout"] if found else None
        return rollout or {"aliases": {}, "revision": 0}

    def show(self, model: str, version: int) -> dict[str, Any]:
        return self.json("model", "show", model, version)

    def evaluate(self, model: str, version: int, *more: object) -> dict[str, Any]:
        return self.json("evaluate", "--model", model, "--version", version, *more)

    def promote(self, model: str, version: int, revision: int, reason: str) -> dict[str, Any]:
        """Only as long as the rollout has this revision."""
        arguments = ["--expected-revision", revision, "--reason", reason]
        return self.json("model", "promote", model, version, *arguments)["result"]
