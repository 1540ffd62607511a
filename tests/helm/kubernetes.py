"""A Kubernetes of one node that lives as long as the tests do: its own programs, on an engine that `engine.py` started.

API server, controllers, scheduler, kubelet and kube-proxy as `make test-kubernetes` builds them, in the network and the
mounts of that engine; in CoreDNS's place a dnsmasq that is told of Services and endpoints. Without a network plugin
policies of the network do nothing, and without a metrics server autoscalers find no numbers.
"""

import json
import os
import subprocess
import threading
import time
from pathlib import Path

import chart
import engine

TOOLS = chart.ROOT / ".tools/kubernetes"
# The engine's bridge, on which the pods are.
NODE = "172.17.0.1"
ETCD = "http://127.0.0.1:12379"
TOKEN = "of-an-administrator"
# Of one gibibyte, enough for a release of three etcd members and a store.
VOLUMES = 6


def to_be_had():
    return (TOOLS / "bin/kubelet").exists()


class Kubernetes:
    def __init__(self, folder, daemon, pause):
        """`daemon` is the engine's process, `pause` the image that holds a pod's network."""
        self.folder, self.pause = folder, pause
        self.inside = ["nsenter", f"--target={daemon.pid}", "--net", "--mount"]
        path = ":".join(str(TOOLS / place) for place in ("bin", "usr/bin", "usr/sbin"))
        self.environment = {**os.environ, "PATH": f"{path}:{os.environ['PATH']}"}
        # For what was unpacked without being installed, and for iptables, which two of the programs run.
        libraries = [str(path) for path in (*TOOLS.glob("usr/lib/*-linux-gnu"), engine.libraries())]
        self.unpacked = {
            "LD_LIBRARY_PATH": ":".join(libraries),
            "XTABLES_LIBDIR": str(engine.libraries() / "xtables"),
        }
        self.kubeconfig = folder / "kubeconfig"
        self.hosts = folder / "hosts"
        self.programs = {}

    def run(self, *command, **options):
        """What a command in the cluster's network prints; an error with what it says if it fails."""
        command = [*self.inside, *map(str, command)]
        ran = subprocess.run(command, env=self.environment, capture_output=True, text=True, **options)
        assert ran.returncode == 0, f"{command}: {ran.stdout}{ran.stderr}"
        return ran.stdout

    def kubectl(self, *command, **options):
        return self.run("kubectl", f"--kubeconfig={self.kubeconfig}", *command, **options)

    def objects(self, kind):
        return json.loads(self.kubectl("get", kind, "--all-namespaces", "--output=json"))["items"]

    def apply(self, *objects):
        self.kubectl("apply", "--filename=-", input=json.dumps({"apiVersion": "v1", "kind": "List", "items": objects}))

    def wait(self, what, is_so, patience=90):
        end = time.monotonic() + patience
        while True:
            try:
                if is_so():
                    return
                said = "not yet"
            except AssertionError as refused:
                said = str(refused)
            for name, program in self.programs.items():
                tail = self.log(name).read_text(errors="replace")[-3000:]
                assert program.poll() is None, f"{name} ended with {program.poll()}:\n{tail}"
            assert time.monotonic() < end, f"waited {patience} s for {what}: {said}"
            time.sleep(0.2)

    def start(self, program, *arguments, name=None, environment=None, **streams):
        name = name or Path(program).name
        command = [*self.inside, program, *map(str, arguments)]
        with self.log(name).open("a") as log:
            streams = {"stdout": log, "stderr": log, **streams}
            environment = {**self.environment, **(environment or {})}
            self.programs[name] = subprocess.Popen(command, env=environment, text=True, **streams)
        return self.programs[name]

    def log(self, name):
        return self.folder / f"{name}.log"

    def stop(self):
        # The pods end with the engine. What the programs would still write is not wanted.
        for program in self.programs.values():
            program.kill()
            program.wait()

    def come_up(self):
        self.run("ip", "link", "set", "lo", "up")
        # The kubelet keeps links to the logs of pods in a fixed place.
        self.run("mount", "-t", "tmpfs", "tmpfs", "/var/log")
        self.write_kubeconfig()
        self.start_control_plane()
        self.start_node()
        self.name_services()
        self.apply(*self.storage())
        self.wait("the node", self.node_is_ready)

    def write_kubeconfig(self):
        server = {"server": "https://127.0.0.1:6443", "insecure-skip-tls-verify": True}
        found = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "tests",
            "clusters": [{"name": "tests", "cluster": server}],
            "users": [{"name": "admin", "user": {"token": TOKEN}}],
            "contexts": [{"name": "tests", "context": {"cluster": "tests", "user": "admin"}}],
        }
        self.kubeconfig.write_text(json.dumps(found))

    def start_control_plane(self):
        keys, tokens = self.folder / "service-accounts.key", self.folder / "tokens.csv"
        self.run("openssl", "genrsa", "-out", keys, "2048")
        tokens.write_text(f"{TOKEN},admin,admin,system:masters\n")
        self.start(
            chart.ROOT / ".tools/etcd/etcd",
            f"--data-dir={self.folder}/etcd",
            f"--listen-client-urls={ETCD}",
            f"--advertise-client-urls={ETCD}",
            "--listen-peer-urls=http://127.0.0.1:12380",
        )
        self.start(
            "kube-apiserver",
            f"--etcd-servers={ETCD}",
            f"--cert-dir={self.folder}/certificates",
            f"--token-auth-file={tokens}",
            "--authorization-mode=Node,RBAC",
            f"--service-account-issuer=https://{NODE}:6443",
            f"--service-account-signing-key-file={keys}",
            f"--service-account-key-file={keys}",
            "--service-cluster-ip-range=10.96.0.0/16",
            f"--advertise-address={NODE}",
            "--kubelet-preferred-address-types=InternalIP",
        )
        self.wait("the API server", lambda: "ok" in self.kubectl("get", "--raw=/readyz"))
        alone = [f"--kubeconfig={self.kubeconfig}", "--leader-elect=false", "--port=0"]
        self.start("kube-controller-manager", *alone, f"--service-account-private-key-file={keys}")
        self.start("kube-scheduler", *alone)

    def start_node(self):
        resolv = self.folder / "resolv.conf"
        resolv.touch()
        common = [f"--kubeconfig={self.kubeconfig}", "--hostname-override=node"]
        self.start(
            "kube-proxy",
            *common,
            f"--bind-address={NODE}",
            "--proxy-mode=iptables",
            # Pods on one bridge would else answer each other past the translation of addresses.
            "--masquerade-all",
            # Settings of the kernel, which are not the tests' to change.
            "--conntrack-max-per-core=0",
            "--conntrack-tcp-timeout-established=0",
            "--conntrack-tcp-timeout-close-wait=0",
            environment=self.unpacked,
        )
        self.start(
            "kubelet",
            *common,
            f"--node-ip={NODE}",
            f"--root-dir={self.folder}/kubelet",
            f"--cert-dir={self.folder}/kubelet-certificates",
            f"--volume-plugin-dir={self.folder}/plugins",
            f"--experimental-dockershim-root-directory={self.folder}/dockershim",
            f"--docker-endpoint={os.environ['DOCKER_HOST']}",
            f"--pod-infra-container-image={self.pause}",
            f"--resolv-conf={resolv}",
            f"--cluster-dns={NODE}",
            "--cluster-domain=cluster.local",
            "--cgroup-driver=cgroupfs",
            # Nothing is reserved, evicted or collected on a machine that does other things beside this.
            "--cgroups-per-qos=false",
            "--enforce-node-allocatable=",
            "--eviction-hard=",
            "--image-gc-high-threshold=100",
            "--fail-swap-on=false",
            environment=self.unpacked,
        )

    def node_is_ready(self):
        conditions = [condition for node in self.objects("nodes") for condition in node["status"]["conditions"]]
        return any(condition["type"] == "Ready" and condition["status"] == "True" for condition in conditions)

    def storage(self):
        """Folders of the node. Unlike a provisioner's of host paths they are given to a pod's group."""
        default = {"storageclass.kubernetes.io/is-default-class": "true"}
        yield {
            "apiVersion": "storage.k8s.io/v1",
            "kind": "StorageClass",
            "metadata": {"name": "folders", "annotations": default},
            "provisioner": "kubernetes.io/no-provisioner",
            "volumeBindingMode": "WaitForFirstConsumer",
        }
        node = {"key": "kubernetes.io/hostname", "operator": "In", "values": ["node"]}
        for number in range(VOLUMES):
            path = self.folder / f"volume-{number}"
            path.mkdir()
            yield {
                "apiVersion": "v1",
                "kind": "PersistentVolume",
                "metadata": {"name": path.name},
                "spec": {
                    "capacity": {"storage": "1Gi"},
                    "accessModes": ["ReadWriteOnce", "ReadWriteMany"],
                    "storageClassName": "folders",
                    "local": {"path": str(path)},
                    "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [node]}]}},
                },
            }

    def name_services(self):
        """As a cluster's DNS does: a Service by its address, a headless one by its pods', each of these by its own."""
        self.hosts.mkdir()
        self.start(
            "dnsmasq",
            "--keep-in-foreground",
            "--conf-file=/dev/null",
            "--user=root",
            "--pid-file=",
            "--log-facility=-",
            "--no-resolv",
            "--no-hosts",
            "--bind-interfaces",
            f"--listen-address={NODE}",
            "--local=/cluster.local/",
            f"--hostsdir={self.hosts}",
            environment=self.unpacked,
        )
        for kind, told in (("services", self.service), ("endpoints", self.endpoints)):
            watch = ["get", kind, "--all-namespaces", "--watch", "--output=json"]
            command = ["kubectl", f"--kubeconfig={self.kubeconfig}", *watch]
            program = self.start(*command, name=f"watch-{kind}", stdout=subprocess.PIPE)
            threading.Thread(target=self.follow, args=(program.stdout, told), daemon=True).start()

    @staticmethod
    def follow(stream, told):
        """Calls it with each object, which ends with a brace at the beginning of a line."""
        lines = []
        for line in stream:
            lines.append(line)
            if line == "}\n":
                found = json.loads("".join(lines))
                lines.clear()
                told(f"{found['metadata']['name']}.{found['metadata']['namespace']}.svc.cluster.local", found)

    def service(self, domain, service):
        address = service["spec"]["clusterIP"]
        if address != "None":
            self.name(f"service-{domain}", [f"{address} {domain}"])

    def endpoints(self, domain, endpoints):
        pods = [pod for subset in endpoints.get("subsets") or [] for pod in subset.get("addresses") or []]
        # Only a headless Service's name is its pods'.
        own = (self.hosts / f"service-{domain}").exists()
        lines = [] if own else [f"{pod['ip']} {domain}" for pod in pods]
        lines += [f"{pod['ip']} {pod['hostname']}.{domain}" for pod in pods if "hostname" in pod]
        self.name(f"endpoints-{domain}", lines)

    def name(self, file, lines):
        # In one go, so that no half of it is read.
        new = self.folder / f"{file}.new"
        new.write_text("".join(f"{line}\n" for line in lines))
        new.rename(self.hosts / file)
