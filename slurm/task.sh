#!/usr/bin/env bash
# One process of a job, which launch.sh has srun start: tells torch which one it is, and runs the command.
if ((SLURM_NTASKS > 1)); then
    export RANK=$SLURM_PROCID WORLD_SIZE=$SLURM_NTASKS LOCAL_RANK=$SLURM_LOCALID LOCAL_WORLD_SIZE=$SLURM_NTASKS_PER_NODE
fi

{ # in braces, as in launch.sh
    trap : USR1 TERM # they reach this shell too; the command answers them by saving and leaving, and is waited for
    "$@"
    code=$?
    # The others would wait for this one until torch's timeout. srun's own --kill-on-bad-exit does not do: of processes
    # that saved, and leave with 85, it would kill those that are a moment behind the first, and end with code 137.
    if ((SLURM_NTASKS > 1 && code != 0 && code != 85)); then
        echo "Process $SLURM_PROCID on $SLURMD_NODENAME ended with code $code, so the whole step ends." >&2
        scancel --signal=KILL "$SLURM_JOB_ID.$SLURM_STEP_ID"
    fi
    exit "$code"
}
