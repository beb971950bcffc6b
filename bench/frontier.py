#!/usr/bin/env python3
"""Divergence and needles found against the bytes of the cache, of what `pith eval kld --json` and
`pith eval needle --json` printed.

    bench/frontier.py RECORDS.json... [--out frontier.svg]

One line per scorer and pair of codecs, one point per share kept; bytes are all that the cache holds
(window, positions, worths and page lists too), codebooks left out."""

import argparse
import json

import plots

COLORS = {"none": "#777777", "kvzap": "#1c6fb5", "qfilter+": "#b5541c", "qfilter": "#3f8f3f"}
STYLES = {"f16/f16": (":", "o"), "q8/q4": ("--", "s"), "q4/q4": ("-", "^"),
          "pq8x16/q4": ("-.", "D"), "pq4x32/q4": ((0, (1, 3)), "v")}
MEASURES = {"divergence": ("divergence_interval", "KL divergence, nats"),
            "accuracy": ("interval", "needles found")}
TICKS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96)


def read(files):
    """{measure: {(scorer, codecs): {MiB: record}}}, with "none" where all entries are kept."""
    points = {measure: {} for measure in MEASURES}
    for file in files:
        with open(file, encoding="utf-8") as source:
            for record in json.load(source):
                measure = next(name for name in MEASURES if name in record)
                if record.get("divergence") == 0:
                    continue  # the full cache, which a logarithm has no place for
                codecs = f"{record.get('key_codec', 'f16')}/{record.get('value_codec', 'f16')}"
                scorer = "none" if record["keep"] == "100%" else record["scorer"] or "none"
                line = points[measure].setdefault((scorer, codecs), {})
                line[record["kv_bytes"] / 2**20] = record
    return {measure: lines for measure, lines in points.items() if lines}


def tell(measure, lines):
    interval, title = MEASURES[measure]
    print(f"| scorer | keys/values | keep | KV MiB | {title} | 95 % interval |")
    print("| --- | --- | --- | --- | --- | --- |")
    for (scorer, codecs), line in lines.items():
        for mib, record in sorted(line.items(), reverse=True):
            low, high = record[interval]
            print(f"| `{scorer}` | {codecs} | {record['keep']} | {mib:.1f} | "
                  f"{record[measure]:.4f} | {low:.4f} to {high:.4f} |")
    print()


def draw(axis, measure, lines):
    title = MEASURES[measure][1]
    for (scorer, codecs), line in lines.items():
        style, marker = STYLES.get(codecs, ("-", "x"))
        axis.plot(*zip(*sorted((mib, record[measure]) for mib, record in line.items())),
                  color=COLORS.get(scorer, "#8844aa"), linestyle=style, marker=marker, markersize=4,
                  label=f"{'all entries' if scorer == 'none' else scorer}, {codecs}")
    axis.set_xscale("log")
    if measure == "divergence":
        axis.set_yscale("log")
    ticks = [t for t in TICKS if axis.get_xlim()[0] <= t <= axis.get_xlim()[1]]
    axis.set_xticks(ticks, [str(t) for t in ticks])
    axis.set_xticks([], minor=True)
    axis.set_xlabel("KV cache, MiB")
    axis.set_ylabel(title)


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("records", nargs="+")
    parser.add_argument("--out", default="frontier.svg")
    flags = parser.parse_args()
    points = read(flags.records)
    for measure, lines in points.items():
        tell(measure, lines)
    drawn = plots.panels(len(points), 2 + 4.5 * len(points), "frontier")
    if drawn is None:
        return
    figure, axes = drawn
    axes = [axes] if len(points) == 1 else list(axes)
    for axis, (measure, lines) in zip(axes, points.items()):
        draw(axis, measure, lines)
    axes[-1].legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
    figure.savefig(flags.out, format="svg", metadata={"Date": None})


if __name__ == "__main__":
    main()
