#!/usr/bin/env bash
# Writes into FOLDER models of the shape of Llama-3.1-8B with random weights in Q4_K: the whole (4.5 GB),
# its first four layers (1.1 GB) and these with a vocabulary of 1,024 (0.5 GB), where the output matrix takes
# no time; each with random KVzap surrogates. For measurements of speed and memory, which do not depend on
# what the weights are. Takes about a minute; what is there already stays.
#
#   bench/random_models.sh FOLDER
set -euo pipefail
folder=${1:?usage: bench/random_models.sh FOLDER}
tools=${BUILD:-$(dirname "${BASH_SOURCE[0]}")/../build/release}/tests/tools
mkdir -p "$folder"

# write NAME LAYERS VOCABULARY
write() {
  [ ! -s "$folder/$1.gguf" ] || return 0
  # Rows of a matrix repeat, so that it is written quickly.
  "$tools/random_gguf" -o "$folder/$1.part" --layers "$2" --embd 4096 --heads 32 --kv-heads 8 \
    --head-dim 128 --ff 14336 --vocab "$3" --ctx 131072 --rope-base 500000 --llama3-rope \
    --type q4_K --repeat-rows 1024
  mv "$folder/$1.part" "$folder/$1.gguf"
}

# judge NAME FORM
judge() {
  [ ! -s "$folder/$1.$2.pithcal" ] || return 0
  "$tools/random_kvzap" -m "$folder/$1.gguf" --form "$2" -o "$folder/$1.$2.pithcal"
}

for layers in 32 4; do
  name=llama-3.1-8b-shape.$layers-layers
  write "$name" $layers 128256
  judge "$name" linear
  judge "$name" mlp
done
name=llama-3.1-8b-shape.4-layers.small-vocabulary
write "$name" 4 1024
judge "$name" linear
