"""The chart on a Kubernetes: its API server takes every object, its controllers, scheduler and kubelet make pods of
them, Helm installs, upgrades and rolls back, and nothing of that is felt by who asks."""

import json
import re
import shutil
import time

import pytest
import sys
import yaml

import chart
import kubernetes
from kubernetes import Kubernetes
from test_compose import etcd_changes, etcd_root
from engine import docker

# What the 1.20 of Debian does not know yet, and how it says the same.
OLDER = {
    'kubeVersion: ">=1.27.0-0"': 'kubeVersion: ">=1.20.0-0"',
    "apiVersion: policy/v1\n": "apiVersion: policy/v1beta1\n",
    "apiVersion: autoscaling/v2\n": "apiVersion: autoscaling/v2beta2\n",
    "grpc: {port: {{ .port }}}\n": "httpGet: {path: /readyz, port: admin}\n",
    "  # A pod that is not ready protects nobody.\n  unhealthyPodEvictionPolicy: AlwaysAllow\n": "",
    "  minReadySeconds: {{ $worker.minReadySeconds }}\n": "",
}


@pytest.fixture(scope="module")
def cluster(engine, builder, tmp_path_factory):
    if not kubernetes.to_be_had():
        pytest.skip("needs a Kubernetes: `make kubernetes` builds one in 10 minutes")
    if engine is None:
        pytest.skip("needs an engine of its own")
    folder = tmp_path_factory.mktemp("kubernetes")
    pause = folder / "pause"
    pause.mkdir()
    shutil.copy(kubernetes.TOOLS / "bin/pause", pause)
    image = builder.imported(pause, f"{builder.name}-pause:1", 'ENTRYPOINT ["/pause"]')
    cluster = Kubernetes(folder, engine, image)
    try:
        cluster.come_up()
        yield cluster
    finally:
        cluster.stop()
