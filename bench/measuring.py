"""What the measuring programs share: running a program that prints JSON, and how quiet it was meanwhile."""
import json
import os
import pathlib
import resource
import shlex
import subprocess
import sys
import time


def cpu_name():
    try:
        for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return "unknown CPU"


def busy_seconds():
    """Of all cores together, since the system started; None where the system does not tell."""
    try:
        fields = pathlib.Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]
    except OSError:
        return None
    user, nice, system, _, _, irq, soft_irq = (int(field) for field in fields[:7])
    return (user + nice + system + irq + soft_irq) / os.sysconf("SC_CLK_TCK")


def child_seconds():
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


class Runner:
    """Runs programs one after another. `limit`: the part of the machine's cores that others may take
    during a run; above it the run is repeated, up to five times."""

    def __init__(self, name, limit=1.0):
        self.name = name
        self.limit = limit
        self.last_others = 0.0  # of the run that was last
        self.most_others = 0.0  # over all runs that count

    def json(self, command):
        for attempt in range(6):
            result, others = self._run(command)
            if others <= self.limit:
                break
            print(f"{self.name}: others took {100 * others:.0f} % of the machine"
                  f"{', once more' if attempt < 5 else ''}", file=sys.stderr)
        self.last_others = others
        self.most_others = max(self.most_others, others)
        return result

    def quietness(self):
        return f"other programs took at most {100 * self.most_others:.0f} % of the machine"

    def _run(self, command):
        start, busy, own = time.monotonic(), busy_seconds(), child_seconds()
        result = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
        if result.returncode != 0:
            sys.exit(f"{self.name}: `{shlex.join(map(str, command))}` exited with "
                     f"{result.returncode}")
        if busy is None:
            return json.loads(result.stdout), 0.0
        others = (busy_seconds() - busy) - (child_seconds() - own)
        whole = (time.monotonic() - start) * (os.cpu_count() or 1)
        return json.loads(result.stdout), max(0.0, others / whole)
