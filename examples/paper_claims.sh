#!/usr/bin/env bash
# Holds three claims of arXiv 2505.17073 against runs of your own: that layers 2, 3 and 5 change most when GPT-2 is
# fine-tuned to summarise, that 62 % of its heads lose attention entropy, and that LoRA on those layers beats LoRA on all
# of them with 75 % fewer parameters. Four fine-tunes with the same options, each in a folder of its own, then the verdicts.
set -euo pipefail

usage() {
    cat <<'USAGE'
usage: examples/paper_claims.sh [--output-dir DIR] [--processes N] [any option of gpt2_summarization.py]

  examples/paper_claims.sh                                   the bundled model and data, on a CPU
  examples/paper_claims.sh --preset full --processes 8       GPT-2 (124M) on CNN/DailyMail

Runs go to DIR/full, DIR/lora, DIR/lora_claimed and DIR/lora_random (default DIR: runs/paper_claims). What is finished is
used again, what was interrupted goes on: give the same command.

  LAYERS=7,8,9     test these layers instead of the paper's; a model without layer 5 is tested on the quarter of its
                   layers that changed most
  LORA_OPTIONS=    further options of the three LoRA runs, such as "--learning-rate 5e-4 --lora-rank 16": adapters
                   usually want about ten times the learning rate of a full fine-tune
USAGE
}

here="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
folder="runs/paper_claims" options=() processes=
while [ $# -gt 0 ]; do
    case "$1" in
        -h | --help) usage; exit 0 ;;
        --output-dir=*) folder="${1#*=}" ;;
        --output-dir) folder="${2:?--output-dir needs a folder}"; shift ;;
        --processes=*) processes="${1#*=}" ;;
        --processes) processes="${2:?--processes needs a number}"; shift ;;
        --trainable* | --lora | --resume) echo "error: $1 is this script's own business: leave it out" >&2; exit 1 ;;
        *) options+=("$1") ;;
    esac
    shift
done

export OMP_WAIT_POLICY="${OMP_WAIT_POLICY:-PASSIVE}" PYTHONPATH="$here${PYTHONPATH:+:$PYTHONPATH}"
python="$("$here/setup_environment.sh" --print-python)"
read -r -a lora_options <<<"${LORA_OPTIONS:-}"

run() { # NAME OPTION...
    local own=(${options[@]+"${options[@]}"} "${@:2}" --output-dir "$folder/$1")
    local finished
    finished="$("$python" -m summlens.claims finished "${own[@]}")"
    if [ "$finished" = yes ]; then
        echo "$folder/$1 is finished"
    elif [ -n "$processes" ]; then
        "$python" -m summlens.core.launch "$processes" "$here/gpt2_summarization.py" "${own[@]}" --resume
    else
        "$python" "$here/gpt2_summarization.py" "${own[@]}" --resume
    fi
}

lora() { run "$1" --lora ${lora_options[@]+"${lora_options[@]}"} "${@:2}"; }

run full
layers="${LAYERS:-$("$python" -m summlens.claims layers "$folder")}"
lora lora
lora lora_claimed --trainable "layers $layers"
lora lora_random --trainable "random like layers $layers"
"$python" -m summlens.claims verdicts "$folder"
