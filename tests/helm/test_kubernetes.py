"""The chart on a Kubernetes: its API server takes every object, its controllers, scheduler and kubelet make pods of
them, Helm installs, upgrades and rolls back, and nothing of that, nor of what is killed, is felt by who asks."""

import itertools
import json
import shutil
import sys
from pathlib import Path

import helm_python
import pytest

import chart
import kubernetes
from engine import docker
from test_compose import etcd_changes, etcd_root, root_of

# What the last Kubernetes that can be built from Debian's sources does not know yet, and how it says it.
OLDER = {
    'kubeVersion: ">=1.27.0-0"': 'kubeVersion: ">=1.20.0-0"',
    "apiVersion: policy/v1\n": "apiVersion: policy/v1beta1\n",
    "  # A pod that is not ready protects nobody.\n  unhealthyPodEvictionPolicy: AlwaysAllow\n": "",
    "apiVersion: autoscaling/v2\n": "apiVersion: autoscaling/v2beta2\n",
    "  minReadySeconds: {{ $worker.minReadySeconds }}\n": "",
    "  persistentVolumeClaimRetentionPolicy: {whenDeleted: Delete, whenScaled: Delete}\n": "",
    # The same health, at the other door.
    "  grpc: {port: {{ .port }}}\n": "  httpGet: {path: /readyz, port: admin}\n",
}
# Of operators, which are not there.
CUSTOM = ("monitoring.coreos.com/", "gateway.networking.k8s.io/")
SMALL = {"requests": {"cpu": "10m", "memory": "32Mi"}}
GATEWAY = "http://endcap-gateway:9400"


@pytest.fixture(scope="module")
def cluster(engine, builder, tmp_path_factory):
    if not kubernetes.to_be_had():
        pytest.skip("needs a Kubernetes: `make kubernetes` builds one")
    if engine is None:
        pytest.skip("needs an engine of its own, not the machine's")
    folder = tmp_path_factory.mktemp("kubernetes")
    pause = folder / "pause"
    pause.mkdir()
    shutil.copy(kubernetes.TOOLS / "bin/pause", pause)
    image = builder.imported(pause, f"{builder.name}-pause:1", 'ENTRYPOINT ["/pause"]')
    cluster = kubernetes.Kubernetes(folder, engine, image)
    try:
        cluster.come_up()
        yield cluster
    finally:
        cluster.stop()


@pytest.fixture(scope="module")
def older(tmp_path_factory):
    """The chart as that Kubernetes takes it."""
    folder = tmp_path_factory.mktemp("older") / "endcap"
    shutil.copytree(chart.CHART, folder)
    for new, old in OLDER.items():
        files = [path for path in (folder / "Chart.yaml", *folder.rglob("templates/**/*")) if path.is_file()]
        found = [path for path in files if new in path.read_text()]
        assert found, f"the chart does not say this any more: {new}"
        for path in found:
            path.write_text(path.read_text().replace(new, old))
    return folder


class Release:
    """Of two of each role, three etcd members and a Redis."""

    PODS, STAY = 12, 4

    def __init__(self, cluster, folder, images, etcd, redis):
        self.cluster, self.folder, self.images, self.redis = cluster, folder, images, redis
        self.numbers = itertools.count()
        self.values = {
            "store": {"pvc": {"accessModes": ["ReadWriteOnce"], "size": "1Gi"}},
            "etcd": {"bundled": {"size": "1Gi", "image": named(etcd), "resources": SMALL}},
            "redis": {"kind": "bundled", "bundled": {"size": "1Gi", "image": named(redis), "resources": SMALL}},
            "featureCache": {"replicas": 2, "resources": SMALL},
            # No answer here may hang on how busy the machine is.
            "config": {"feature_cache": {"redis": {"timeout": "2s"}}},
            "gateway": {"replicas": 2, "resources": SMALL},
            "registry": {"resources": SMALL},
            "worker": {"replicas": 2, "resources": SMALL},
            "bootstrap": {"enabled": True},
        }

    def helm(self, *command):
        helm = Path(__file__).with_name("helm.py")
        return self.cluster.run(sys.executable, helm, self.cluster.kubeconfig, chart.NAMESPACE, *command)

    def change(self, action, image):
        values = {**self.values, "image": named(self.images[image])}
        self.helm(action, self.folder, chart.RELEASE, json.dumps(values))

    def pods(self):
        """Its members, by name. Those of a Job, or of a test, are not."""
        pods = self.cluster.objects("pods")
        return {pod["metadata"]["name"]: pod for pod in pods if "ownerReferences" in pod["metadata"] and lasts(pod)}

    def images_of(self, pods):
        containers = [pod["spec"]["containers"][0] for pod in pods.values()]
        return {container["image"] for container in containers if container["name"] == "endcap"}

    def is_whole(self):
        pods = self.pods()
        return len(pods) == self.PODS and all(map(ready, pods.values()))

    def once(self, name, *arguments):
        """Adds a pod that runs a command of Endcap's once."""
        environment = [{"name": "ENDCAP_GATEWAY_URL", "value": GATEWAY}]
        container = {"name": "endcap", "image": self.images["first"], "args": arguments, "env": environment}
        spec = {"restartPolicy": "Never", "containers": [container]}
        metadata = {"name": name, "namespace": chart.NAMESPACE}
        self.cluster.apply({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec})

    def phase(self, name):
        return self.kubectl("get", "pod", name, "--output=jsonpath={.status.phase}")

    def says(self, name, *arguments):
        """What a command of Endcap's prints in a pod of its own."""
        self.once(name, *arguments)
        self.cluster.wait(name, lambda: self.phase(name) in ("Succeeded", "Failed"))
        said = self.kubectl("logs", name)
        assert self.phase(name) == "Succeeded", said
        return said

    def kubectl(self, *command):
        return self.cluster.kubectl(f"--namespace={chart.NAMESPACE}", *command)


def named(image):
    repository, tag = image.split(":")
    return {"repository": repository, "tag": tag}


def lasts(pod):
    return pod["metadata"]["ownerReferences"][0]["kind"] != "Job" and not pod["metadata"].get("deletionTimestamp")


def ready(pod):
    return any(c["type"] == "Ready" and c["status"] == "True" for c in pod["status"].get("conditions", []))


@pytest.fixture(scope="module")
def release(cluster, older, builder, image, tmp_path_factory):
    images = {name: builder.endcap(image, f"kubernetes-{name}") for name in ("first", "next")}
    root = tmp_path_factory.mktemp("etcd")
    etcd = builder.imported(etcd_root(root / "root"), f"{builder.name}-etcd:1", *etcd_changes())
    release = Release(cluster, older, images, etcd, redis_image(builder, tmp_path_factory.mktemp("redis")))
    release.change("install", "first")
    return release


def redis_image(builder, folder):
    tools = chart.ROOT / ".tools/redis"
    unpacked = tools / "root/usr/bin/redis-server"
    program = unpacked if unpacked.exists() else (tools / "redis-server").resolve()
    libraries = next(iter(tools.glob("root/usr/lib/*-linux-gnu")), "")
    return builder.imported(root_of(folder / "root", program, libraries), f"{builder.name}-redis:1")


class Shopper:
    """Asks through the gateways' Service until it is interrupted; every request must be answered in full."""

    def __init__(self, release, name):
        self.release, self.name = release, name
        load = ["--rate", "20", "--duration", "1h", "--deadline", "2s", "--warm-up", "1s"]
        release.once(name, "--output", "json", "bench", *load)
        release.cluster.wait("load", lambda: release.phase(name) == "Running")

    def ends(self):
        filters = [
            f"--filter=label=io.kubernetes.pod.name={self.name}",
            "--filter=label=io.kubernetes.container.name=endcap",
        ]
        docker("kill", "--signal=INT", docker("ps", "--quiet", *filters).strip())
        self.release.cluster.wait("its report", lambda: self.release.phase(self.name) == "Succeeded")
        said = self.release.kubectl("logs", self.name)
        [step] = json.loads(said[said.index("{") :])["steps"]
        assert not step["errors"] and step["in_deadline"] == step["offered"] > 0, step
        assert step["rungs"].keys() == {"FULL"}, step["rungs"]
        return step["offered"]


@pytest.mark.parametrize("name", chart.EXAMPLES)
def test_the_api_server_takes_every_object(cluster, older, name):
    values = chart.example(name)
    rendered = helm_python.Chart.load(older).render(values, name=chart.RELEASE, namespace="default")
    # A pod alone is refused as long as its service account is not there; Helm's own test runs one below.
    found = [obj for obj in chart.documents(rendered) if obj["kind"] != "Pod"]
    kept = [obj for obj in found if not obj["apiVersion"].startswith(CUSTOM)]
    assert {"Deployment", "StatefulSet", "Service", "NetworkPolicy"} <= {obj["kind"] for obj in kept}
    whole = {"apiVersion": "v1", "kind": "List", "items": kept}
    # Validated by its own rules and with its defaults, as when it is created, and not kept.
    said = cluster.kubectl("create", "--dry-run=server", "--filename=-", input=json.dumps(whole))
    assert said.count("created (server dry run)") == len(kept), said


def test_helms_own_test_is_answered_by_every_shard(release):
    [test] = [obj for obj in chart.objects({"image": {"tag": "x"}}) if obj["kind"] == "Pod"]
    container = test["spec"]["containers"][0]
    container["image"] = release.images["first"]
    test["metadata"] |= {"namespace": chart.NAMESPACE, "annotations": {}}
    release.cluster.apply(test)
    name = test["metadata"]["name"]
    release.cluster.wait("helm test", lambda: release.phase(name) == "Succeeded", 30)
    assert "FULL" in release.kubectl("logs", name)


def test_an_upgrade_and_its_rollback_under_load_fail_no_request(release):
    before = release.pods()
    shopper = Shopper(release, "shopper-upgrade")
    release.change("upgrade", "next")
    upgraded = release.pods()
    release.helm("rollback", chart.RELEASE)
    back = release.pods()
    print(shopper.ends(), "requests")
    assert release.images_of(upgraded) == {release.images["next"]}
    assert release.images_of(before) == release.images_of(back) == {release.images["first"]}
    assert len(before) == len(upgraded) == len(back) == release.PODS
    uids = [{pod["metadata"]["uid"] for pod in pods.values()} for pods in (before, upgraded, back)]
    # All but etcd's members and Redis, which nothing of it concerned.
    assert len(uids[0] & uids[1]) == len(uids[1] & uids[2]) == release.STAY


def test_pods_that_are_killed_come_back_and_no_request_fails(release):
    before = release.pods()
    names = [
        next(name for name in before if name.startswith(f"endcap-{role}"))
        for role in ("worker", "registry", "etcd", "redis")
    ]
    shopper = Shopper(release, "shopper-kill")
    release.kubectl("delete", "pod", *names, "--grace-period=0", "--force")
    release.cluster.wait("all pods again", release.is_whole)
    print(shopper.ends(), "requests")
    assert {pod["metadata"]["uid"] for pod in before.values()} - {p["metadata"]["uid"] for p in release.pods().values()}


def features(release, *arguments):
    """Asks a feature-cache, by its number."""
    verb, cache, *rest = arguments
    url = f"http://endcap-feature-cache-{cache}.endcap-feature-cache-headless:9430"
    name = f"features-{next(release.numbers)}"
    return release.says(name, "features", verb, "user/ada", *rest, f"--feature-cache={url}")


def test_feature_caches_share_the_charts_redis_and_features_outlive_its_pod(release):
    features(release, "put", 0, "user.affinity=0.5")
    assert "0.5" in features(release, "get", 1)
    release.kubectl("delete", "pod", "endcap-redis-0", "--grace-period=0", "--force")
    release.cluster.wait("Redis again", release.is_whole)
    assert "0.5" in features(release, "get", 1)


def test_a_redis_of_ones_own_is_used_as_a_user_with_few_rights(release):
    # What store/redis_store.rs says it needs, and nothing else; nobody else is let in.
    rights = ["~endcap:*", *(f"+{name}" for name in "ping hset hgetall pexpire pttl multi exec".split())]
    acl = ["--user", "default", "off", "--user", "ranking", "on", ">hush", *rights]
    labels, here = {"app": "shops-redis"}, {"namespace": chart.NAMESPACE}
    command = ["redis-server", "--protected-mode", "no", *acl]
    container = {"name": "redis", "image": release.redis, "command": command}
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "shops-redis", **here}}
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "shops-redis", "labels": labels, **here}}
    service = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "shops-redis", **here}}
    release.cluster.apply(
        secret | {"stringData": {"word": "hush"}},
        pod | {"spec": {"containers": [container]}},
        service | {"spec": {"selector": labels, "ports": [{"port": 6379}]}},
    )
    external = {"url": "redis://shops-redis:6379/0", "user": "ranking"}
    external["password"] = {"secretName": "shops-redis", "key": "word"}
    release.values["redis"] = {"kind": "external", "external": external}
    release.PODS, release.STAY = release.PODS - 1, release.STAY - 1
    # Helm waits until the feature-caches are ready, which they are once Redis let them in.
    release.change("upgrade", "first")
    assert release.is_whole()
    # Another Redis, in which nothing is known yet.
    assert "not known" in features(release, "get", 0)
    features(release, "put", 0, "user.affinity=0.75")
    assert "0.75" in features(release, "get", 1)


def test_an_eviction_waits_for_the_one_before(release):
    def evict(name):
        eviction = {
            "apiVersion": "policy/v1beta1",
            "kind": "Eviction",
            "metadata": {"name": name, "namespace": chart.NAMESPACE},
        }
        path = f"/api/v1/namespaces/{chart.NAMESPACE}/pods/{name}/eviction"
        return release.cluster.kubectl("create", "--raw", path, "--filename=-", input=json.dumps(eviction))

    evict("endcap-worker-0")
    with pytest.raises(AssertionError, match="disruption budget"):
        evict("endcap-worker-1")
    release.cluster.wait("the evicted worker", release.is_whole)


def test_what_is_uninstalled_leaves_its_history(release):
    release.helm("uninstall", chart.RELEASE)
    release.cluster.wait("no pods", lambda: not release.pods())
    claims = {claim["metadata"]["name"] for claim in release.cluster.objects("persistentvolumeclaims")}
    data = {f"data-endcap-etcd-{ordinal}" for ordinal in range(3)} | {"data-endcap-redis-0"}
    assert claims == {"endcap-bundles", *data}
    left = [
        obj["metadata"]["name"]
        for kind in ("services", "deployments", "statefulsets", "configmaps")
        for obj in release.cluster.objects(kind)
        if obj["metadata"]["namespace"] == chart.NAMESPACE
    ]
    assert [name for name in left if not name.startswith("kube-root-ca")] == ["shops-redis"]
