#!/usr/bin/env bash
# What `make bench` runs: pith over depth, side by side with llama.cpp if `make peers` installed it, and
# the attention kernels against the memory speed of the machine. About six minutes on two cores.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
python=python3
[ ! -x .venv/bin/python ] || python=.venv/bin/python

scripts/build.sh release bench/all
"$python" bench/suite.py quick --fresh
