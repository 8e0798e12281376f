"""Every query of the Grafana dashboard, asked of a real Prometheus that scrapes a real daemon under load."""
import contextlib
import json
import os
import pathlib
import subprocess
import tempfile
import unittest
import urllib.parse
import urllib.request

import support

DASHBOARD = support.ROOT / "deploy/grafana/kvstow.json"
RULES = support.ROOT / "deploy/prometheus/kvstow.rules.yml"

# Panels that show nothing here, and why.
EMPTY = {
    "Calls that fail": "no call fails",
    "Records moved between tiers": "only with a gpu tier",
    "Copies between tiers that fail": "only with a gpu tier",
    "Alerts that fire": "none fires",
}

VARIABLES = {"$instance": ".*", "$__rate_interval": "10s", "$__range": "5m"}

PROMETHEUS = """
global: {{scrape_interval: 1s, evaluation_interval: 1s}}
rule_files: ['{rules}']
scrape_configs:
- job_name: kvstow
  static_configs: [{{targets: ['{target}']}}]
"""


def listening_port(pid):
    """The TCP port that a process listens at, from /proc."""
    inodes = set()
    for fd in pathlib.Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(OSError):
            inodes.add(os.readlink(fd))
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        for line in pathlib.Path(table).read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and f"socket:[{fields[9]}]" in inodes:
                return int(fields[1].rpartition(":")[2], 16)
    return None


class Prometheus:
    def __init__(self, target):
        self.target = target

    def __enter__(self):
        support.in_path("prometheus", "prometheus")
        self.folder = tempfile.TemporaryDirectory()
        folder = pathlib.Path(self.folder.name)
        (folder / "prometheus.yml").write_text(
            PROMETHEUS.format(rules=RULES, target=self.target))
        self.process = subprocess.Popen(
            ["prometheus", f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/tsdb",
             "--web.listen-address=127.0.0.1:0"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self.port = support.wait_for("prometheus to listen", lambda: listening_port(self.process.pid))
        return self

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait()
        self.folder.cleanup()

    def query(self, expression):
        """The numbers of the answer. Raises for what is no query."""
        url = f"http://127.0.0.1:{self.port}/api/v1/query?" + urllib.parse.urlencode({"query": expression})
        with urllib.request.urlopen(url, timeout=10) as response:
            result = json.load(response)["data"]["result"]
        return [float(r["value"][1]) for r in result if r["value"][1] != "NaN"]

    def ready(self):
        try:
            return self.query("up") == [1]
        except urllib.error.HTTPError:  # it is still starting
            return False


def panels():
    dashboard = json.loads(DASHBOARD.read_text())
    return [p for p in dashboard["panels"] if p["type"] != "row"]


def queries(panel):
    for target in panel["targets"]:
        expression = target["expr"]
        for name, value in VARIABLES.items():
            expression = expression.replace(name, value)
        yield expression


class DashboardTest(unittest.TestCase):
    def test_every_query_has_an_answer(self):
        with contextlib.ExitStack() as stack:
            # So small that it evicts.
            events = stack.enter_context(tempfile.TemporaryDirectory())
            daemon = stack.enter_context(
                support.Daemon("--host_tier=12MiB", f"--events=ipc://{events}/events.sock"))
            prometheus = stack.enter_context(Prometheus(daemon.metrics))
            support.wait_for("the first scrape", prometheus.ready)
            bench = subprocess.Popen(
                [support.program("KVSTOW"), "bench", f"--target={daemon.target}", "--threads=1",
                 "--blocks=1", "--layers=4", "--seconds=300s"],
                stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            stack.callback(bench.wait)
            stack.callback(bench.terminate)


            def hit():
                daemon.put_trace()
                daemon.look_up_trace()
                return prometheus.query('kvstow_lookup_tokens_total{result="hit"} > 0')

            support.wait_for("hits", hit)
            self.assertEqual(prometheus.query("kvstow_prefill_seconds_saved_total"), [],
                             "nobody has declared how fast it prefills")
            waiting = {q: p["title"] for p in panels() if p["title"] not in EMPTY for q in queries(p)}

            def all_answered():
                daemon.put_trace("--coding=worker")
                daemon.look_up_trace("--prefill_rate=8000")
                for expression in [q for q in waiting if prometheus.query(q)]:
                    del waiting[expression]
                return not waiting

            try:
                support.wait_for("every query to be answered", all_answered)
            except AssertionError as late:
                self.fail(f"{late}: {waiting}")
            for panel in panels():
                if panel["title"] in EMPTY:
                    for expression in queries(panel):
                        self.assertEqual(prometheus.query(expression), [], panel["title"])
            refused = daemon.look_up_trace("--prefill_rate=-1")
            self.assertIn("prefill_tokens_per_second is -1", refused.stderr)
            # What this test takes for no answer, and for no query.
            self.assertEqual(prometheus.query("kvstow_no_such_series"), [])
            with self.assertRaises(urllib.error.HTTPError):
                prometheus.query("sum(")

    def test_panels_explain_themselves(self):
        titles = [p["title"] for p in panels()]
        self.assertEqual(len(titles), len(set(titles)))
        self.assertLessEqual(set(EMPTY), set(titles))
        for panel in panels():
            for target in panel["targets"]:
                self.assertEqual(target["datasource"]["uid"], "${datasource}")

    def test_panels_do_not_overlap(self):
        taken = {}
        for panel in json.loads(DASHBOARD.read_text())["panels"]:
            at = panel["gridPos"]
            self.assertLessEqual(at["x"] + at["w"], 24)
            for x in range(at["x"], at["x"] + at["w"]):
                for y in range(at["y"], at["y"] + at["h"]):
                    self.assertNotIn((x, y), taken, f"{panel['title']} is over {taken.get((x, y))}")
                    taken[x, y] = panel["title"]


if __name__ == "__main__":
    support.main()
