"""Files that are missing, damaged or not what they should be."""

import os
import unittest

from pith_process import FACT, MODEL, ONE_THREAD, PithTest, random_model


class DocumentTest(PithTest):
    def ask(self, code, pattern, document, *more):
        self.refused(code, pattern, "ask", document, "What is it?", *ONE_THREAD, *more)
        self.refused(code, pattern, "compare", document, *ONE_THREAD, *more)

    def test_missing(self):
        self.ask(1, "none.txt.*No such file", self.path("none.txt"))
        self.refused(1, "No such file", "run", "-f", self.path("none.txt"))
        self.refused(1, "No such file", "tokenize", "-f", self.path("none.txt"))
        self.refused(
            1, "No such file", "calibrate", "--corpus", self.path("none.txt"), "-o", self.path("x")
        )
        self.assertEqual(self.files(), [])

    def test_directory(self):
        self.ask(1, "is a directory", self.folder)
        self.refused(1, "is a directory", "run", "-f", self.folder)

    def test_empty(self):
        for content in ("", " \n\t\n"):
            self.ask(1, "is empty", self.write("empty.txt", content))
            self.refused(1, "standard input is empty", "run", stdin=content)

    def test_binary(self):
        self.ask(1, r"binary \(byte 0x00 at offset 5\)", self.write("a.bin", b"hello\0world"))
        self.ask(1, r"binary \(byte 0x02 at offset 3\)", self.write("b.bin", b"abc\x02"))
        self.ask(1, "is a PDF file", self.write("c.txt", b"%PDF-1.7\nx"))
        self.ask(1, "is a GGUF model", MODEL)
        self.refused(1, "binary", "run", stdin=b"\x7fELF\x02\x01")

    def test_not_utf8(self):
        for content, offset in (
            (b"caf\xe9 au lait", 3),
            (b"ok \xc0\xaf", 3),  # overlong
            (b"\xed\xa0\x80", 0),  # a surrogate
            ("é".encode() + b"\xf4\x90\x80\x80", 2),  # above U+10FFFF
            (b"cut \xe2\x82", 4),
            (b"\x80", 0),
        ):
            self.ask(1, rf"not UTF-8 .*offset {offset}\)", self.write("bad.txt", content))
            self.refused(1, rf"not UTF-8 .*offset {offset}\)", "run", stdin=content)

    def test_longer_than_the_context(self):
        document = self.write("long.txt", FACT * 20)
        self.refused(
            1, r"\d{3} tokens.*context holds 256", "ask", document, "What?", "-c", "256", *ONE_THREAD
        )
        self.refused(1, r"\d{3} tokens.*context holds 256", "compare", document, "-c", "256",
                     "--keep", "100%", *ONE_THREAD)
        self.refused(1, r"\d{3} tokens.*context holds 256", "run", "-c", "256", *ONE_THREAD,
                     stdin=FACT * 20)
        self.refused(2, "999999.*trained for 100000", "run", "-p", "hi", "-c", "999999")

    def test_shorter_than_the_tail_that_is_measured(self):
        self.refused(1, r"expected more than the 256", "compare", self.write("s.txt", "Hello."),
                     "--keep", "100%", *ONE_THREAD)

    def test_byte_order_mark_is_no_text(self):
        document = self.write("bom.txt", b"\xef\xbb\xbfHello.")
        out = self.json("ask", document, "What?", "--json", "-n", "1", *ONE_THREAD)
        plain = self.json("tokenize", "--json", stdin="Hello.")
        self.assertEqual(out["document_tokens"], len(plain["ids"]))


class ModelTest(PithTest):
    def test_missing_directory_and_damaged(self):
        self.refused(1, "none.gguf", "run", "-p", "hi", "-m", self.path("none.gguf"))
        self.refused(1, "is a folder", "run", "-p", "hi", "-m", self.folder)
        self.refused(1, "empty.gguf", "run", "-p", "hi", "-m", self.write("empty.gguf", b""))
        self.refused(1, "text.gguf", "run", "-p", "hi", "-m", self.write("text.gguf", FACT))
        with open(MODEL, "rb") as file:
            start = file.read(1 << 20)
        for size in (4, 100, 5000, 1 << 20):
            cut = self.write("cut.gguf", start[:size])
            self.refused(1, "cut.gguf", "run", "-p", "hi", "-m", cut)
            self.refused(1, "cut.gguf", "tokenize", "-p", "hi", "-m", cut)

    def test_unknown_template(self):
        self.refused(2, "chatml", "run", "-p", "hi", "--template", "morse", *ONE_THREAD)


class CalibrationTest(PithTest):
    def test_none_found_names_the_command(self):
        self.refused(1, r"'pith calibrate -m \S*random.gguf --corpus FILES -o \S*random.pithcal'",
                     "run", "-p", "hi", "--keep", "200", "--scorer", "qfilter", *ONE_THREAD)
        self.refused(1, "none.pithcal", "run", "-p", "hi", "--keep", "200", "--calibration",
                     self.path("none.pithcal"), *ONE_THREAD)

    def test_damaged(self):
        for content in (b"", b"junk", b"\xff" * 64):
            self.refused(1, "x.pithcal", "run", "-p", "hi", "--keep", "200", "--calibration",
                         self.write("x.pithcal", content), *ONE_THREAD)

    def test_of_another_model(self):
        header = (
            b'{"q_filters":{"dtype":"F32","shape":[3,1,8],"data_offsets":[0,96]},'
            b'"__metadata__":{"format":"pithcal-1"}}'
        )
        content = len(header).to_bytes(8, "little") + header + b"\0" * 96
        other = self.write("other.pithcal", content)
        self.refused(1, r"for 3 layers.*has 2", "run", "-p", "hi", "--keep", "200", "--calibration", other, *ONE_THREAD)
        # Beside the model and of its name it is meant for it, so that it is an error too.
        os.symlink(random_model(), self.path("copy.gguf"))
        self.write("copy.pithcal", content)
        self.refused(1, r"for 3 layers.*has 2", "run", "-p", "hi", "--keep", "200", "-m", self.path("copy.gguf"),
                     *ONE_THREAD)

    def test_unwritable_target_is_found_before_the_work(self):
        corpus = self.write("corpus.txt", FACT)
        for target, reason in (
            (self.path("none/x.pithcal"), "No such file"),
            (self.folder, "is a directory"),
            ("/proc/x.pithcal", "cannot write"),
        ):
            self.refused(1, reason, "calibrate", "--corpus", corpus, "-o", target)
        self.assertEqual(self.files(), ["corpus.txt"])

    def test_too_small_a_corpus(self):
        corpus = self.write("corpus.txt", FACT)
        self.refused(1, r"the corpus has \d\d tokens", "calibrate", "--corpus", corpus, "-o",
                     self.path("x.pithcal"))
        self.assertEqual(self.files(), ["corpus.txt"])


if __name__ == "__main__":
    unittest.main()
