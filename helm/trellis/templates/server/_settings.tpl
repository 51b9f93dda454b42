{{/* The server's variables that are no secret, as a mapping. */}}
{{- define "trellis.serverSettings" -}}
{{- $name := include "trellis.fullname" . -}}
HOME: /tmp
TRELLIS_GRPC_ADDRESS: "0.0.0.0:50051"
TRELLIS_HTTP_ADDRESS: "0.0.0.0:8000"
TRELLIS_WORKER_ADDRESS: "0.0.0.0:50052"
TRELLIS_WORKER_ENDPOINT: {{ $name }}-jobs.{{ .Release.Namespace }}.svc:50052
TRELLIS_STORE_URL: {{ include "trellis.storeUrl" . | quote }}
TRELLIS_SECRET_FILE: /run/trellis/secret/server-secret
TRELLIS_FIRST_ADMIN_KEY_FILE: /run/trellis/secret/admin-key
TRELLIS_MIGRATE: wait
TRELLIS_KUBERAY_FILE: /etc/trellis/ray/kuberay.yaml
{{- if .Values.ray.auth.enabled }}
TRELLIS_RAY_TOKEN_FILE: /run/trellis/ray/auth_token
{{- end }}
TRELLIS_JOB_PYTHON: /opt/trellis/bin/python
TRELLIS_START_TIMEOUT_SECONDS: "1800"
TRELLIS_CAPACITY_CPUS: {{ include "trellis.capacity" (list . "cpus" .Values.ray.jobs.capacityCpus) | quote }}
TRELLIS_CAPACITY_GPUS: {{ include "trellis.capacity" (list . "gpus" .Values.ray.jobs.capacityGpus) | quote }}
TRELLIS_DRAIN_SECONDS: {{ include "trellis.text" .Values.server.drainSeconds | quote }}
TRELLIS_SHUTDOWN_SECONDS: {{ include "trellis.text" .Values.server.shutdownSeconds | quote }}
{{- if ne .Values.bases.cache.mode "none" }}
TRELLIS_BASE_CACHE: {{ .Values.bases.cache.path }}
{{- end }}
{{- with .Values.bases.models }}
TRELLIS_BASE_MODELS: {{ include "trellis.baseModels" . | quote }}
{{- $always := list }}
{{- range . }}{{ if .alwaysOn }}{{ $always = append $always .name }}{{ end }}{{ end }}
{{- with $always }}
TRELLIS_ALWAYS_ON: {{ join "," . | quote }}
{{- end }}
{{- end }}
{{- if ne .Values.tls.mode "none" }}
TRELLIS_TLS_CERTIFICATE_FILE: /run/trellis/tls/tls.crt
TRELLIS_TLS_KEY_FILE: /run/trellis/tls/tls.key
{{- if .Values.tls.jobsTrustCa }}
TRELLIS_TLS_WORKER_CA_FILE: /run/trellis/tls/ca.crt
{{- end }}
{{- if .Values.tls.clientCaSecret }}
TRELLIS_TLS_CLIENT_CA_FILE: /run/trellis/client-ca/ca.crt
{{- end }}
{{- end }}
{{- if .Values.server.oidc }}
TRELLIS_OIDC_FILE: /etc/trellis/server/oidc.toml
{{- end }}
{{- if .Values.server.prices }}
TRELLIS_PRICES_FILE: /etc/trellis/server/prices.toml
{{- end }}
{{- if not .Values.store.pvc.enabled }}
{{- include "trellis.storeVariables" . }}
{{- end }}
{{- if .Values.observability.tracing.endpoint }}
OTEL_EXPORTER_OTLP_ENDPOINT: {{ .Values.observability.tracing.endpoint | quote }}
OTEL_TRACES_SAMPLER: {{ .Values.observability.tracing.sampler | quote }}
OTEL_TRACES_SAMPLER_ARG: {{ .Values.observability.tracing.ratio | quote }}
{{- end }}
{{- end -}}

{{/* Further ones count before them. */}}
{{- define "trellis.serverEnvironment" -}}
{{- $chosen := merge (dict) .Values.server.settings .Values.server.environment -}}
{{- range $key, $value := merge (dict) $chosen (fromYaml (include "trellis.serverSettings" .)) }}
- {name: {{ $key }}, value: {{ include "trellis.text" $value | quote }}}
{{- end }}
{{- end -}}

{{/* NAME=SOURCE@REVISION, separated by commas. */}}
{{- define "trellis.baseModels" -}}
{{- $said := list -}}
{{- range . -}}
{{- $said = append $said (printf "%s=%s%s" .name .source (ternary (printf "@%s" .revision) "" (not (empty .revision)))) -}}
{{- end -}}
{{ join "," $said }}
{{- end -}}

{{/* So long a server may take to end: it drains, then calls finish, then its loops do. */}}
{{- define "trellis.graceSeconds" -}}
{{ add (ceil .Values.server.drainSeconds) (mul 2 (ceil .Values.server.shutdownSeconds)) 15 }}
{{- end -}}
