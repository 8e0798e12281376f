"""docs/operations.md and the Prometheus rules against each other, a daemon's scrape and arithmetic."""
import re
import subprocess
import tempfile
import unittest

import support

try:
    import yaml
except ImportError:
    yaml = None

PAGE = (support.ROOT / "docs/operations.md").read_text()
RULES = support.ROOT / "deploy/prometheus/kvstow.rules.yml"
# Not in a scrape of a daemon with one tier.
TWO_TIERS = {"kvstow_tier_moves_total", "kvstow_tier_moved_bytes_total", "kvstow_tier_move_failures_total"}


def section(title):
    found = re.search(rf"^## {title}\n(.*?)(?=^## |\Z)", PAGE, re.M | re.S)
    assert found, f"docs/operations.md has no section {title}"
    return found.group(1)


def rows(text):
    """The cells of a section's first table, without its head."""
    lines = [l for l in text.splitlines() if l.startswith("|")]
    return [[cell.strip() for cell in l.strip("|").split("|")] for l in lines[2:]]


def rules(kind):
    if yaml is None:
        raise unittest.SkipTest("no module yaml (Debian: python3-yaml)")
    groups = yaml.safe_load(RULES.read_text())["groups"]
    return [r for g in groups for r in g["rules"] if kind in r]


class SizingTest(unittest.TestCase):
    def test_table_is_what_the_formula_says(self):
        bits = float(re.search(r"Stored is ([\d.]+) bits an entry", PAGE).group(1))
        table = [r for r in rows(section("Sizing")) if len(r) == 9]
        self.assertGreater(len(table), 5)
        for model, *cells in table:
            layers, heads, k_dim, v_dim, *shown = (int(c.replace(",", "")) for c in cells)
            entries = layers * heads * (k_dim + v_dim)
            raw, stored = 2 * entries, bits / 8 * entries
            self.assertEqual(shown, [raw, round(stored), 2**30 // raw, int(2**30 / stored)], model)


class MetricsTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        with tempfile.TemporaryDirectory() as folder, \
                support.Daemon("--host_tier=64MiB", f"--events=ipc://{folder}/events.sock") as daemon:
            daemon.put_trace()
            daemon.look_up_trace("--prefill_rate=8000")
            cls.scraped = support.series(daemon.scrape())

    def test_every_series_is_documented_with_its_labels(self):
        documented = {}
        for row in rows(section("Metrics")):
            for name, labels in re.findall(r"`(\w+)(?:\{([^}]*)\})?`", row[0]):
                documented[name] = set(labels.split(",")) - {""}
        known = {name: labels for name, labels in documented.items() if name not in TWO_TIERS}
        self.assertEqual(known, self.scraped)

    def test_rules_ask_for_series_that_exist(self):
        recorded = {r["record"] for r in rules("record")}
        for rule in rules("expr"):
            without_text = re.sub(r'"[^"]*"', "", rule["expr"])
            for name in re.findall(r"\bkvstow[:\w]+", without_text):
                family = re.sub(r"_(bucket|sum|count)$", "", name)
                self.assertIn(family if ":" not in name else name,
                              set(self.scraped) | TWO_TIERS | recorded, rule)

    def test_rules_ask_for_labels_that_exist(self):
        for rule in rules("expr"):
            for name, matchers in re.findall(r"\b(kvstow_\w+)\{([^}]*)\}", rule["expr"]):
                family = re.sub(r"_(bucket|sum|count)$", "", name)
                for label in re.findall(r"(\w+)[=!]", matchers):
                    self.assertIn(label, self.scraped[family] | {"le", "job", "instance"}, rule)


class AlertsTest(unittest.TestCase):
    def test_every_alert_has_an_entry(self):
        headings = re.findall(r"^### (\w+)$", section("Alerts"), re.M)
        self.assertEqual(headings, [r["alert"] for r in rules("alert")])

    def test_every_alert_leads_to_its_entry(self):
        for rule in rules("alert"):
            self.assertEqual(rule["annotations"]["runbook"], f"docs/operations.md#{rule['alert'].lower()}")
            self.assertIn(rule["labels"]["severity"], ("info", "warning", "critical"))

    def test_every_alert_has_a_unit_test(self):
        tests = yaml.safe_load((RULES.parent / "kvstow.rules.test.yml").read_text()) if yaml else self.skipTest("no yaml")
        fired = {c["alertname"] for t in tests["tests"] for c in t.get("alert_rule_test", [])
                 if c.get("exp_alerts")}
        self.assertEqual(fired, {r["alert"] for r in rules("alert")})

    def test_recording_rules_are_named(self):
        for rule in rules("record"):
            self.assertIn(f"`{rule['record']}`", section("Metrics"))

    def test_unit_tests_pass(self):
        promtool = support.in_path("promtool", "prometheus")
        for command in (["check", "rules", RULES.name], ["test", "rules", "kvstow.rules.test.yml"]):
            done = subprocess.run([promtool, *command], cwd=RULES.parent, capture_output=True, text=True)
            self.assertEqual(done.returncode, 0, done.stdout + done.stderr)


class LinksTest(unittest.TestCase):
    def test_links_lead_somewhere(self):
        anchors = {re.sub(r"[^\w -]", "", h).strip().lower().replace(" ", "-")
                   for h in re.findall(r"^#+ (.*)$", PAGE, re.M)}
        for target in re.findall(r"\]\(([^)]+)\)", PAGE):
            path, _, anchor = target.partition("#")
            if path:
                self.assertTrue((support.ROOT / "docs" / path).exists(), target)
            else:
                self.assertIn(anchor, anchors)


if __name__ == "__main__":
    support.main()
