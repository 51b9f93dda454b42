{{/* Brings the database to this version; where it is already, nothing happens. */}}
{{- define "trellis.migrationSpec" -}}
backoffLimit: 10
activeDeadlineSeconds: 3600
podFailurePolicy:
  rules:
    - action: FailJob {{- /* the database is newer than this version, or the arguments are wrong */}}
      onExitCodes: {operator: In, values: [2, 4]}
template:
  metadata:
    labels:
      {{- include "trellis.labels" (list . "migration") | nindent 6 }}
  spec:
    restartPolicy: Never
    serviceAccountName: {{ include "trellis.fullname" . }}-ray
    automountServiceAccountToken: false
    {{- include "trellis.pullSecrets" . | nindent 4 }}
    securityContext:
      {{- include "trellis.podSecurity" . | nindent 6 }}
    containers:
      - name: migration
        image: {{ include "trellis.image" (list . .Values.image.server) | quote }}
        imagePullPolicy: {{ .Values.image.pullPolicy }}
        command: [python, -m, trellis.server.store.migrations]
        {{- with .Values.database.migrationArguments }}
        args: {{ toJson . }}
        {{- end }}
        securityContext:
          {{- include "trellis.containerSecurity" . | nindent 10 }}
        resources:
          requests: {cpu: 100m, memory: 256Mi}
          limits: {memory: 512Mi}
        env:
          - {name: HOME, value: /tmp}
          {{- include "trellis.databaseEnvironment" . | nindent 10 }}
        volumeMounts:
          - {name: scratch, mountPath: /tmp}
          {{- if .Values.database.caSecret }}
          - {name: database-ca, mountPath: /etc/trellis/database, readOnly: true}
          {{- end }}
    volumes:
      {{- include "trellis.scratchVolume" "64Mi" | nindent 6 }}
      {{- with .Values.database.caSecret }}
      - name: database-ca
        secret:
          secretName: {{ . }}
          defaultMode: 0440
          items:
            - {key: ca.crt, path: ca.crt}
      {{- end }}
{{- end -}}
