#!/usr/bin/env python3
"""What the cache holds while a model writes 4,000 tokens, and what that costs in prediction.

    bench/long_writing.py [--program build/release/bench/long_writing] [--out DIR]

Writes under a threshold, the one that keeps about a quarter of other texts, and under one that is
steered to a quarter (--keep 25% --budget threshold); then reads a fixed text token by token, as if it
were written, with the full cache and with both. Prints a Markdown table, and writes long_writing.json
and long_writing.svg. Standard library only. What is done already is taken from DIR."""

import argparse
import json
import os
import struct
import subprocess

PROMPT = (
    "<|im_start|>user\nWrite a long story about a lighthouse keeper, his daughter and the sea. "
    "Tell it in many chapters.<|im_end|>\n<|im_start|>assistant\n"
)
SETTLED = 4  # windows and sinks are negligible once the fraction is this many times as much
KEPT_ALWAYS = 132
COLORS = {"tau": "#b5541c", "25%": "#1c6fb5", "100%": "#777777"}


def quantile(calibration, part):
    """The worth that `part` of all are below, as the calibration has it."""
    with open(calibration, "rb") as file:
        header = json.loads(file.read(struct.unpack("<Q", file.read(8))[0]))
        begin, end = header["kvzap.quantiles"]["data_offsets"]
        file.seek(begin, os.SEEK_CUR)
        values = struct.unpack(f"<{(end - begin) // 4}f", file.read(end - begin))
    at = part * (len(values) - 1)
    low = min(int(at), len(values) - 2)
    return values[low] + (at - low) * (values[low + 1] - values[low])


def measure(flags, name, *arguments):
    file = os.path.join(flags.out, f"long_writing-{name}.json")
    if not os.path.exists(file):
        command = [flags.program, "-m", flags.model, "--calibration", flags.calibration,
                   "--prompt", PROMPT, "--seed", str(flags.seed), "-t", str(flags.threads),
                   *arguments]
        out = subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout
        with open(file, "wb") as target:
            target.write(out)
    with open(file, encoding="utf-8") as source:
        return json.load(source)


def kept(point):
    return point["entries"] / point["entries_full"]


def polyline(points, color, dashes=""):
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    dash = f' stroke-dasharray="{dashes}"' if dashes else ""
    return f'<polyline points="{path}" fill="none" stroke="{color}" stroke-width="1.6"{dash}/>'


def panel(left, title, unit, series, top, last, value):
    """Lines over the number of tokens; value(point) from 0 to `top`."""
    width, height, foot = 300, 200, 240
    x = lambda tokens: left + width * tokens / last
    y = lambda number: foot - height * number / top
    out = [f'<text x="{left}" y="26" font-weight="bold">{title}</text>']
    for step in range(5):
        number = top * step / 4
        out.append(f'<line x1="{left}" x2="{left + width}" y1="{y(number):.1f}" '
                   f'y2="{y(number):.1f}" stroke="#ddd"/>')
        out.append(f'<text x="{left - 6}" y="{y(number) + 4:.1f}" text-anchor="end">'
                   f'{number:g}{unit}</text>')
    for tokens in range(0, last + 1, 1000):
        out.append(f'<text x="{x(tokens):.1f}" y="{foot + 18}" text-anchor="middle">'
                   f'{tokens:,}</text>')
    for color, dashes, points in series:
        out.append(polyline([(x(p["tokens"]), y(min(value(p), top))) for p in points], color,
                            dashes))
    return out


def picture(runs, tau):
    last = max(run["series"][-1]["tokens"] for run in runs.values())
    mib = lambda p: p["kv_bytes"] / 2**20
    full = [{"tokens": p["tokens"], "kv_bytes": p["kv_bytes_full"]}
            for p in runs["25%"]["series"]]
    full.insert(0, {"tokens": 0, "kv_bytes": 0})
    top = -(-mib(full[-1]) // 20) * 20
    lines = [(COLORS[name], "", run["series"]) for name, run in runs.items()]
    out = ['<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 760 300" width="760" '
           'font-family="sans-serif" font-size="12" fill="#333">',
           '<rect width="760" height="300" fill="white"/>']
    out += panel(70, "KV cache, MiB", "", [(COLORS["100%"], "5 3", full), *lines], top, last, mib)
    out += panel(440, "entries kept", " %", lines, 100, last, lambda p: 100 * kept(p))
    out.append('<text x="405" y="278" text-anchor="middle">tokens read and written</text>')
    for at, (color, words) in enumerate(((COLORS["100%"], "full f16 cache"),
                                         (COLORS["tau"], f"--keep tau={tau:.2f}"),
                                         (COLORS["25%"], "--keep 25%, steered"))):
        out.append(f'<line x1="{180 + 160 * at}" x2="{204 + 160 * at}" y1="291" y2="291" '
                   f'stroke="{color}" stroke-width="2"/>')
        out.append(f'<text x="{210 + 160 * at}" y="295">{words}</text>')
    return "\n".join([*out, "</svg>", ""])


def drift(run, fraction):
    """Largest distance from `fraction` once the window is negligible."""
    late = [p for p in run["series"] if fraction * p["tokens"] >= SETTLED * KEPT_ALWAYS]
    return max(abs(kept(p) - fraction) for p in late)


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--program", default="build/release/bench/long_writing")
    parser.add_argument("--model", default="models/SmolLM2-135M-Instruct.Q4_1.gguf")
    parser.add_argument("--calibration",
                        default="calibrations/SmolLM2-135M-Instruct.Q4_1.pithcal")
    parser.add_argument("--text", default=".deps/texts/essays/worked.txt")
    parser.add_argument("--tokens", type=int, default=4000)
    parser.add_argument("--text-tokens", type=int, default=3000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--out", default="build/long_writing")
    flags = parser.parse_args()
    os.makedirs(flags.out, exist_ok=True)
    tau = round(quantile(flags.calibration, 0.75), 2)
    keeps = {"tau": f"tau={tau}", "25%": "25%"}
    wrote = {name: measure(flags, f"write-{name.rstrip('%')}", "--keep", keep, "--tokens",
                           str(flags.tokens)) for name, keep in keeps.items()}
    read = {name: measure(flags, f"read-{name.rstrip('%')}", "--keep", keep, "--tokens",
                          str(flags.text_tokens), "--text", flags.text)
            for name, keep in {"100%": "100%", **keeps}.items()}
    print("| keep | kept of what it wrote | KV MiB at the end | in full | drift from 25 %, points | "
          f"NLL of {flags.text_tokens} tokens read as if written | kept of these |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for name, run in read.items():
        end, text = wrote[name]["series"][-1] if name in wrote else None, run["series"][-1]
        cells = ["", "", "", ""]
        if end:
            cells = [f"{100 * kept(end):.1f} %", f"{end['kv_bytes'] / 2**20:.1f}",
                     f"{end['kv_bytes_full'] / 2**20:.1f}",
                     f"{100 * drift(wrote[name], 0.25):.1f}"]
        print(f"| {keeps.get(name, name)} | {' | '.join(cells)} | {run['nll']:.3f} | "
              f"{100 * kept(text):.1f} % |")
    with open(os.path.join(flags.out, "long_writing.json"), "w", encoding="utf-8") as file:
        plain = {name: {**run, "written": None} for name, run in wrote.items()}
        json.dump({"wrote": plain, "read": read}, file, separators=(",", ":"))
        file.write("\n")
    with open(os.path.join(flags.out, "long_writing.svg"), "w", encoding="utf-8") as file:
        file.write(picture(wrote, tau))


if __name__ == "__main__":
    main()
