#!/usr/bin/env python3
"""Measures pith and llama.cpp side by side and prints medians and ratios.

Each round runs peer_llama and, for every budget, `pith bench` once, in alternating order, so that what
slows the machine down slows all. Speeds of one run mean little on a shared machine; the ratio of
medians is the claim. Every run is a process of its own, so that its peak of resident memory is its own.

    bench/compare.py -d 512,2048,8192 --rounds 5
    bench/compare.py -d 8192 --scorer kvzap --keep 100%,25% -f TEXT --rounds 3
"""
import argparse
import json
import os
import pathlib
import shlex
import statistics
import sys

from measuring import Runner, cpu_name

# Of a record: what medians are taken of.
MEASURED = ("prefill_tps", "decode_ms", "attention_ms", "prefill_s", "prefill_judge_s",
            "prefill_attention_s", "kv_bytes", "kv_bytes_peak", "peak_resident_bytes")

ROOT = pathlib.Path(__file__).resolve().parent.parent


def median_records(rounds):
    """One record per depth: the medians over rounds of what was measured."""
    by_key = {}
    for records in rounds:
        for record in records:
            by_key.setdefault((record["depth"], str(record["keep"])), []).append(record)
    merged = {}
    for key, records in by_key.items():
        merged[key] = dict(records[0])
        for field in MEASURED:
            if field in records[0]:
                merged[key][field] = statistics.median(record[field] for record in records)
    return merged


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("-m", "--model", dest="model", default=ROOT / "models/SmolLM2-135M-Instruct.Q4_1.gguf")
    parser.add_argument("-d", dest="depths", default="512,2048,8192", help="rising, with commas")
    parser.add_argument("-t", dest="threads", default="2")
    parser.add_argument("--keep", default="100%", help="pith's budgets, with commas")
    parser.add_argument("--scorer", help="pith's scorer (default: its own)")
    parser.add_argument("--budget", help="pith's budget (default: its own)")
    parser.add_argument("--calibration", help="for the scorer (default: the one that pith finds)")
    parser.add_argument("-f", dest="file", help="text that pith reads (default: random tokens)")
    parser.add_argument("--decode", default="24", help="steps of generation at each depth")
    parser.add_argument("--kv", default="f16", help="llama.cpp's type of K and V")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--others", type=float, default=100, metavar="PERCENT",
                        help="of the machine's cores that other programs may take during a run; "
                        "above it the run is repeated (default: %(default)s)")
    parser.add_argument("--pith", default=ROOT / "build/release/bin/pith")
    parser.add_argument("--peer", default=ROOT / "build/release/bench/peer_llama")
    parser.add_argument("--json", action="store_true", help="medians as JSON instead of a table")
    arguments = parser.parse_args()
    for program, remedy in ((arguments.pith, "make build"), (arguments.peer, "make peers")):
        if not os.access(program, os.X_OK):
            parser.error(f"there is no {program}; run `{remedy}` first")
    return arguments


def measure(arguments, runner):
    common = ["-m", arguments.model, "-d", arguments.depths, "-t", arguments.threads,
              "--decode", arguments.decode, "--json"]
    commands = {"llama.cpp": [arguments.peer, *common, "--kv", arguments.kv]}
    for keep in arguments.keep.split(","):
        command = commands[f"pith {keep}"] = [arguments.pith, "bench", *common, "--keep", keep]
        for flag in ("scorer", "budget", "calibration", "file"):
            if getattr(arguments, flag):
                command += [f"--{flag}", getattr(arguments, flag)]
    rounds = {name: [] for name in commands}
    for i in range(arguments.rounds):
        order = list(commands) if i % 2 == 0 else list(reversed(commands))
        for name in order:
            print(f"round {i + 1} of {arguments.rounds}: {name}", file=sys.stderr)
            rounds[name].append(runner.json(commands[name]))
    peer = median_records(rounds.pop("llama.cpp"))
    pith = {}
    for records in rounds.values():
        pith.update(median_records(records))
    return pith, peer


def mib(record, field):
    return f"{record[field] / 2**20:.1f}"


def print_table(arguments, runner, pith, peer):
    print(f"{cpu_name()}, {arguments.threads} threads, {pathlib.Path(arguments.model).name}, "
          f"llama.cpp with {arguments.kv} KV and flash attention; medians of {arguments.rounds} "
          f"rounds, ratio above 1: pith is faster; {runner.quietness()}.")
    print()
    print("    " + shlex.join(["bench/compare.py", *sys.argv[1:]]))
    print()
    print("| depth | keep | KV MiB | llama.cpp | resident MiB | llama.cpp "
          "| prefill t/s | llama.cpp | ratio | decode ms | llama.cpp | ratio |")
    print("|" + " --- |" * 12)
    for (depth, keep), ours in sorted(pith.items()):
        theirs = peer[(depth, "100%")]
        print(f"| {depth:,} | {keep} "
              f"| {mib(ours, 'kv_bytes')} | {mib(theirs, 'kv_bytes')} "
              f"| {mib(ours, 'peak_resident_bytes')} | {mib(theirs, 'peak_resident_bytes')} "
              f"| {ours['prefill_tps']:.0f} | {theirs['prefill_tps']:.0f} "
              f"| {ours['prefill_tps'] / theirs['prefill_tps']:.2f} "
              f"| {ours['decode_ms']:.1f} | {theirs['decode_ms']:.1f} "
              f"| {theirs['decode_ms'] / ours['decode_ms']:.2f} |")


def main():
    arguments = parse_arguments()
    runner = Runner("compare", arguments.others / 100)
    pith, peer = measure(arguments, runner)
    if arguments.json:
        print(json.dumps({"cpu": cpu_name(), "others": runner.most_others, "pith": list(pith.values()),
                          "peer": list(peer.values())}, indent=2))
    else:
        print_table(arguments, runner, pith, peer)


if __name__ == "__main__":
    main()
