#!/usr/bin/env bash
# One process of a job, started by srun in launch.sh: set torch's rank variables, then run the
# command.
if ((SLURM_NTASKS > 1)); then
    export RANK=$SLURM_PROCID WORLD_SIZE=$SLURM_NTASKS
    export LOCAL_RANK=$SLURM_LOCALID LOCAL_WORLD_SIZE=$SLURM_NTASKS_PER_NODE
fi

{ # a block, for the same reason as in launch.sh
    trap : USR1 TERM # this shell gets them too: wait for the command, which saves and exits
    "$@"
    code=$?
    # Other processes would wait for this one until torch's timeout. srun's --kill-on-bad-exit is no
    # help: when processes save and exit with 85, it would kill those slightly behind the first, and
    # exit with 137.
    if ((SLURM_NTASKS > 1 && code != 0 && code != 85)); then
        echo "Process $SLURM_PROCID on $SLURMD_NODENAME ended with code $code," \
            "so the whole step ends." >&2
        scancel --signal=KILL "$SLURM_JOB_ID.$SLURM_STEP_ID"
    fi
    exit "$code"
}
