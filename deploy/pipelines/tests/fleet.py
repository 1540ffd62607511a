"""A fleet as a process of its own, in which nothing is registered yet."""

import os
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

REPOSITORY = Path(__file__).parents[3]
PROGRAM = Path(os.environ.get("ENDCAP_BIN", REPOSITORY / "target/debug/endcap"))
RUNTIME = os.environ.get("ORT_DYLIB_PATH", str(REPOSITORY / ".tools/onnxruntime/libonnxruntime.so"))


@contextmanager
def running(folder: Path) -> Iterator[Mapping[str, str]]:
    """The environment in which the pipeline finds the fleet; its state is in `folder`."""
    ports = [f"{role}.listen=127.0.0.1:0" for role in ["gateway.grpc", "registry.grpc", "feature_cache.grpc", "admin"]]
    command = [str(PROGRAM), "dev", "--data-dir", str(folder)]
    command += [word for port in ports for word in ("--set", port)]
    environment = {**os.environ, "ORT_DYLIB_PATH": RUNTIME}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment
    ) as fleet:
        try:
            first = fleet.stdout.readline()
            at = {role: first.split(f"{role} ")[1].split()[0] for role in ["gateway", "registry"]}
            yield {
                "ENDCAP_BIN": str(PROGRAM),
                "ORT_DYLIB_PATH": RUNTIME,
                "ENDCAP_GATEWAY_URL": at["gateway"],
                "ENDCAP_REGISTRY_URL": at["registry"],
            }
        finally:
            fleet.terminate()
