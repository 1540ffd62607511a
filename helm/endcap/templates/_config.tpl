{{/* The settings that the chart makes from its other values. Set in `config`, they would contradict those. */}}
{{- define "endcap.ownConfig" -}}
admin:
  listen: "0.0.0.0:9490"
coordination:
  kind: etcd
  saved_dir: /data/saved
  etcd:
    endpoints: {{ include "endcap.etcdEndpoints" . | quote }}
    {{- if eq .Values.etcd.kind "external" }}
    {{- with .Values.etcd.external }}
    user: {{ .user | quote }}
    {{- if .tls.secretName }}
    ca_file: /etc/endcap-etcd/ca.crt
    {{- if .tls.clientCertificate }}
    cert_file: /etc/endcap-etcd/tls.crt
    key_file: /etc/endcap-etcd/tls.key
    {{- end }}
    {{- end }}
    {{- end }}
    {{- end }}
store:
  url: {{ ternary .Values.store.s3.url "/bundles" (eq .Values.store.kind "s3") | quote }}
  cache_dir: /data/cache
  {{- if eq .Values.store.kind "s3" }}
  s3:
    endpoint: {{ .Values.store.s3.endpoint | quote }}
    region: {{ .Values.store.s3.region | quote }}
  {{- end }}
gateway:
  grpc: {listen: "0.0.0.0:9400"}
worker:
  grpc: {listen: "0.0.0.0:9410"}
  device: {{ ternary "cuda" "cpu" .Values.worker.gpu.enabled }}
registry:
  grpc: {listen: "0.0.0.0:9420"}
  data_dir: /data/registry
feature_cache:
  grpc: {listen: "0.0.0.0:9430"}
  {{- if ne .Values.redis.kind "none" }}
  redis:
    url: {{ include "endcap.redisUrl" . | quote }}
    user: {{ ternary .Values.redis.external.user "" (eq .Values.redis.kind "external") | quote }}
  {{- end }}
{{- end -}}

{{/* The keys of nested settings, dotted, one a line. */}}
{{- define "endcap.keys" -}}
{{- range $key, $value := .table -}}
{{- $path := trimPrefix "." (printf "%s.%s" $.prefix $key) -}}
{{- if kindIs "map" $value }}
{{- include "endcap.keys" (dict "prefix" $path "table" $value) }}
{{- else }}
{{ $path }}
{{- end }}
{{- end }}
{{- end -}}

{{/* Fails on settings that do not exist or are the chart's own. */}}
{{- define "endcap.checkConfig" -}}
{{- $known := splitList "\n" (include "endcap.keys" (dict "prefix" "" "table" (.Files.Get "files/endcap.toml" | fromToml))) -}}
{{- $own := splitList "\n" (include "endcap.keys" (dict "prefix" "" "table" (include "endcap.ownConfig" . | fromYaml))) -}}
{{- $own = concat $own (list "coordination.path" "coordination.etcd.user" "coordination.etcd.password" "coordination.etcd.ca_file" "coordination.etcd.cert_file" "coordination.etcd.key_file" "store.s3.endpoint" "store.s3.region" "store.s3.access_key_id" "store.s3.secret_access_key" "worker.topology" "gateway.grpc.advertise" "worker.grpc.advertise" "registry.grpc.advertise" "feature_cache.grpc.advertise" "feature_cache.redis.url" "feature_cache.redis.user" "feature_cache.redis.password") -}}
{{- range compact (splitList "\n" (include "endcap.keys" (dict "prefix" "" "table" .Values.config))) -}}
{{- if has . $own -}}
{{- fail (printf "config.%s: the chart sets this itself; use its values for etcd, redis, store, worker.gpu, addresses and secrets" .) -}}
{{- else if not (has . $known) -}}
{{- fail (printf "config.%s: no such setting; those that exist are in deploy/config/endcap.toml" .) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* The file that every role reads. */}}
{{- define "endcap.settings" -}}
{{- include "endcap.checkConfig" . -}}
{{- include "endcap.check" . -}}
{{- $own := include "endcap.ownConfig" . | fromYaml -}}
{{- /* Fleets that share an etcd, a bucket or a Redis must differ in the prefix. */ -}}
{{- $name := include "endcap.fullname" . -}}
{{- $prefix := dict "coordination" (dict "prefix" (printf "/endcap/%s/%s" .Release.Namespace $name)) -}}
{{- if ne .Values.redis.kind "none" -}}
{{- $_ := set $prefix "feature_cache" (dict "redis" (dict "prefix" (printf "endcap:%s:%s" .Release.Namespace $name))) -}}
{{- end -}}
{{- include "endcap.toml" (dict "prefix" "" "table" (merge $own (deepCopy .Values.config) $prefix)) | trim -}}
{{- end -}}

{{/* config over the shipped settings: what a process will see. */}}
{{- define "endcap.effectiveConfig" -}}
{{- merge (deepCopy .Values.config) (.Files.Get "files/endcap.toml" | fromToml) | toYaml -}}
{{- end -}}

{{/* Nested settings as TOML with dotted keys. Values come as JSON's floats, which are written as whole numbers. */}}
{{- define "endcap.toml" -}}
{{- range $key, $value := .table -}}
{{- $path := trimPrefix "." (printf "%s.%s" $.prefix $key) -}}
{{- if kindIs "map" $value }}
{{- include "endcap.toml" (dict "prefix" $path "table" $value) }}
{{- else if kindIs "string" $value }}
{{ $path }} = {{ toJson $value }}
{{- else if and (kindIs "float64" $value) (eq $value (floor $value)) }}
{{ $path }} = {{ int64 $value }}
{{- else }}
{{ $path }} = {{ $value }}
{{- end }}
{{- end }}
{{- end -}}

{{/* A time such as 500ms, 2s or 1m in milliseconds: (dict "key" … "text" …). */}}
{{- define "endcap.milliseconds" -}}
{{- if regexMatch "^[0-9]+ms$" .text -}}
{{- trimSuffix "ms" .text -}}
{{- else if regexMatch "^[0-9]+s$" .text -}}
{{- mul 1000 (trimSuffix "s" .text | int) -}}
{{- else if regexMatch "^[0-9]+m$" .text -}}
{{- mul 60000 (trimSuffix "m" .text | int) -}}
{{- else -}}
{{- fail (printf "config.%s: found %q, expected a whole number of ms, s or m, e.g. 2s: the pods' termination grace is computed from it" .key .text) -}}
{{- end -}}
{{- end -}}

{{/* What a role takes at most from SIGTERM to its end, and five seconds: (dict "root" $ "section" "gateway"). */}}
{{- define "endcap.terminationGrace" -}}
{{- $drain := (index (include "endcap.effectiveConfig" .root | fromYaml) .section).drain -}}
{{- $delay := include "endcap.milliseconds" (dict "key" (printf "%s.drain.delay" .section) "text" $drain.delay) | int -}}
{{- $grace := include "endcap.milliseconds" (dict "key" (printf "%s.drain.grace" .section) "text" $drain.grace) | int -}}
{{- add 5 (div (add $delay $grace 999) 1000) -}}
{{- end -}}
