# Prometheus for tests on kind, from the repository's root: docker build -f images/prometheus.Dockerfile .
# Where no registry can be reached, `python -m e2e.images build` makes BASE of Debian's package.
ARG BASE=docker.io/prom/prometheus:v2.53.5

FROM ${BASE}
USER 0:0
RUN --mount=type=bind,source=images/finish.sh,target=/finish.sh sh /finish.sh
ARG BASE VERSION=0.1.0 REVISION=""
LABEL org.opencontainers.image.title="Prometheus for Spillway's tests" \
      org.opencontainers.image.description="Prometheus without a configuration of its own" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.base.name="${BASE}"
WORKDIR /
USER 65532:65532
EXPOSE 9090
ENTRYPOINT ["prometheus"]
CMD ["--help"]
