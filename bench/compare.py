#!/usr/bin/env python3
"""Measures pith and llama.cpp side by side, as asked, and prints medians and ratios.

The claim is the ratio: speeds of one run mean little on a shared machine (see rounds.py). The standing
comparison is suite.py.

    bench/compare.py -d 512,2048,8192 --rounds 5
    bench/compare.py -d 8192 --scorer kvzap --keep 100%,25% -f TEXT --rounds 3
"""
import argparse
import json
import os
import pathlib
import shlex
import sys

import report
from measuring import Runner, cpu_name
from rounds import Case, Point, llama, measure, pith

ROOT = pathlib.Path(__file__).resolve().parent.parent


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("-m", "--model", type=pathlib.Path,
                        default=ROOT / "models/SmolLM2-135M-Instruct.Q4_1.gguf")
    parser.add_argument("-d", dest="depths", default="512,2048,8192", help="rising, with commas")
    parser.add_argument("--segment", type=int,
                        help="read only so many tokens before each depth, make up the others")
    parser.add_argument("-t", dest="threads", type=int, default=2)
    parser.add_argument("--keep", default="100%", help="pith's budgets, with commas")
    parser.add_argument("--scorer", help="pith's scorer (default: its own)")
    parser.add_argument("--budget", help="pith's budget (default: its own)")
    parser.add_argument("--calibration", help="for the scorer (default: the one that pith finds)")
    parser.add_argument("-f", dest="file", help="text that pith reads (default: random tokens)")
    parser.add_argument("--decode", type=int, default=24, help="steps of generation at each depth")
    parser.add_argument("--kv", default="f16", help="llama.cpp's types of K and V, with commas")
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


def main():
    arguments = parse_arguments()
    flags = []
    for flag in ("scorer", "budget", "calibration", "file"):
        if getattr(arguments, flag):
            flags += [f"--{flag}", getattr(arguments, flag)]
    contenders = [llama(kv, arguments.rounds) for kv in arguments.kv.split(",")]
    contenders += [pith(keep, *flags, rounds=arguments.rounds) for keep in arguments.keep.split(",")]
    depths = tuple(map(int, arguments.depths.split(",")))
    case = Case("compare", arguments.model.stem, arguments.model,
                (Point(depths, arguments.segment),), tuple(contenders), arguments.threads,
                arguments.decode)
    programs = {"pith": [str(arguments.pith), "bench"], "llama": [str(arguments.peer)]}
    records, _ = measure([case], programs, Runner("compare", arguments.others / 100))
    if arguments.json:
        print(json.dumps({"cpu": cpu_name(), "others": records.most_others,
                          **report.as_json(records)}, indent=2))
        return
    print(f"{case.title}: {report.header(records, case)}. {report.segments(records, case)}")
    print("\n    " + shlex.join(["bench/compare.py", *sys.argv[1:]]) + "\n")
    print(report.table(records, case))


if __name__ == "__main__":
    main()
