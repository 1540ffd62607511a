"""Helm's commands for a cluster, whose SDK has no program: helm.py KUBECONFIG NAMESPACE ACTION ..., with ACTION one of
install CHART RELEASE VALUES, upgrade CHART RELEASE VALUES, rollback RELEASE, uninstall RELEASE; VALUES are JSON. Each
ends when what it asked for is there and ready."""

import json
import sys

from helm_python import Config

WAIT = {"timeout": 150, "wait": "watcher"}


def main(kubeconfig, namespace, action, *arguments):
    cluster = Config(kubeconfig_path=kubeconfig, namespace=namespace)
    if action in ("install", "upgrade"):
        path, release, values = arguments
        new = {"create_namespace": True} if action == "install" else {}
        getattr(cluster, action)(path, release, json.loads(values), namespace=namespace, **WAIT, **new)
    else:
        getattr(cluster, action)(*arguments, **WAIT)


if __name__ == "__main__":
    main(*sys.argv[1:])
