#!/usr/bin/env bash
#SBATCH --job-name=clip-embed
#SBATCH --array=1-16
#SBATCH --cpus-per-task=8
#SBATCH --time=04:00:00
#SBATCH --requeue
#SBATCH --signal=B:TERM@60
# Embeds a folder as a Slurm array, one shard a task, then merges them in a job that waits for all:
#
#   job=$(sbatch --parsable examples/cluster/slurm.sh FOLDER OUTPUT)
#   sbatch --dependency=afterok:$job --cpus-per-task=1 --wrap 'clip-cli merge STEM-*-of-00016.npy --output OUTPUT'
#
# A task that is preempted or runs out of time keeps what it did and is queued again; --resume goes on from there.
set -euo pipefail
folder=$1 output=$2
index=$SLURM_ARRAY_TASK_ID count=${SLURM_ARRAY_TASK_COUNT:-16}
name=$(printf '%s-%05d-of-%05d.%s' "${output%.*}" "$index" "$count" "${output##*.}")
[ -e "$name" ] && exit 0

# In the background, so that the signal before the end of the time reaches this script.
clip-cli embed "$folder" --shard "$index/$count" --output "$output" --resume \
    --threads "${SLURM_CPUS_PER_TASK:-1}" ${CLIP_CLI_ARGS:-} &
trap 'kill -TERM $! 2> /dev/null || true' TERM
code=0
wait $! || code=$?
if [ "$code" -gt 128 ]; then # The signal came: wait for the job itself.
    code=0
    wait $! || code=$?
fi
case $code in
    0 | 1) exit 0 ;; # 1: some items failed; they are in the output.
    130) scontrol requeue "$SLURM_ARRAY_JOB_ID"_"$index" ;;
    *) exit "$code" ;;
esac
