"""Which scorer judges where none is named, and what is said about it."""

import os
import re
import subprocess
import unittest

from pith_process import FACT, MODEL, ONE_THREAD, PithTest, random_model

RANDOM_KVZAP = os.environ["PITH_RANDOM_KVZAP"]
DOCUMENT = FACT * 12
SHORT = ["-n", "1", "--json", *ONE_THREAD]


class DefaultsTest(PithTest):
    def setUp(self):
        super().setUp()
        self.document = self.write("doc.txt", DOCUMENT)
        os.symlink(random_model(), self.path("own.gguf"))
        self.environment["PITH_MODEL"] = self.path("own.gguf")

    def add_surrogate(self):
        """A calibration beside the model, with quantiles from about -4 to 4."""
        subprocess.run([RANDOM_KVZAP, "-m", self.path("own.gguf"), "-o", self.path("own.pithcal")],
                       check=True)

    def add_filters(self):
        self.done("calibrate", "--corpus", self.write("corpus.txt", FACT * 8), "--sequences", "2",
                  "--sequence-tokens", "64", "--rows", "64", "-o", self.path("own.pithcal"),
                  *ONE_THREAD)

    def told(self, *arguments):
        """Standard output, and the one sentence on standard error."""
        code, out, err = self.pith(*arguments)
        self.assertEqual(code, 0, err)
        self.assertRegex(err, r"\Apith: [^\n]+\n\Z")
        return out, err

    def test_a_surrogate_makes_it_kvzap(self):
        self.add_surrogate()
        for verb in (["ask", self.document, "When?", "--no-cache"],
                     ["run", "-p", DOCUMENT],
                     ["run", self.document, "-p", "When?", "--no-cache"]):
            out = self.json(*verb, "--keep", "60%", *SHORT)
            self.assertEqual((out["scorer"], out["budget"], out["score_s"]), ("kvzap", "auto", 0))
            self.assertLessEqual(out["entries"], out["entries_full"])
        out = self.json("compress", self.document, "-o", self.path("x.pith"), "--json", *ONE_THREAD)
        self.assertEqual((out["keep"], out["scorer"]), ("25%", "kvzap"))
        self.assertEqual((out["key_codec"], out["value_codec"]), ("q8", "q4"))
        both = self.json("compare", self.document, "--question", "When?", "--keep", "60%", *SHORT)
        self.assertEqual(both["compressed"]["scorer"], "kvzap")
        again = self.json("ask", self.path("x.pith"), "When?", *SHORT)
        self.assertEqual(again["scorer"], "kvzap")

    def test_the_default_model_has_one(self):
        out = self.json("ask", self.document, "When was it built?", "--keep", "50%", "-m", MODEL,
                        *SHORT)
        self.assertEqual((out["scorer"], out["key_codec"], out["value_codec"]),
                         ("kvzap", "q8", "q4"))
        self.assertLess(out["entries"], 0.6 * out["entries_full"])
        exact = self.json("ask", self.document, "When was it built?", "--keep", "50%", "-m", MODEL,
                          "--key-codec", "f16", "--value-codec", "f16", *SHORT)
        self.assertEqual((exact["key_codec"], exact["value_codec"]), ("f16", "f16"))
        self.assertLess(out["kv_bytes"], exact["kv_bytes"])

    def test_documents_are_read_twice_without_one_and_that_is_said(self):
        command = (rf"'pith calibrate --kvzap linear -m {re.escape(self.path('own.gguf'))} "
                   rf"--corpus FILES -o {re.escape(self.path('own.pithcal'))}'")
        for verb in (["ask", self.document, "When?", "--no-cache", *SHORT, "--keep", "60%"],
                     ["run", self.document, "-p", "When?", "--no-cache", *SHORT, "--keep", "60%"],
                     ["compress", self.document, "-o", self.path("x.pith"), "--json", *ONE_THREAD],
                     ["compare", self.document, "--question", "When?", *SHORT]):
            out, err = self.told(*verb)
            self.assertIn('"scorer": "kvzip"', out)
            self.assertRegex(err, "kvzip judges the document by reading it a second time")
            self.assertRegex(err, command)

    def test_conversations_are_not_read_twice(self):
        chat = ["run", "-p", DOCUMENT, "--keep", "60%", *SHORT]
        out, err = self.told(*chat)
        self.assertIn('"scorer": "knorm"', out)
        self.assertIn("calibrate --kvzap linear", err)
        self.add_filters()
        out, err = self.told(*chat)
        self.assertIn('"scorer": "qfilter+"', out)
        self.assertIn("calibrate --kvzap linear", err)

    def test_nothing_is_said_where_nothing_is_dropped_or_a_scorer_is_named(self):
        self.json("ask", self.document, "When?", *SHORT)
        self.json("run", "-p", "hi", *SHORT)
        self.json("ask", self.document, "When?", "--keep", "60%", "--scorer", "knorm", *SHORT)

    def test_a_threshold_is_of_one_scorer(self):
        self.refused(1, "tau=-4 is what entries are worth to kvzap.*calibrate --kvzap linear",
                     "ask", self.document, "When?", "--keep", "tau=-4", *ONE_THREAD)
        self.add_filters()
        self.refused(1, "the calibration given holds no surrogate", "ask", self.document, "When?",
                     "--keep", "tau=-4", "--calibration", self.path("own.pithcal"), *ONE_THREAD)

    def test_a_threshold_beyond_all_worths_is_told_once(self):
        self.add_surrogate()
        for tau, words in (("1000", "keeps nothing but sinks and window"), ("-1000", "keeps all")):
            for verb in (["ask", self.document, "When?", "--no-cache"],
                         ["compare", self.document, "--question", "When?"]):
                _, err = self.told(*verb, "--keep", f"tau={tau}", *SHORT)
                self.assertIn(words, err)

    def test_a_fraction_by_threshold_or_by_all_heads(self):
        self.add_surrogate()
        ask = ["ask", self.document, "When?", "--no-cache", "--window", "32", *SHORT]
        for keep in ("60%", "30%"):
            part = float(keep[:-1]) / 100
            for budget in ("auto", "threshold", "global"):
                out = self.json(*ask, "--keep", keep, "--budget", budget)
                pinned = (out["prompt_tokens"] - out["document_tokens"]) * 4
                self.assertAlmostEqual((out["entries"] - pinned) / out["entries_full"], part,
                                       delta=0.06)
        self.refused(2, "quantiles.*knorm has none", *ask, "--keep", "30%", "--scorer", "knorm",
                     "--budget", "threshold")


if __name__ == "__main__":
    unittest.main()
