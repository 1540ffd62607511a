"""A Kubernetes of one node that lives as long as the tests do: its own programs, on an engine that `engine.py` started.

API server, controllers, scheduler, kubelet and kube-proxy of `make kubernetes`, in the network and the mounts of that
engine; a dnsmasq that is told of Services and endpoints in CoreDNS's place. Without a network plugin policies of the
network do nothing, and without a metrics server autoscalers find no numbers.
"""

import contextlib
import json
import os
import re
import subprocess
import threading
import time
from pathlib import Path

import chart
import engine

# What `make kubernetes` builds and unpacks.
TOOLS = chart.ROOT / ".tools/kubernetes"
# The engine's bridge, on which the pods are.
NODE = "172.17.0.1"
SERVICES = "10.96.0.0/16"
TOKEN = "of-an-administrator"
# Of one gibibyte, enough for a release of three etcd members and a store.
VOLUMES = 6


def to_be_had():
    return (TOOLS / "stamp").exists()


class Kubernetes:
    def __init__(self, folder, daemon, pause):
        self.folder = folder
        self.inside = ["nsenter", f"--target={daemon.pid}", "--net", "--mount"]
        libraries = ":".join(str(path) for path in (*TOOLS.glob("usr/lib/*-linux-gnu"), engine.libraries()))
        self.environment = {**os.environ, "PATH": f"{TOOLS}/bin:{TOOLS}/usr/bin:{TOOLS}/usr/sbin:{os.environ['PATH']}"}
        self.libraries = {"LD_LIBRARY_PATH": libraries, "XTABLES_LIBDIR": f"{engine.libraries()}/xtables"}
        self.kubeconfig = folder / "kubeconfig"
        self.pause = pause
        self.programs = {}

    def run(self, *command, **options):
        """What a command in the cluster's network prints; an error with what it says if it fails."""
        command = [*self.inside, *map(str, command)]
        ran = subprocess.run(command, env=self.environment, capture_output=True, text=True, **options)
        assert ran.returncode == 0, f"{command}: {ran.stdout}{ran.stderr}"
        return ran.stdout

    def kubectl(self, *command, **options):
        return self.run("kubectl", f"--kubeconfig={self.kubeconfig}", *command, **options)

    def objects(self, kind, **options):
        return json.loads(self.kubectl("get", kind, "--all-namespaces", "--output=json", **options))["items"]

    def start(self, program, *arguments, **environment):
        name = Path(program).name
        with self.log(name).open("w") as log:
            command = [*self.inside, program, *map(str, arguments)]
            environment = {**self.environment, **environment}
            self.programs[name] = subprocess.Popen(command, env=environment, stdout=log, stderr=log)

    def log(self, name):
        return self.folder / f"{name}.log"

    def come_up(self):
        self.run("ip", "link", "set", "lo", "up")
        # The kubelet keeps links to logs of pods in a fixed place.
        self.run("mount", "-t", "tmpfs", "tmpfs", "/var/log")
        keys = self.folder / "service-accounts.key"
        self.run("openssl", "genrsa", "-out", keys, "2048")
        tokens = self.folder / "tokens.csv"
        tokens.write_text(f"{TOKEN},admin,admin,system:masters\n")
        self.write_kubeconfig()
        etcd = "http://127.0.0.1:12379"
        self.start(
            chart.ROOT / ".tools/etcd/etcd",
            f"--data-dir={self.folder}/etcd",
            f"--listen-client-urls={etcd}",
            f"--advertise-client-urls={etcd}",
            "--listen-peer-urls=http://127.0.0.1:12380",
        )
        self.start(
            "kube-apiserver",
            f"--etcd-servers={etcd}",
            f"--cert-dir={self.folder}/certificates",
            f"--token-auth-file={tokens}",
            "--authorization-mode=Node,RBAC",
            f"--service-account-issuer=https://{NODE}:6443",
            f"--service-account-signing-key-file={keys}",
            f"--service-account-key-file={keys}",
            f"--service-cluster-ip-range={SERVICES}",
            f"--advertise-address={NODE}",
            "--secure-port=6443",
            "--kubelet-preferred-address-types=InternalIP",
        )
        self.wait("the API server", lambda: "ok" in self.kubectl("get", "--raw=/readyz"))
        self.start(
            "kube-controller-manager",
            f"--kubeconfig={self.kubeconfig}",
            f"--service-account-private-key-file={keys}",
            "--leader-elect=false",
            "--port=0",
        )
        self.start("kube-scheduler", f"--kubeconfig={self.kubeconfig}", "--leader-elect=false", "--port=0")
        self.start(
            "kube-proxy",
            f"--kubeconfig={self.kubeconfig}",
            "--hostname-override=node",
            "--proxy-mode=iptables",
            # Pods on one bridge would else answer each other past the translation of addresses.
            "--masquerade-all",
            "--conntrack-max-per-core=0",
            "--conntrack-tcp-timeout-established=0",
            "--conntrack-tcp-timeout-close-wait=0",
            f"--bind-address={NODE}",
            **self.libraries,
        )
        resolv = self.folder / "resolv.conf"
        resolv.write_text("")
        self.start(
            "kubelet",
            f"--kubeconfig={self.kubeconfig}",
            "--hostname-override=node",
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
            "--cgroups-per-qos=false",
            "--enforce-node-allocatable=",
            "--eviction-hard=",
            "--fail-swap-on=false",
            "--image-gc-high-threshold=100",
            **self.libraries,
        )
        self.name_services()
        self.apply(*self.storage())
        self.wait("the node", lambda: self.node_is_ready())

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

    def node_is_ready(self):
        conditions = [c for node in self.objects("nodes") for c in node["status"]["conditions"]]
        return any(c["type"] == "Ready" and c["status"] == "True" for c in conditions)

    def write_kubeconfig(self):
        user = {"name": "admin", "user": {"token": TOKEN}}
        cluster = {
            "name": "tests",
            "cluster": {"server": "https://127.0.0.1:6443", "insecure-skip-tls-verify": True},
        }
        context = {"name": "tests", "context": {"cluster": "tests", "user": "admin"}}
        whole = {"apiVersion": "v1", "kind": "Config", "current-context": "tests"}
        self.kubeconfig.write_text(json.dumps({**whole, "clusters": [cluster], "users": [user], "contexts": [context]}))

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

    def name_services(self):
        """As a cluster's DNS does: a Service by its address, a headless one by its pods', each of these by its own."""
        self.hosts = self.folder / "hosts"
        self.hosts.mkdir()
        self.start(
            "dnsmasq",
            "--keep-in-foreground",
            "--conf-file=/dev/null",
            "--no-resolv",
            "--no-hosts",
            "--user=root",
            "--pid-file=",
            "--bind-interfaces",
            f"--listen-address={NODE}",
            "--local=/cluster.local/",
            "--log-facility=-",
            f"--hostsdir={self.hosts}",
            **self.libraries,
        )
        for kind, told in (("services", self.service), ("endpoints", self.endpoints)):
            command = [*self.inside, "kubectl", f"--kubeconfig={self.kubeconfig}", "get", kind, "--all-namespaces"]
            command += ["--watch", "--output=json"]
            with self.log(f"watch-{kind}").open("w") as log:
                program = subprocess.Popen(command, env=self.environment, stdout=subprocess.PIPE, stderr=log, text=True)
            self.programs[f"watch-{kind}"] = program
            threading.Thread(target=self.follow, args=(program, told), daemon=True).start()

    @staticmethod
    def follow(program, told):
        """Calls it with each object, which ends with a brace at the beginning of a line."""
        lines = []
        for line in program.stdout:
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

    def stop(self):
        # The pods end with the engine. What the programs would still write is not wanted.
        for program in self.programs.values():
            program.kill()
            program.wait()
