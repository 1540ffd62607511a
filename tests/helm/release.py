"""One release, from its manifests to its end. Run by test_release.py in namespaces of its own."""

import json
import signal
import sys
import time
from pathlib import Path

import chart
from kubelet import Cluster, Pod

# Enough for a busy machine; the deadlines of a cluster are longer.
PATIENCE = 90
# An update waits less for what the controller hands out; two workers hold everything already.
WORKERS = {"replicas": 2, "minReadySeconds": 2}
VALUES = {"worker": WORKERS, "gateway": {"replicas": 2}, "bootstrap": {"enabled": True}}
UPGRADE = {**VALUES, "image": {"tag": "next"}}


def main(image: Path, folder: Path) -> None:
    cluster = Cluster(chart.objects(VALUES), image, folder)
    members = cluster.of("StatefulSet", "Deployment")
    [job], [test] = cluster.of("Job"), cluster.of("Pod")
    try:
        # All at once, as Kubernetes does: who needs etcd or a registry waits, or ends and is started again.
        for pod in members:
            cluster.start(pod)
        cluster.wait("live", members, lambda pod: cluster.probe(pod, "livenessProbe"), PATIENCE)
        cluster.wait("ready", members, lambda pod: cluster.probe(pod, "readinessProbe"), PATIENCE)
        print("ready:", *(pod.name for pod in members))
        succeeds(cluster, job, attempts=5)
        succeeds(cluster, test, attempts=5)
        print(test.log.read_text())
        shopper = shop(cluster, test.owner)
        print("upgraded:", *cluster.upgrade(chart.objects(UPGRADE), PATIENCE))
        print("rolled back:", *cluster.upgrade(chart.objects(VALUES), PATIENCE))
        print("answered:", answers(shopper))
        members = cluster.of("StatefulSet", "Deployment")
        drain(cluster, [pod for pod in members if pod.container["name"] == "endcap"])
    finally:
        cluster.stop()


def succeeds(cluster: Cluster, pod, attempts: int) -> None:
    for _ in range(attempts):
        if cluster.run(pod, PATIENCE) == 0:
            print("succeeded:", pod.name)
            return
        time.sleep(1)
    raise AssertionError(f"{pod.name} failed {attempts} times:\n{pod.log.read_text()}")


def shop(cluster: Cluster, owner: chart.Object) -> Pod:
    """Sends Recommend to the gateways' Service until it is interrupted."""
    shopper = cluster.add(owner, "shopper")
    load = ["--rate", "20", "--duration", "1h", "--deadline", "2s", "--warm-up", "1s"]
    cluster.start(shopper, "--output", "json", "bench", *load)
    return shopper


def answers(shopper: Pod) -> dict[str, int]:
    """By rung; every request had one in its deadline, and a whole one: each shard has two workers."""
    shopper.process.send_signal(signal.SIGINT)
    code = shopper.process.wait(PATIENCE)
    text = shopper.log.read_text()
    assert code == 0, text
    [step] = json.loads(text[text.index("{") :])["steps"]
    assert not step["errors"] and step["in_deadline"] == step["offered"] > 0, step
    assert step["rungs"].keys() == {"FULL"}, step["rungs"]
    return step["rungs"]


def drain(cluster: Cluster, pods) -> None:
    """SIGTERM: not ready at once, still alive meanwhile, and ended by itself within the grace."""
    began = time.monotonic()
    for pod in pods:
        pod.process.send_signal(signal.SIGTERM)
    gateway = next(pod for pod in pods if "gateway" in pod.name)
    cluster.wait("unready", [gateway], lambda pod: not cluster.probe(pod, "readinessProbe"), 4)
    assert cluster.probe(gateway, "livenessProbe"), "liveness fails in the drain"
    for pod in pods:
        grace = pod.manifest["spec"]["terminationGracePeriodSeconds"]
        code = pod.process.wait(max(0.1, grace - (time.monotonic() - began)))
        assert code == 0, f"{pod.name} ended with {code}:\n{pod.log.read_text()[-3000:]}"
        print("drained:", pod.name)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
