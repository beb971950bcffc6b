#!/usr/bin/env bash
# What `make bench` runs: pith at several depths and budgets, then side by side with llama.cpp if
# `make peers` installed it. DEPTHS=512,2048,8192 ROUNDS=3 THREADS=(all cores)
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
threads=${THREADS:-$(getconf _NPROCESSORS_ONLN 2>/dev/null || echo 2)}
depths=${DEPTHS:-512,2048,8192}

model=models/SmolLM2-135M-Instruct.Q4_1.gguf
build/release/bin/pith bench -m "$model" -d "$depths" -t "$threads" --keep 100%,512

if [ -x build/release/bench/peer_llama ]; then
  echo
  bench/compare.py -m "$model" -d "$depths" -t "$threads" --rounds "${ROUNDS:-3}"
else
  echo "bench: for llama.cpp side by side, run 'make peers' once (8 minutes)"
fi
