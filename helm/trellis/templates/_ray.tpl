{{/* The server's names for the keys of a mapping, whose values stay as they are. */}}
{{- define "trellis.snake" -}}
{{- $named := dict -}}
{{- range $key, $value := . }}{{- $_ := set $named (snakecase $key) $value -}}{{- end -}}
{{ toYaml $named }}
{{- end -}}

{{/* PodSettings of one kind of pod, with the store: (list . pod "head"|"worker"). */}}
{{- define "trellis.rayPod" -}}
{{- $root := index . 0 -}}
{{- $pod := fromYaml (include "trellis.snake" (index . 1)) -}}
{{- $values := $root.Values -}}
{{- $environment := merge (dict) ($pod.environment | default dict) (fromYaml (include "trellis.storeVariables" $root) | default dict) -}}
{{- if $environment }}{{- $_ := set $pod "environment" $environment -}}{{- end -}}
{{- if $values.store.pvc.enabled -}}
{{- $claim := dict "name" "store" "persistentVolumeClaim" (dict "claimName" (include "trellis.storeClaim" $root)) -}}
{{- $_ := set $pod "volumes" (append ($pod.volumes | default list) $claim) -}}
{{- $_ := set $pod "volume_mounts" (append ($pod.volume_mounts | default list) (dict "name" "store" "mountPath" "/store")) -}}
{{- else if $values.store.existingSecret -}}
{{- $_ := set $pod "environment_from_secrets" (append ($pod.environment_from_secrets | default list) $values.store.existingSecret) -}}
{{- end -}}
{{- with include "trellis.raySecretVersions" (list $root $pod) -}}
{{- $_ := set $pod "annotations" (merge (dict "trellis.dev/secrets" .) ($pod.annotations | default dict)) -}}
{{- end -}}
{{ toYaml $pod }}
{{- end -}}

{{/* ClusterSettings: (list . cluster). */}}
{{- define "trellis.rayCluster" -}}
{{- $root := index . 0 -}}{{- $cluster := index . 1 -}}
idle_seconds: {{ $cluster.idleSeconds }}
queue: {{ $cluster.queue | quote }}
head:
  {{- include "trellis.rayPod" (list $root $cluster.head) | nindent 2 }}
groups:
  {{- range $cluster.groups }}
  - name: {{ .name }}
    min_replicas: {{ .minReplicas }}
    max_replicas: {{ .maxReplicas }}
    pod:
      {{- include "trellis.rayPod" (list $root .pod) | nindent 6 }}
  {{- end }}
{{- end -}}

{{/* The file of TRELLIS_KUBERAY_FILE. */}}
{{- define "trellis.kuberay" -}}
{{- $name := include "trellis.fullname" . -}}
namespace: {{ .Release.Namespace }}
name: {{ $name }}
owner: {{ $name }}-ray
image: {{ include "trellis.image" (list . .Values.image.ray) | quote }}
image_pull_policy: {{ .Values.image.pullPolicy }}
image_pull_secrets: {{ toJson .Values.imagePullSecrets }}
ray_version: {{ .Values.ray.version | quote }}
service_account: {{ $name }}-ray
head_service_account: {{ $name }}-ray-head
user: {{ if include "trellis.clusterUsers" . }}null{{ else }}{{ .Values.ray.user }}{{ end }}
labels: {{ toJson (merge (dict) .Values.ray.labels .Values.labels) }}
auth: {{ .Values.ray.auth.enabled }}
{{- if .Values.ray.auth.enabled }}
auth_secret: {{ include "trellis.raySecretName" . }}
{{- end }}
network_policies: {{ .Values.networkPolicy.enabled }}
{{- if ne .Values.bases.cache.mode "none" }}
base_cache:
  path: {{ .Values.bases.cache.path }}
  {{- if eq .Values.bases.cache.mode "pvc" }}
  claim: {{ include "trellis.basesClaim" . }}
  {{- else }}
  host_path: {{ .Values.bases.cache.hostPath.path }}
  {{- end }}
{{- end }}
trainers:
  {{- include "trellis.rayCluster" (list . .Values.ray.trainers) | nindent 2 }}
engines:
  {{- include "trellis.rayCluster" (list . .Values.ray.engines) | nindent 2 }}
jobs:
  queue: {{ .Values.ray.jobs.queue | quote }}
  keep_seconds: {{ .Values.ray.jobs.keepSeconds }}
  head:
    {{- include "trellis.rayPod" (list . .Values.ray.jobs.head) | nindent 4 }}
  worker:
    {{- include "trellis.rayPod" (list . .Values.ray.jobs.worker) | nindent 4 }}
  submitter:
    {{- include "trellis.snake" .Values.ray.jobs.submitter | nindent 4 }}
{{- end -}}

{{/* CPUs or GPUs that jobs and shared trainers may have together: (list . "cpus" extra). */}}
{{- define "trellis.capacity" -}}
{{- $root := index . 0 -}}{{- $what := index . 1 -}}{{- $sum := float64 (index . 2) -}}
{{- range $root.Values.ray.trainers.groups -}}
{{- $each := get .pod $what | default (ternary 1 0 (eq $what "cpus")) -}}
{{- $sum = addf $sum (mulf .maxReplicas $each) -}}
{{- end -}}
{{ include "trellis.text" $sum }}
{{- end -}}
