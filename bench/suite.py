#!/usr/bin/env python3
"""The benchmark suite: pith beside llama.cpp, in time and in memory, over depth.

    bench/suite.py quick                      # `make bench`: SmolLM2, minutes
    bench/suite.py long --models FOLDER       # `make bench-long`: and the shape of Llama-3.1-8B
    bench/suite.py long --models FOLDER --docs     # and put the result into docs/

Every single run goes to OUT/NAME.jsonl, and what is there is not run again: an interrupted suite goes on
where it was. Then OUT/NAME.md, NAME.json and a plot of each case. FOLDER is what random_models.sh wrote.
Without llama.cpp (`make peers`) pith is measured alone.
"""
import argparse
import dataclasses
import json
import os
import pathlib
import re
import sys

import report
from measuring import Runner
from rounds import Case, Contender, Point, llama, measure, pith

ROOT = pathlib.Path(__file__).resolve().parent.parent
SMOL = ROOT / "models/SmolLM2-135M-Instruct.Q4_1.gguf"
STEERED = ("--scorer", "kvzap", "--budget", "threshold")  # a fraction, judged while reading
FIXED = ("--scorer", "kvzap")


def sessions(rounds):
    return tuple(Contender(f"{name}, {n} session{'s' * (n > 1)}", program, ("--sessions", n), rounds)
                 for program, name in (("pith", "pith"), ("llama", "llama.cpp f16")) for n in (1, 8))


def quantised(*types, segment=256):
    """llama.cpp reads a prompt several times slower with these, so a short piece must do."""
    return (llama(kv, segment=segment) for kv in types)


def attention(flags, rounds):
    small, large = (), ("--head-dim", 128, "--heads", 32, "--kv-heads", 8, "--layers", 8)
    contenders = [Contender(heads + ", ragged" * ragged, "attention",
                            ("-c", 1, *shape, *["--ragged"] * ragged), rounds)
                  for heads, shape in (("9/3 heads of 64", small), ("32/8 heads of 128", large))
                  for ragged in (False, True)]
    return Case("attention", "Attention alone, one query, out of cache", None, (Point((8192,)),),
                tuple(contenders), flags.threads)


def quick(flags):
    points = (Point((512,)), Point((2048,), 1024), Point((8192,), 1024))
    return [
        Case("smollm2", "SmolLM2-135M, Q4_1", SMOL, points, (
            llama("f16", 3), pith("100%", rounds=3), pith("25%", *STEERED, rounds=3),
            pith("512", *FIXED, rounds=3), *quantised("q8_0")), flags.threads),
        Case("smollm2-sessions", "SmolLM2-135M, a batch of sessions", SMOL, (Point((512,)),),
             sessions(3), flags.threads, decode=48),
        attention(flags, 1),
    ]


def long(flags):
    shape = "llama-3.1-8b-shape"
    four = flags.models / f"{shape}.4-layers.small-vocabulary.gguf"
    whole = flags.models / f"{shape}.32-layers.gguf"

    def judged(model, judging):
        return (*judging, "--calibration", model.with_suffix(".linear.pithcal"))

    return [
        Case("smollm2", "SmolLM2-135M, Q4_1", SMOL, (Point((512,)), Point((2048, 8192))), (
            llama("f16", 3), pith("100%", rounds=3), pith("25%", *STEERED, rounds=2),
            pith("10%", *STEERED), pith("512", *FIXED, rounds=2), *quantised("q8_0", "q4_0")),
             flags.threads),
        Case("8b-4-layers", "Llama-3.1-8B's shape, Q4_K, four layers without the output layer", four,
             (Point((512,)), Point((8192,), 1024), Point((32768,), 2048)), (
                 llama("f16", 3), pith("100%", rounds=3), pith("25%", *judged(four, STEERED), rounds=3),
                 pith("10%", *judged(four, STEERED)), pith("512", *judged(four, FIXED)),
                 *quantised("q8_0", "q4_0", segment=64)), flags.threads),
        Case("8b-flat", "Four layers of Llama-3.1-8B's shape, 512 entries a head", four,
             (Point((512,), 128), Point((32768,), 128)), (pith("512", *judged(four, FIXED), rounds=11),),
             flags.threads, decode=64),
        Case("smollm2-sessions", "SmolLM2-135M, a batch of sessions", SMOL, (Point((512,)),),
             sessions(3), flags.threads, decode=48),
        attention(flags, 5),
        Case("8b-whole", "Llama-3.1-8B's shape, Q4_K, all 32 layers", whole,
             (Point((32768,), 256),), (
                 llama("f16"), pith("100%"), pith("25%", *judged(whole, STEERED))),
             flags.threads, decode=8),
    ]


@dataclasses.dataclass(frozen=True)
class Claim:
    what: str
    least: bool  # `wanted` is a lower bound
    wanted: float
    measured: object  # of Records, a Value or None

    def row(self, records):
        value = self.measured(records)
        if value is None:
            return f"| {self.what} | {self.wanted_text()} | not measured | |"
        holds = value.median >= self.wanted if self.least else value.median <= self.wanted
        return (f"| {self.what} | {self.wanted_text()} | {report.spread(value)} | "
                f"{'yes' if holds else 'no'} |")

    def wanted_text(self):
        return f"at {'least' if self.least else 'most'} {self.wanted:g}"


def faster(case, plan, depth, field):
    """How many times faster than llama.cpp with f16 KV."""
    ours = (case, f"pith {plan}", depth, field)
    theirs = (case, report.BASELINE, depth, field)
    above, below = (ours, theirs) if field == "prefill_tps" else (theirs, ours)
    return lambda records: records.ratio(above, below)


def claims(records, case_names):
    def kernel(contender, field):
        return lambda records: records.value("attention", contender, 8192, field)

    level = (records.record("attention", "9/3 heads of 64", 8192) or {}).get("level", "AVX2")
    share = 0.8 if level.startswith("AVX3") else 0.7
    every = [
        ("smollm2", "SmolLM2, depth 8,192, decode: times llama.cpp f16", 2,
         faster("smollm2", "100%", 8192, "decode_ms")),
        ("smollm2", "SmolLM2, prefill up to depth 8,192: times llama.cpp f16", 1.5,
         faster("smollm2", "100%", 8192, "prefill_tps")),
        ("smollm2", "SmolLM2, depth 512, decode: times llama.cpp f16", 1,
         faster("smollm2", "100%", 512, "decode_ms")),
        ("smollm2", "SmolLM2, depth 512, prefill: times llama.cpp f16", 1,
         faster("smollm2", "100%", 512, "prefill_tps")),
        ("8b-4-layers", "8B shape, depth 32,768, decode: times llama.cpp f16", 2.5,
         faster("8b-4-layers", "100%", 32768, "decode_ms")),
        ("8b-4-layers", "the same with 25 % kept", 4,
         faster("8b-4-layers", "25%", 32768, "decode_ms")),
        ("8b-4-layers", "8B shape, prefill of the last 2,048 tokens: times llama.cpp f16", 1.8,
         faster("8b-4-layers", "100%", 32768, "prefill_tps")),
        ("8b-flat", "512 entries a head, 8B shape: decode at depth 32,768 against 512", -1.05,
         lambda records: records.ratio(("8b-flat", "pith 512", 32768, "decode_ms"),
                                       ("8b-flat", "pith 512", 512, "decode_ms"))),
        ("smollm2-sessions", "8 sessions together, SmolLM2: tokens a second against one session", 3,
         lambda records: records.ratio(("smollm2-sessions", "pith, 8 sessions", 512, "decode_tps"),
                                       ("smollm2-sessions", "pith, 1 session", 512, "decode_tps"))),
        *(("attention", f"{heads}: attention's share of the read bandwidth, {level}", share,
           kernel(heads, "bandwidth_share")) for heads in ("9/3 heads of 64", "32/8 heads of 128")),
        *(("attention", f"{heads}, ragged: time against even", -1.1,
           kernel(f"{heads}, ragged", "by_even")) for heads in ("9/3 heads of 64", "32/8 heads of 128")),
    ]
    return [Claim(what, wanted > 0, abs(wanted), measured)
            for name, what, wanted, measured in every if name in case_names]


def markdown(flags, records, cases):
    lines = [f"Made by `bench/suite.py {flags.suite}`. A round runs everyone at one depth after the other; ratios",
             "are medians of ratios within a round, above 1: faster. llama.cpp allocates its cache for the",
             "deepest depth of a process at once; pith's bytes count positions, worths and page lists too.", "",
             "| side by side in one run | wanted | measured | holds |", "| --- | --- | --- | --- |"]
    lines += [claim.row(records) for claim in claims(records, [case.name for case in cases])]
    for case in cases:
        if not records.depths(case.name):
            continue
        lines += ["", f"### {case.title}", "", report.header(records, case) + "."]
        if case.model is None:
            lines += ["", report.kernel_table(records, case)]
            continue
        lines += [report.segments(records, case), ""]
        if case.name in flags.plots:
            lines += [f"![decode, prefill and memory over depth](img/bench-{case.name}.svg)", ""]
        lines.append(report.table(records, case))
    return "\n".join(lines) + "\n"


def put_into(page, text):
    """Between the markers of a document."""
    old = page.read_text()
    new, count = re.subn(r"(<!-- suite: begin -->\n).*?(<!-- suite: end -->)",
                         lambda found: f"{found[1]}{text}{found[2]}", old, flags=re.DOTALL)
    if count != 1:
        sys.exit(f"suite: {page} has no `<!-- suite: begin -->` and end")
    page.write_text(new)


def write(flags, records, cases):
    plots = flags.out if not flags.docs else ROOT / "docs/img"
    flags.plots = [case.name for case in cases if len(records.depths(case.name)) > 2 and
                   report.plot(records, case, plots / f"bench-{case.name}.svg")]
    text = markdown(flags, records, cases)
    numbers = json.dumps(report.as_json(records), separators=(",", ":")) + "\n"
    (flags.out / f"{flags.suite}.md").write_text(text)
    (flags.out / f"{flags.suite}.json").write_text(numbers)
    if flags.docs:
        put_into(ROOT / "docs/performance.md", text)
        (ROOT / "docs/img/bench.json").write_text(numbers)
    print(text, end="")


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("suite", choices=("quick", "long"))
    parser.add_argument("--models", type=pathlib.Path, default=ROOT / "build/models",
                        help="what random_models.sh wrote (default: %(default)s)")
    parser.add_argument("--out", type=pathlib.Path, default=ROOT / "build/bench")
    parser.add_argument("--build", type=pathlib.Path, default=ROOT / "build/release")
    parser.add_argument("--cases", help="only these, with commas")
    parser.add_argument("-t", "--threads", type=int, default=os.cpu_count())
    parser.add_argument("--minutes", type=float, help="begin no run after so many; call again to go on")
    parser.add_argument("--fresh", action="store_true", help="forget the runs there are")
    parser.add_argument("--docs", action="store_true",
                        help="put tables and plots into docs/performance.md and docs/img")
    return parser.parse_args()


def main():
    flags = parse_arguments()
    flags.out.mkdir(parents=True, exist_ok=True)
    cases = {"quick": quick, "long": long}[flags.suite](flags)
    if flags.cases:
        cases = [case for case in cases if case.name in flags.cases.split(",")]
    for case in cases:
        if case.model and not case.model.exists():
            sys.exit(f"suite: there is no {case.model}; run `bench/random_models.sh FOLDER` and give "
                     "--models FOLDER")
    programs = {"pith": [str(flags.build / "bin/pith"), "bench"],
                "llama": [str(flags.build / "bench/peer_llama")],
                "attention": [str(flags.build / "bench/attention_bench")]}
    if not os.access(programs["llama"][0], os.X_OK):
        programs["llama"] = None
        print("suite: for llama.cpp side by side, run `make peers` once (8 minutes)", file=sys.stderr)
    file = flags.out / f"{flags.suite}.jsonl"
    if flags.fresh:
        file.unlink(missing_ok=True)
    records, missing = measure(cases, {k: v for k, v in programs.items() if v},
                               Runner("suite"), file, flags.minutes)
    if missing:
        print(f"suite: {missing} runs are still to be done", file=sys.stderr)
    write(flags, records, cases)


if __name__ == "__main__":
    main()
