{{- define "cwprelay.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 52 | trimSuffix "-" }}
{{- end }}

{{- define "cwprelay.fullname" -}}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 52 | trimSuffix "-" }}
{{- else if contains (include "cwprelay.name" .) .Release.Name }}
{{- .Release.Name | trunc 52 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name (include "cwprelay.name" .) | trunc 52 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{- define "cwprelay.selector" -}}
app.kubernetes.io/name: {{ include "cwprelay.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "cwprelay.labels" -}}
{{ include "cwprelay.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end }}

{{- define "cwprelay.serviceAccount" -}}
{{- if .Values.serviceAccount.create }}{{ default (include "cwprelay.fullname" .) .Values.serviceAccount.name }}{{ else }}{{ default "default" .Values.serviceAccount.name }}{{ end }}
{{- end }}

{{- define "cwprelay.image" -}}
{{- if .Values.image.digest }}{{ .Values.image.repository }}@{{ .Values.image.digest }}{{ else }}{{ .Values.image.repository }}:{{ default .Chart.AppVersion .Values.image.tag }}{{ end }}
{{- end }}

{{/* The configuration file: the values', with what the pod needs. */}}
{{- define "cwprelay.config" -}}
{{- $http := dict "listen" "127.0.0.1:9810" }}
{{- if .Values.console.tokenKey }}
{{- if not .Values.existingSecret }}{{ fail "console.tokenKey is a key of existingSecret: set that too" }}{{ end }}
{{- $http = dict "listen" "0.0.0.0:9810" "token_file" (printf "/run/secrets/cwprelay/%s" .Values.console.tokenKey) }}
{{- end }}
{{- $own := dict "http" $http }}
{{- toYaml (mergeOverwrite $own (deepCopy .Values.config)) }}
{{- end }}

{{- define "cwprelay.container" -}}
image: {{ include "cwprelay.image" . }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities: {drop: [ALL]}
env:
  - {name: CWPRELAY_STATE__DIR, value: /var/lib/cwprelay/state}
  {{- with .Values.extraEnv }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- with .Values.existingSecret }}
envFrom:
  - secretRef: {name: {{ . }}}
{{- end }}
volumeMounts:
  - {name: state, mountPath: /var/lib/cwprelay}
  - {name: config, mountPath: /etc/cwprelay, readOnly: true}
  {{- if .Values.existingSecret }}
  - {name: secrets, mountPath: /run/secrets/cwprelay, readOnly: true}
  {{- end }}
  {{- with .Values.extraVolumeMounts }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end }}

{{- define "cwprelay.pod" -}}
automountServiceAccountToken: false
serviceAccountName: {{ include "cwprelay.serviceAccount" . }}
{{- with .Values.imagePullSecrets }}
imagePullSecrets: {{- toYaml . | nindent 2 }}
{{- end }}
securityContext:
  runAsNonRoot: true
  runAsUser: 65532
  runAsGroup: 65532
  fsGroup: 65532
  fsGroupChangePolicy: OnRootMismatch
  seccompProfile: {type: RuntimeDefault}
{{- with .Values.nodeSelector }}
nodeSelector: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.tolerations }}
tolerations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.affinity }}
affinity: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- end }}

{{- define "cwprelay.volumes" -}}
- name: config
  configMap: {name: {{ include "cwprelay.fullname" . }}}
{{- with .Values.existingSecret }}
- name: secrets
  secret: {secretName: {{ . }}, defaultMode: 288}
{{- end }}
{{- with .Values.extraVolumes }}
{{ toYaml . }}
{{- end }}
{{- end }}
