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
# Not root, in a folder where its cache and its results can be written.
RUN useradd --create-home bot
USER bot
WORKDIR /data
ENTRYPOINT ["bot"]
CMD ["env"]
