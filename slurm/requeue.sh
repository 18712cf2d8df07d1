#!/usr/bin/env bash
# bash slurm/requeue.sh CODE: requeue this job if its command exited with 85, which means that it
# was told to stop and saved a checkpoint.
(($1 == 85)) || exit 0
# A cancelled job saves as well but must not be requeued, and Slurm requeues a preempted job itself.
if [[ $(squeue -h -j "$SLURM_JOB_ID" -o %T) == RUNNING ]] && scontrol requeue "$SLURM_JOB_ID"; then
    echo "job $SLURM_JOB_ID: saved, and queued again to go on"
else
    echo "job $SLURM_JOB_ID: saved; unless Slurm itself queues it again," \
        "submit the same command to go on"
fi
