# syntax=docker/dockerfile:1
# AgriFM on a CPU. Build and run:
#   docker build --tag agrifm --build-arg TORCH_INDEX=ADDRESS .
#   docker run --rm --user "$(id -u):$(id -g)" --volume "$PWD:/data" agrifm map model.safetensors images map.tif
FROM python:3.13-slim AS build
WORKDIR /source
COPY pyproject.toml MANIFEST.in README.md LICENSE ./
COPY src src
RUN python -m pip wheel --no-cache-dir --no-deps --wheel-dir /wheels .

FROM python:3.13-slim
# Address of the index of PyTorch's builds for CPUs, which pytorch.org names under "Get started". Without it, the image
# holds several gigabytes of CUDA that it does not use.
ARG TORCH_INDEX
# The wheels of rasterio hold GDAL, but not libexpat.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends libexpat1 \
    && rm -rf /var/lib/apt/lists/*
RUN --mount=type=bind,source=constraints.txt,target=/constraints.txt \
    python -m pip install --no-cache-dir --constraint /constraints.txt ${TORCH_INDEX:+--index-url "$TORCH_INDEX"} torch
RUN --mount=type=bind,source=constraints.txt,target=/constraints.txt \
    --mount=type=bind,from=build,source=/wheels,target=/wheels \
    python -m pip install --no-cache-dir --constraint /constraints.txt /wheels/*.whl
RUN useradd --create-home --uid 1000 agrifm
USER agrifm
# A user without a home, as --user makes one, still has a place for caches.
ENV MPLCONFIGDIR=/tmp/matplotlib
WORKDIR /data
ENTRYPOINT ["agrifm"]
CMD ["--help"]
