# syntax=docker/dockerfile:1
#
#   docker build --build-arg UID=$(id -u) -t mvp-align .
#   docker run --gpus all --shm-size 8g -v "$PWD/outputs:/app/outputs" \
#       -v "$HOME/.cache/huggingface:/hf" mvp-align train.py experiment=divervalue_llama2_7b
#
# compose.yaml holds these options; apptainer.def is the same image for clusters.
#
# So far built and run only on Debian's base (--build-arg BASE=...) with torch's CPU wheel, not on
# NVIDIA's base or with a GPU.
#
# Base: torch's Linux wheels bring their own CUDA 13.0 libraries, so the image needs none. But it
# must require the driver that they need: this base refuses a driver older than CUDA 13 with a clear
# message (for older drivers, change both the base and the torch wheel). Ubuntu 24.04 is the newest
# base that NVIDIA offers, and has Python 3.12.
ARG BASE=nvidia/cuda:13.0.1-base-ubuntu24.04@sha256:f8ef28f579ea42a44b415d2c5d46f788e6a9b395c6c83f2929416e1fc192c143
FROM ${BASE}

# gcc and Python's headers: Triton compiles a small launcher when a kernel first runs.
# Versions are not pinned, because Ubuntu removes each from its archive when a newer one appears.
# hadolint ignore=DL3008
RUN --mount=type=cache,target=/var/cache/apt,sharing=locked \
    --mount=type=cache,target=/var/lib/apt,sharing=locked \
    rm -f /etc/apt/apt.conf.d/docker-clean \
    && apt-get update \
    && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends \
        gcc libc6-dev python3-dev python3-venv

# No telemetry.
ENV HF_HUB_DISABLE_TELEMETRY=1 \
    DO_NOT_TRACK=1 \
    WANDB_ERROR_REPORTING=false \
    PYTHONUNBUFFERED=1 \
    HF_HOME=/hf \
    MVP_ALIGN_CACHE=/cache \
    PATH=/opt/venv/bin:$PATH

# The large layer, rebuilt only when dependencies change.
WORKDIR /app
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY mvp_align/__init__.py mvp_align/
RUN --mount=type=cache,target=/root/.cache/pip \
    python3 -m venv /opt/venv && pip install -c constraints.txt -e .

# The install above is editable, since train.py and conf/ belong to the working tree. So the code
# copied here is the only copy.
COPY mvp_align mvp_align
COPY recipes recipes
COPY conf conf
COPY train.py evaluate.py ./

# Run as your own user id, not as root, so that you own what a run writes to a mounted folder.
# (--non-unique and HOME: the base image already has a user 1000.)
ARG UID=1000
RUN useradd --non-unique --create-home --uid $UID mvp && install -d -o mvp -g mvp outputs /hf /cache
ENV HOME=/home/mvp
USER $UID

# Once an hour, because it takes seconds of CPU time and half a GB of each GPU's memory.
HEALTHCHECK --interval=1h --timeout=2m --retries=1 CMD ["mvp-align", "doctor", "--offline"]

ENTRYPOINT ["accelerate", "launch"]
CMD ["train.py", "--help"]
