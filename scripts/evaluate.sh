#!/usr/bin/env bash
# Measures what compression costs a model, in every measure, and makes the report.
#   evaluate.sh [-m MODEL.gguf] [--out DIR] [--quick]
# One measure after the other: the first trial of all, from which follows how long the rest takes,
# then the rest. Each has a file of finished trials and one of records in DIR (build/evaluation); run
# again, it goes on where it was stopped. --quick takes fewer scorers, fractions, lengths and trials.
# SCORERS=a,b KEEPS=50%,25% WINDOW=32 THREADS=(all cores) TEXTS='FILES' PITH=build/release/bin/pith
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

die() {
  echo "evaluate: $*" >&2
  exit 2
}

model=models/SmolLM2-135M-Instruct.Q4_1.gguf
out=build/evaluation
quick=false
while [ $# -gt 0 ]; do
  case $1 in
    -m | --model | --out)
      [ $# -ge 2 ] || die "$1 needs a value"
      if [ "$1" = --out ]; then out=$2; else model=$2; fi
      shift
      ;;
    --quick) quick=true ;;
    -h | --help)
      sed -n '2,/^set/s/^# \{0,1\}//p' "$0"
      exit 0
      ;;
    *) die "unknown argument $1, expected -m MODEL.gguf, --out DIR or --quick" ;;
  esac
  shift
done
pith=${PITH:-build/release/bin/pith}
[ -x "$pith" ] || die "$pith is not there (make build)"
[ -f "$model" ] || die "$model is not there"
mkdir -p "$out"

scorers=kvzap,kvzip,qfilter,qfilter+,knorm,keydiff,snapkv,tova,expected,streaming_llm,random
keeps=50%,25%,12.5%,6.25%
lengths=2048,4096
spearman_trials=8 kld_trials=8 needle_trials=10 ruler_trials=1 ppl_trials=2 streaming_trials=2
if $quick; then
  scorers=kvzap,kvzip,qfilter,qfilter+,knorm,snapkv,expected,streaming_llm
  keeps=50%,25%
  lengths=2048
  spearman_trials=2 kld_trials=4 needle_trials=5 ruler_trials=1 ppl_trials=1 streaming_trials=1
fi
scorers=${SCORERS:-$scorers}
keeps=${KEEPS:-$keeps}
# A window of 128 would leave nothing to choose of 6.25 % of 2,048 tokens.
window=${WINDOW:-32}
shared=(-m "$model" -t "${THREADS:-$(getconf _NPROCESSORS_ONLN 2>/dev/null || echo 2)}" --json)
text=()
hay=()
if [ -n "${TEXTS:-}" ]; then
  read -ra files <<<"$TEXTS"
  text=(--text "${files[@]}")
  hay=(--haystack "${files[@]}")
else
  # Essays that the default calibration did not see.
  unseen=(.deps/texts/essays/{worked,gap,popular,gh}.txt)
  [ ! -f "${unseen[0]}" ] || text=(--text "${unseen[@]}")
fi

# Scorers that this model has a calibration for.
usable=
for scorer in ${scorers//,/ }; do
  if why=$("$pith" eval spearman "${shared[@]}" "${text[@]}" -l 64 --trials 1 --scorer "$scorer" \
    2>&1 >/dev/null); then
    usable+=${usable:+,}$scorer
  else
    echo "evaluate: without $scorer: ${why#pith: }" >&2
  fi
done
[ -n "$usable" ] || die "no scorer is left"
# Those that judge on the way: a perplexity over a text says little of scorers that look back.
on_the_way=$(tr , '\n' <<<"$usable" | grep -v '^kvzip' | paste -sd, -)
plans=(--keep "$keeps" --budget "uniform,global" --window "$window")

# $1: called for every measure with its name, its trials and the arguments of pith eval.
measures() {
  $1 spearman "$spearman_trials" spearman "${text[@]}" -l 1024 --scorer "$usable" --window "$window"
  $1 kld "$kld_trials" kld "${text[@]}" -l 2048 --scorer "$usable" "${plans[@]}"
  $1 needle "$needle_trials" needle "${hay[@]}" -l "$lengths" --depths 5 --scorer "$usable" "${plans[@]}"
  if "$pith" eval --help | grep -q '^  ruler '; then
    $1 ruler "$ruler_trials" ruler "${hay[@]}" -l "$lengths" --scorer "$usable" "${plans[@]}"
  fi
  if [ -n "$on_the_way" ]; then
    $1 ppl "$ppl_trials" ppl "${text[@]}" -l 2048 --scorer "$on_the_way" "${plans[@]}"
    $1 ppl-streaming "$streaming_trials" ppl "${text[@]}" -l 2048 --streaming --keep 512 \
      --scorer "$on_the_way" --budget uniform --window "$window"
  fi
}

left=0
first() {
  local name=$1 trials=$2 start=$SECONDS
  shift 2
  [ ! -s "$out/$name.json" ] || return 0
  if [ ! -s "$out/$name.seconds" ]; then
    "$pith" eval "$@" "${shared[@]}" --trials 1 --out "$out/$name.jsonl" >/dev/null
    echo $((SECONDS - start)) >"$out/$name.seconds"
  fi
  local seconds
  seconds=$(<"$out/$name.seconds")
  echo "evaluate: $name: $trials trials of $seconds s" >&2
  left=$((left + seconds * (trials - 1)))
}

rest() {
  local name=$1 trials=$2
  shift 2
  [ ! -s "$out/$name.json" ] || return 0
  echo "evaluate: $name" >&2
  "$pith" eval "$@" "${shared[@]}" --trials "$trials" --out "$out/$name.jsonl" \
    >"$out/$name.json.part"
  mv "$out/$name.json.part" "$out/$name.json"
}

measures first
echo "evaluate: $((left / 60)) min to go, less what is finished" >&2
measures rest
if "$pith" eval --help | grep -q '^  report '; then
  "$pith" eval report "$out"/*.json --html "$out/report.html" --markdown "$out/report.md" \
    --csv "$out/tables"
  echo "evaluate: $out/report.html, $out/report.md, $out/tables"
fi
