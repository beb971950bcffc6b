"""Rounds of runs: contenders that take turns at the same work, every single run kept in a file.

A case is a model with several points of work (depths) and several contenders (pith under a plan,
llama.cpp with a type of KV), or the attention kernels alone. A round runs all contenders at a point one after another, so that what
slows the machine down slows all; claims are medians over rounds of ratios within a round. Every run is
a process of its own, so that its peak of resident memory is its own.
"""
import dataclasses
import hashlib
import json
import os
import pathlib
import statistics
import sys
import time


@dataclasses.dataclass(frozen=True)
class Point:
    """Depths measured by one process. With `segment`, only so many tokens before each are read and
    all before those are made up."""
    depths: tuple
    segment: int | None = None

    def flags(self, most=None):
        """With `most`, no more tokens than that are read before a depth."""
        segment = min((n for n in (self.segment, most) if n), default=None)
        flags = ["-d", ",".join(map(str, self.depths))]
        return flags + (["--synthetic", "--segment", segment] if segment else [])


@dataclasses.dataclass(frozen=True)
class Contender:
    name: str
    program: str  # "pith", "llama" or "attention": the kernels alone
    flags: tuple = ()
    rounds: int = 1
    segment: int | None = None  # at most so many tokens are read before a depth, for slow readers


def pith(keep, *flags, rounds=1):
    return Contender(f"pith {keep}", "pith", ("--keep", keep, *flags), rounds)


def llama(kv, rounds=1, segment=None):
    return Contender(f"llama.cpp {kv}", "llama", ("--kv", kv), rounds, segment)


@dataclasses.dataclass(frozen=True)
class Case:
    name: str
    title: str
    model: pathlib.Path | None  # None for the kernels
    points: tuple
    contenders: tuple
    threads: int
    decode: int = 24

    def runs(self):
        """(round, point, contender) in the order in which they are to be done."""
        for number in range(max(contender.rounds for contender in self.contenders)):
            turn = 1 if number % 2 == 0 else -1  # every other round goes backwards
            for point in self.points[::turn]:
                for contender in self.contenders[::turn]:
                    if number < contender.rounds:
                        yield number, point, contender

    def command(self, programs, point, contender):
        model = ["-m", self.model, "--decode", self.decode] if self.model else []
        return [str(word) for word in (
            *programs[contender.program], *model, *point.flags(contender.segment),
            "-t", self.threads, "--json", *contender.flags)]


@dataclasses.dataclass(frozen=True)
class Value:
    """Of several rounds."""
    median: float
    least: float
    most: float
    rounds: int


def value(numbers):
    return Value(statistics.median(numbers), min(numbers), max(numbers), len(numbers))


class Records:
    """What was measured: by case, contender and depth one record a round."""

    def __init__(self, cases, lines):
        self.cases = {case.name: case for case in cases}
        self.most_others = max((line["others"] for line in lines), default=0.0)
        self.by_key = {}
        for line in lines:
            for record in line["records"]:
                key = (line["case"], line["contender"], record["depth"])
                self.by_key.setdefault(key, {})[line["round"]] = record

    def depths(self, case):
        return sorted({depth for name, _, depth in self.by_key if name == case})

    def record(self, case, contender, depth):
        """One of the records, for what does not differ from round to round; None if there is none."""
        rounds = self.by_key.get((case, contender, depth))
        return rounds[min(rounds)] if rounds else None

    def values(self, case, contender, depth, field):
        rounds = self.by_key.get((case, contender, depth), {})
        return {number: record[field] for number, record in rounds.items() if field in record}

    def value(self, case, contender, depth, field):
        numbers = self.values(case, contender, depth, field)
        return value(numbers.values()) if numbers else None

    def ratio(self, above, below):
        """Of two measurements (case, contender, depth, field), over the rounds that both have."""
        above, below = self.values(*above), self.values(*below)
        both = above.keys() & below.keys()
        return value([above[number] / below[number] for number in both]) if both else None


def build_of(programs):
    """Tells the programs of one build from those of another."""
    digest = hashlib.sha256()
    for command in programs.values():
        if os.path.exists(command[0]):
            digest.update(pathlib.Path(command[0]).read_bytes())
    return digest.hexdigest()[:12]


def measure(cases, programs, runner, file=None, minutes=None):
    """Does the runs that `file` (a JSON object a line) does not hold yet. Those of other builds of
    the programs or with other flags do not count. With `minutes`, begins none after so many.
    Returns the records and the number of runs that are still missing."""
    build = build_of(programs)
    wanted = []
    for case in cases:
        for number, point, contender in case.runs():
            if not programs.get(contender.program):
                continue
            command = case.command(programs, point, contender)
            wanted.append({"case": case.name, "contender": contender.name, "round": number,
                           "build": build, "command": command})
    wanted.sort(key=lambda run: run["round"])  # one round of everything before the next
    done = {}
    if file and file.exists():
        for line in file.read_text().splitlines():
            run = json.loads(line)
            done[key_of(run)] = run
    lines, missing, start = [], 0, time.monotonic()
    for at, run in enumerate(wanted):
        if key_of(run) in done:
            lines.append(done[key_of(run)])
            continue
        if minutes is not None and time.monotonic() - start > 60 * minutes:
            missing += 1
            continue
        print(f"run {at + 1} of {len(wanted)}: {run['case']}, round {run['round'] + 1}, "
              f"{run['contender']}", file=sys.stderr)
        run["at"] = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime())
        run["records"] = runner.json(run["command"])
        run["others"] = runner.last_others
        lines.append(run)
        if file:
            with open(file, "a", encoding="utf-8") as out:
                out.write(json.dumps(run) + "\n")
    return Records(cases, lines), missing


def key_of(run):
    return (run["case"], run["contender"], run["round"], run["build"], *run["command"])
