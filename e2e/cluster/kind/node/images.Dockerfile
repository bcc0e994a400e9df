# The images that kubeadm asks for, each from one program (bin/, see node_image.py) and named like its stage.
ARG PROXY_BASE

FROM scratch AS program
ENV PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin

FROM program AS kube-apiserver
COPY bin/kube-apiserver /usr/local/bin/

FROM program AS kube-controller-manager
COPY bin/kube-controller-manager /usr/local/bin/

FROM program AS kube-scheduler
COPY bin/kube-scheduler /usr/local/bin/

FROM program AS etcd
COPY bin/etcd /usr/local/bin/

FROM program AS coredns
COPY bin/coredns /coredns
ENTRYPOINT ["/coredns"]

FROM program AS pause
COPY bin/pause /pause
ENTRYPOINT ["/pause"]

FROM ${PROXY_BASE} AS kube-proxy
COPY bin/kube-proxy /usr/local/bin/
