"""Values that cannot work are refused when the chart is rendered, with a message that says what to do."""

import helm_python as helm
import pytest

import chart

BY_SCHEMA = [
    ({"gatway": {}}, "additional properties 'gatway' not allowed"),
    ({"gateway": {"replica": 3}}, "at '/gateway': additional properties 'replica' not allowed"),
    ({"gateway": {"replicas": "3"}}, "at '/gateway/replicas': got string, want integer"),
    ({"gateway": {"replicas": 0}}, "at '/gateway/replicas': minimum: got 0, want 1"),
    ({"store": {"kind": "nfs"}}, "at '/store/kind': value must be one of 'pvc', 's3'"),
    ({"store": {"s3": {"url": "https://bucket"}}}, "at '/store/s3/url': 'https://bucket' does not match pattern"),
    ({"store": {"pvc": {"size": "20GiB"}}}, "at '/store/pvc/size': '20GiB' does not match pattern"),
    ({"etcd": {"bundled": {"replicas": 2}}}, "at '/etcd/bundled/replicas': value must be one of 1, 3, 5"),
    (
        {"etcd": {"external": {"endpoints": ["etcd:2379"]}}},
        "at '/etcd/external/endpoints/0': 'etcd:2379' does not match",
    ),
    ({"etcd": {"external": {"password": {"value": "x"}}}}, "additional properties 'value' not allowed"),
    ({"image": {"digest": "latest"}}, "at '/image/digest': 'latest' does not match pattern"),
    (
        {"worker": {"resources": {"limits": {"memory": 4}}}},
        "at '/worker/resources/limits/memory': got number, want string",
    ),
    ({"worker": {"gpu": {"resourceName": "gpu"}}}, "at '/worker/gpu/resourceName': 'gpu' does not match pattern"),
    ({"featureCache": {"replicas": 0}}, "at '/featureCache/replicas': minimum: got 0, want 1"),
    ({"redis": {"kind": "cluster"}}, "at '/redis/kind': value must be one of 'none', 'bundled', 'external'"),
    (
        {"redis": {"external": {"url": "redis://endcap:hush@cache:6379"}}},
        "at '/redis/external/url': 'redis://endcap:hush@cache:6379' does not match pattern",
    ),
    ({"networkPolicy": {"gatewayFrom": [{}]}}, "at '/networkPolicy/gatewayFrom/0': minProperties: got 0, want 1"),
    ({"test": {"minimumCoverage": 2}}, "at '/test/minimumCoverage': maximum: got 2, want 1"),
    ({"bootstrap": {"bundle": "my.endcap"}}, "at '/bootstrap/bundle': 'my.endcap' does not match pattern"),
]

BY_TEMPLATE = [
    ({"config": {"gateway": {"default_dedline": "1s"}}}, "config.gateway.default_dedline: no such setting"),
    ({"config": {"gateway": {"grpc": {"listen": "[::]:1"}}}}, "config.gateway.grpc.listen: the chart sets this itself"),
    (
        {"config": {"coordination": {"etcd": {"password": "x"}}}},
        "config.coordination.etcd.password: the chart sets this",
    ),
    ({"config": {"gateway": {"drain": {"delay": "soon"}}}}, 'config.gateway.drain.delay: found "soon", expected'),
    (
        {"config": {"worker": {"memory_budget": "2GiB"}}},
        "worker.resources.limits.memory: found 2Gi, expected more than config.worker.memory_budget, which is 2GiB",
    ),
    ({"store": {"kind": "s3"}}, "store.s3.url: empty, but store.kind is s3"),
    (
        {"store": {"kind": "s3", "s3": {"url": "s3://b"}}, "config": {"store": {"cache_max_bytes": "30GiB"}}},
        "worker.cache.size: found 25Gi, expected more than config.store.cache_max_bytes, which is 30GiB",
    ),
    (
        {"featureCache": {"replicas": 2}},
        "featureCache.replicas: found 2, expected 1: each would have features of its own",
    ),
    ({"redis": {"kind": "external"}}, "redis.external.url: empty, but redis.kind is external"),
    (
        {"redis": {"kind": "external", "external": {"url": "redis://cache:6379", "user": "endcap"}}},
        "redis.external.password.secretName: empty, but redis.external.user is set",
    ),
    ({"config": {"feature_cache": {"redis": {"url": "x"}}}}, "config.feature_cache.redis.url: the chart sets this"),
    ({"etcd": {"kind": "external"}}, "etcd.external.endpoints: empty, but etcd.kind is external"),
    (
        {"etcd": {"kind": "external", "external": {"endpoints": ["https://e:2379"]}}},
        "etcd.external.tls.secretName: empty, but the endpoints are https://",
    ),
    (
        {"etcd": {"kind": "external", "external": {"endpoints": ["http://e:2379"], "user": "endcap"}}},
        "etcd.external.password.secretName: empty, but etcd.external.user is set",
    ),
    ({"gateway": {"grpcRoute": {"enabled": True}}}, "gateway.grpcRoute.parentRefs: empty"),
    ({"gateway": {"ingress": {"enabled": True}}}, "gateway.ingress.hosts: empty"),
    ({"gateway": {"ingress": {"enabled": True, "hosts": ["a.b"]}}}, "networkPolicy.gatewayFrom: empty"),
    (
        {"worker": {"autoscaling": {"enabled": True, "targetCPUUtilization": 0}}},
        "worker.autoscaling: enabled without a target",
    ),
]


@pytest.mark.parametrize(("values", "message"), BY_SCHEMA, ids=lambda case: case if isinstance(case, str) else "")
def test_the_schema_refuses(values, message):
    with pytest.raises(helm.HelmError) as refused:
        chart.files(values)
    assert message in str(refused.value)


@pytest.mark.parametrize(("values", "message"), BY_TEMPLATE, ids=lambda case: case if isinstance(case, str) else "")
def test_values_that_contradict_each_other_are_refused(values, message):
    with pytest.raises(helm.HelmRenderError) as refused:
        chart.files(values)
    assert message in str(refused.value)


def test_the_schema_is_strict_everywhere():
    """Where a mapping has named keys, no other key may be; free are only what Kubernetes or Endcap itself checks."""

    def named_but_open(schema, path):
        if isinstance(schema, dict):
            if "properties" in schema and schema.get("additionalProperties") is not False:
                yield path
            for key, value in schema.items():
                yield from named_but_open(value, f"{path}/{key}")

    assert not list(named_but_open(chart.loaded().schema, ""))


def test_every_value_has_its_place_in_the_schema():
    def missing(values, schema, path):
        if "$ref" in schema or not isinstance(values, dict) or "properties" not in schema:
            return
        for key, value in values.items():
            if key not in schema["properties"]:
                yield f"{path}.{key}"
            else:
                yield from missing(value, schema["properties"][key], f"{path}.{key}")

    schema, values = chart.loaded().schema, chart.loaded().values
    assert not list(missing(values, schema, ""))
    chart.loaded().validate_schema({})
