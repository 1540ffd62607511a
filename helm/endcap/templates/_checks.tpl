{{/* What a schema cannot say, or could not say clearly: values that contradict each other. */}}
{{- define "endcap.check" -}}
{{- $values := .Values -}}
{{- if and (eq $values.store.kind "s3") (not $values.store.s3.url) -}}
{{- fail "store.s3.url: empty, but store.kind is s3; expected s3://bucket/prefix" -}}
{{- end -}}
{{- with $values.etcd.external -}}
{{- $secure := hasPrefix "https://" (join "," .endpoints) -}}
{{- if eq $values.etcd.kind "external" -}}
{{- if not .endpoints -}}
{{- fail "etcd.external.endpoints: empty, but etcd.kind is external; expected the addresses of its members" -}}
{{- else if and $secure (not .tls.secretName) -}}
{{- fail "etcd.external.tls.secretName: empty, but the endpoints are https://; expected a Secret with ca.crt" -}}
{{- else if and .user (not .password.secretName) -}}
{{- fail "etcd.external.password.secretName: empty, but etcd.external.user is set; expected a Secret with the password" -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- with $values.redis.external -}}
{{- if eq $values.redis.kind "external" -}}
{{- if not .url -}}
{{- fail "redis.external.url: empty, but redis.kind is external; expected redis://host:6379/0" -}}
{{- else if and .user (not .password.secretName) -}}
{{- fail "redis.external.password.secretName: empty, but redis.external.user is set; expected a Secret with the password" -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- if and (gt (int $values.featureCache.replicas) 1) (eq $values.redis.kind "none") -}}
{{- fail (printf "featureCache.replicas: found %d, expected 1: each would have features of its own; set redis.kind to share them" (int $values.featureCache.replicas)) -}}
{{- end -}}
{{- with $values.gateway -}}
{{- if and .grpcRoute.enabled (not .grpcRoute.parentRefs) -}}
{{- fail "gateway.grpcRoute.parentRefs: empty; expected the Gateway that carries the route" -}}
{{- else if and .ingress.enabled (not .ingress.hosts) -}}
{{- fail "gateway.ingress.hosts: empty; expected a host name" -}}
{{- else if and (or .grpcRoute.enabled .ingress.enabled) $values.networkPolicy.enabled (not $values.networkPolicy.gatewayFrom) -}}
{{- fail "networkPolicy.gatewayFrom: empty, so the network policy would cut off the route's controller; name its namespace or pods" -}}
{{- end -}}
{{- end -}}
{{- $config := include "endcap.effectiveConfig" . | fromYaml -}}
{{- include "endcap.checkExceeds" (list "worker.resources.limits.memory" (dig "limits" "memory" "" $values.worker.resources) "config.worker.memory_budget" $config.worker.memory_budget) -}}
{{- if eq $values.store.kind "s3" -}}
{{- include "endcap.checkExceeds" (list "worker.cache.size" $values.worker.cache.size "config.store.cache_max_bytes" $config.store.cache_max_bytes) -}}
{{- include "endcap.checkExceeds" (list "gateway.dataSize" $values.gateway.dataSize "config.store.cache_max_bytes" $config.store.cache_max_bytes) -}}
{{- end -}}
{{- end -}}

{{/* (list key quantity key size): fails unless the first is more. Only binary units are compared. */}}
{{- define "endcap.checkExceeds" -}}
{{- $more := include "endcap.mebibytes" (index . 1) -}}
{{- $less := include "endcap.mebibytes" (index . 3) -}}
{{- if and $more $less (le (int64 $more) (int64 $less)) -}}
{{- fail (printf "%s: found %s, expected more than %s, which is %s" (index . 0) (index . 1) (index . 2) (index . 3)) -}}
{{- end -}}
{{- end -}}

{{- define "endcap.mebibytes" -}}
{{- $text := toString . -}}
{{- $number := regexFind "^[0-9]+" $text -}}
{{- if regexMatch "^[0-9]+MiB?$" $text -}}
{{- $number -}}
{{- else if regexMatch "^[0-9]+GiB?$" $text -}}
{{- mul 1024 (int64 $number) -}}
{{- else if regexMatch "^[0-9]+TiB?$" $text -}}
{{- mul 1048576 (int64 $number) -}}
{{- end -}}
{{- end -}}
