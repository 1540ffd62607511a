{{/* Headless: every pod by itself, for Prometheus, and for clients that balance on their own. */}}
{{- define "endcap.headlessService" -}}
apiVersion: v1
kind: Service
metadata:
  name: {{ include "endcap.componentName" . }}-headless
  labels:
    {{- include "endcap.labels" . | nindent 4 }}
spec:
  clusterIP: None
  selector:
    {{- include "endcap.selectorLabels" . | nindent 4 }}
  ports:
    - {name: grpc, port: {{ .port }}, targetPort: grpc, protocol: TCP, appProtocol: kubernetes.io/h2c}
    - {name: admin, port: 9490, targetPort: admin, protocol: TCP, appProtocol: http}
{{- end -}}

{{- define "endcap.service" -}}
apiVersion: v1
kind: Service
metadata:
  name: {{ include "endcap.componentName" . }}
  labels:
    {{- include "endcap.labels" . | nindent 4 }}
  {{- with .values.service.annotations }}
  annotations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
spec:
  type: {{ .values.service.type }}
  selector:
    {{- include "endcap.selectorLabels" . | nindent 4 }}
  ports:
    - {name: grpc, port: {{ .values.service.port }}, targetPort: grpc, protocol: TCP, appProtocol: kubernetes.io/h2c}
{{- end -}}

{{- define "endcap.podDisruptionBudget" -}}
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata:
  name: {{ include "endcap.componentName" . }}
  labels:
    {{- include "endcap.labels" . | nindent 4 }}
spec:
  maxUnavailable: 1
  # A pod that is not ready protects nobody.
  unhealthyPodEvictionPolicy: AlwaysAllow
  selector:
    matchLabels:
      {{- include "endcap.selectorLabels" . | nindent 6 }}
{{- end -}}

{{/* (… "kind" "Deployment" "metrics" (list (dict "name" … "value" …))) */}}
{{- define "endcap.autoscaler" -}}
{{- $scaling := .values.autoscaling -}}
{{- $metrics := list -}}
{{- with $scaling.targetCPUUtilization -}}
{{- $target := dict "type" "Utilization" "averageUtilization" . -}}
{{- $metrics = append $metrics (dict "type" "Resource" "resource" (dict "name" "cpu" "target" $target)) -}}
{{- end -}}
{{- range .metrics -}}
{{- if .value -}}
{{- $target := dict "type" "AverageValue" "averageValue" .value -}}
{{- $metrics = append $metrics (dict "type" "Pods" "pods" (dict "metric" (dict "name" .name) "target" $target)) -}}
{{- end -}}
{{- end -}}
{{- if not $metrics -}}
{{- fail (printf "%s.autoscaling: enabled without a target; set targetCPUUtilization or another one" .component) -}}
{{- end -}}
apiVersion: autoscaling/v2
kind: HorizontalPodAutoscaler
metadata:
  name: {{ include "endcap.componentName" . }}
  labels:
    {{- include "endcap.labels" . | nindent 4 }}
spec:
  scaleTargetRef: {apiVersion: apps/v1, kind: {{ .kind }}, name: {{ include "endcap.componentName" . }}}
  minReplicas: {{ $scaling.minReplicas }}
  maxReplicas: {{ $scaling.maxReplicas }}
  metrics:
    {{- toYaml $metrics | nindent 4 }}
  behavior:
    {{- toYaml .behavior | nindent 4 }}
{{- end -}}

{{/* Ingress only: whom the pods talk to (DNS, S3, etcd elsewhere) is the cluster's to say. */}}
{{- define "endcap.networkPolicy" -}}
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata:
  name: {{ include "endcap.componentName" . }}
  labels:
    {{- include "endcap.labels" . | nindent 4 }}
spec:
  podSelector:
    matchLabels:
      {{- include "endcap.selectorLabels" . | nindent 6 }}
  policyTypes: [Ingress]
  ingress:
    - ports: [{port: grpc, protocol: TCP}]
      from:
        {{- .from | nindent 8 }}
    {{- with .root.Values.networkPolicy.metricsFrom }}
    - ports: [{port: admin, protocol: TCP}]
      from:
        {{- toYaml . | nindent 8 }}
    {{- end }}
{{- end -}}
