# syntax=docker/dockerfile:1
#
#   docker build --build-arg UID=$(id -u) -t mvp-align .
#   docker run --gpus all --shm-size 8g -v "$PWD/outputs:/app/outputs" -v "$HOME/.cache/huggingface:/hf" \
#       mvp-align train.py experiment=divervalue_llama2_7b
#
# compose.yaml says the same once and for all; apptainer.def is the same image for clusters.
#
# Built and run so far on Debian's base alone (--build-arg BASE=...), with torch's CPU wheel: not yet on NVIDIA's, nor with a
# GPU.
#
# Base: torch's Linux wheels bring their own CUDA 13.0 libraries, so the image needs none but must ask for the driver they
# need; this one refuses a driver older than CUDA 13 with a plain message (for older drivers change both the base and the
# torch wheel). Ubuntu 24.04 is the newest that the image comes with, and has Python 3.12.
ARG BASE=nvidia/cuda:13.0.1-base-ubuntu24.04@sha256:f8ef28f579ea42a44b415d2c5d46f788e6a9b395c6c83f2929416e1fc192c143
FROM ${BASE}

# gcc and Python's headers: Triton compiles a small launcher the first time that a kernel runs.
# No versions: Ubuntu removes each one from its archive when it has a newer, and a pinned build fails that day.
# hadolint ignore=DL3008
RUN --mount=type=cache,target=/var/cache/apt,sharing=locked \
    --mount=type=cache,target=/var/lib/apt,sharing=locked \
    rm -f /etc/apt/apt.conf.d/docker-clean \
    && apt-get update \
    && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends \
        gcc libc6-dev python3-dev python3-venv

# Nothing is reported home.
ENV HF_HUB_DISABLE_TELEMETRY=1 \
    DO_NOT_TRACK=1 \
    WANDB_ERROR_REPORTING=false \
    PYTHONUNBUFFERED=1 \
    HF_HOME=/hf \
    MVP_ALIGN_CACHE=/cache \
    PATH=/opt/venv/bin:$PATH

# The heavy layer: rebuilt only when the dependencies change.
WORKDIR /app
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY mvp_align/__init__.py mvp_align/
RUN --mount=type=cache,target=/root/.cache/pip \
    python3 -m venv /opt/venv && pip install -c constraints.txt -e .

# Editable, because train.py and conf/ belong to the working tree: there is one copy of the code, the one below.
COPY mvp_align mvp_align
COPY recipes recipes
COPY conf conf
COPY train.py evaluate.py ./

# Not root, and with your own user id, so that what a run writes into a mounted folder is yours.
# (--non-unique, and HOME said: the base image has a user 1000 already.)
ARG UID=1000
RUN useradd --non-unique --create-home --uid $UID mvp && install -d -o mvp -g mvp outputs /hf /cache
ENV HOME=/home/mvp
USER $UID

# Once an hour: it takes seconds of CPU and half a GB of each GPU, which a run that fills them has not got to give.
HEALTHCHECK --interval=1h --timeout=2m --retries=1 CMD ["mvp-align", "doctor", "--offline"]

ENTRYPOINT ["accelerate", "launch"]
CMD ["train.py", "--help"]
