{{- /* Agent and proxy. */ -}}
{{- define "weft.node.run" -}}
initContainers:
  - name: weft-redirect
    image: {{ include "weft.image" (dict "name" "weft-node" "root" .) }}
    imagePullPolicy: {{ .Values.image.pullPolicy }}
    # It ends after the proxy, which needs it for the connections that it finishes.
    restartPolicy: Always
    args:
      - run
      - --kubernetes
      - --node=$(NODE_NAME)
      - --zds=/run/weft/zds.sock
      - --cni-socket=/run/weft-cni/agent.sock
      - --cni-conf-dir=/host/cni/conf
      - --cni-bin-dir=/host/cni/bin
      - --cni-exempt-namespaces={{ join "," .Values.cni.excludeNamespaces }}
      - --proxy-uid=65534
      - --proxy-gid=65534
    env:
      - name: NODE_NAME
        valueFrom: { fieldRef: { fieldPath: spec.nodeName } }
      - name: POD_NAMESPACE
        valueFrom: { fieldRef: { fieldPath: metadata.namespace } }
      - name: WEFT_LOG
        value: {{ .Values.node.logLevel | quote }}
    resources: {{- toYaml .Values.node.agent.resources | nindent 6 }}
    securityContext: {{- include "weft.privileged" . | nindent 6 }}
    volumeMounts:
      - { name: zds, mountPath: /run/weft }
      - { name: cni-socket, mountPath: /run/weft-cni }
      - { name: cni-conf, mountPath: /host/cni/conf }
      - { name: cni-bin, mountPath: /host/cni/bin }
      - { name: bpffs, mountPath: /sys/fs/bpf }
      - { name: cgroup, mountPath: /sys/fs/cgroup }
containers:
  - name: ztunnel
    image: {{ include "weft.image" (dict "name" "weft-ztunnel" "root" .) }}
    imagePullPolicy: {{ .Values.image.pullPolicy }}
    args: [--config=/etc/weft/ztunnel.yaml]
    env:
      - name: NODE_NAME
        valueFrom: { fieldRef: { fieldPath: spec.nodeName } }
      - name: POD_NAME
        valueFrom: { fieldRef: { fieldPath: metadata.name } }
      - name: POD_NAMESPACE
        valueFrom: { fieldRef: { fieldPath: metadata.namespace } }
      - name: INSTANCE_IP
        valueFrom: { fieldRef: { fieldPath: status.podIP } }
      - name: TERMINATION_GRACE_PERIOD_SECONDS
        value: {{ .Values.node.gracePeriodSeconds | quote }}
    ports:
      - { name: metrics, containerPort: 15020 }
      - { name: ready, containerPort: 15021 }
    # No liveness probe: a slow proxy is never better killed, since its connections would go with it.
    readinessProbe:
      httpGet: { path: /healthz/ready, port: ready }
      periodSeconds: 5
    resources: {{- toYaml .Values.node.proxy.resources | nindent 6 }}
    securityContext: {{- include "weft.unprivileged" . | nindent 6 }}
    volumeMounts:
      - { name: config, mountPath: /etc/weft, readOnly: true }
      - { name: trust, mountPath: /var/run/weft/trust, readOnly: true }
      - { name: token, mountPath: /var/run/weft/token, readOnly: true }
      - { name: zds, mountPath: /run/weft }
      - { name: state, mountPath: /var/lib/weft }
      - { name: tmp, mountPath: /tmp }
volumes:
  - name: config
    configMap: { name: weft-proxy }
  # Made by the control plane; until then the pod waits.
  - name: trust
    configMap: { name: weft-trust-bundle }
  - name: token
    projected:
      sources:
        - serviceAccountToken:
            path: weft-token
            audience: weft-ca
            expirationSeconds: 3600
  - name: zds
    emptyDir: { medium: Memory }
  # What a proxy knows outlives its process and a reboot, so that it serves without the control plane. It
  # does not outlive its pod: the next one is ready before this one goes.
  - name: state
    emptyDir: {}
  # Heap profiles are written there before they are served.
  - name: tmp
    emptyDir: {}
  - name: cni-socket
    hostPath: { path: /run/weft-cni, type: DirectoryOrCreate }
  {{- include "weft.node.folders" . | nindent 2 }}
  - name: cgroup
    hostPath: { path: /sys/fs/cgroup }
{{- end -}}

{{- /* Takes the mesh off the node, and then only stays: a DaemonSet's pods must not end. */ -}}
{{- define "weft.node.remove" -}}
initContainers:
  - name: weft-redirect
    image: {{ include "weft.image" (dict "name" "weft-node" "root" .) }}
    imagePullPolicy: {{ .Values.image.pullPolicy }}
    args: [cleanup, --cni-conf-dir=/host/cni/conf, --cni-bin-dir=/host/cni/bin]
    env:
      - name: WEFT_LOG
        value: {{ .Values.node.logLevel | quote }}
    resources: {{- toYaml .Values.node.agent.resources | nindent 6 }}
    securityContext: {{- include "weft.privileged" . | nindent 6 }}
    volumeMounts:
      - { name: cni-conf, mountPath: /host/cni/conf }
      - { name: cni-bin, mountPath: /host/cni/bin }
      - { name: bpffs, mountPath: /sys/fs/bpf }
containers:
  - name: removed
    image: {{ include "weft.image" (dict "name" "weft-node" "root" .) }}
    imagePullPolicy: {{ .Values.image.pullPolicy }}
    args: [cleanup, --stay]
    resources: {{- toYaml .Values.node.agent.resources | nindent 6 }}
    securityContext: {{- include "weft.unprivileged" . | nindent 6 }}
volumes: {{- include "weft.node.folders" . | nindent 2 }}
{{- end -}}

{{- /* What the agent leaves on the node is in these. */ -}}
{{- define "weft.node.folders" -}}
- name: cni-conf
  hostPath: { path: {{ .Values.cni.confDir }}, type: DirectoryOrCreate }
- name: cni-bin
  hostPath: { path: {{ .Values.cni.binDir }}, type: DirectoryOrCreate }
- name: bpffs
  hostPath: { path: /sys/fs/bpf }
{{- end -}}

{{- define "weft.privileged" -}}
# Only then is /proc/sys of a pod's namespace writable, and bpf() allowed.
privileged: true
readOnlyRootFilesystem: true
runAsUser: 0
{{- end -}}
