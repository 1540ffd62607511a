"""What no schema knows: the objects of the chart agree with each other, with the settings and with the binary."""

import re
import tomllib

import pytest
import yaml

import chart
from chart import of_kind, pods

QUANTITY = re.compile(r"^[0-9]+(\.[0-9]+)?(m|k|M|G|T|Ki|Mi|Gi|Ti)?$")
UNITS = {"": 1, "m": 1e-3, "k": 1e3, "Ki": 2**10, "M": 1e6, "Mi": 2**20, "G": 1e9, "Gi": 2**30, "Ti": 2**40}
HOOKS = ("Job", "Pod")


@pytest.fixture(params=chart.EXAMPLES)
def found(request):
    return chart.example_objects(request.param)


def containers(found):
    for obj, pod in pods(found):
        for container in pod["spec"]["containers"]:
            yield obj, container


def ports(obj):
    return {port["name"]: port["containerPort"] for c in chart.pod(obj)["spec"]["containers"] for port in c["ports"]}


def test_workloads_select_their_own_pods_and_no_others(found):
    for obj in of_kind(found, "Deployment", "StatefulSet"):
        assert chart.selected(found, obj["spec"]["selector"]["matchLabels"]) == [obj]


def test_services_select_one_workload_and_name_ports_that_it_has(found):
    for service in of_kind(found, "Service"):
        [obj] = chart.selected(found, service["spec"]["selector"])
        for port in service["spec"]["ports"]:
            assert port["targetPort"] in ports(obj), f"{service['metadata']['name']} {port}"


def test_stateful_sets_name_a_headless_service_that_selects_them(found):
    for obj in of_kind(found, "StatefulSet"):
        service = chart.named(found, "Service", obj["spec"]["serviceName"])
        assert service["spec"]["clusterIP"] == "None"
        assert chart.selected(found, service["spec"]["selector"]) == [obj]


def test_budgets_select_one_workload_that_can_spare_a_pod(found):
    budgets = of_kind(found, "PodDisruptionBudget")
    assert budgets
    for budget in budgets:
        assert len(chart.selected(found, budget["spec"]["selector"]["matchLabels"])) == 1


def test_spread_counts_the_workloads_own_pods(found):
    for obj in of_kind(found, "Deployment", "StatefulSet"):
        constraints = chart.pod(obj)["spec"]["topologySpreadConstraints"]
        assert constraints
        for constraint in constraints:
            assert chart.selected(found, constraint["labelSelector"]["matchLabels"]) == [obj]


def test_policies_select_one_workload_name_its_ports_and_let_in_pods_that_exist(found):
    for policy in of_kind(found, "NetworkPolicy"):
        [obj] = chart.selected(found, policy["spec"]["podSelector"]["matchLabels"])
        for rule in policy["spec"]["ingress"]:
            assert all(port["port"] in ports(obj) for port in rule["ports"])
            for peer in rule["from"]:
                labels = peer.get("podSelector", {}).get("matchLabels")
                assert labels is None or chart.selected(found, labels), f"{policy['metadata']['name']}: {labels}"
    every = {chart.identity(obj)[1] for obj in of_kind(found, "Deployment", "StatefulSet")}
    assert {chart.identity(policy)[1] for policy in of_kind(found, "NetworkPolicy")} == every


def test_probes_look_at_ports_and_paths_that_exist(found):
    for obj, container in containers(found):
        if obj["kind"] in HOOKS:
            continue
        assert {"livenessProbe", "readinessProbe"} <= container.keys()
        for name in ("startupProbe", "livenessProbe", "readinessProbe"):
            probe = container.get(name, {})
            if "grpc" in probe:
                assert probe["grpc"]["port"] == ports(obj)["grpc"]
            if "httpGet" in probe:
                assert probe["httpGet"]["port"] in ports(obj)
    admin = (chart.ROOT / "crates/endcap-service/src/admin.rs").read_text()
    assert '"/livez"' in admin and '"/readyz"' in admin and '"/metrics"' in admin


def test_readiness_asks_the_door_and_liveness_does_not(found):
    """A draining member is NOT_SERVING: whoever asked health for liveness would kill it."""
    for obj, container in containers(found):
        if container["name"] == "endcap" and obj["kind"] not in HOOKS:
            assert "grpc" in container["readinessProbe"]
            assert container["livenessProbe"]["httpGet"] == {"path": "/livez", "port": "admin"}


def test_routes_and_autoscalers_point_at_what_exists(found):
    for route in of_kind(found, "GRPCRoute"):
        for rule in route["spec"]["rules"]:
            for backend in rule["backendRefs"]:
                service = chart.named(found, "Service", backend["name"])
                assert backend["port"] in [port["port"] for port in service["spec"]["ports"]]
            protos = "".join(path.read_text() for path in (chart.ROOT / "proto/endcap/v1").glob("*.proto"))
            services = {match["method"]["service"] for match in rule["matches"]} - {"grpc.health.v1.Health"}
            assert all(f"service {name.rsplit('.', 1)[1]} " in protos for name in services)
    for ingress in of_kind(found, "Ingress"):
        for rule in ingress["spec"]["rules"]:
            for path in rule["http"]["paths"]:
                backend = path["backend"]["service"]
                service = chart.named(found, "Service", backend["name"])
                assert backend["port"]["name"] in [port["name"] for port in service["spec"]["ports"]]
    for scaler in of_kind(found, "HorizontalPodAutoscaler"):
        target = scaler["spec"]["scaleTargetRef"]
        obj = chart.named(found, target["kind"], target["name"])
        assert "replicas" not in obj["spec"], "an update would undo the scaling"


def test_volumes_are_mounted_and_mounts_have_volumes(found):
    for obj, container in containers(found):
        volumes = {volume["name"] for volume in chart.pod(obj)["spec"].get("volumes", [])}
        volumes |= {claim["metadata"]["name"] for claim in obj["spec"].get("volumeClaimTemplates", [])}
        assert {mount["name"] for mount in container.get("volumeMounts", [])} == volumes


def test_claims_and_config_maps_exist(found):
    for _, pod in pods(found):
        for volume in pod["spec"].get("volumes", []):
            if "configMap" in volume:
                chart.named(found, "ConfigMap", volume["configMap"]["name"])
            claim = volume.get("persistentVolumeClaim", {}).get("claimName", "")
            if claim.startswith(chart.RELEASE):
                chart.named(found, "PersistentVolumeClaim", claim)


def test_quantities_parse_and_memory_is_limited(found):
    for obj, container in containers(found):
        resources = container["resources"]
        for kind in ("requests", "limits"):
            for name, quantity in resources[kind].items():
                assert QUANTITY.match(str(quantity)), f"{obj['metadata']['name']}: {name} {quantity}"
        assert amount(resources["requests"]["memory"]) <= amount(resources["limits"]["memory"])


def amount(quantity):
    number, unit = re.match(r"^([0-9.]+)(.*)$", str(quantity)).groups()
    return float(number) * UNITS[unit]


def test_settings_exist(found):
    known = chart.shipped_settings()
    settings = chart.flat(tomllib.loads(chart.settings_file(found)))
    assert settings.keys() <= known.keys()
    # A number is a number, a time is a string: as in the shipped file.
    assert all(type(value) is type(known[key]) for key, value in settings.items())
    for _, container in containers(found):
        for variable in container.get("env", []):
            name = variable["name"]
            if name.startswith("ENDCAP_") and "__" in name:
                assert name.removeprefix("ENDCAP_").lower().replace("__", ".") in known, name


def test_ports_are_the_ones_that_the_settings_listen_on(found):
    settings = chart.flat(tomllib.loads(chart.settings_file(found)))
    for obj, container in containers(found):
        if container["name"] != "endcap" or obj["kind"] in HOOKS:
            continue
        role = container["args"][0].replace("-", "_")
        assert settings[f"{role}.grpc.listen"] == f"0.0.0.0:{ports(obj)['grpc']}"
        assert settings["admin.listen"] == f"0.0.0.0:{ports(obj)['admin']}"
        advertise = {v["name"]: v.get("value") for v in container["env"]}[f"ENDCAP_{role.upper()}__GRPC__ADVERTISE"]
        assert advertise == f"$(POD_IP):{ports(obj)['grpc']}"


def test_pods_get_the_time_that_their_drain_takes(found):
    settings = chart.shipped_settings() | chart.flat(tomllib.loads(chart.settings_file(found)))
    for obj, container in containers(found):
        if container["name"] == "endcap" and obj["kind"] not in HOOKS:
            role = container["args"][0].replace("-", "_")
            drain = sum(seconds(settings[f"{role}.drain.{part}"]) for part in ("delay", "grace"))
            grace = chart.pod(obj)["spec"]["terminationGracePeriodSeconds"]
            assert drain + 3 < grace <= drain + 7, f"{role}: {drain} in {grace}"


def seconds(text):
    return int(text[:-2]) / 1000 if text.endswith("ms") else int(text.removesuffix("s"))


def test_deployments_never_have_fewer_pods_than_asked_for(found):
    for obj in of_kind(found, "Deployment"):
        assert obj["spec"]["strategy"]["rollingUpdate"]["maxUnavailable"] == 0


def test_a_changed_setting_restarts_the_pods_and_a_new_chart_alone_does_not():
    def sums(values):
        found = of_kind(chart.objects(values), "Deployment", "StatefulSet")
        annotations = [chart.pod(obj)["metadata"].get("annotations", {}) for obj in found]
        return [a["checksum/config"] for a in annotations if a]

    before, after = sums({}), sums({"config": {"gateway": {"max_limit": 7}}})
    assert len(before) == 4 and all(old != new for old, new in zip(before, after, strict=True))
    for obj in of_kind(chart.objects({}), "Deployment", "StatefulSet"):
        assert "helm.sh/chart" not in chart.pod(obj)["metadata"]["labels"]


def test_pods_have_no_rights(found):
    for obj, pod in pods(found):
        spec, security = pod["spec"], pod["spec"]["securityContext"]
        assert spec["automountServiceAccountToken"] is False and spec["enableServiceLinks"] is False
        assert security["runAsNonRoot"] and security["runAsUser"] == 65532
        assert security["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in spec["containers"]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }, obj["metadata"]["name"]


def test_secrets_are_references_only(found):
    text = yaml.dump_all(found, Dumper=yaml.CSafeDumper)
    assert not of_kind(found, "Secret")
    for name in ("PASSWORD", "ACCESS_KEY"):
        for line in re.findall(rf"name: ENDCAP_\w*{name}\w*\n(.*)\n", text):
            assert "valueFrom" in line


def test_without_the_internet_every_image_comes_from_the_private_registry():
    found = chart.example_objects("air-gapped")
    for obj, container in containers(found):
        assert container["image"].startswith("registry.internal.example/mirror/"), container["image"]
        assert chart.pod(obj)["spec"]["imagePullSecrets"] == [{"name": "registry-credentials"}]
    images = {container["image"].split("/", 2)[2] for _, container in containers(found)}
    assert any(image.startswith("endcap@sha256:") for image in images)


def test_gpu_workers_ask_for_gpus_and_refuse_to_do_without():
    found = chart.example_objects("gpu")
    worker = chart.named(found, "StatefulSet", "endcap-worker")
    spec = chart.pod(worker)["spec"]
    assert spec["containers"][0]["resources"]["limits"] == {"memory": "12Gi", "nvidia.com/gpu": 1}
    assert spec["containers"][0]["image"] == "endcap-gpu:0.1.0" and spec["runtimeClassName"] == "nvidia"
    assert tomllib.loads(chart.settings_file(found))["worker"]["device"] == "cuda"
    for obj in of_kind(found, "Deployment"):
        assert "nvidia.com/gpu" not in chart.pod(obj)["spec"]["containers"][0]["resources"]["limits"]


def test_replicas_of_a_shard_are_told_their_node():
    worker = chart.named(chart.objects({}), "StatefulSet", "endcap-worker")
    env = {variable["name"]: variable for variable in chart.pod(worker)["spec"]["containers"][0]["env"]}
    assert env["ENDCAP_WORKER__TOPOLOGY"]["valueFrom"]["fieldRef"]["fieldPath"] == "spec.nodeName"


def test_bundles_are_promoted_at_the_first_installation_only():
    [job] = of_kind(chart.example_objects("minimal"), "Job")
    assert job["metadata"]["annotations"]["helm.sh/hook"] == "post-install"
