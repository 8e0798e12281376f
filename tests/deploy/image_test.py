"""What can be known of the container image without an engine; `./run container-root` runs the rest of it."""
import json
import re
import unittest

import support

FOLDER = support.ROOT / "deploy/container"
TEXT = (FOLDER / "Dockerfile").read_text()
INSTRUCTIONS = re.findall(r"^([A-Z]+) (.*)$", re.sub(r"\\\n", " ", TEXT), re.M)


def arguments(name):
    return [rest for instruction, rest in INSTRUCTIONS if instruction == name]


class ImageTest(unittest.TestCase):
    def test_stages_are_defined_before_they_are_used(self):
        defaults = dict(a.split("=") for a in arguments("ARG") if "=" in a)
        stages = set()
        for base in arguments("FROM"):
            image, _, stage = base.partition(" AS ")
            if not re.match(r"[\w/]+:|\$\{CUDA_IMAGE\}", image):
                for device in ("cpu", "gpu"):
                    self.assertIn(image.replace("${DEVICE}", device), stages)
            stages.add(stage)
        for copy in arguments("COPY"):
            source = re.match(r"--from=(\w+)", copy)
            if source:
                self.assertIn(source.group(1), stages)
            else:
                self.assertTrue((support.ROOT / copy.split()[0]).exists(), copy)
        self.assertEqual(defaults["DEVICE"], "cpu")

    def test_image_and_root_have_the_same_packages(self):
        for file in ("Dockerfile", "make_root"):
            self.assertIn("runtime-packages.txt", (FOLDER / file).read_text())
        packages = (FOLDER / "runtime-packages.txt").read_text().splitlines()
        packages = [p for p in packages if not p.startswith("#")]
        self.assertEqual(packages, sorted(set(packages)))

    def test_the_health_check_is_a_command_that_the_tool_knows(self):
        (check,) = arguments("HEALTHCHECK")
        program, *args = json.loads(check.partition(" CMD ")[2])
        self.assertEqual(program, "kvstow")
        with support.Daemon("--host_tier=64MiB") as daemon:
            self.assertEqual(daemon.tool(*args).returncode, 0)
        self.assertNotEqual(daemon.tool(*args).returncode, 0)

    def test_it_does_not_run_as_root(self):
        (user,) = arguments("USER")
        self.assertRegex(user, r"^[1-9]\d*:[1-9]\d*$")

    def test_malloc_is_set_as_the_daemon_sets_it(self):
        daemon = (support.ROOT / "server/app/malloc_settings.cc").read_text()
        here = dict(re.findall(r"MALLOC_(\w+)_=(\d+)", TEXT))
        there = {name: str(int(m) << 20) for name, m in re.findall(r"mallopt\(M_(\w+), (\d+) << 20\)", daemon)}
        self.assertEqual(here, there)


if __name__ == "__main__":
    support.main()
