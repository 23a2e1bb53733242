{{- define "weft.labels" -}}
app.kubernetes.io/name: {{ .name }}
app.kubernetes.io/part-of: weft
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ .root.Chart.Name }}-{{ .root.Chart.Version }}
{{- end -}}

{{- /* What selects a workload's pods: never changed by an upgrade. */ -}}
{{- define "weft.selector" -}}
app.kubernetes.io/name: {{ .name }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
{{- end -}}

{{- define "weft.image" -}}
{{- $image := .root.Values.image -}}
{{ $image.registry }}/{{ .name }}:{{ $image.tag | default .root.Chart.AppVersion }}
{{- end -}}

{{- define "weft.pullSecrets" -}}
{{- with .Values.image.pullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
{{- end -}}

{{- /* A container without any privilege. */ -}}
{{- define "weft.unprivileged" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
runAsNonRoot: true
runAsUser: 65534
runAsGroup: 65534
capabilities:
  drop: [ALL]
seccompProfile:
  type: RuntimeDefault
{{- end -}}


{{- /* The proxy's configuration file: docs/configuration.md has every field. */ -}}
{{- define "weft.proxy" -}}
node:
  cluster_id: {{ .Values.mesh.clusterId | quote }}
  trust_domain: {{ .Values.mesh.trustDomain | quote }}
  workers: {{ .Values.node.proxy.workers }}
zds:
  socket: /run/weft/zds.sock
xds:
  address: {{ include "weft.control" . }}
  root: /var/run/weft/trust/root-cert.pem
  token: /var/run/weft/token/weft-token
ca:
  address: {{ include "weft.control" . }}
  root: /var/run/weft/trust/root-cert.pem
  token: /var/run/weft/token/weft-token
  node_certificate: on
limits:
  memory: {{ .Values.node.proxy.memory }}
dns:
  cluster_domain: {{ .Values.mesh.clusterDomain | quote }}
log:
  level: {{ .Values.node.logLevel | quote }}
  format: json
{{- end -}}

{{- /* By its name in this release's namespace, which its certificate carries. */ -}}
{{- define "weft.control" -}}
https://weft-control.{{ .Release.Namespace }}.svc:15012
{{- end -}}
