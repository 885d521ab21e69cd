#!/usr/bin/env bash
# Makes the Python environment that this project runs in. Running it twice is quick; stopping it half-way does no harm:
# the stamp that says "complete" is written last.
set -euo pipefail

usage() {
    cat <<'USAGE'
usage: ./setup_environment.sh [--conda] [--dev] [--print-python]

  (no option)      make or update the virtual environment .venv; where a virtual or conda environment is active, or
                   PYTHON=... names an interpreter, the packages are installed there and no .venv is made
  --conda          make or update the conda environment gpt2_finetune instead
  --dev            also install what the tests and the linter need
  --print-python   print the interpreter on standard output, installing only what is missing from .venv; an
                   environment of your own is checked and left as it is
USAGE
}

here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
torch_version=2.13.0
torch_index=https://download.pytorch.org/whl
use_conda=no dev=no print_python=no
for argument in "$@"; do
    case "$argument" in
        --conda) use_conda=yes ;;
        --dev) dev=yes ;;
        --print-python) print_python=yes ;;
        -h | --help) usage; exit 0 ;;
        *) echo "error: unknown option $argument (see --help)" >&2; exit 2 ;;
    esac
done

say() { echo "$*" >&2; }
fail() { say "error: $*"; exit 1; }
trap 'say "setup stopped; run it again and it goes on"; exit 130' INT TERM

# ---------------------------------------------------------------------------------------------- which interpreter

is_recent() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 10))' >/dev/null 2>&1; }

find_python() {
    local candidate
    for candidate in python3 python3.13 python3.12 python3.11 python3.10 python; do
        if command -v "$candidate" >/dev/null && is_recent "$candidate"; then command -v "$candidate"; return; fi
    done
    fail "Python 3.10 or newer is needed and none was found: install one, or name it with PYTHON=/path/to/python3"
}

own=yes # the environment belongs to the user, not to this project
if [ "$use_conda" = yes ]; then
    own=no
    command -v conda >/dev/null || fail "--conda was asked for and conda was not found: install Miniforge, or leave --conda out"
    conda run -n gpt2_finetune python -c '' >/dev/null 2>&1 || {
        say "making the conda environment gpt2_finetune"
        conda create --yes --quiet --name gpt2_finetune python=3.11 pip >&2
    }
    python="$(conda run -n gpt2_finetune python -c 'import sys; print(sys.executable)')"
elif [ -n "${PYTHON:-}" ]; then
    python="$(command -v "$PYTHON")" || fail "PYTHON=$PYTHON is not there"
elif [ -n "${VIRTUAL_ENV:-}" ] && [ "$VIRTUAL_ENV" != "$here/.venv" ]; then
    python="$VIRTUAL_ENV/bin/python"
elif [ -n "${CONDA_PREFIX:-}" ] && [ "${CONDA_DEFAULT_ENV:-base}" != base ]; then
    python="$CONDA_PREFIX/bin/python"
else
    own=no
    python="$here/.venv/bin/python"
    if ! is_recent "$python"; then
        creator="$(find_python)"
        say "making the virtual environment .venv with $("$creator" --version)"
        "$creator" -m venv --clear "$here/.venv" >&2 \
            || fail "the virtual environment could not be made: on Debian or Ubuntu, sudo apt install python3-venv"
    fi
fi
is_recent "$python" || fail "$python is older than Python 3.10 or does not run"

# ------------------------------------------------------------------------------------------------ what it lacks

# Requirements of this project (and of its dev extra) that the environment does not meet, one a line.
lacking() {
    "$python" - "$here" "$dev" <<'PY'
import importlib.metadata, pathlib, sys
try:
    from packaging.requirements import Requirement
except ImportError:
    from pip._vendor.packaging.requirements import Requirement
try:
    import tomllib
except ImportError:
    from pip._vendor import tomli as tomllib

root, dev = pathlib.Path(sys.argv[1]), sys.argv[2] == "yes"
wanted = [line.split("#")[0].strip() for line in (root / "requirements.txt").read_text().splitlines()]
if dev:
    wanted += tomllib.loads((root / "pyproject.toml").read_text())["project"]["optional-dependencies"]["dev"]
for requirement in map(Requirement, filter(None, wanted)):
    try:
        if requirement.specifier.contains(importlib.metadata.version(requirement.name), prereleases=True):
            continue
    except importlib.metadata.PackageNotFoundError:
        pass
    print(requirement)
PY
}

stamp="$("$python" -c 'import sys; print(sys.prefix)')/.summlens-complete"
is_complete() { # the packages are there, and the last installation was not interrupted
    [ "$own" = yes ] || { [ -f "$stamp" ] && [ ! "$here/requirements.txt" -nt "$stamp" ]; } || return 1
    [ -z "$(lacking)" ]
}

finish() {
    if [ "$print_python" = yes ]; then echo "$python"; else say "the environment is ready: $python"; fi
    exit 0
}

is_complete && finish
if [ "$own" = yes ] && [ "$print_python" = yes ]; then
    fail "your environment ($python) lacks: $(lacking | tr '\n' ' ')." \
        "Install with ./setup_environment.sh while it is active, or deactivate it to use .venv"
fi

# --------------------------------------------------------------------------------------------------- installation

install() { "$python" -m pip install --disable-pip-version-check --quiet "$@" >&2; }
sees_gpu() { "$python" -c 'import torch, sys; sys.exit(not torch.cuda.is_available())' >/dev/null 2>&1; }

install_torch() { # the CPU build is a tenth of the CUDA build: only a machine with an NVIDIA GPU gets the latter
    if command -v nvidia-smi >/dev/null && nvidia-smi >/dev/null 2>&1; then
        say "installing torch for CUDA (several GB)"
        install "torch==$torch_version" || install "torch>=2.6"
        sees_gpu && return
        say "this driver is too old for torch's default CUDA build; trying the CUDA 12.6 build"
        install --force-reinstall --index-url "$torch_index/cu126" "torch>=2.6" && sees_gpu && return
        say "warning: torch does not see the GPU; training will run on the CPU. A newer NVIDIA driver mends this"
    elif [ "$(uname -s)" = Linux ]; then
        say "installing torch for the CPU (about 200 MB; no NVIDIA GPU was found)"
        install --retries 1 --extra-index-url "$torch_index/cpu" "torch==$torch_version+cpu" 2>/dev/null && return
        install --retries 1 --index-url "$torch_index/cpu" "torch>=2.6" 2>/dev/null && return
        say "the CPU build could not be had; installing the default build (several GB)"
        install "torch>=2.6"
    else
        say "installing torch"
        install "torch>=2.6"
    fi
}

trouble="check the network and the disk, then run ./setup_environment.sh again"
# Not grep -q: it would hang up on `lacking`, and pipefail would read that as "no torch missing".
if [ -n "$(lacking | grep '^torch[^a-z]' || true)" ]; then
    install_torch || fail "torch could not be installed: $trouble"
fi
missing=()
while IFS= read -r requirement; do missing+=("$requirement"); done < <(lacking)
if [ "${#missing[@]}" -gt 0 ]; then
    say "installing ${#missing[@]} packages and what they need (a minute or two)"
    install "${missing[@]}" || fail "the packages could not be installed: $trouble"
fi

# NLTK's data sharpen two scores; the program works without them and says what it does instead.
data_dir="$("$python" -c 'import sys; print(sys.prefix)')/nltk_data"
for name in wordnet punkt_tab; do
    "$python" - "$name" "$data_dir" >/dev/null 2>&1 <<'PY' || lacks="${lacks:-}${lacks:+ and }$name"
import socket, sys
import nltk
socket.setdefaulttimeout(20)
where = {"wordnet": "corpora/wordnet.zip", "punkt_tab": "tokenizers/punkt_tab"}[sys.argv[1]]
try:
    nltk.data.find(where, paths=[sys.argv[2], *nltk.data.path])
except LookupError:
    sys.exit(not nltk.download(sys.argv[1], download_dir=sys.argv[2], quiet=True, raise_on_error=True))
PY
done
[ -z "${lacks:-}" ] || say "NLTK's data could not be fetched: $lacks. METEOR then goes without synonyms (unless WordNet" \
    "is found elsewhere on this machine) and sentences are split by the built-in splitter; reports name which was used"

touch "$stamp"
finish
