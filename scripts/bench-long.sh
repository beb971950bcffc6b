#!/usr/bin/env bash
# What `make bench-long` runs: the suite with models of Llama-3.1-8B's shape, which it writes into
# build/models (6 GB), and plots. Three quarters of an hour on two cores with 16 GB of memory; goes on where
# it was interrupted.
#   bench-long.sh --docs    puts the result into docs/
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
if ! .venv/bin/python -c 'import matplotlib' 2>/dev/null; then
  echo "bench: installing matplotlib into .venv for the plots"
  .venv/bin/python -m pip install -q --disable-pip-version-check -r scripts/requirements-plots.txt
fi
scripts/build.sh release bench/all
bench/random_models.sh build/models
.venv/bin/python bench/suite.py long "$@"
