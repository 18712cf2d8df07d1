#!/usr/bin/env bash
# Called by every script in this folder:  exec bash slurm/launch.sh train.py OVERRIDES...
# or, for a module:                       exec bash slurm/launch.sh -m mvp_align.cli judge RUN...
#
# In a Slurm job every process is a task of srun, so that it gets Slurm's signals and Slurm gets its
# exit code (`accelerate launch` in between would die of the signal, and exit with 1 in any case).
# Outside Slurm, this machine's GPUs are used.
#
# To change the defaults, export before submitting:
#   MVP_ALIGN_VENV=.venv               folder of the virtual environment, or
#   MVP_ALIGN_CONDA=NAME               conda environment, or
#   MVP_ALIGN_CONTAINER=IMAGE.sif      image built from apptainer.def, to run with apptainer, or
#                                      with singularity if apptainer is missing
#   MVP_ALIGN_MODULES="gcc cuda/13"    modules to load first
#   MVP_ALIGN_PROCESSES=N              processes per node; by default one per GPU, or one without
# Processes inherit all other exported variables, such as HF_HUB_OFFLINE=1 and WANDB_MODE=offline.
set -euo pipefail

stop() {
    echo "$*" >&2
    exit 2
}

[[ $1 == -m || -f $1 ]] || stop "No $1 in $PWD: submit from the repository's root."

# Environment
inside=()
set +u # scripts of modules and conda read unset variables
if [[ -n $MVP_ALIGN_MODULES ]]; then
    # shellcheck source=/dev/null
    declare -F module >/dev/null || source /etc/profile
    # shellcheck disable=SC2086 # each word is a module
    module load $MVP_ALIGN_MODULES
fi
if [[ -n $MVP_ALIGN_CONTAINER ]]; then
    type apptainer &>/dev/null && runtime=apptainer || runtime=singularity
    type "$runtime" &>/dev/null ||
        stop "Neither apptainer nor singularity is here: name its module in MVP_ALIGN_MODULES."
    inside=("$runtime" exec --nv --bind "$PWD" --pwd "$PWD" "$MVP_ALIGN_CONTAINER")
elif [[ -n $MVP_ALIGN_CONDA ]]; then
    eval "$("${CONDA_EXE:-conda}" shell.bash hook)"
    conda activate "$MVP_ALIGN_CONDA"
else
    venv=${MVP_ALIGN_VENV:-.venv}
    [[ -f $venv/bin/activate ]] ||
        stop "No virtual environment at $venv: run 'make setup', or set MVP_ALIGN_VENV."
    # shellcheck source=/dev/null
    source "$venv/bin/activate"
fi
set -u

# Processes
if [[ -n ${SLURM_JOB_ID:-} ]]; then
    nodes=$SLURM_JOB_NUM_NODES
    gpus=${SLURM_GPUS_ON_NODE:-0} # unset in a job without GPUs
    cpus=$SLURM_CPUS_ON_NODE
else
    nodes=1
    gpus=$({ nvidia-smi --list-gpus 2>/dev/null || true; } | grep -c '^GPU' || true)
    cpus=$(nproc)
fi
processes=${MVP_ALIGN_PROCESSES:-$((gpus > 0 ? gpus : 1))}
cpus=$((cpus > processes ? cpus / processes : 1))
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$cpus}

commit=$(git rev-parse --short HEAD 2>/dev/null || echo unknown)
echo "job ${SLURM_JOB_ID:-none}, start $((${SLURM_RESTART_COUNT:-0} + 1));" \
    "nodes: ${SLURM_JOB_NODELIST:-$(hostname)};" \
    "on each $gpus GPUs, $processes processes, $cpus CPUs a process; commit $commit"
if ((gpus > 0)) && type nvidia-smi &>/dev/null; then
    nvidia-smi --query-gpu=index,name,memory.total,driver_version --format=csv,noheader
fi

# Outside Slurm
if [[ -z ${SLURM_JOB_ID:-} ]]; then
    ((processes > 1)) || exec "${inside[@]}" python "$@"
    exec "${inside[@]}" torchrun --standalone --nproc-per-node "$processes" "$@"
fi

# In a Slurm job
# Each update of a progress bar is a line in the log, so update it every 10 seconds only
export PYTHONUNBUFFERED=1 TQDM_MININTERVAL=10
MASTER_ADDR=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
# Depends on the job, because another job on this node may use torch's default port
MASTER_PORT=$((10000 + SLURM_JOB_ID % 20000))
export MASTER_ADDR MASTER_PORT
if [[ -z ${SLURM_JOB_END_TIME:-} ]]; then # before Slurm 23.02
    SLURM_JOB_END_TIME=$(date -d "$(squeue -h -j "$SLURM_JOB_ID" -o %e)" +%s 2>/dev/null) &&
        export SLURM_JOB_END_TIME
fi

{ # bash reads all of a block before it runs it, so this file may be edited while the job runs
    trap : USR1 TERM # if Slurm signals the whole job: wait for the processes, which handle them
    code=0
    srun --nodes="$nodes" --ntasks=$((nodes * processes)) --ntasks-per-node="$processes" \
        --cpus-per-task="$cpus" --gpu-bind=none --kill-on-bad-exit=0 --export=ALL \
        bash slurm/task.sh "${inside[@]}" python "$@" || code=$?
    bash slurm/requeue.sh "$code"
    exit "$code"
}
