# What stands for engines, providers and clients in tests, from the repository's root:
#   docker build -f images/simulators.Dockerfile -t spillway/simulators:0.1.0 .
# `vllm serve`, `sglang serve` and `python3 -m sglang.launch_server` start the engine simulator, as in the engines' own
# images; `python3 -m e2e.simulators.provider`, `e2e.load` and `e2e.cluster.discovery` are there too. Like the engines'
# images it runs as root unless the pod says otherwise, and works as any user.
#
# BASE and BUILD_BASE: see images/operator.Dockerfile.
ARG BASE=docker.io/library/python:3.11.15-slim-bookworm
ARG BUILD_BASE=${BASE}

FROM ${BUILD_BASE} AS packages
RUN --mount=type=bind,source=requirements/simulators.txt,target=/lock.txt \
    --mount=type=bind,source=images/install.sh,target=/install.sh \
    --mount=type=bind,source=images/shrink.py,target=/shrink.py \
    --mount=type=secret,id=ca-certificates --mount=type=secret,id=pip.conf \
    --mount=type=cache,target=/root/.cache/pip \
    sh /install.sh /lock.txt /opt/simulators \
    && echo /opt/simulators/program >"$(echo /opt/simulators/lib/python3*/site-packages)/program.pth" \
    && python3 /shrink.py /opt/simulators/lib

FROM packages AS program
WORKDIR /opt/simulators/program
COPY images/engines/lib ./
COPY e2e/__init__.py e2e/
COPY e2e/simulators e2e/simulators
COPY e2e/load e2e/load
COPY e2e/cluster e2e/cluster
COPY images/engines/bin bin
RUN --mount=type=bind,source=images/shrink.py,target=/shrink.py \
    python3 /shrink.py /opt/simulators/program && chmod 755 bin/*

FROM ${BASE}
RUN --mount=type=bind,source=images/finish.sh,target=/finish.sh sh /finish.sh
COPY --from=packages /opt/simulators /opt/simulators
COPY --from=program /opt/simulators/program /opt/simulators/program
ENV PATH=/opt/simulators/program/bin:/opt/simulators/bin:/usr/local/bin:/usr/bin:/bin \
    LANG=C.UTF-8 PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
ARG BASE VERSION=0.1.0 REVISION=""
LABEL org.opencontainers.image.title="Spillway simulators" \
      org.opencontainers.image.description="Stands for engines, providers and clients in Spillway's tests" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.source="https://github.com/spillway-dev/spillway" \
      org.opencontainers.image.base.name="${BASE}"
WORKDIR /
USER 0:0
CMD ["python3", "-m", "e2e.simulators.engine", "vllm", "serve", "--help"]
