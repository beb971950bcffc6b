#!/usr/bin/env python3
"""Divergence and needles found against the bytes of the cache, of what `pith eval kld --json` and
`pith eval needle --json` printed.

    bench/frontier.py RECORDS.json... [--out frontier.svg]

A color per pair of codecs, a line per scorer, one point per share kept; bytes are all that the
cache holds (window, positions, worths and page lists too), codebooks left out."""

import argparse
import json

import plots

# Of pairs of codecs, in the order of their bytes.
COLORS = ("#111111", "#1c6fb5", "#3f8f3f", "#b5541c", "#8844aa", "#c2a300", "#17a2a2", "#d64f8b",
          "#7a5230", "#7f7f7f", "#9acd32", "#ff7f50")
STYLES = {"none": ("", "*"), "kvzap": ("-", "o"), "qfilter+": ("--", "s"), "qfilter": (":", "^")}
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


def style_of(scorer):
    line, marker = STYLES.get(scorer, ("-.", "x"))
    return {"linestyle": line, "marker": marker, "markersize": 8 if marker == "*" else 4}


def palette(points):
    """{codecs: color}, the most bytes first."""
    largest = {}
    for lines in points.values():
        for (_, codecs), line in lines.items():
            largest[codecs] = max(largest.get(codecs, 0), *line)
    order = sorted(largest, key=largest.get, reverse=True)
    return {codecs: COLORS[i % len(COLORS)] for i, codecs in enumerate(order)}


def legend(axis, colors, scorers):
    for codecs, color in colors.items():
        axis.plot([], [], color=color, linewidth=3, label=codecs)
    for scorer in scorers:
        axis.plot([], [], color="#555555", **style_of(scorer),
                  label="all entries" if scorer == "none" else scorer)
    axis.legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)


def draw(axis, measure, lines, colors):
    title = MEASURES[measure][1]
    for (scorer, codecs), line in lines.items():
        axis.plot(*zip(*sorted((mib, record[measure]) for mib, record in line.items())),
                  color=colors[codecs], linewidth=1.2, **style_of(scorer))
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
    colors = palette(points)
    for axis, (measure, lines) in zip(axes, points.items()):
        draw(axis, measure, lines, colors)
    legend(axes[-1], colors, sorted({scorer for lines in points.values() for scorer, _ in lines}))
    figure.savefig(flags.out, format="svg", metadata={"Date": None})


if __name__ == "__main__":
    main()
