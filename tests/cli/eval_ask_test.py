"""eval ruler, eval longbench, and questions that are known before compression."""

import json
import os
import unittest

from pith_process import FACT, ONE_THREAD, PithTest

SYLLABLES = [a + b for a in "bdfgklmnprstvz" for b in "aeiou"]


def words(end, n):
    return "".join(f"{SYLLABLES[i % 70]}{SYLLABLES[i // 70]}{end}\n" for i in range(n))


class AskTest(PithTest):
    def lines(self, name):
        with open(self.path(name)) as file:
            return [json.loads(line) for line in file]


class RulerTest(AskTest):
    def setUp(self):
        super().setUp()
        self.essay = self.write("essay.txt", FACT * 40)
        os.mkdir(self.path("words"))
        for name, end, n in (("adjective", "sh", 60), ("noun", "nt", 900), ("verb", "ll", 60)):
            self.write(f"words/{name}list.txt", words(end, n))
        self.bare = ["eval", "ruler", *ONE_THREAD]
        self.sources = ["--haystack", self.essay, "--words", self.path("words")]
        self.flags = [*self.bare, *self.sources, "--scorer", "knorm"]

    def records(self, *flags):
        return self.json(*self.flags, "--json", *flags)

    def test_all_tasks_and_their_mean(self):
        out = self.records("--trials", "1", "--keep", "50%", "-l", "1100")
        names = ["niah_single_1", "niah_single_2", "niah_single_3", "niah_multikey_1",
                 "niah_multikey_2", "niah_multikey_3", "niah_multivalue", "niah_multiquery", "vt",
                 "cwe", "fwe", "mean"]
        self.assertEqual([(r["task"], r["subtask"], r["scorer"]) for r in out],
                         [("ruler", name, scorer) for name in names for scorer in (None, "knorm")])
        for record in out:
            low, high = record["score_interval"]
            self.assertTrue(0 <= low <= record["score"] <= high <= 100)
            self.assertEqual((record["length"], record["aware"], record["chat"]), (1100, False, True))
            self.assertEqual(record["trials"], 11 if record["subtask"] == "mean" else 1)
            self.assertEqual(record["kept_fraction"] > 0.99, record["scorer"] is None)
            self.assertLess(record["context_tokens"], 1100)
        for scorer, at in ((None, -2), ("knorm", -1)):
            scores = [r["score"] for r in out[:-2] if r["scorer"] == scorer]
            self.assertAlmostEqual(out[at]["score"], sum(scores) / 11)
            self.assertAlmostEqual(out[at]["full_score"], out[-2]["score"])

    def test_table_of_some_tasks(self):
        out = self.done(*self.flags, "--tasks", "fwe,niah_single_1", "--trials", "2", "-l", "800")
        for cells in (("full cache", "fwe"), ("knorm", "fwe"), ("full cache", "niah_single_1"),
                      ("full cache", "mean"), ("knorm", "mean")):
            self.assertRegex(out, rf"(?m)^\| +800 \| {cells[0]} .*\| +{cells[1]} \|")

    def test_finished_trials_are_not_repeated(self):
        flags = ["--tasks", "fwe,vt", "-l", "800", "--out", self.path("o.jsonl")]
        first = self.records(*flags, "--trials", "1")
        self.assertEqual(self.records(*flags, "--trials", "1"), first)
        self.assertEqual([(line["subtask"], line["scorer"], line["trial"])
                          for line in self.lines("o.jsonl")],
                         [("fwe", None, 0), ("fwe", "knorm", 0), ("vt", None, 0),
                          ("vt", "knorm", 0)])
        self.assertEqual([len(line["references"]) for line in self.lines("o.jsonl")], [3, 3, 5, 5])
        self.records(*flags, "--trials", "2")
        self.assertEqual(len(self.lines("o.jsonl")), 8)

    def test_aware(self):
        flags = ["--tasks", "niah_single_1", "--trials", "1", "-l", "400"]
        out = self.records(*flags, "--aware")[0]
        unaware = self.records(*flags)[0]
        self.assertTrue(out["aware"])
        self.assertGreater(out["context_tokens"], unaware["context_tokens"] + 10)
        for flag in (["--while-reading"], ["--chunkwise"], ["--kv-limit", "10MiB"]):
            self.refused(2, "--aware asks before anything is evicted", *self.flags, *flag, "--aware")

    def test_documents(self):
        squad = {"data": [{"paragraphs": [
            {"context": f"The tower {i} is {i}00 feet high.",
             "qas": [{"question": f"How high is tower {i}?", "answers": [{"text": f"{i}00 feet"}]}]}
            for i in range(9)]}]}
        file = self.write("squad.json", json.dumps(squad))
        # Without --tasks it is one more of them, and needs no other source by itself.
        out = self.json(*self.bare, "--tasks", "qa_1", "--squad", file, "--json", "-l", "300",
                        "--trials", "2", "--keep", "50%", "--scorer", "knorm")
        self.assertEqual([r["subtask"] for r in out], ["qa_1", "qa_1"])
        self.refused(2, "the task qa_2 needs --hotpotqa FILE", *self.flags, "--tasks", "qa_2")
        self.refused(1, "essay.txt is not JSON", *self.flags, "--squad", self.essay)
        self.refused(2, "no/such.json", *self.flags, "--squad", "no/such.json")

    def test_wrong_use(self):
        self.refused(2, "no task 'niah', only niah_single_1, .*qa_2", *self.flags, "--tasks", "niah")
        self.refused(2, "--haystack", *self.bare, "--words", self.path("words"))
        self.refused(2, "Give --words FOLDER", *self.bare, "--haystack", self.essay)
        self.refused(2, "adjectivelist.txt", *self.bare, "--haystack", self.essay, "--words",
                     self.folder)
        self.refused(2, "100 tokens are too few for niah_single_1, expected", *self.flags, "-l", "100")
        self.refused(2, "--trials is 0", *self.flags, "--trials", "0")


class NeedleTest(AskTest):
    def test_aware(self):
        flags = ["eval", "needle", "--haystack", self.write("essay.txt", FACT * 40), "--scorer",
                 "knorm", "-l", "400", "--trials", "1", "--json", "--out", self.path("o.jsonl"),
                 *ONE_THREAD]
        unaware, aware = self.json(*flags), self.json(*flags, "--aware")
        self.assertEqual((unaware["aware"], aware["aware"]), (False, True))
        self.assertGreater(aware["context_tokens"], unaware["context_tokens"] + 10)
        self.assertEqual(len(self.lines("o.jsonl")), 4)

    def test_tiers(self):
        flags = ["eval", "needle", "--haystack", self.write("essay.txt", FACT * 40), "--scorer",
                 "knorm", "-l", "400", "--trials", "1", "--json", "--window", "32", *ONE_THREAD]
        out = self.json(*flags, "--tiers", "f16:20%,q8/q4:30%", "--tiers", "q4:60%")
        self.assertEqual([(r["keep"], r.get("tier_shares")) for r in out],
                         [("100%", None), ("50%", "f16:20%,q8/q4:30%"), ("60%", "q4:60%")])
        self.assertLess(out[2]["kv_bytes"], out[1]["kv_bytes"])


class LongBenchTest(AskTest):
    def setUp(self):
        super().setUp()
        self.write("qasper.jsonl", "".join(self.sample("qasper", i) for i in range(3)))
        self.write("lcc.jsonl", self.sample("lcc", 0))
        self.bare = ["eval", "longbench", *ONE_THREAD]
        self.flags = [*self.bare, "--data", self.path("qasper.jsonl"), self.path("lcc.jsonl"),
                      "--scorer", "knorm", "--keep", "50%", "-l", "400"]

    def sample(self, dataset, i):
        return json.dumps({"input": f"What is {i}?", "context": FACT * 20, "answers": ["a number"],
                           "length": 900, "dataset": dataset, "language": "en", "all_classes": None,
                           "_id": str(i)}) + "\n"

    def test_records(self):
        out = self.json(*self.flags, "--json", "--trials", "2", "--out", self.path("o.jsonl"))
        self.assertEqual([(r["task"], r["subtask"], r["scorer"], r["trials"]) for r in out],
                         [("longbench", *cell) for cell in (
                             ("qasper", None, 2), ("qasper", "knorm", 2), ("lcc", None, 1),
                             ("lcc", "knorm", 1), ("mean", None, 3), ("mean", "knorm", 3))])
        for record in out:
            low, high = record["score_interval"]
            self.assertTrue(0 <= low <= record["score"] <= high <= 100)
            self.assertLess(record["context_tokens"], 400)
        for full, compressed in zip(out[::2], out[1::2]):
            self.assertEqual(compressed["full_score"], full["score"])
        self.assertAlmostEqual(out[4]["score"], (out[0]["score"] + out[2]["score"]) / 2)
        self.assertEqual(len(self.lines("o.jsonl")), 6)

    def test_one_dataset_has_no_mean(self):
        out = self.done(*self.bare, "--data", self.path("lcc.jsonl"), "--scorer", "knorm", "-l", "400",
                        "--aware")
        self.assertRegex(out, r"(?m)^\| +400 \| knorm .*\| +lcc \|")
        self.assertNotIn("mean", out)

    def test_wrong_use(self):
        self.write("zh.jsonl", self.sample("dureader", 0))
        self.refused(1, "line 1 of .*zh.jsonl is of the dataset 'dureader'", *self.bare, "--data",
                     self.path("zh.jsonl"))
        self.refused(2, "Give", *self.bare)
        self.refused(2, "no.jsonl", *self.bare, "--data", "no.jsonl")
        self.refused(2, "--first-trial is 1, but lcc has 1 samples", *self.flags, "--first-trial", "1")
        self.refused(2, "100 tokens are too few for a question of qasper", *self.flags, "-l", "100")


if __name__ == "__main__":
    unittest.main()
