#!/bin/bash
# Pre-train on the GPUs of one machine or of several, under Slurm:
#
#     sbatch docs/pretraining/slurm.sh retina --data cem500k --precision bf16
#     sbatch --nodes=2 docs/pretraining/slurm.sh mocov2 --data cem500k --precision bf16
#
# What follows the script's name is given to `embench pretrain`. The batch is that of all GPUs together: their number has
# to divide it. When the time is up the state is saved and the job put back into the queue, where it goes on; so it does
# after pre-emption. The folder of the data (EMBENCH_DATA) has to be one that all machines share.
# PROCESSES=2 in the environment starts so many processes on each machine in place of one for each GPU.
#
#SBATCH --job-name=embench-pretrain
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=64
#SBATCH --time=24:00:00
#SBATCH --signal=B:USR1@180
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=embench-pretrain-%j.log

set -u

first=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
port=$((20000 + SLURM_JOB_ID % 10000))

time_is_up=
trap 'time_is_up=yes; scancel --signal=TERM "$SLURM_JOB_ID"' USR1 # to the processes, which save and stop

srun torchrun --nnodes="$SLURM_NNODES" --nproc-per-node="${PROCESSES:-gpu}" --rdzv-id="$SLURM_JOB_ID" \
    --rdzv-backend=c10d --rdzv-endpoint="$first:$port" -m embench pretrain "$@" &
step=$!
wait "$step"
status=$?
while kill -0 "$step" 2>/dev/null; do # the signal ended the wait, not the step
    wait "$step"
    status=$?
done

if [ -n "$time_is_up" ] && [ "$status" -ne 0 ]; then
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$status"
