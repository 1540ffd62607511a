{{- define "endcap.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 40 | trimSuffix "-" -}}
{{- end -}}

{{/* Short, because StatefulSets put it into a label together with a hash. */}}
{{- define "endcap.fullname" -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- $full := ternary .Release.Name (printf "%s-%s" .Release.Name $name) (contains $name .Release.Name) -}}
{{- default $full .Values.fullnameOverride | trunc 36 | trimSuffix "-" -}}
{{- end -}}

{{/* Of a component: (dict "root" $ "component" "worker"). */}}
{{- define "endcap.componentName" -}}
{{- printf "%s-%s" (include "endcap.fullname" .root) .component -}}
{{- end -}}

{{- define "endcap.selectorLabels" -}}
app.kubernetes.io/name: {{ include "endcap.name" .root }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end -}}

{{- define "endcap.labels" -}}
{{ include "endcap.selectorLabels" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/part-of: endcap
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version }}
{{- end -}}

{{/* (dict "root" $ "image" <values with repository, tag, digest> "tag" <default>) */}}
{{- define "endcap.image" -}}
{{- $repository := .image.repository -}}
{{- with .root.Values.imageRegistry -}}
{{- $repository = printf "%s/%s" (trimSuffix "/" .) $repository -}}
{{- end -}}
{{- if .image.digest -}}
{{- printf "%s@%s" $repository .image.digest -}}
{{- else -}}
{{- printf "%s:%s" $repository (default .tag .image.tag) -}}
{{- end -}}
{{- end -}}

{{- define "endcap.serviceAccountName" -}}
{{- default (ternary (include "endcap.fullname" .) "default" .Values.serviceAccount.create) .Values.serviceAccount.name -}}
{{- end -}}

{{/* Full name of a pod or service of this namespace. */}}
{{- define "endcap.host" -}}
{{- printf "%s.%s.svc.%s" .name .root.Release.Namespace .root.Values.clusterDomain -}}
{{- end -}}

{{- define "endcap.etcdEndpoints" -}}
{{- if eq .Values.etcd.kind "external" -}}
{{- join "," .Values.etcd.external.endpoints -}}
{{- else -}}
{{- $name := include "endcap.componentName" (dict "root" . "component" "etcd") -}}
{{- $endpoints := list -}}
{{- range until (int .Values.etcd.bundled.replicas) -}}
{{- $pod := printf "%s-%d.%s-headless" $name . $name -}}
{{- $endpoints = append $endpoints (printf "http://%s:2379" (include "endcap.host" (dict "root" $ "name" $pod))) -}}
{{- end -}}
{{- join "," $endpoints -}}
{{- end -}}
{{- end -}}

{{- define "endcap.redisUrl" -}}
{{- if eq .Values.redis.kind "external" -}}
{{- .Values.redis.external.url -}}
{{- else -}}
{{- $name := include "endcap.componentName" (dict "root" . "component" "redis") -}}
{{- printf "redis://%s:6379/0" (include "endcap.host" (dict "root" . "name" (printf "%s-0.%s-headless" $name $name))) -}}
{{- end -}}
{{- end -}}

{{- define "endcap.storeClaim" -}}
{{- default (printf "%s-bundles" (include "endcap.fullname" .)) .Values.store.pvc.existingClaim -}}
{{- end -}}
