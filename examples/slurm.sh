#!/usr/bin/env bash
# The full experiment on a SLURM cluster: one process a GPU, on one node or several, resumed after a preemption.
#
#   sbatch examples/slurm.sh                        from the repository, with its environment made (setup_environment.sh)
#   sbatch examples/slurm.sh --model gpt2-medium    options of gpt2_summarization.py
#
# 120 s before the time is up, and when the job is preempted, SLURM sends SIGTERM: the processes finish their step,
# write a checkpoint and end with code 143. The job is then put back into the queue, and --resume goes on from there.
# The number of processes must divide the 16 articles of a step (or --accumulation, where you give it).
#SBATCH --job-name=summlens
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=4
#SBATCH --gpus-per-node=4
#SBATCH --cpus-per-task=8
#SBATCH --time=04:00:00
#SBATCH --signal=TERM@120
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=slurm-%j.log
set -euo pipefail

cd "${SLURM_SUBMIT_DIR:?start this with sbatch}"
python="$(./setup_environment.sh --print-python)"
output=runs/slurm-$SLURM_JOB_ID # a requeued job keeps its id

export MASTER_ADDR MASTER_PORT
MASTER_ADDR="$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)"
MASTER_PORT=$((20000 + SLURM_JOB_ID % 20000))

# srun starts every process itself and passes signals on to each; torchrun is not needed.
trap : TERM # where this shell gets the signal too, it waits for the processes and their checkpoint
code=0
srun --kill-on-bad-exit=1 bash -c '
    export RANK=$SLURM_PROCID WORLD_SIZE=$SLURM_NTASKS LOCAL_RANK=$SLURM_LOCALID
    exec "$@"' - \
    "$python" gpt2_summarization.py --preset full --output-dir "$output" --resume "$@" || code=$?

if [ "$code" -eq 143 ]; then
    scontrol requeue "$SLURM_JOB_ID"
    exit 0
fi
[ "$code" -eq 0 ] || exit "$code"
"$python" analyze_latent_space.py --output-dir "$output"
"$python" visualize_metrics.py --output-dir "$output"
