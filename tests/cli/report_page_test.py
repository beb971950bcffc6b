"""eval report: what a browser draws of its page, in light and dark, without a network."""

import html.parser
import json
import os
import re
import shutil
import subprocess
import tempfile
import unittest

from pith_process import PithTest

BROWSER = os.environ.get("CHROMIUM") or shutil.which("chromium") or "chromium"
HOSTILE = "</script><b id=hostile>é\u2028\n'\"\\ {{datum.y}}"
LENGTHS = (2048, 4096)
SCORERS = ("knorm", "qfilter", HOSTILE)
BUDGETS = ("uniform", "global")
CODECS = {"q8": 68, "pq8x2": 2}  # bytes a key
KEEPS = (("50%", 0.5), ("25%", 0.25))


def plans():
    """The full cache and every plan at every length."""
    for length in LENGTHS:
        common = {"model": "Small", "fingerprint": "0011", "length": length, "trials": 8,
                  "cpu": "A CPU", "threads": 2, "seed": 42, "date": "2026-11-23", "version": "0.1.0"}
        yield dict(common, scorer=None, keep="100%", budget=None, kept_fraction=1, kv_bytes=4e7)
        for at, scorer in enumerate(SCORERS):
            for budget in BUDGETS:
                for keep, share in KEEPS:
                    quality = share * (3 - at) / 3
                    yield dict(common, scorer=scorer, keep=keep, budget=budget, quality=quality,
                               kept_fraction=share, kv_bytes=4e7 * share,
                               kept_per_head=[[share, share / 2]] * 3)


def records():
    for plan in plans():
        quality = plan.pop("quality", 0.9)
        share = [quality - 0.1, quality + 0.1]
        yield dict(plan, task="kld", divergence=1 - quality,
                   divergence_interval=[0.9 - quality, 1.2 - quality])
        yield dict(plan, task="needle", accuracy=quality, interval=share,
                   by_depth=[{"depth": depth / 2, "correct": depth, "trials": 4} for depth in range(3)])
        for subtask in ("vt", "cwe", "mean"):
            yield dict(plan, task="ruler", subtask=subtask, score=100 * quality,
                       score_interval=[100 * end for end in share])
    for scorer in SCORERS:
        yield {"task": "spearman", "length": 2048, "model": "Small", "fingerprint": "0011",
               "scorer": scorer, "spearman": 0.5, "spearman_interval": [0.25, 0.75],
               "per_head": [[0.5, -0.5]] * 3}
    for codec, size in CODECS.items():
        yield {"task": "codec", "length": 2048, "model": "Small", "fingerprint": "0011",
               "key_codec": codec, "key_bytes": size, "cosine": 0.9, "divergence": 1 / size,
               "cosine_interval": [0.85, 0.95], "divergence_interval": [0.5 / size, 2 / size],
               "per_head": [[0.5, 0.75]] * 3}


class Page(html.parser.HTMLParser):
    """What stands in the drawn page: marks and texts of every figure, rows of every table."""

    def __init__(self, text):
        super().__init__()
        self.marks = {}  # by figure and kind: attributes
        self.texts = {}  # by figure
        self.drawn = {}  # by figure: its kind, None if nothing was drawn
        self.rows = {}  # by table: their number, without the head
        self.ids = set()
        self.errors = 0
        self.figure = self.table = self.tag = None
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        values = dict(attributes)
        self.tag = tag
        self.ids.add(values.get("id"))
        self.errors += values.get("class") == "error"
        if "data-figure" in values:
            self.figure = values["data-figure"]
            self.marks[self.figure], self.texts[self.figure] = {}, []
            self.drawn[self.figure] = values.get("data-drawn")
        elif tag == "table":
            self.figure, self.table = None, values["id"]
            self.rows[self.table] = -1  # the head
        elif tag == "tr":
            self.rows[self.table] += 1
        elif self.figure and values.get("role") == "graphics-symbol":
            kind = values["aria-roledescription"]
            self.marks[self.figure].setdefault(kind, []).append(values)

    def handle_data(self, data):
        if self.tag == "text" and self.figure and data.strip():
            self.texts[self.figure].append(data)

    def count(self, figure, kind):
        return len(self.marks[figure].get(kind, []))


class PageTest(PithTest):
    @classmethod
    def setUpClass(cls):
        cls.profile = tempfile.TemporaryDirectory()
        cls.addClassCleanup(cls.profile.cleanup)

    def browse(self, file, scheme):
        """The page as it stands after its scripts ran."""
        done = subprocess.run(
            [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
             "--no-first-run", "--host-resolver-rules=MAP * ~NOTFOUND", "--enable-logging=stderr",
             f"--user-data-dir={self.profile.name}", "--window-size=1280,1000",
             f"--blink-settings=preferredColorScheme={ {'dark': 0, 'light': 1}[scheme]}",
             "--virtual-time-budget=30000", "--dump-dom", f"file://{file}"],
            capture_output=True, timeout=120, text=True, check=True)
        self.assertEqual([line for line in done.stderr.splitlines() if "CONSOLE" in line], [])
        return Page(done.stdout)

    def test_what_is_drawn(self):
        file = self.write("records.json", "".join(json.dumps(record) for record in records()))
        self.done("eval", "report", file, "--html", self.path("page.html"))
        light = self.browse(self.path("page.html"), "light")
        dark = self.browse(self.path("page.html"), "dark")
        self.check(light)
        self.check(dark)
        # The same marks in other colours.
        colours = [{mark.get("fill") for mark in page.marks["kld_divergence"]["point"]}
                   for page in (light, dark)]
        self.assertEqual([len(some) for some in colours], [len(SCORERS)] * 2)
        self.assertFalse(colours[0] & colours[1], colours)

    def check(self, page):
        self.assertEqual(page.errors, 0)
        self.assertNotIn("hostile", page.ids)
        n_series = len(SCORERS) * len(BUDGETS)
        n_plans = n_series * len(KEEPS)
        everywhere = n_plans * len(LENGTHS)
        for figure, kind, marks, texts in (
            ("kld_divergence", "lines",
             {"point": everywhere, "rule mark": everywhere, "line mark": n_series * len(LENGTHS)},
             ["KL divergence (nats per token)", "entries kept (%)", "50%", "4,096 tokens"]),
            ("needle_accuracy", "lines",
             {"point": everywhere, "rule mark": everywhere + len(LENGTHS), "rect mark": len(LENGTHS)},
             ["needles found (%)", "entries kept (%)", "2,048 tokens", "scorer", "global"]),
            ("needle_depths", "heat",
             {"rect mark": 3 * (everywhere + len(LENGTHS)), "text mark": 3 * (everywhere + len(LENGTHS))},
             ["depth (%)", "length (tokens)", "full cache", "knorm, uniform, keep 50%"]),
            ("ruler_score", "lines", {"point": everywhere}, ["mean score (0 to 100)"]),
            ("ruler_subtasks", "bars",
             {"bar": 2 * everywhere, "rule mark": 2 * everywhere,
              "tick": 2 * len(KEEPS) * len(LENGTHS)},
             ["score (0 to 100)", "vt", "cwe", "2,048 tokens, keep 25%"]),
            ("spearman_bars", "bars", {"bar": len(SCORERS)}, ["Spearman's rho", "qfilter"]),
            ("spearman_heads", "heat", {"rect mark": 6 * len(SCORERS)}, ["KV head", "layer", "rho"]),
            ("codec_cosine", "lines", {"point": len(CODECS), "rule mark": len(CODECS)},
             ["cosine", "bytes a key", "codec", *CODECS]),
            ("codec_divergence", "lines", {"point": len(CODECS)}, ["bytes a key"]),
            ("codec_heads", "heat", {"rect mark": 6 * len(CODECS)}, ["KV head", "layer", "cosine"]),
            ("heads_kept", "heat", {"rect mark": 6 * n_plans}, ["KV head", "layer", "kept (%)", "qfilter, uniform, keep 25%"]),
        ):
            self.assertEqual(page.drawn[figure], kind)
            for mark, count in marks.items():
                self.assertEqual(page.count(figure, mark), count, f"{mark} of {figure}")
            self.assertLessEqual(set(texts), set(page.texts[figure]), figure)
        self.assertEqual(page.rows, {
            "table_kld": everywhere + 2, "table_needle": everywhere + 2,
            "table_needle_depths": 3 * (everywhere + 2), "table_ruler": everywhere + 2,
            "table_ruler_subtasks": 2 * (everywhere + 2), "table_spearman": len(SCORERS),
            "table_spearman_heads": 3 * len(SCORERS), "table_codec": len(CODECS),
            "table_codec_heads": 3 * len(CODECS), "table_heads_kept": 3 * n_plans,
            **{f"table_{task}_by_share": n_series * len(LENGTHS) + 2
               for task in ("kld", "needle", "ruler")}})


if __name__ == "__main__":
    unittest.main()
