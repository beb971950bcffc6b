"""Running the real pith, with and without a terminal, never for longer than a time limit."""

import atexit
import functools
import json
import os
import pty
import re
import select
import shutil
import signal
import subprocess
import tempfile
import time
import unittest

BINARY = os.environ["PITH_BINARY"]
RANDOM_GGUF = os.environ["PITH_RANDOM_GGUF"]
MODEL = os.environ["PITH_TEST_MODEL"]
DATA = os.environ["PITH_TEST_DATA"]
TIME_LIMIT = 300  # seconds; a machine under load may be slow, a hanging pith is not

# One thread: the tests ask what is printed, not how fast.
ONE_THREAD = ["-t", "1"]

FACT = (
    "The lighthouse on Gull Island was built by Mary Anders in the year 1872. "
    "It stands on a cliff above the sea, and its lamp was lit every night. "
)


@functools.lru_cache(maxsize=None)
def random_model(seed=0):
    """A model of two small layers that speaks nonsense, fast, with the test model's tokenizer."""
    folder = tempfile.mkdtemp()
    atexit.register(shutil.rmtree, folder)
    file = os.path.join(folder, "random.gguf")
    shape = ["--layers", "2", "--embd", "64", "--heads", "4", "--kv-heads", "2", "--ctx", "100000"]
    subprocess.run(
        [RANDOM_GGUF, "-o", file, *shape, "--tied", "--type", "f16", "--tokenizer-from", MODEL,
         "--seed", str(seed)],
        check=True,
        stdout=subprocess.DEVNULL,
    )
    return file


class PithTest(unittest.TestCase):
    """A test in an empty folder of its own, with a random model as PITH_MODEL."""

    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = folder.name
        cache = tempfile.TemporaryDirectory()
        self.addCleanup(cache.cleanup)
        self.cache = cache.name
        self.environment = dict(os.environ, PITH_MODEL=random_model(), TERM="xterm",
                                LC_ALL="C.UTF-8", PITH_CACHE=self.cache)

    def path(self, name):
        return os.path.join(self.folder, name)

    def write(self, name, content):
        with open(self.path(name), "wb") as file:
            file.write(content if isinstance(content, bytes) else content.encode())
        return self.path(name)

    def start(self, *arguments, **streams):
        process = subprocess.Popen(
            [BINARY, *arguments], cwd=self.folder, env=self.environment, **streams
        )
        self.addCleanup(stop, process)
        return process

    def pith(self, *arguments, stdin=b""):
        """Exit code, standard output, standard error."""
        process = self.start(
            *arguments,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        out, err = process.communicate(
            stdin if isinstance(stdin, bytes) else stdin.encode(), timeout=TIME_LIMIT
        )
        return process.returncode, out.decode(), err.decode()

    def done(self, *arguments, stdin=b""):
        """Standard output of a run that must end well and say nothing beside it."""
        code, out, err = self.pith(*arguments, stdin=stdin)
        self.assertEqual((code, err), (0, ""), f"pith {arguments}")
        return out

    def json(self, *arguments, stdin=b""):
        return json.loads(self.done(*arguments, stdin=stdin))

    def refused(self, code, pattern, *arguments, stdin=b""):
        """A run that ends with `code`, no output and one sentence that `pattern` describes."""
        got, out, err = self.pith(*arguments, stdin=stdin)
        self.assertEqual((got, out), (code, ""), f"pith {arguments}: {err}")
        self.assertRegex(err, r"\Apith: [^\n]+\n\Z")
        self.assertRegex(err, pattern)

    def files(self):
        return sorted(os.listdir(self.folder))

    def cached(self):
        return sorted(os.listdir(self.cache))


class Terminal:
    """pith with a pseudo-terminal as standard input, output and error."""

    def __init__(self, test, *arguments):
        master, slave = pty.openpty()
        self.master = master
        self.process = subprocess.Popen(
            [BINARY, *arguments],
            cwd=test.folder,
            env=test.environment,
            stdin=slave,
            stdout=slave,
            stderr=slave,
            start_new_session=True,
            preexec_fn=take_terminal,
        )
        os.close(slave)
        self.seen = ""
        test.addCleanup(os.close, master)
        test.addCleanup(stop, self.process)

    def wait_for(self, pattern):
        """Reads until `pattern` has come after what was waited for before; returns what was read."""
        deadline = time.monotonic() + TIME_LIMIT
        while True:
            match = re.search(pattern, self.seen)
            if match:
                read, self.seen = self.seen[: match.end()], self.seen[match.end() :]
                return read
            if not self._read(deadline):
                raise AssertionError(f"no {pattern!r} in {self.seen!r}")

    def send(self, text):
        os.write(self.master, text.encode())

    def finish(self):
        """Exit code and what came since."""
        deadline = time.monotonic() + TIME_LIMIT
        while self._read(deadline):
            pass
        return self.process.wait(timeout=TIME_LIMIT), self.seen

    def _read(self, deadline):
        ready, _, _ = select.select([self.master], [], [], max(0, deadline - time.monotonic()))
        if not ready:
            raise AssertionError(f"nothing more came after {self.seen!r}")
        try:
            chunk = os.read(self.master, 65536)
        except OSError:  # the terminal was closed by the end of pith
            return False
        self.seen += chunk.decode(errors="replace")
        return bool(chunk)


def take_terminal():
    import fcntl
    import termios

    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


def stop(process):
    if process.poll() is None:
        process.send_signal(signal.SIGKILL)
    process.wait()
    for stream in (process.stdin, process.stdout, process.stderr):
        if stream:
            stream.close()
