#!/usr/bin/env bash
# Writes into FOLDER models of the shape of Llama-3.1-8B with random weights in Q4_K, the whole (4.5 GB)
# and its first four layers (1.1 GB), and random KVzap surrogates of both: for measurements of speed and
# memory, which do not depend on what the weights are. Takes about a minute.
#
#   bench/random_models.sh FOLDER
set -euo pipefail
folder=${1:?usage: bench/random_models.sh FOLDER}
tools=${BUILD:-$(dirname "${BASH_SOURCE[0]}")/../build/release}/tests/tools
mkdir -p "$folder"
for layers in 32 4; do
  model=$folder/llama-3.1-8b-shape.$layers-layers.gguf
  # Rows of a matrix repeat, so that it is written quickly.
  "$tools/random_gguf" -o "$model" --layers $layers --embd 4096 --heads 32 --kv-heads 8 \
    --head-dim 128 --ff 14336 --vocab 128256 --ctx 131072 --rope-base 500000 --llama3-rope \
    --type q4_K --repeat-rows 1024
  for form in linear mlp; do
    "$tools/random_kvzap" -m "$model" --form $form -o "${model%.gguf}.$form.pithcal"
  done
done
