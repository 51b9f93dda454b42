{{/* Whether the cluster says as whom pods run, as OpenShift does, which refuses pods that say it themselves. */}}
{{- define "trellis.clusterUsers" -}}
{{- $said := .Values.podSecurity.clusterUsers -}}
{{- if or (eq $said "always") (and (eq $said "auto") (.Capabilities.APIVersions.Has "security.openshift.io/v1")) -}}true{{- end -}}
{{- end -}}

{{/* What makes a pod of our images a restricted one. */}}
{{- define "trellis.podSecurity" -}}
{{- include "trellis.podSecurityAs" (list . 1000) -}}
{{- end -}}

{{/* What makes a pod a restricted one, as the image's own user: (list . user). */}}
{{- define "trellis.podSecurityAs" -}}
runAsNonRoot: true
{{- if not (include "trellis.clusterUsers" (index . 0)) }}
runAsUser: {{ index . 1 }}
runAsGroup: {{ index . 1 }}
fsGroup: {{ index . 1 }}
{{- end }}
fsGroupChangePolicy: OnRootMismatch
seccompProfile:
  type: RuntimeDefault
{{- end -}}

{{- define "trellis.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end -}}

{{- define "trellis.pullSecrets" -}}
{{- with .Values.imagePullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
{{- end -}}

{{/* The only place to write to. */}}
{{- define "trellis.scratchVolume" -}}
- name: scratch
  emptyDir:
    sizeLimit: {{ . }}
{{- end -}}

{{- define "trellis.databaseEnvironment" -}}
- name: TRELLIS_DATABASE_URL
  valueFrom:
    secretKeyRef:
      name: {{ include "trellis.databaseSecretName" . }}
      key: {{ include "trellis.databaseSecretKey" . }}
{{- end -}}

{{/* The variables of an S3 that are no secret, as a mapping. */}}
{{- define "trellis.storeVariables" -}}
{{- with .Values.store.endpoint }}
AWS_ENDPOINT_URL: {{ . | quote }}
{{- end }}
{{- with .Values.store.region }}
AWS_REGION: {{ . | quote }}
AWS_DEFAULT_REGION: {{ . | quote }}
{{- end }}
{{- end -}}

{{- define "trellis.storeUrl" -}}
{{- if .Values.store.pvc.enabled -}}/store{{- else -}}{{ .Values.store.url }}{{- end -}}
{{- end -}}

{{/* The cache of base models as a volume of a pod that reads it. */}}
{{- define "trellis.basesVolume" -}}
- name: bases
{{- if eq .Values.bases.cache.mode "pvc" }}
  persistentVolumeClaim:
    claimName: {{ include "trellis.basesClaim" . }}
    readOnly: true
{{- else }}
  hostPath:
    path: {{ .Values.bases.cache.hostPath.path }}
    type: DirectoryOrCreate
{{- end }}
{{- end -}}
