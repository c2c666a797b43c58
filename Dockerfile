# The node, all roles in one container: docker build -t fracture-node .
# The default index has torch with CUDA. CPU wheels have a tenth of the size. To use them,
# set an index that has them:
#   docker build --build-arg TORCH_INDEX=… -t fracture-node .
# The page listens on every address of the container and therefore requires a token of at
# least 20 characters:
#   docker run -e FRACTURE_NODE_TOKEN="$(openssl rand -base64 32)" -p 8000:8000 …
# Times in results are in UTC, unless the image states Timezone Offset From UTC or you name
# the time zone of the modalities: docker run -e TZ=Asia/Riyadh …
# To add users, mount your own settings over /etc/fracture-node/node.toml. Other commands
# need this file, too:
#   docker exec CONTAINER fracture-node status --config /etc/fracture-node/node.toml
FROM python:3.11-slim AS build
ARG TORCH_INDEX=""
WORKDIR /build
RUN python -m venv /opt/fracture-node
ENV PATH=/opt/fracture-node/bin:$PATH PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
# Install torch first, so that a new release of the node does not download it again.
RUN pip install ${TORCH_INDEX:+--index-url "$TORCH_INDEX"} "torch>=2.9" "torchvision>=0.24"
COPY pyproject.toml README.md LICENSE ./
COPY api api
COPY config config
COPY dicom_node dicom_node
COPY inference inference
COPY models models
RUN pip install .

FROM python:3.11-slim
# The C library reads an unknown time zone as UTC, so the base image must have them.
RUN test -f /usr/share/zoneinfo/Asia/Riyadh
RUN useradd --system --uid 10001 --home-dir /data --create-home fracture
COPY --from=build /opt/fracture-node /opt/fracture-node
COPY --from=build /build/config/container.toml /etc/fracture-node/node.toml
ENV PATH=/opt/fracture-node/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 \
    FRACTURE_NODE__STORAGE__DIRECTORY=/data FRACTURE_NODE__API__HOST=0.0.0.0
USER fracture
WORKDIR /data
VOLUME /data
EXPOSE 11112 8000
# The node needs up to 40 s to finish its work: docker stop --time 60.
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=30s --timeout=5s --start-period=60s --retries=3 CMD \
    ["python", "-c", "import urllib.request as r; r.build_opener(r.ProxyHandler({})).open('http://127.0.0.1:8000/readyz', timeout=4)"]
ENTRYPOINT ["fracture-node"]
CMD ["serve", "--config", "/etc/fracture-node/node.toml"]
