{{- /* Labels of every object. */ -}}
{{- define "labels" -}}
app.kubernetes.io/name: zimage-operator
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
app.kubernetes.io/part-of: zimage
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- with .Values.labels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- /* What a metadata has beside name and namespace; `into`: the ClusterRole of Kubernetes' own that it is to be part of. */ -}}
{{- define "metadata" -}}
labels:
  {{- include "labels" . | nindent 2 }}
{{- with .into }}
  rbac.authorization.k8s.io/aggregate-to-{{ . }}: "true"
{{- end }}
{{- with .Values.annotations }}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{- /* The pods' own labels: selectors and the workers' NetworkPolicies know them by this one. */ -}}
{{- define "selector" -}}
app.kubernetes.io/name: zimage-operator
{{- end }}

{{- /* Some of the operator's rights: without the one on Secrets where nobody is to have credentials made up. */ -}}
{{- define "rights" -}}
{{- range .rules }}
{{- if or $.generate (not (has "secrets" .resources)) }}
{{ list . | toYaml }}
{{- end }}
{{- end }}
{{- end }}

{{- define "image" -}}
{{- with .Values.image -}}
{{ .repository }}{{ if .digest }}@{{ .digest }}{{ else }}:{{ .tag | default $.Chart.AppVersion }}{{ end }}
{{- end }}
{{- end }}

{{- /* A value as a setting's text: lists with commas, maps as name=value. */ -}}
{{- define "text" -}}
{{- if kindIs "slice" . }}{{ join "," . }}
{{- else if kindIs "map" . }}{{ range $i, $key := keys . | sortAlpha }}{{ if $i }},{{ end }}{{ $key }}={{ get $ $key }}{{ end }}
{{- else }}{{ . }}{{ end }}
{{- end }}

{{- /* The namespace where `helm test` makes its service: one that the operator serves. */ -}}
{{- define "test.namespace" -}}
{{ first .Values.settings.watchNamespaces | default .Release.Namespace }}
{{- end }}

{{- /* Annotations of what belongs to `helm test` alone. */ -}}
{{- define "test.annotations" -}}
helm.sh/hook: test
helm.sh/hook-delete-policy: before-hook-creation,hook-succeeded
{{- end }}
