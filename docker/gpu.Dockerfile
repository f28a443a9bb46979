# Matching on an NVIDIA GPU: docker build -f docker/gpu.Dockerfile -t bot-gpu .
#   docker run --rm --gpus all bot-gpu env --device cuda  fails if no model runs on the GPU
#   docker run --rm --gpus all -v "$PWD:/data" bot-gpu match query.jpg crops
# The machine needs NVIDIA's driver (580 or newer for CUDA 13) and its Container Toolkit.
FROM nvidia/cuda:13.0.1-cudnn-runtime-ubuntu24.04
RUN apt-get update && apt-get install -y --no-install-recommends python3 python3-venv && rm -rf /var/lib/apt/lists/*
RUN python3 -m venv /opt/bot
ENV PATH=/opt/bot/bin:$PATH
WORKDIR /src
COPY . .
# EXTRAS="gpu,tensorrt" adds TensorRT, from NVIDIA's index; see docs/tensorrt.md.
ARG EXTRAS=gpu
RUN pip install --no-cache-dir ".[${EXTRAS}]" && rm -rf /src/*
# A build sees no GPU: this shows that the runtimes load. The check of the GPU is in each container.
RUN bot env
HEALTHCHECK --interval=5m --timeout=60s CMD ["bot", "env", "--device", "cuda"]
# Not root, and a number, which Kubernetes can check. Its home holds its cache.
RUN useradd --create-home --uid 10001 bot && install --directory --owner=bot /data
USER 10001
WORKDIR /data
ENTRYPOINT ["bot"]
CMD ["env", "--device", "cuda"]
