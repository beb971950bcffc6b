"""Tables and plots of what rounds.py measured."""
import pathlib
import re

import plots
from measuring import cpu_name

ROOT = pathlib.Path(__file__).resolve().parent.parent
BASELINE = "llama.cpp f16"


def llama_version():
    pinned = (ROOT / "scripts/requirements-peers.txt").read_text()
    found = re.search(r"^llama-cpp-python==(\S+)", pinned, re.MULTILINE)
    return f"llama.cpp of llama-cpp-python {found.group(1)}" if found else "llama.cpp"


def header(records, case):
    """What a table must carry to mean anything."""
    ours, theirs = {}, {}
    for (name, _, _), rounds in records.by_key.items():
        if name == case.name:
            for record in rounds.values():
                (theirs if record.get("engine") == "llama.cpp" else ours).update(record)
    text = f"{cpu_name()}, {ours.get('simd') or ours.get('level', '')}, {case.threads} threads"
    if theirs:
        text += f"; {llama_version()} (ggml {theirs['ggml']}, native build, flash attention)"
    rounds = sorted({len(rounds) for (name, _, _), rounds in records.by_key.items()
                     if name == case.name})
    if rounds == [1]:
        text += "; one round"
    else:
        text += (f"; medians of {' or '.join(map(str, rounds))} rounds, in parentheses the least and "
                 "the most")
    text += (f"; other programs took at most {100 * records.most_others:.0f} % of the machine")
    return text


def digits(number):
    return f"{number:,.0f}" if number >= 100 else f"{number:.1f}" if number >= 10 else f"{number:.2f}"


def spread(value):
    """17.1 (16.8 to 17.5)"""
    if value is None:
        return ""
    text = digits(value.median)
    if value.rounds > 1:
        text += f" ({digits(value.least)} to {digits(value.most)})"
    return text


def times(value):
    return f"{value.median:.2f}" if value else ""


def mib(value):
    return digits(value.median / 2**20) if value else ""


def table(records, case):
    """Markdown. Ratios are against llama.cpp with f16 KV, above 1: faster than it."""
    has_peer = any(records.record(case.name, BASELINE, depth) for depth in records.depths(case.name))
    against = f" against {BASELINE}"
    columns = ["depth", "", "KV MiB", "KV at peak", "resident MiB, peak", "prefill t/s"]
    columns += [against.strip()] * has_peer + ["decode ms"] + [against.strip()] * has_peer
    lines = ["| " + " | ".join(columns) + " |", "|" + " --- |" * len(columns)]
    for depth in records.depths(case.name):
        for contender in case.contenders:
            name = contender.name
            get = lambda field: records.value(case.name, name, depth, field)
            if get("decode_ms") is None:
                continue
            cells = [f"{depth:,}", name, mib(get("kv_bytes")),
                     mib(get("kv_bytes_peak") or get("kv_bytes")), mib(get("peak_resident_bytes")),
                     spread(get("prefill_tps"))]
            at = lambda who, field: (case.name, who, depth, field)
            if has_peer:
                cells.append(times(records.ratio(at(name, "prefill_tps"), at(BASELINE, "prefill_tps"))))
            cells.append(spread(get("decode_ms")))
            if has_peer:
                cells.append(times(records.ratio(at(BASELINE, "decode_ms"), at(name, "decode_ms"))))
            lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def kernel_table(records, case):
    """Markdown, of attention alone beside pure reads of memory."""
    columns = ("entries a head", "", "ms", "GB/s", "pure reads, GB/s", "share of them",
               "against even heads")
    lines = ["| " + " | ".join(columns) + " |", "|" + " --- |" * len(columns)]
    for depth in records.depths(case.name):
        for contender in case.contenders:
            fields = ("ms", "gbps", "read_gbps", "bandwidth_share", "by_even")
            cells = [spread(records.value(case.name, contender.name, depth, field))
                     for field in fields]
            lines.append("| " + " | ".join([f"{depth:,}", contender.name, *cells]) + " |")
    return "\n".join(lines)


def segments(records, case):
    """Which tokens prefill speeds are about."""
    texts = []
    for depth in records.depths(case.name):
        by_segment = {}
        for contender in case.contenders:
            record = records.record(case.name, contender.name, depth)
            if record:
                by_segment.setdefault(tuple(record["segment"]), []).append(contender.name)
        (start, end), *others = sorted(by_segment)
        text = f"{start:,} to {end:,}"
        for other in others:
            text += f" ({' and '.join(by_segment[other])}: from {other[0]:,})"
        texts.append(text)
    return "Prefill is the speed of reading the tokens " + ", ".join(texts) + "."


def as_json(records):
    """Medians and spreads of everything that is a number."""
    out = {}
    for (case, contender, depth), rounds in sorted(records.by_key.items()):
        fields = {name for record in rounds.values() for name, number in record.items()
                  if isinstance(number, (int, float)) and not isinstance(number, bool)}
        numbers = {}
        for field in sorted(fields - {"depth", "tokens"}):
            value = records.value(case, contender, depth, field)
            numbers[field] = value.median if value.least == value.most else [
                value.median, value.least, value.most]
        out.setdefault(case, {}).setdefault(contender, {})[str(depth)] = {
            "rounds": len(rounds), **numbers}
    return out


# Blue to green is pith, by how much it keeps; warm colours are llama.cpp.
COLORS = ("#1f4e9c", "#2f86c9", "#35a79c", "#7a5fb5", "#6b8e23")
PEER_COLORS = ("#c2410c", "#e08a1e", "#a8326e")
PANELS = (("decode_ms", "decode, ms a token", 1, "log"),
          ("prefill_tps", "prefill, tokens a second", 1, "linear"),
          ("peak_resident_bytes", "resident at peak, MiB", 2**-20, "linear"))


def plot(records, case, file):
    """Decode time, prefill speed and memory over depth. False where Matplotlib is missing."""
    drawn = plots.panels(len(PANELS), 11, case.name)
    if drawn is None:
        return False
    from matplotlib import ticker
    figure, axes = drawn
    depths = records.depths(case.name)
    ours = [c.name for c in case.contenders if c.program == "pith"]
    theirs = [c.name for c in case.contenders if c.program != "pith"]
    colors = dict(zip(ours, COLORS)) | dict(zip(theirs, PEER_COLORS))
    for axis, (field, title, unit, scale) in zip(axes, PANELS):
        for contender in case.contenders:
            values = {depth: records.value(case.name, contender.name, depth, field)
                      for depth in depths}
            values = {depth: value for depth, value in values.items() if value}
            if not values:
                continue
            medians = [unit * value.median for value in values.values()]
            axis.plot(values.keys(), medians, label=contender.name,
                      color=colors[contender.name], linewidth=1.6, markersize=4,
                      marker="o" if contender.program == "pith" else "s",
                      linestyle="-" if contender.program == "pith" else "--")
            axis.fill_between(values.keys(), [unit * v.least for v in values.values()],
                              [unit * v.most for v in values.values()],
                              color=colors[contender.name], alpha=0.15, linewidth=0)
        axis.set_title(title)
        axis.set_xscale("log", base=2)
        axis.set_xticks(depths, [f"{depth:,}" for depth in depths])
        axis.set_xlabel("tokens in the context")
        axis.set_yscale(scale)
        if scale == "log":
            axis.yaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
            axis.yaxis.set_major_formatter(ticker.StrMethodFormatter("{x:g}"))
        else:
            axis.set_ylim(bottom=0)
        axis.minorticks_off()
    plots.save(figure, axes[0], file)
    return True
