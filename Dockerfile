# One image for all services. Each service is a command; compose.yaml and deploy/kubernetes show them.
# The digest is the one that Docker's official images record for this tag on 25 August 2026.
ARG BASE=docker.io/library/python:3.11-slim-bookworm@sha256:0bee7276f83efd4a1ee05bbbf4281d95ed28e079220a9457f25a93e3f1e3c31b

FROM ${BASE} AS build
ARG EXTRAS=demo,kafka,objects,postgres,kubernetes,dask
WORKDIR /build
# hadolint ignore=DL3008
RUN apt-get update && apt-get install --yes --no-install-recommends binutils && rm -rf /var/lib/apt/lists/*
COPY pyproject.toml requirements.lock deploy/image/install.py ./
RUN python3 -m venv /opt/pip && python3 -m venv --without-pip /opt/retrain \
 && /opt/pip/bin/python install.py /opt/retrain/bin/python "${EXTRAS}"
COPY README.md LICENSE deploy/image/slim.sh ./
COPY retrain_assets retrain_assets
RUN /opt/pip/bin/pip --python /opt/retrain/bin/python install --no-deps --no-build-isolation --no-cache-dir . \
 && sh slim.sh /opt/retrain

FROM ${BASE}
ARG REVISION=unknown
LABEL org.opencontainers.image.title="retrain-assets" \
      org.opencontainers.image.description="Keeps tabular models fresh: retraining, evaluation and promotion as Dagster assets." \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.revision="${REVISION}"
# LightGBM takes this library from the system. Debian 12 keeps one version.
# hadolint ignore=DL3008
RUN apt-get update && apt-get install --yes --no-install-recommends libgomp1 && rm -rf /var/lib/apt/lists/*
COPY --from=build /opt/retrain /opt/retrain
COPY workspace.yaml dagster.yaml deploy/image/services.yaml /project/
RUN mkdir /project/data && chown 10001:10001 /project/data
# HOME and matplotlib's cache lie in /tmp, since everything else but the volume is read-only.
ENV PATH=/opt/retrain/bin:$PATH PYTHONUNBUFFERED=1 DAGSTER_HOME=/project HOME=/tmp \
    MPLCONFIGDIR=/tmp/matplotlib OMP_WAIT_POLICY=PASSIVE GIT_PYTHON_REFRESH=quiet \
    HEALTH_URL=http://127.0.0.1:8000/health
WORKDIR /project
USER 10001:10001
VOLUME ["/project/data"]
HEALTHCHECK --start-period=60s --interval=30s --timeout=5s \
  CMD ["python", "-c", "import os, urllib.request; urllib.request.urlopen(os.environ['HEALTH_URL'], timeout=4)"]
CMD ["retrain", "serve", "--host", "0.0.0.0"]
