{{- define "trellis.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride -}}
{{- else -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- if contains $name .Release.Name -}}{{ .Release.Name }}{{- else -}}{{ .Release.Name }}-{{ $name }}{{- end -}}
{{- end -}}
{{- end -}}

{{/* What selects pods: (list . "component"). The server gives Ray's pods the same instance. */}}
{{- define "trellis.selector" -}}
{{- $root := index . 0 -}}
app.kubernetes.io/instance: {{ include "trellis.fullname" $root }}
app.kubernetes.io/component: {{ index . 1 }}
{{- end -}}

{{/* Labels of an object or a pod: (list . "component"). */}}
{{- define "trellis.labels" -}}
{{- $root := index . 0 -}}
{{- with $root.Values.labels }}{{ toYaml . }}
{{ end -}}
{{ include "trellis.selector" . }}
app.kubernetes.io/name: {{ $root.Chart.Name }}
app.kubernetes.io/version: {{ $root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ $root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" $root.Chart.Name $root.Chart.Version }}
{{- end -}}

{{/* Labels of a pod that a new version of the chart alone does not replace: (list . "component"). */}}
{{- define "trellis.lastingLabels" -}}
{{- $root := index . 0 -}}
{{- with $root.Values.labels }}{{ toYaml . }}
{{ end -}}
{{ include "trellis.selector" . }}
app.kubernetes.io/name: {{ $root.Chart.Name }}
app.kubernetes.io/managed-by: {{ $root.Release.Service }}
{{- end -}}

{{/* A reference to an image: (list . .Values.image.server). */}}
{{- define "trellis.image" -}}
{{- $root := index . 0 -}}{{- $image := index . 1 -}}
{{- if $image.digest -}}
{{ $image.repository }}@{{ $image.digest }}
{{- else -}}
{{ $image.repository }}:{{ default $root.Chart.AppVersion $image.tag }}
{{- end -}}
{{- end -}}

{{- define "trellis.secretName" -}}
{{- default (printf "%s-secret" (include "trellis.fullname" .)) .Values.secret.existingSecret -}}
{{- end -}}

{{- define "trellis.raySecretName" -}}
{{- default (printf "%s-ray-token" (include "trellis.fullname" .)) .Values.ray.auth.existingSecret -}}
{{- end -}}

{{- define "trellis.databaseSecretName" -}}
{{- if .Values.database.bundled.enabled -}}
{{ include "trellis.fullname" . }}-postgresql
{{- else -}}
{{ .Values.database.existingSecret }}
{{- end -}}
{{- end -}}

{{- define "trellis.databaseSecretKey" -}}
{{- if .Values.database.bundled.enabled -}}url{{- else -}}{{ .Values.database.existingSecretKey }}{{- end -}}
{{- end -}}

{{- define "trellis.tlsSecretName" -}}
{{- if eq .Values.tls.mode "secret" -}}
{{ .Values.tls.secretName }}
{{- else if eq .Values.tls.mode "certManager" -}}
{{ include "trellis.fullname" . }}-tls
{{- end -}}
{{- end -}}

{{- define "trellis.storeClaim" -}}
{{- default (printf "%s-store" (include "trellis.fullname" .)) .Values.store.pvc.existingClaim -}}
{{- end -}}

{{- define "trellis.basesClaim" -}}
{{- default (printf "%s-bases" (include "trellis.fullname" .)) .Values.bases.cache.pvc.existingClaim -}}
{{- end -}}

{{/* Where pods of the cluster call the API. */}}
{{- define "trellis.endpoint" -}}
{{ if ne .Values.tls.mode "none" }}https{{ else }}http{{ end }}://{{ include "trellis.fullname" . }}.{{ .Release.Namespace }}.svc:50051
{{- end -}}

{{/* A value that was made at random once, base64: (dict "kept" Secret "key" key "fresh" text). */}}
{{- define "trellis.kept" -}}
{{- dig "data" .key "" .kept | default (b64enc .fresh) -}}
{{- end -}}

{{/* A setting's text: Helm reads whole numbers as floats, and would write 1e+10. */}}
{{- define "trellis.text" -}}
{{- if and (kindIs "float64" .) (eq (floor .) .) -}}{{ int64 . }}{{- else -}}{{ . }}{{- end -}}
{{- end -}}
