{{/* The pod that fetches one base model: (list . model). */}}
{{- define "trellis.fetchContainer" -}}
{{- $root := index . 0 -}}{{- $model := index . 1 -}}
- name: {{ printf "fetch-%s" $model.name | trunc 63 | trimSuffix "-" }}
  image: {{ include "trellis.image" (list $root $root.Values.image.server) | quote }}
  imagePullPolicy: {{ $root.Values.image.pullPolicy }}
  command: [python, -m, trellis.base_cache, {{ $model.source | quote }}]
  {{- with $model.revision }}
  args: [--revision, {{ . | quote }}]
  {{- end }}
  securityContext:
    {{- include "trellis.containerSecurity" $root | nindent 4 }}
  resources:
    {{- toYaml $root.Values.bases.fetch.resources | nindent 4 }}
  env:
    - {name: HOME, value: /tmp}
    - {name: TRELLIS_BASE_CACHE, value: {{ $root.Values.bases.cache.path }}}
    {{- range $key, $value := fromYaml (include "trellis.storeVariables" $root) }}
    - {name: {{ $key }}, value: {{ $value | quote }}}
    {{- end }}
    {{- range $key, $value := $root.Values.bases.fetch.environment }}
    - {name: {{ $key }}, value: {{ include "trellis.text" $value | quote }}}
    {{- end }}
    {{- with $model.tokenSecret }}
    - name: HF_TOKEN
      valueFrom:
        secretKeyRef: {name: {{ . }}, key: {{ default "token" $model.tokenKey }}}
    {{- end }}
  {{- if and (hasPrefix "s3://" $model.source) $root.Values.store.existingSecret }}
  envFrom:
    - secretRef:
        name: {{ $root.Values.store.existingSecret }}
  {{- end }}
  volumeMounts:
    - {name: scratch, mountPath: /tmp}
    - {name: bases, mountPath: {{ $root.Values.bases.cache.path }}}
{{- end -}}

{{/* The Job that fetches one base model into the volume: (list . model). */}}
{{- define "trellis.fetchSpec" -}}
{{- $root := index . 0 -}}{{- $model := index . 1 -}}
backoffLimit: {{ $root.Values.bases.fetch.retries }}
podFailurePolicy:
  rules:
    - action: FailJob {{- /* what was asked for can't be had */}}
      onExitCodes: {operator: In, values: [2]}
template:
  metadata:
    labels:
      {{- include "trellis.labels" (list $root "bases") | nindent 6 }}
    annotations:
      trellis.dev/base-model: {{ $model.name }}
      {{- with include "trellis.secretVersions" (list $root (list $model.tokenSecret)) }}
      trellis.dev/secrets: {{ . | quote }}
      {{- end }}
  spec:
    restartPolicy: Never
    serviceAccountName: {{ include "trellis.fullname" $root }}-ray
    automountServiceAccountToken: false
    {{- include "trellis.pullSecrets" $root | nindent 4 }}
    securityContext:
      {{- include "trellis.podSecurity" $root | nindent 6 }}
    containers:
      {{- include "trellis.fetchContainer" . | nindent 6 }}
    volumes:
      {{- include "trellis.scratchVolume" "2Gi" | nindent 6 }}
      - name: bases
        persistentVolumeClaim:
          claimName: {{ include "trellis.basesClaim" $root }}
{{- end -}}
