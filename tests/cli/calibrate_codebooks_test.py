"""pith calibrate --codebooks: what is made, what is kept, what is refused, what inspect says of it."""

import json
import os
import struct
import unittest

from pith_process import FACT, ONE_THREAD, PithTest


def header_of(file):
    with open(file, "rb") as stream:
        return json.loads(stream.read(struct.unpack("<Q", stream.read(8))[0]))


def content(file):
    with open(file, "rb") as stream:
        return stream.read()


class CalibrateCodebooksTest(PithTest):
    def make(self, target, *flags, codecs="pq4x8,pq8x4"):
        return ["calibrate", *flags, "--codebooks", codecs, "--corpus",
                self.write("corpus.txt", FACT * 40), "--sequences", "2", "--sequence-tokens",
                "300", "-o", self.path(target), *ONE_THREAD]

    def test_made_beside_what_is_there(self):
        filters = ["calibrate", "--corpus", self.write("corpus.txt", FACT * 40), "--sequences", "3",
                   "--sequence-tokens", "96", "--rows", "128", "-o", self.path("a.pithcal"),
                   *ONE_THREAD]
        self.done(*filters)
        self.assertIn("codebooks of", self.done(*self.make("a.pithcal")))
        header = header_of(self.path("a.pithcal"))
        layers, heads, dims = header["q_filters"]["shape"]
        self.assertEqual(header["codebooks.map"]["shape"], [layers, heads, dims, dims])
        self.assertEqual(header["codebooks.pq4x8"]["shape"], [layers, heads, 8, 16, dims // 8])
        self.assertEqual(header["codebooks.pq8x4"]["shape"], [layers, heads, 4, 256, dims // 4])
        self.assertEqual(header["codebooks.pq8x4"]["dtype"], "F16")
        self.assertEqual(header["__metadata__"]["codebooks_corpus"], "corpus.txt")
        # 2 sequences without 4 sinks and a window of 128.
        self.assertEqual(header["__metadata__"]["codebooks_keys"], str(2 * (300 - 132)))
        # The same again, and the same where only codebooks are made.
        first = content(self.path("a.pithcal"))
        self.done(*self.make("a.pithcal"))
        self.assertEqual(content(self.path("a.pithcal")), first)
        self.done(*filters)
        self.assertEqual(content(self.path("a.pithcal")), first)

        held = json.loads(self.done("inspect", self.path("a.pithcal"), "--json"))
        self.assertEqual(held["bytes"], os.path.getsize(self.path("a.pithcal")))
        self.assertEqual(held["parts"]["codebook pq8x4"], layers * heads * 256 * dims * 2)
        self.assertEqual(held["parts"]["codebook pq4x8"], layers * heads * 16 * dims * 2)
        self.assertIn("codebook pq4x8", self.done("inspect", self.path("a.pithcal")))

    def test_keys_are_stored_by_them(self):
        self.done(*self.make("b.pithcal", codecs="pq4x8"))
        document = self.write("document.txt", FACT * 20)

        def store(codec, scorer="knorm"):
            return ["compress", document, "-o", self.path("b.pith"), *ONE_THREAD, "--key-codec",
                    codec, "--value-codec", "q4", "--scorer", scorer]

        for scorer in "knorm", "auto":
            self.refused(1, "codebooks for pq4x8 .*calibrate --codebooks pq4x8",
                         *store("pq4x8", scorer))
        given = ["--calibration", self.path("b.pithcal")]
        self.done(*store("pq4x8"), *given)
        info = json.loads(self.done("inspect", self.path("b.pith"), "--json"))
        self.assertEqual([tier["key_codec"] for tier in info["tiers"]], ["f16", "pq4x8"])
        self.assertGreater(info["tiers"][1]["codebook_bytes"], 0)
        self.assertIn("in memory", self.done("inspect", self.path("b.pith")))
        ask = ["ask", self.path("b.pith"), "What?", "-n", "1", *ONE_THREAD]
        self.done(*ask, *given)
        self.refused(1, "no calibration with codebooks for pq4x8", *ask)
        self.refused(2, "those given are for pq4x8; make them with pith calibrate --codebooks pq4x4",
                     *store("pq4x4"), *given)
        self.refused(2, "pq8x7 cuts a head into 7", *store("pq8x7"), *given)

    def test_wrong_use_is_refused(self):
        self.refused(2, "pq8x7 cuts a head into 7 equal parts", *self.make("a", codecs="pq8x7"))
        self.refused(2, "'q8' has no codebook", *self.make("a", codecs="q8"))
        self.refused(2, "make one after another", *self.make("a", "--kvzap", "linear"))
        self.refused(2, "make one after another", *self.make("a", "--covariance"))
        self.assertFalse(os.path.exists(self.path("a")))


if __name__ == "__main__":
    unittest.main()
