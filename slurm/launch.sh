#!/usr/bin/env bash
# What every script of this folder ends in:  exec bash slurm/launch.sh train.py OVERRIDES...
#
# In a Slurm job every process is a task of srun, so that Slurm's signals reach it and its exit code reaches Slurm
# (`accelerate launch` between them dies of the signal and makes 1 of every exit code). Elsewhere: this machine's GPUs.
#
# Export before submitting what the defaults do not fit:
#   MVP_ALIGN_VENV=.venv               folder of the virtual environment, or
#   MVP_ALIGN_CONDA=NAME               conda environment, or
#   MVP_ALIGN_CONTAINER=IMAGE.sif      image built from apptainer.def; runs under apptainer, or singularity where that is missing
#   MVP_ALIGN_MODULES="gcc cuda/13"    modules to load first
#   MVP_ALIGN_PROCESSES=N              processes a node; without it one a GPU, and one where there is none
# The processes get everything else that is exported, such as HF_HUB_OFFLINE=1 and WANDB_MODE=offline, as it is.
set -euo pipefail

stop() {
    echo "$*" >&2
    exit 2
}

[[ -f $1 ]] || stop "No $1 in $PWD: submit from the repository's root."

# Environment
inside=()
set +u # modules' and conda's own scripts read variables that are not set
if [[ -n $MVP_ALIGN_MODULES ]]; then
    # shellcheck source=/dev/null
    declare -F module >/dev/null || source /etc/profile
    # shellcheck disable=SC2086 # a word a module
    module load $MVP_ALIGN_MODULES
fi
if [[ -n $MVP_ALIGN_CONTAINER ]]; then
    type apptainer &>/dev/null && runtime=apptainer || runtime=singularity
    type "$runtime" &>/dev/null || stop "Neither apptainer nor singularity is here: name its module in MVP_ALIGN_MODULES."
    inside=("$runtime" exec --nv --bind "$PWD" --pwd "$PWD" "$MVP_ALIGN_CONTAINER")
elif [[ -n $MVP_ALIGN_CONDA ]]; then
    eval "$("${CONDA_EXE:-conda}" shell.bash hook)"
    conda activate "$MVP_ALIGN_CONDA"
else
    venv=${MVP_ALIGN_VENV:-.venv}
    [[ -f $venv/bin/activate ]] || stop "No virtual environment at $venv: run 'make setup', or set MVP_ALIGN_VENV."
    # shellcheck source=/dev/null
    source "$venv/bin/activate"
fi
set -u

# Processes
if [[ -n ${SLURM_JOB_ID:-} ]]; then
    nodes=$SLURM_JOB_NUM_NODES
    gpus=${SLURM_GPUS_ON_NODE:-0} # not set in a job without
    cpus=$SLURM_CPUS_ON_NODE
else
    nodes=1
    gpus=$({ nvidia-smi --list-gpus 2>/dev/null || true; } | grep -c '^GPU' || true)
    cpus=$(nproc)
fi
processes=${MVP_ALIGN_PROCESSES:-$((gpus > 0 ? gpus : 1))}
cpus=$((cpus > processes ? cpus / processes : 1))
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$cpus}

echo "job ${SLURM_JOB_ID:-none}, start $((${SLURM_RESTART_COUNT:-0} + 1)); nodes: ${SLURM_JOB_NODELIST:-$(hostname)};" \
    "on each $gpus GPUs, $processes processes, $cpus CPUs a process; commit $(git rev-parse --short HEAD 2>/dev/null || echo unknown)"
if ((gpus > 0)) && type nvidia-smi &>/dev/null; then
    nvidia-smi --query-gpu=index,name,memory.total,driver_version --format=csv,noheader
fi

# Outside Slurm
if [[ -z ${SLURM_JOB_ID:-} ]]; then
    ((processes > 1)) || exec "${inside[@]}" python "$@"
    exec "${inside[@]}" torchrun --standalone --nproc-per-node "$processes" "$@"
fi

# In a Slurm job
export PYTHONUNBUFFERED=1 TQDM_MININTERVAL=10 # seconds between two looks at a progress bar: the log has a line of each
MASTER_ADDR=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
MASTER_PORT=$((10000 + SLURM_JOB_ID % 20000)) # of the job's own: another one on this node may hold torch's default
export MASTER_ADDR MASTER_PORT
if [[ -z ${SLURM_JOB_END_TIME:-} ]]; then # before Slurm 23.02
    SLURM_JOB_END_TIME=$(date -d "$(squeue -h -j "$SLURM_JOB_ID" -o %e)" +%s 2>/dev/null) && export SLURM_JOB_END_TIME
fi

{ # in braces, so that bash has read the end before it begins: this file may be edited while the job runs
    trap : USR1 TERM # where they are sent to the whole job: the processes answer them, and are waited for
    code=0
    srun --nodes="$nodes" --ntasks=$((nodes * processes)) --ntasks-per-node="$processes" --cpus-per-task="$cpus" \
        --gpu-bind=none --kill-on-bad-exit=0 --export=ALL bash slurm/task.sh "${inside[@]}" python "$@" || code=$?
    bash slurm/requeue.sh "$code"
    exit "$code"
}
