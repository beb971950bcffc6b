#!/usr/bin/env bash
# What `make demo` runs: a fact is hidden deep in an essay, which is read once with the full cache and
# once with a quarter of it, chosen by KVzap as the text goes by and before the question is known;
# then the quarter as a file that answers at once. Batches of 128 tokens, so that the peak is near a
# quarter as well. DOCUMENT=FILE TOKENS=4000 DEPTH=50 KEEP=25% BATCH=128 THREADS=(all cores)
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

pith=build/release/bin/pith
model=models/SmolLM2-135M-Instruct.Q4_1.gguf
document=${DOCUMENT:-.deps/texts/essays/worked.txt}
keep=${KEEP:-25%}
tokens=${TOKENS:-4000}
depth=${DEPTH:-50}
batch=${BATCH:-128}
threads=${THREADS:-$(getconf _NPROCESSORS_ONLN 2>/dev/null || echo 2)}

secret=7354621
fact="One of the special magic numbers for quiet-harbor is: $secret."
question="What is the special magic number for quiet-harbor mentioned in the provided text?"
folder=build/demo
planted=$folder/document.txt
snapshot=$folder/document.pith
mkdir -p "$folder"

cat <<TEXT
The first $tokens tokens of $document, with one sentence hidden at $depth %:
  $fact
It is read once. The question comes when everything has been read and most of it is forgotten.

TEXT
"$pith" compare "$document" -m "$model" -t "$threads" -b "$batch" --tokens "$tokens" --plant "$fact" \
  --depth "$depth" --write-document "$planted" --question "$question" --expect "$secret" \
  --keep "$keep" --predict 40

printf '\nThe same as a file: pith compress %s -o %s --keep %s\n' "$planted" "$snapshot" "$keep"
"$pith" compress "$planted" -o "$snapshot" -m "$model" -t "$threads" -b "$batch" --keep "$keep"

# $1: question. Prints the answer and what it took, fails without the word $2.
ask() {
  local out
  printf '\npith ask %s "%s"\n' "$snapshot" "$1"
  out=$("$pith" ask "$snapshot" "$1" -m "$model" -t "$threads" --predict 40 --json)
  sed -n 's/^  "answer": "\(.*\)",$/\1/p' <<<"$out"
  printf '[%s MiB mapped, first token after %s s]\n' \
    "$(sed -n 's/^  "snapshot_bytes": \(.*\),$/\1/p' <<<"$out" |
      awk '{ printf "%.1f", $1 / 1048576 }')" \
    "$(sed -n 's/^  "first_token_s": \(.*\),$/\1/p' <<<"$out" | awk '{ printf "%.2f", $1 }')"
  if [[ $out != *"$2"* ]]; then
    echo "demo: the answer from the snapshot does not have $2 in it" >&2
    return 1
  fi
}
ask "$question" "$secret"
ask "What is this text about? Answer in one sentence." ""
