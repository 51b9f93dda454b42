{{/* Which versions of given Secrets are there, so that what reads them at its start alone is replaced after a change: (list . names).
Their contents would let a short password be guessed. Empty where Helm asks no cluster, or none of them is there. */}}
{{- define "trellis.secretVersions" -}}
{{- $root := index . 0 -}}{{- $said := list -}}
{{- range compact (index . 1) | uniq | sortAlpha -}}
{{- $found := lookup "v1" "Secret" $root.Release.Namespace . -}}
{{- if $found -}}{{- $said = append $said (printf "%s=%s" . $found.metadata.resourceVersion) -}}{{- end -}}
{{- end -}}
{{ join "," $said }}
{{- end -}}

{{/* Those that servers read at their start alone: what is mounted they read again, but for the CA that they hand to jobs. */}}
{{- define "trellis.serverSecretVersions" -}}
{{- $said := list (include "trellis.secretVersions" (list . (list .Values.database.existingSecret .Values.store.existingSecret))) -}}
{{- if and (ne .Values.tls.mode "none") .Values.tls.jobsTrustCa -}}
{{- $name := include "trellis.tlsSecretName" . -}}
{{- with dig "data" "ca.crt" "" (lookup "v1" "Secret" .Release.Namespace $name | default dict) -}}
{{- $said = append $said (printf "%s/ca.crt=%s" $name (sha256sum . | trunc 16)) -}}
{{- end -}}
{{- end -}}
{{ join "," (compact $said) }}
{{- end -}}

{{/* Those that a pod of Ray reads: (list . pod), whose keys are the server's. */}}
{{- define "trellis.raySecretVersions" -}}
{{- $values := (index . 0).Values -}}{{- $pod := index . 1 -}}
{{- $names := list $values.ray.auth.existingSecret -}}
{{- range $_, $one := $pod.secret_environment -}}{{- $names = append $names $one.secret -}}{{- end -}}
{{- include "trellis.secretVersions" (list (index . 0) (concat $names ($pod.environment_from_secrets | default list))) -}}
{{- end -}}
