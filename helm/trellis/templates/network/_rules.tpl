{{/* Pods of the release by component: (list . "component" …). */}}
{{- define "trellis.peers" -}}
{{- $root := first . -}}
{{- range rest . }}
- podSelector:
    matchLabels:
      {{- include "trellis.selector" (list $root .) | nindent 6 }}
{{- end }}
{{- end -}}

{{/* Egress to a place: (dict "to" peers "ports" (list …)); any address when there are no peers. */}}
{{- define "trellis.egress" -}}
- ports:
    {{- range .ports }}
    - {protocol: TCP, port: {{ . }}}
    {{- end }}
  {{- with .to }}
  to:
    {{- toYaml . | nindent 4 }}
  {{- end }}
{{- end -}}

{{/* Egress to the S3. */}}
{{- define "trellis.storeEgress" -}}
{{- if not .Values.store.pvc.enabled -}}
{{- include "trellis.egress" (dict "to" .Values.networkPolicy.store.to "ports" (list .Values.networkPolicy.store.port)) -}}
{{- end -}}
{{- end -}}

{{- define "trellis.databaseEgress" -}}
{{- if .Values.database.bundled.enabled -}}
- ports:
    - {protocol: TCP, port: 5432}
  to:
    {{- include "trellis.peers" (list . "postgresql") | nindent 4 }}
{{- else -}}
{{- include "trellis.egress" (dict "to" .Values.networkPolicy.database.to "ports" (list .Values.networkPolicy.database.port)) -}}
{{- end -}}
{{- end -}}

{{- define "trellis.tracingEgress" -}}
{{- if .Values.observability.tracing.endpoint -}}
{{- include "trellis.egress" (dict "to" .Values.networkPolicy.tracing.to "ports" (list .Values.networkPolicy.tracing.port)) -}}
{{- end -}}
{{- end -}}

{{/* Metadata of a policy: (list . "name"). */}}
{{- define "trellis.policy" -}}
{{- $root := index . 0 -}}
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata:
  name: {{ include "trellis.fullname" $root }}-{{ index . 1 }}
  namespace: {{ $root.Release.Namespace }}
  labels:
    {{- include "trellis.labels" (list $root "network") | nindent 4 }}
{{- end -}}
