# Images with unitgain, at the versions of constraints.txt. NOT TRIED YET: no machine that builds images was at hand when
# this was written, so neither of them has ever been built. Please report what is wrong.
#
#   docker build --target cpu -t unitgain .          # PyTorch for CPUs
#   docker build --target gpu -t unitgain:gpu .      # PyTorch with CUDA; run it with: docker run --gpus all
#   docker run --rm -v "$PWD:/work" unitgain demo    # what it writes is in ./runs/demo
FROM python:3.11-slim-bookworm AS base
# The compiler is for convolutions in C, which are compiled for the processor when they are first used.
RUN apt-get update && apt-get install -y --no-install-recommends gcc libc6-dev && rm -rf /var/lib/apt/lists/*
WORKDIR /source
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY src ./src
ENV PIP_NO_CACHE_DIR=1 UNITGAIN_CACHE=/cache
# Whoever runs it, as `docker run --user "$(id -u)"` too, may write to the caches.
RUN mkdir -p /cache /work && chmod 1777 /cache /work

FROM base AS gpu
RUN pip install -c constraints.txt '.[data,demo,kernels,latent,metrics,track]'
WORKDIR /work
ENTRYPOINT ["unitgain"]

FROM base AS cpu
RUN pip install --index-url https://download.pytorch.org/whl/cpu torch==2.13.0 \
    && pip install -c constraints.txt '.[data,demo,latent,metrics,track]'
WORKDIR /work
ENTRYPOINT ["unitgain"]
