#!/usr/bin/env bash
# The whole experiment: fine-tune and evaluate, analyse, draw. Sets up what is missing first.
set -euo pipefail

usage() {
    cat <<'USAGE'
usage: ./run_experiment.sh [--preset demo|small|medium|full] [--resume] [--output-dir DIR] [--processes N]
       [any option of gpt2_summarization.py]

  ./run_experiment.sh                        the embedded default: minutes on two CPU cores, no network
  ./run_experiment.sh --preset full          GPT-2 (124M) on all of CNN/DailyMail: a GPU and hours
  ./run_experiment.sh --resume               continue an interrupted run (give the same options)
  ./run_experiment.sh --output-dir runs/two  keep a second experiment apart
  ./run_experiment.sh --control shuffled-pairs --seeds 2
                                             also train a control and a second seed to compare with
  ./run_experiment.sh --preset full --processes 8
                                             one process a GPU; N must divide the articles of an optimiser step, or
                                             where you give it, --accumulation

All options:  python gpt2_summarization.py --help
USAGE
}

here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
output=() options=() processes=
while [ $# -gt 0 ]; do
    case "$1" in
        -h | --help) usage; exit 0 ;;
        --processes=*) processes="${1#*=}"; shift; continue ;;
        --processes) processes="${2:-}"; shift; shift || true; continue ;;
        --output-dir=*) output=("$1") ;;
        --output-dir) output=(--output-dir "${2:-}") ;;
    esac
    options+=("$1")
    shift
done

# Threads that spin while they wait take the cores from each other on a busy machine.
export OMP_WAIT_POLICY="${OMP_WAIT_POLICY:-PASSIVE}"

python="$("$here/setup_environment.sh" --print-python)"
started=$SECONDS
if [ -n "$processes" ]; then
    PYTHONPATH="$here" "$python" -m summlens.core.launch "$processes" "$here/gpt2_summarization.py" ${options[@]+"${options[@]}"}
else
    "$python" "$here/gpt2_summarization.py" ${options[@]+"${options[@]}"}
fi
"$python" "$here/analyze_latent_space.py" ${output[@]+"${output[@]}"}
"$python" "$here/visualize_metrics.py" ${output[@]+"${output[@]}"}
echo "finished in $(((SECONDS - started) / 60)) min $(((SECONDS - started) % 60)) s"
