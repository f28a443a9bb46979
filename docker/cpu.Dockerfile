# Matching on a CPU: docker build -f docker/cpu.Dockerfile -t bot .
#   docker run --rm bot                                   what it finds, as `bot env`
#   docker run --rm -v "$PWD:/data" bot match query.jpg crops
FROM python:3.12-slim
WORKDIR /src
COPY . .
# EXTRAS="cpu,demo" adds the live demo; see docs/deploy.md.
ARG EXTRAS=cpu
RUN pip install --no-cache-dir ".[${EXTRAS}]" && rm -rf /src/*
# The build fails if no model runs.
RUN bot env --device cpu
# Not root, and a number, which Kubernetes can check. Its home holds its cache.
RUN useradd --create-home --uid 10001 bot && install --directory --owner=bot /data
USER 10001
WORKDIR /data
ENTRYPOINT ["bot"]
CMD ["env"]
