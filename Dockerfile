# Container image of the service: no torch, compiler or pip, and an unprivileged user.

FROM python:3.13-slim AS build
# the environment needs no pip, because the base image's pip installs into it
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
RUN python -m venv --without-pip /opt/venv
COPY requirements.lock /app/
RUN --mount=type=cache,target=/root/.cache/pip \
    pip --python /opt/venv/bin/python install --quiet --require-hashes -r /app/requirements.lock
COPY . /app
# setuptools is only needed to install the project; tests in installed packages are removed
RUN --mount=type=cache,target=/root/.cache/pip \
    pip --python /opt/venv/bin/python install --quiet --no-deps --no-build-isolation -e /app \
    && pip --python /opt/venv/bin/python uninstall --quiet --yes setuptools \
    && rm -rf /app/*.egg-info /app/build \
    && find /opt/venv -type d -name tests -prune -exec rm -rf {} + \
    && rm -rf /opt/venv/lib/python*/site-packages/onnx/backend/test \
    # only plotly.min.js of plotly is used
    && find /opt/venv/lib/*/site-packages/plotly /opt/venv/share/jupyter -type f ! -name plotly.min.js -delete \
    # compiled at build time, because the root file system is read-only at run time
    && python -m compileall -q /app/service /app/models

FROM python:3.13-slim
RUN useradd --uid 10001 --user-group --no-create-home --home-dir /nonexistent weighin \
    && install -d -o weighin -g weighin -m 0750 /data
COPY --from=build /opt/venv /opt/venv
COPY --from=build /app /app
ENV PATH=/opt/venv/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 \
    WEIGHIN_HOST=0.0.0.0 WEIGHIN_PORT=8000 WEIGHIN_DATA_DIR=/data
USER weighin
WORKDIR /app
VOLUME /data
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=3s --start-period=30s --retries=3 \
    CMD ["python", "-I", "-S", "docker/healthcheck.py"]
CMD ["weighin", "serve"]
