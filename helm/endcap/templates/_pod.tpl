{{/*
The pod of a role: (dict "root" $ "component" "gateway" "role" "gateway" "port" 9400 "values" .Values.gateway …).
Further keys: "env" (YAML), "store" (ro, rw or none), "dataSize" ("" when a claim of the StatefulSet is mounted),
"limits" (more resource limits), "runtimeClassName", "image".
*/}}
{{- define "endcap.pod" -}}
{{- $root := .root -}}
metadata:
  labels:
    {{- include "endcap.selectorLabels" . | nindent 4 }}
  annotations:
    # A changed setting restarts the pods: none is read while running.
    checksum/config: {{ include "endcap.settings" $root | sha256sum }}
    {{- with .values.podAnnotations }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
spec:
  {{- include "endcap.podBasics" . | nindent 2 }}
  {{- include "endcap.spread" . | nindent 2 }}
  # drain.delay and drain.grace of the role, and what leaving the fleet takes. SIGTERM begins the drain: health says
  # NOT_SERVING at once, connections are accepted for drain.delay. That is what a preStop hook would be for.
  terminationGracePeriodSeconds: {{ include "endcap.terminationGrace" (dict "root" $root "section" (.role | replace "-" "_")) }}
  {{- with .runtimeClassName }}
  runtimeClassName: {{ . }}
  {{- end }}
  containers:
    - name: endcap
      image: {{ .image | default (include "endcap.image" (dict "root" $root "image" $root.Values.image "tag" $root.Chart.AppVersion)) }}
      imagePullPolicy: {{ $root.Values.image.pullPolicy }}
      args: [{{ .role }}, --config, /etc/endcap/endcap.toml, --id, $(POD_NAME)]
      env:
        - name: POD_NAME
          valueFrom: {fieldRef: {fieldPath: metadata.name}}
        - name: POD_IP
          valueFrom: {fieldRef: {fieldPath: status.podIP}}
        # The address, not a DNS name: it is right the moment it is published, and gone with the lease.
        - name: ENDCAP_{{ .role | replace "-" "_" | upper }}__GRPC__ADVERTISE
          value: $(POD_IP):{{ .port }}
        {{- with include "endcap.secretEnv" . | trim }}
        {{- . | nindent 8 }}
        {{- end }}
        {{- with .env }}
        {{- . | nindent 8 }}
        {{- end }}
      ports:
        - {name: grpc, containerPort: {{ .port }}}
        - {name: admin, containerPort: 9490}
      {{- include "endcap.probes" . | nindent 6 }}
      resources:
        {{- include "endcap.resources" . | nindent 8 }}
      securityContext:
        {{- include "endcap.containerSecurity" . | nindent 8 }}
      volumeMounts:
        - {name: config, mountPath: /etc/endcap, readOnly: true}
        - {name: data, mountPath: /data}
        {{- if and (ne .store "none") (eq $root.Values.store.kind "pvc") }}
        - {name: bundles, mountPath: /bundles{{ if eq .store "ro" }}, readOnly: true{{ end }}}
        {{- end }}
        {{- if include "endcap.hasEtcdTls" $root }}
        - {name: etcd-tls, mountPath: /etc/endcap-etcd, readOnly: true}
        {{- end }}
  volumes:
    - name: config
      configMap: {name: {{ include "endcap.fullname" $root }}}
    {{- if .dataSize }}
    - name: data
      emptyDir: {sizeLimit: {{ .dataSize }}}
    {{- end }}
    {{- if and (ne .store "none") (eq $root.Values.store.kind "pvc") }}
    - name: bundles
      persistentVolumeClaim: {claimName: {{ include "endcap.storeClaim" $root }}}
    {{- end }}
    {{- if include "endcap.hasEtcdTls" $root }}
    - name: etcd-tls
      secret: {secretName: {{ $root.Values.etcd.external.tls.secretName }}}
    {{- end }}
{{- end -}}

{{/* What every pod of the chart has, etcd's too. */}}
{{- define "endcap.podBasics" -}}
serviceAccountName: {{ include "endcap.serviceAccountName" .root }}
automountServiceAccountToken: false
# Otherwise every Service of the namespace becomes variables, some of which begin with ENDCAP_.
enableServiceLinks: false
{{- with .root.Values.imagePullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
securityContext:
  runAsNonRoot: true
  runAsUser: 65532
  runAsGroup: 65532
  fsGroup: 65532
  # A large volume is not walked at every start.
  fsGroupChangePolicy: OnRootMismatch
  seccompProfile: {type: RuntimeDefault}
{{- with .values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with .values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .values.affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{- define "endcap.spread" -}}
{{- if .root.Values.topologySpread -}}
topologySpreadConstraints:
  {{- range .root.Values.topologySpread }}
  - topologyKey: {{ .topologyKey }}
    maxSkew: {{ .maxSkew }}
    whenUnsatisfiable: {{ .whenUnsatisfiable }}
    labelSelector:
      matchLabels:
        {{- include "endcap.selectorLabels" $ | nindent 8 }}
  {{- end }}
{{- end -}}
{{- end -}}

{{- define "endcap.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end -}}

{{- define "endcap.probes" -}}
# Until the members know what they knew last or have read it from etcd, nothing listens.
startupProbe:
  httpGet: {path: /livez, port: admin}
  periodSeconds: 2
  failureThreshold: 90
# Only that the process turns. Health would not do: a draining or waiting member is NOT_SERVING, and well.
livenessProbe:
  httpGet: {path: /livez, port: admin}
  periodSeconds: 10
  timeoutSeconds: 3
  failureThreshold: 6
# Through the door that callers use.
readinessProbe:
  grpc: {port: {{ .port }}}
  periodSeconds: 2
  timeoutSeconds: 2
  failureThreshold: 2
{{- end -}}

{{- define "endcap.resources" -}}
{{- if .limits -}}
{{- $limits := merge (deepCopy .limits) (default (dict) .values.resources.limits) -}}
{{- merge (dict "limits" $limits) .values.resources | toYaml -}}
{{- else -}}
{{- toYaml .values.resources -}}
{{- end -}}
{{- end -}}

{{- define "endcap.secretEnv" -}}
{{- $values := .root.Values -}}
{{- if eq $values.etcd.kind "external" -}}
{{- with $values.etcd.external.password }}
{{- if .secretName }}
- name: ENDCAP_COORDINATION__ETCD__PASSWORD
  valueFrom: {secretKeyRef: {name: {{ .secretName }}, key: {{ .key }}}}
{{- end }}
{{- end }}
{{- end }}
{{- if and (eq $values.store.kind "s3") (ne .store "none") }}
{{- with $values.store.s3.credentials }}
{{- if .secretName }}
- name: ENDCAP_STORE__S3__ACCESS_KEY_ID
  valueFrom: {secretKeyRef: {name: {{ .secretName }}, key: {{ .accessKeyIdKey }}}}
- name: ENDCAP_STORE__S3__SECRET_ACCESS_KEY
  valueFrom: {secretKeyRef: {name: {{ .secretName }}, key: {{ .secretAccessKeyKey }}}}
{{- end }}
{{- end }}
{{- end }}
{{- end -}}

{{- define "endcap.hasEtcdTls" -}}
{{- if and (eq .Values.etcd.kind "external") .Values.etcd.external.tls.secretName -}}
yes
{{- end -}}
{{- end -}}
