{{/* A pod of `helm test`: (list . "name" restartPolicy (list arguments)). */}}
{{- define "trellis.testPod" -}}
{{- $root := index . 0 -}}
apiVersion: v1
kind: Pod
metadata:
  name: {{ include "trellis.fullname" $root }}-test-{{ index . 1 }}
  namespace: {{ $root.Release.Namespace }}
  labels:
    {{- include "trellis.labels" (list $root "test") | nindent 4 }}
  annotations:
    helm.sh/hook: test
    helm.sh/hook-delete-policy: before-hook-creation
spec:
  restartPolicy: {{ index . 2 }}
  activeDeadlineSeconds: {{ $root.Values.tests.timeoutSeconds }}
  serviceAccountName: {{ include "trellis.fullname" $root }}-ray
  automountServiceAccountToken: false
  {{- include "trellis.pullSecrets" $root | nindent 2 }}
  securityContext:
    {{- include "trellis.podSecurity" $root | nindent 4 }}
  containers:
    - name: {{ index . 1 }}
      image: {{ include "trellis.image" (list $root $root.Values.image.server) | quote }}
      imagePullPolicy: {{ $root.Values.image.pullPolicy }}
      command: [trellis]
      args: {{ toJson (concat (index . 3) (list "--endpoint" (include "trellis.endpoint" $root) "--api-key-file" "/run/trellis/secret/admin-key")) }}
      securityContext:
        {{- include "trellis.containerSecurity" $root | nindent 8 }}
      resources:
        {{- toYaml $root.Values.tests.resources | nindent 8 }}
      env:
        - {name: HOME, value: /tmp}
        {{- if and (ne $root.Values.tls.mode "none") $root.Values.tls.jobsTrustCa }}
        - {name: TRELLIS_CA_FILE, value: /run/trellis/ca/ca.crt}
        {{- end }}
        {{- if $root.Values.tests.clientCertificateSecret }}
        - {name: TRELLIS_CERTIFICATE_FILE, value: /run/trellis/client/tls.crt}
        - {name: TRELLIS_CERTIFICATE_KEY_FILE, value: /run/trellis/client/tls.key}
        {{- end }}
      volumeMounts:
        - {name: scratch, mountPath: /tmp}
        - {name: secret, mountPath: /run/trellis/secret, readOnly: true}
        {{- if and (ne $root.Values.tls.mode "none") $root.Values.tls.jobsTrustCa }}
        - {name: ca, mountPath: /run/trellis/ca, readOnly: true}
        {{- end }}
        {{- if $root.Values.tests.clientCertificateSecret }}
        - {name: client, mountPath: /run/trellis/client, readOnly: true}
        {{- end }}
  volumes:
    {{- include "trellis.scratchVolume" "256Mi" | nindent 4 }}
    - name: secret
      secret:
        secretName: {{ default (include "trellis.secretName" $root) $root.Values.tests.adminKeySecret }}
        defaultMode: 0440
        items:
          - {key: admin-key, path: admin-key}
    {{- if and (ne $root.Values.tls.mode "none") $root.Values.tls.jobsTrustCa }}
    - name: ca
      secret:
        secretName: {{ include "trellis.tlsSecretName" $root }}
        defaultMode: 0440
        items:
          - {key: ca.crt, path: ca.crt}
    {{- end }}
    {{- with $root.Values.tests.clientCertificateSecret }}
    - name: client
      secret:
        secretName: {{ . }}
        defaultMode: 0440
    {{- end }}
{{- end -}}
