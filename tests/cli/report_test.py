"""eval report: what it makes of records that eval printed, and what it refuses."""

import csv
import json
import os
import unittest

from pith_process import FACT, ONE_THREAD, PithTest

RECORD = {"task": "kld", "model": "M", "length": 300, "scorer": "knorm", "keep": "50%",
          "budget": "uniform", "kept_fraction": 0.5, "kv_bytes": 1000, "divergence": 0.25,
          "divergence_interval": [0.125, 0.5]}


class RecordsTest(PithTest):
    def setUp(self):
        super().setUp()
        self.one = self.write("one.json", json.dumps(RECORD))

    def report(self, *arguments):
        return self.done("eval", "report", *arguments)

    def test_what_the_tasks_print(self):
        essay = self.write("essay.txt", FACT * 40)
        plans = ["--scorer", "knorm,random", "--keep", "50%", "--trials", "1", "--json", *ONE_THREAD]
        needle = self.done("eval", "needle", "--haystack", essay, "-l", "400", *plans)
        kld = self.done("eval", "kld", "--text", essay, "-l", "300", "--next", "4", *plans)
        self.write("both.json", needle + kld)
        out = self.report(self.path("both.json"), "--csv", self.path("tables"), "--html",
                          self.path("page.html"), "--markdown", self.path("page.md"))
        self.assertEqual(out, "")
        markdown = self.report(self.path("both.json"))
        with open(self.path("page.md")) as file:
            self.assertEqual(file.read(), markdown)
        self.assertIn("## Needle in a haystack", markdown)
        self.assertRegex(markdown, r"(?m)^\| +300 \| full cache +\| +\| +\| +0\.0000 \| 0\.0000 to 0\.0000 \|")
        self.assertRegex(markdown, r"(?m)^\| +400 \| random +\| +50% \|")
        tables = set(os.listdir(self.path("tables")))
        self.assertLessEqual({"needle.csv", "kld.csv"}, tables)
        with open(self.path("tables/kld.csv"), newline="") as file:
            rows = list(csv.DictReader(file))
        records = json.loads(kld)
        self.assertEqual([row["scorer"] for row in rows], ["full cache", "knorm", "random"])
        for row, record in zip(rows, records):
            self.assertEqual(float(row["divergence"]), record["divergence"])
            self.assertEqual([float(row["divergence_low"]), float(row["divergence_high"])],
                             record["divergence_interval"])
            self.assertEqual(float(row["kv_bytes"]), record["kv_bytes"])
        with open(self.path("page.html"), encoding="utf-8") as file:
            page = file.read()
        self.assertIn('data-figure="kld_divergence"', page)
        self.assertIn('<table id="table_needle">', page)

    def test_several_files(self):
        other = dict(RECORD, scorer="tova", divergence=0.5, cpu="Some <CPU>")
        two = self.write("two.json", json.dumps([other, dict(RECORD, divergence=0.75)]))
        out = self.report(self.one, two)
        self.assertIn("One record was measured again later; the last record counts.", out)
        self.assertIn("- CPU: Some \\<CPU>\n", out)
        self.assertRegex(out, r"(?m)^\| +300 \| knorm +\| +50% \| uniform \| +0\.7500 ")
        self.assertNotIn("0.2500", out)

    def test_refused(self):
        bad = self.write("bad.json", json.dumps([RECORD, dict(RECORD, divergence="much")]))
        cut = self.write("cut.json", json.dumps(RECORD)[:-5])
        trials = self.write("trials.jsonl", '{"settings": "00", "trial": 1}\n')
        for pattern, file in (
            (r'record 2 of .*bad.json: "divergence" is \'much\', expected a number', bad),
            (r"cut.json is no JSON, or is cut short", cut),
            (r"record 1 of .*trials.jsonl names no task, .*--out", trials),
            (r"there is no file .*none.json", self.path("none.json")),
            (r"cannot read", self.folder),
            (r"holds no record", self.write("empty.json", "")),
        ):
            self.refused(1, pattern, "eval", "report", self.one, file, "--html", self.path("p.html"))
            self.assertNotIn("p.html", self.files())
        self.refused(1, "cannot write", "eval", "report", self.one, "--html",
                     self.path("no/such/p.html"))
        self.refused(1, "cannot make the folder", "eval", "report", self.one, "--csv", self.one)
        self.refused(2, "FILE", "eval", "report")


if __name__ == "__main__":
    unittest.main()
