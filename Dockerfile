# The worker's image: what locks/worker.txt names, and nothing else; not root; data in /data.
FROM python:3.11-slim AS build
WORKDIR /build
RUN python -m venv /venv
COPY locks/worker.txt locks/
RUN /venv/bin/pip install --no-cache-dir --require-hashes -r locks/worker.txt
COPY pyproject.toml README.md LICENSE ./
COPY app app
COPY tables tables
COPY tools tools
RUN /venv/bin/pip install --no-cache-dir --no-deps --no-build-isolation .

FROM python:3.11-slim
RUN useradd --uid 10001 --no-create-home registry && install -d -m 700 -o registry /data
COPY --from=build /venv /venv
# By number: Kubernetes cannot tell by a name that it is not root.
USER 10001
ENV PATH=/venv/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 DATA_DIR=/data LOG_FORMAT=json
VOLUME /data
EXPOSE 6066
HEALTHCHECK --interval=5s --timeout=3s --start-period=60s --retries=3 \
    CMD ["python", "-m", "app.health"]
CMD ["python", "-m", "app", "worker"]
