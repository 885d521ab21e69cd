#!/usr/bin/env bash
# The whole experiment: fine-tune and evaluate, analyse, draw. Sets up what is missing first.
set -euo pipefail

usage() {
    cat <<'USAGE'
usage: ./run_experiment.sh [--preset demo|small|medium|full] [--resume] [--output-dir DIR] [any option of
       gpt2_summarization.py]

  ./run_experiment.sh                        the embedded default: minutes on two CPU cores, no network
  ./run_experiment.sh --preset full          GPT-2 (124M) on all of CNN/DailyMail: a GPU and hours
  ./run_experiment.sh --resume               continue an interrupted run (give the same options)
  ./run_experiment.sh --output-dir runs/two  keep a second experiment apart

All options:  python gpt2_summarization.py --help
USAGE
}

here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
output=()
previous=
for argument in "$@"; do
    case "$argument" in
        -h | --help) usage; exit 0 ;;
        --output-dir=*) output=("$argument") ;;
    esac
    if [ "$previous" = --output-dir ]; then output=(--output-dir "$argument"); fi
    previous="$argument"
done

python="$("$here/setup_environment.sh" --print-python)"
started=$SECONDS
"$python" "$here/gpt2_summarization.py" "$@"
"$python" "$here/analyze_latent_space.py" ${output[@]+"${output[@]}"}
"$python" "$here/visualize_metrics.py" ${output[@]+"${output[@]}"}
echo "finished in $(((SECONDS - started) / 60)) min $(((SECONDS - started) % 60)) s"
