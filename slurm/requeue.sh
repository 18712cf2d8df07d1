#!/usr/bin/env bash
# bash slurm/requeue.sh CODE: at the end of a job, queues it again if its command ended with 85: told to stop, and saved.
(($1 == 85)) || exit 0
# A job that is cancelled saves too, and must not come back; one that Slurm requeues does so by itself.
if [[ $(squeue -h -j "$SLURM_JOB_ID" -o %T) == RUNNING ]] && scontrol requeue "$SLURM_JOB_ID"; then
    echo "job $SLURM_JOB_ID: saved, and queued again to go on"
else
    echo "job $SLURM_JOB_ID: saved; unless Slurm itself queues it again, submit the same command to go on"
fi
