"""Ctrl-C at any time: a quick end, the right exit code, nothing half-written."""

import signal
import subprocess
import time
import unittest

from pith_process import FACT, MODEL, ONE_THREAD, PithTest

QUICK = 20  # seconds, on a machine under load


class InterruptTest(PithTest):
    def interrupt(self, process, after=None):
        if after is not None:
            time.sleep(after)
        self.assertIsNone(process.poll(), "it was over before it could be interrupted")
        start = time.monotonic()
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=QUICK)
        self.assertLess(time.monotonic() - start, QUICK)
        return process.returncode, out.decode(), err.decode()

    def pipes(self, *arguments):
        return self.start(*arguments, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE)

    def test_while_reading(self):
        document = self.write("long.txt", FACT * 150)
        for after in (0.05, 2.0):
            process = self.pipes("ask", document, "When?", "-m", MODEL, *ONE_THREAD)
            self.assertEqual(self.interrupt(process, after), (130, "", ""))

    def test_while_generating_ends_the_line(self):
        process = self.pipes("run", "-f", self.write("p.txt", FACT), "-n", "-1", *ONE_THREAD)
        first = process.stdout.read(1)
        code, out, err = self.interrupt(process)
        self.assertEqual((code, err), (130, ""))
        self.assertTrue((first.decode(errors="replace") + out).endswith("\n"))

    def test_json_is_whole_or_absent(self):
        process = self.pipes("run", "-f", self.write("p.txt", FACT), "-n", "-1", "--json",
                             *ONE_THREAD)
        self.assertEqual(self.interrupt(process, 1.5), (130, "", ""))

    def test_while_calibrating(self):
        corpus = self.write("corpus.txt", FACT * 400)
        process = self.pipes("calibrate", "-m", MODEL, "--corpus", corpus, "-o",
                             self.path("x.pithcal"), "--sequences", "4", *ONE_THREAD)
        self.assertEqual(self.interrupt(process, 2.0), (130, "", ""))
        self.assertEqual(self.files(), ["corpus.txt"])

    def test_while_compressing(self):
        document = self.write("long.txt", FACT * 150)
        for after in (0.3, 2.0):
            process = self.pipes("compress", document, "-o", self.path("x.pith"), "-m", MODEL,
                                 *ONE_THREAD)
            self.assertEqual(self.interrupt(process, after), (130, "", ""))
            self.assertEqual(self.files(), ["long.txt"])

    def test_compare_takes_its_child_along(self):
        document = self.write("long.txt", FACT * 150)
        process = self.pipes("compare", document, "-m", MODEL, "--scorer", "knorm", *ONE_THREAD)
        deadline = time.monotonic() + 60
        while not children(process.pid) and time.monotonic() < deadline:
            time.sleep(0.05)
        child = children(process.pid)
        self.assertEqual(len(child), 1)
        self.assertEqual(self.interrupt(process, 1.0), (130, "", ""))
        deadline = time.monotonic() + QUICK
        while is_alive(child[0]) and time.monotonic() < deadline:
            time.sleep(0.05)
        self.assertFalse(is_alive(child[0]))


def children(pid):
    with open(f"/proc/{pid}/task/{pid}/children", encoding="ascii") as file:
        return [int(child) for child in file.read().split()]


def is_alive(pid):
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8") as file:
            return file.read().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


if __name__ == "__main__":
    unittest.main()
