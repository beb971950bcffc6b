#!/usr/bin/env bash
# What `make demo` runs: a real document read twice, with the full cache and with a quarter of it
# chosen by Q-Filters. DOCUMENT=FILE KEEP=25% THREADS=(all cores)
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

model=models/SmolLM2-135M-Instruct.Q4_1.gguf
# The essay has about 17,000 tokens, the model reads 8,192 at most.
document=${DOCUMENT:-.deps/texts/essays/worked.txt}

exec build/release/bin/pith compare "$document" -m "$model" --scorer qfilter \
  --keep "${KEEP:-25%}" \
  --tokens 7936 -t "${THREADS:-$(getconf _NPROCESSORS_ONLN 2>/dev/null || echo 2)}"
