#!/usr/bin/env python3
"""What it costs to judge entries from the hidden state: shares of the arithmetic and of the seconds.

Each round reads a text of the given length once with every surrogate, in alternating order, and the
median of the rounds counts. The seconds are measured inside the read, around the surrogate alone;
settling, choosing what goes, is shown beside it.

    bench/kvzap_cost.py -m MODEL.gguf linear.pithcal mlp.pithcal
"""
import argparse
import json
import os
import pathlib
import shlex
import statistics
import sys

from measuring import Runner

ROOT = pathlib.Path(__file__).resolve().parent.parent


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("calibrations", nargs="+", help="surrogates of the model (.pithcal)")
    parser.add_argument("-m", "--model", default=ROOT / "models/SmolLM2-135M-Instruct.Q4_1.gguf")
    parser.add_argument("-n", dest="tokens", type=int, default=512, help="length of the text")
    parser.add_argument("-t", dest="threads", default="2")
    parser.add_argument("--keep", default="25%")
    parser.add_argument("--budget", default="auto")
    parser.add_argument("--decode", type=int, default=24, help="tokens generated after the text")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--others", type=float, default=100, metavar="PERCENT",
                        help="of the machine's cores that other programs may take during a run; "
                        "above it the run is repeated (default: %(default)s)")
    parser.add_argument("--pith", default=ROOT / "build/release/bin/pith")
    parser.add_argument("--json", action="store_true", help="all records instead of a table")
    arguments = parser.parse_args()
    if not os.access(arguments.pith, os.X_OK):
        parser.error(f"there is no {arguments.pith}; run `make build` first")
    return arguments


def measure(arguments, runner, calibration):
    command = [arguments.pith, "bench", "-m", arguments.model, "--scorer", "kvzap",
               "--calibration", calibration, "--keep", arguments.keep, "--budget",
               arguments.budget, "-t", arguments.threads,
               "-d", str(arguments.tokens + arguments.decode), "--decode", str(arguments.decode),
               "--json"]
    return runner.json(command)[0]


def percent(part):
    return f"{100 * part:.3f} %" if part < 0.001 else f"{100 * part:.2f} %"


def row(name, records):
    def median(value):
        return statistics.median(value(record) for record in records)

    first = records[0]
    matrices = first["matrix_flops"]
    shares = (percent(first["judge_flops"] / matrices),
              percent(first["judge_flops"] / (matrices + first["attention_flops"])),
              percent(median(lambda r: r["prefill_judge_s"] / r["prefill_s"])),
              percent(median(lambda r: r["prefill_settle_s"] / r["prefill_s"])),
              percent(median(lambda r: r["judge_ms"] / r["decode_ms"])))
    return f"| {name} | {median(lambda r: r['prefill_s']):.2f} | " + " | ".join(shares) + " |"


def main():
    arguments = parse_arguments()
    runner = Runner("kvzap_cost", arguments.others / 100)
    rounds = {calibration: [] for calibration in arguments.calibrations}
    for i in range(arguments.rounds):
        for calibration in list(rounds) if i % 2 == 0 else list(reversed(rounds)):
            print(f"round {i + 1} of {arguments.rounds}: {calibration}", file=sys.stderr)
            rounds[calibration].append(measure(arguments, runner, calibration))
    if arguments.json:
        print(json.dumps(rounds, indent=2))
        return
    first = next(iter(rounds.values()))[0]
    print(f"{first['cpu']}, {first['threads']} threads, {pathlib.Path(arguments.model).name}, "
          f"{arguments.tokens:,} tokens read, {arguments.keep} kept; medians of "
          f"{arguments.rounds} rounds; {runner.quietness()}.")
    print()
    print("    " + shlex.join(["bench/kvzap_cost.py", *sys.argv[1:]]))
    print()
    print("| surrogate | prefill s | FLOPs of the matrices | with attention | of prefill time "
          "| settling | of a decode step |")
    print("|" + " --- |" * 7)
    for calibration, records in rounds.items():
        print(row(pathlib.Path(calibration).name, records))


if __name__ == "__main__":
    main()
