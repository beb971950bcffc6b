#!/usr/bin/env bash
# What KVzap keeps of a text, beside the oracle it learnt from, Q-Filters and key norms at equal
# bytes: needles found again, and divergence from the full cache's predictions, on texts and
# questions that no surrogate was trained on. Goes on where it was stopped. Two processes of one
# thread share the trials, which is faster than two threads. Ends with the tables in Markdown.
#
#   bench/kvzap_quality.sh [needle2048|needle4096|words|kld|ablation ...]  (default: 2048, kld, 4096)
#
# PITH: the program; RESULTS: folder of the finished trials; SCORERS: compared, default below;
# TRIALS: of each cell (default 40). All three tables take an hour on two quiet cores.
set -euo pipefail
cd "$(dirname "$0")/.."

PITH=${PITH:-build/release/bin/pith}
RESULTS=${RESULTS:-build/kvzap_quality}
TRIALS=${TRIALS:-40}
ESSAYS=.deps/texts/essays
TEXTS=("$ESSAYS/worked.txt" "$ESSAYS/gap.txt" "$ESSAYS/popular.txt" "$ESSAYS/gh.txt")
MLP=calibrations/SmolLM2-135M-Instruct.Q4_1.mlp.pithcal
if [[ -z ${SCORERS:-} ]]; then
  SCORERS=kvzip+,kvzap
  [[ -f $MLP ]] && SCORERS+=",kvzap@$MLP"
  "$PITH" eval kld --help | grep -q 'kvzap+' && SCORERS+=,kvzap+
  SCORERS+=,qfilter,knorm
fi
mkdir -p "$RESULTS"
export OMP_NUM_THREADS=1
processes=()
trap '[[ ${#processes[@]} -eq 0 ]] || kill "${processes[@]}" 2>/dev/null || true' EXIT

# NAME TASK FLAGS...: halves of the trials in two processes, then the table of both.
Measure() {
  local name=$1 task=$2
  shift 2
  local half=$((TRIALS / 2))
  processes=()
  "$PITH" eval "$task" "$@" -t 1 --trials $((TRIALS - half)) \
    --out "$RESULTS/$name.1.jsonl" >"$RESULTS/$name.1.md" &
  processes+=($!)
  if ((half > 0)); then
    "$PITH" eval "$task" "$@" -t 1 --first-trial $((TRIALS - half)) --trials "$half" \
      --out "$RESULTS/$name.2.jsonl" >"$RESULTS/$name.2.md" &
    processes+=($!)
  fi
  for process in "${processes[@]}"; do wait "$process"; done
  processes=()
  cat "$RESULTS/$name".[12].jsonl >"$RESULTS/$name.jsonl"
  echo
  echo "pith eval $task $* --trials $TRIALS"
  echo
  "$PITH" eval "$task" "$@" -t 1 --trials "$TRIALS" --out "$RESULTS/$name.jsonl" |
    tee "$RESULTS/$name.md"
}

[[ $# -gt 0 ]] || set -- needle2048 kld needle4096
for task in "$@"; do
  case $task in
    needle2048 | needle4096)
      Measure "$task" needle --length "${task#needle}" --keep 50%,25%,15%,10% --budget global \
        --scorer "$SCORERS" --haystack "${TEXTS[@]}"
      ;;
    words)
      Measure words needle --values words --length 2048 --keep 50%,25%,15%,10% --budget global \
        --scorer "$SCORERS" --haystack "${TEXTS[@]}"
      ;;
    kld)
      Measure kld kld --length 2048 --keep 50%,25%,15%,10% --budget global \
        --scorer "$SCORERS" --text "${TEXTS[@]}"
      ;;
    ablation)
      # The window, and one threshold for all heads against the same number in every head.
      Measure ablation_needle needle --length 2048 --keep 50%,25% --budget global,uniform \
        --window 1,128,512 --scorer kvzap --haystack "${TEXTS[@]}"
      Measure ablation_kld kld --length 2048 --keep 50%,25% --budget global,uniform \
        --window 1,128,512 --scorer kvzap --text "${TEXTS[@]}"
      ;;
    *)
      echo "there is no '$task', only needle2048, needle4096, words, kld and ablation" >&2
      exit 2
      ;;
  esac
done
