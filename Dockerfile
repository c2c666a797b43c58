# The node, all roles in one container: docker build -t fracture-node .
# torch comes with CUDA from the default index. For CPU wheels, which are a tenth of the
# size, name an index that has them:
#   docker build --build-arg TORCH_INDEX=… -t fracture-node .
# The page listens on every address of the container, and so asks for a token, of 20
# characters or more:
#   docker run -e FRACTURE_NODE_TOKEN="$(openssl rand -base64 32)" -p 8000:8000 …
# Settings of your own, mounted over /etc/fracture-node/node.toml, say who else may come.
FROM python:3.11-slim AS build
ARG TORCH_INDEX=""
WORKDIR /build
RUN python -m venv /opt/fracture-node
ENV PATH=/opt/fracture-node/bin:$PATH PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
# First what changes seldom, so that a new release of ours does not fetch torch again.
RUN pip install ${TORCH_INDEX:+--index-url "$TORCH_INDEX"} "torch>=2.9" "torchvision>=0.24"
COPY pyproject.toml README.md LICENSE ./
COPY api api
COPY config config
COPY dicom_node dicom_node
COPY inference inference
COPY models models
RUN pip install .

FROM python:3.11-slim
RUN useradd --system --uid 10001 --home-dir /data --create-home fracture
COPY --from=build /opt/fracture-node /opt/fracture-node
COPY --from=build /build/config/container.toml /etc/fracture-node/node.toml
ENV PATH=/opt/fracture-node/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 \
    FRACTURE_NODE__STORAGE__DIRECTORY=/data FRACTURE_NODE__API__HOST=0.0.0.0
USER fracture
WORKDIR /data
VOLUME /data
EXPOSE 11112 8000
# Draining takes up to 40 s: docker stop --time 60.
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=30s --timeout=5s --start-period=60s --retries=3 CMD \
    ["python", "-c", "import urllib.request as r; r.build_opener(r.ProxyHandler({})).open('http://127.0.0.1:8000/readyz', timeout=4)"]
ENTRYPOINT ["fracture-node"]
CMD ["serve", "--config", "/etc/fracture-node/node.toml"]
