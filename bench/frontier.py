#!/usr/bin/env python3
"""Divergence against the bytes of the cache, of what `pith eval kld --json` printed.

    bench/frontier.py RECORDS.json... [--out frontier.svg]

One line per scorer and pair of codecs, one point per share kept; bytes are all that the cache holds
(window, positions, worths and page lists too), codebooks left out."""

import argparse
import json

import plots

COLORS = {"none": "#777777", "kvzap": "#1c6fb5", "qfilter+": "#b5541c", "qfilter": "#3f8f3f"}
STYLES = {"f16/f16": (":", "o"), "q8/q4": ("--", "s"), "q4/q4": ("-", "^"),
          "pq8x16/q4": ("-.", "D"), "pq4x32/q4": ((0, (1, 3)), "v")}


def codecs(record):
    return f"{record.get('key_codec', 'f16')}/{record.get('value_codec', 'f16')}"


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("records", nargs="+")
    parser.add_argument("--out", default="frontier.svg")
    flags = parser.parse_args()
    points = {}
    for file in flags.records:
        with open(file, encoding="utf-8") as source:
            for record in json.load(source):
                if record["task"] == "kld" and record["divergence"] > 0:
                    line = (record["scorer"] or "none", codecs(record))
                    points.setdefault(line, {})[record["kv_bytes"] / 2**20] = record
    print("| scorer | keys/values | keep | KV MiB | KLD | 95 % interval |")
    print("| --- | --- | --- | --- | --- | --- |")
    for (scorer, codec), line in points.items():
        for mib, record in sorted(line.items(), reverse=True):
            low, high = record["divergence_interval"]
            print(f"| `{scorer}` | {codec} | {record['keep']} | {mib:.1f} | "
                  f"{record['divergence']:.4f} | {low:.4f} to {high:.4f} |")
    drawn = plots.panels(1, 7, "frontier")
    if drawn is None:
        return
    figure, axis = drawn
    for (scorer, codec), line in points.items():
        style, marker = STYLES.get(codec, ("-", "x"))
        axis.plot(*zip(*sorted((mib, r["divergence"]) for mib, r in line.items())),
                  color=COLORS.get(scorer, "#8844aa"), linestyle=style, marker=marker, markersize=4,
                  label=f"{'all entries' if scorer == 'none' else scorer}, {codec}")
    axis.set_xscale("log")
    axis.set_yscale("log")
    ticks = [t for t in (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96)
             if axis.get_xlim()[0] <= t <= axis.get_xlim()[1]]
    axis.set_xticks(ticks, [str(t) for t in ticks])
    axis.set_xticks([], minor=True)
    axis.set_xlabel("KV cache, MiB")
    axis.set_ylabel("KL divergence, nats")
    axis.legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
    figure.savefig(flags.out, format="svg", metadata={"Date": None})


if __name__ == "__main__":
    main()
