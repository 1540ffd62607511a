"""Helm's install, upgrade and rollback, which the package of its SDK has no command for:
helm.py KUBECONFIG NAMESPACE install|upgrade CHART RELEASE VALUES, helm.py KUBECONFIG NAMESPACE rollback RELEASE.
Each waits until what it did is there and ready. VALUES are JSON."""

import json
import sys

from helm_python import Config

TIMEOUT = 100


def main(kubeconfig, namespace, action, *arguments):
    config = Config(kubeconfig_path=kubeconfig, namespace=namespace)
    options = {"timeout": TIMEOUT, "wait": "watcher"}
    if action == "rollback":
        [release] = arguments
        return config.rollback(release, **options)
    chart, release, values = arguments
    options |= {"namespace": namespace, "create_namespace": True} if action == "install" else {"namespace": namespace}
    done = getattr(config, action)(chart, release, json.loads(values), **options)
    print(done["info"]["status"] if "info" in done else done.get("status", done))


if __name__ == "__main__":
    main(*sys.argv[1:])
