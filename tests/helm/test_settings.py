"""The real binary accepts what the chart would start it with."""

import subprocess

import pytest

import chart

POD = {"POD_NAME": "endcap-0", "POD_IP": "10.0.0.1", "spec.nodeName": "node-1"}


def environment(container):
    """As the kubelet would make it; a Secret's content is a word."""
    env = {}
    for variable in container.get("env", []):
        source = variable.get("valueFrom", {})
        if "fieldRef" in source:
            path = source["fieldRef"]["fieldPath"]
            env[variable["name"]] = POD.get(variable["name"]) or POD[path]
        else:
            env[variable["name"]] = expanded(variable["value"]) if "value" in variable else "from-a-secret"
    return env


def expanded(text):
    for name, value in POD.items():
        text = text.replace(f"$({name})", value)
    assert "$(" not in text, text
    return text


@pytest.mark.parametrize("name", chart.EXAMPLES)
def test_every_role_accepts_its_settings(name, tmp_path):
    found = chart.example_objects(name)
    (tmp_path / "endcap.toml").write_text(chart.settings_file(found))
    roles = set()
    for obj in chart.of_kind(found, "Deployment", "StatefulSet"):
        [container] = chart.pod(obj)["spec"]["containers"]
        if container["name"] != "endcap":
            continue
        args = [expanded(arg).replace("/etc/endcap", str(tmp_path)) for arg in container["args"]]
        checked = subprocess.run(
            [chart.binary(), *args, "--check-config"], env=environment(container), capture_output=True, text=True
        )
        assert checked.returncode == 0, checked.stderr
        role = args[0].replace("-", "_")
        assert f'{role}.grpc.advertise = "10.0.0.1:' in checked.stdout
        roles.add(role)
    assert roles == {"gateway", "worker", "registry", "feature_cache"}
