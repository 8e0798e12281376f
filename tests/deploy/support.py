"""What the tests of deploy/ share: the repository, a daemon, load, and how a run with skipped tests ends."""
import collections
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import time
import unittest
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parents[2]
TRACES = ROOT / "testdata/kv-traces"
SKIPPED = 77  # what ctest shows as skipped


def program(variable):
    path = os.environ.get(variable)
    if not path:
        raise unittest.SkipTest(f"${variable} does not name the program; ctest does")
    return path


def in_path(name, package):
    if not shutil.which(name):
        raise unittest.SkipTest(f"{name} is not installed (Debian: {package})")
    return name


def wait_for(what, ready, seconds=60):
    """Returns what ready() returns once that is true."""
    deadline = time.monotonic() + seconds
    while True:
        value = ready()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {seconds} s for {what}")
        time.sleep(0.05)


class Daemon:
    """A kvstowd of its own, on free ports; ends with the `with`."""

    def __init__(self, *flags):
        self.flags = flags

    def __enter__(self):
        self.folder = tempfile.TemporaryDirectory()
        socket, log = f"{self.folder.name}/kv.sock", f"{self.folder.name}/log"
        self.target = f"unix:{socket}"
        with open(log, "w") as out:
            self.process = subprocess.Popen(
                [program("KVSTOWD"), f"--unix_socket={socket}", "--metrics=127.0.0.1:0",
                 "--device=cpu", *self.flags], stdout=out, stderr=out)

        def started():
            if self.process.poll() is not None:
                raise AssertionError(pathlib.Path(log).read_text())
            return re.search(r" metrics=(\S+)", pathlib.Path(log).read_text())

        self.metrics = wait_for("kvstowd to start", started).group(1)
        return self

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait()
        self.folder.cleanup()

    def tool(self, *args):
        return subprocess.run([program("KVSTOW"), *args], capture_output=True, text=True,
                              env={**os.environ, "KVSTOW_TARGET": self.target})

    def put_trace(self, *flags):
        """Real KV, so that hits, errors and bits mean something."""
        return self.tool("put", f"--k={TRACES}/text_k.npy", f"--v={TRACES}/text_v.npy",
                         f"--tokens={TRACES}/text_tokens.npy", "--model=trace",
                         f"--write_space={self.folder.name}/space.textproto", *flags)

    def look_up_trace(self, *flags):
        """A hit."""
        return self.tool("lookup", f"--tokens={TRACES}/text_tokens.npy", "--ttl=1s",
                         f"--space={self.folder.name}/space.textproto", *flags)

    def scrape(self):
        with urllib.request.urlopen(f"http://{self.metrics}/metrics", timeout=10) as response:
            return response.read().decode()


def series(scrape):
    """{family: labels} of a scrape; le and quantile belong to the type, not to the family."""
    types = dict(re.findall(r"^# TYPE (\S+) (\S+)$", scrape, re.M))
    found = {}
    for name, labels in re.findall(r"^([a-z_:]+)(?:\{([^}]*)\})? ", scrape, re.M):
        family = name
        if family not in types:
            family = re.sub(r"_(bucket|sum|count)$", "", name)
        keys = set(re.findall(r'(\w+)="', labels)) - {"le", "quantile"}
        found.setdefault(family, set()).update(keys)
    return found


def main():
    """Like unittest.main(); a run that skipped anything exits with SKIPPED and says what."""
    result = unittest.main(exit=False, verbosity=2).result
    for reason, n in collections.Counter(reason for _, reason in result.skipped).items():
        print(f"skipped {n} of {result.testsRun} tests: {reason}", file=sys.stderr)
    if not result.wasSuccessful():
        sys.exit(1)
    sys.exit(SKIPPED if result.skipped else 0)
