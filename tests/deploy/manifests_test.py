"""The Kubernetes manifests: they build, meet the schemas of Kubernetes, and agree with the daemon."""
import copy
import functools
import pathlib
import re
import subprocess
import tempfile
import unittest

import support

try:
    import yaml
except ImportError:
    yaml = None
try:
    import kubernetes_validate
except ImportError:
    kubernetes_validate = None

FOLDER = support.ROOT / "deploy/kubernetes"
# With the oldest Kubernetes that each is for: native sidecars, resource.k8s.io/v1.
KUSTOMIZATIONS = {"overlays/cpu": "1.29", "overlays/gpu": "1.34", "daemonset": "1.29"}
NEWEST = "1.37"

GIB = 1 << 30
UNITS = {"": 1, "B": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
# What a daemon takes besides tiers, limits.inflight, limits.staged and staging.total: docs/operations.md, Memory.
MARGIN = GIB
# How long after its grace period a daemon that hangs ends itself: server/app/main.cc, alarm().
WATCHDOG_SECONDS = 20


def size(text):
    number, unit = re.fullmatch(r"([\d.]+)([KMGT]?)(?:iB|i|B)?", text).groups()
    return int(float(number) * UNITS[unit])


@functools.lru_cache(None)
def build(name):
    """The objects of a kustomization; not to be changed."""
    kubectl = support.in_path("kubectl", "kubernetes-client")
    if yaml is None:
        raise unittest.SkipTest("no module yaml (Debian: python3-yaml)")
    done = subprocess.run([kubectl, "kustomize", str(FOLDER / name)], capture_output=True, text=True)
    if done.returncode != 0:
        raise AssertionError(done.stderr)
    return list(yaml.safe_load_all(done.stdout))


def of_kind(objects, *kinds):
    return [o for o in objects if o["kind"] in kinds]


def pod_of(objects):
    (workload,) = of_kind(objects, "Deployment", "DaemonSet")
    return workload["spec"]["template"]


def containers(pod):
    return pod["spec"].get("initContainers", []) + pod["spec"]["containers"]


def kvstowd_of(pod):
    (container,) = [c for c in containers(pod) if c["name"] == "kvstowd"]
    return container


def config_of(objects):
    (config_map,) = of_kind(objects, "ConfigMap")
    return config_map["data"]["kvstowd.textproto"]


def setting(config, name):
    """A field of the configuration file, or the daemon's default."""
    defaults = subprocess.run([support.program("KVSTOWD"), "--print_config"], capture_output=True,
                              text=True, check=True).stdout
    for text in (config, defaults):
        text = re.sub(r"#.*", "", text)
        found = re.search(rf'\b{name}: *"?([^"\s]+)', text)
        if found:
            return found.group(1)
    raise AssertionError(f"no {name} in the configuration")


def probes(container):
    return [container[p] for p in ("startupProbe", "readinessProbe", "livenessProbe") if p in container]


def pod_security_violations(pod):
    """What the level `restricted` of Pod Security forbids, and a writable root file system."""
    spec, found = pod["spec"], []
    for field in ("hostNetwork", "hostPID", "hostIPC"):
        if spec.get(field):
            found.append(field)
    for volume in spec.get("volumes", []):
        if not {"emptyDir", "configMap", "secret", "projected"} & set(volume):
            found.append(f"volume {volume['name']}")
    for c in containers(pod):
        own = c.get("securityContext", {})
        merged = {**spec.get("securityContext", {}), **own}
        wrong = {
            "runAsNonRoot": not merged.get("runAsNonRoot"),
            "runAsUser": not merged.get("runAsUser"),
            "seccompProfile": merged.get("seccompProfile", {}).get("type") != "RuntimeDefault",
            "privileged": own.get("privileged"),
            "allowPrivilegeEscalation": own.get("allowPrivilegeEscalation") is not False,
            "readOnlyRootFilesystem": not own.get("readOnlyRootFilesystem"),
            "capabilities": own.get("capabilities") != {"drop": ["ALL"]},
            "hostPort": any("hostPort" in p for p in c.get("ports", [])),
        }
        found += [f"{c['name']}: {field}" for field, is_wrong in wrong.items() if is_wrong]
    return found


class SchemaTest(unittest.TestCase):
    def setUp(self):
        if kubernetes_validate is None:
            self.skipTest("no module kubernetes_validate: tests/deploy/requirements.txt, which "
                          "`./run test` installs where it can be had")

    def test_objects_meet_the_schemas(self):
        for name, oldest in KUSTOMIZATIONS.items():
            for o in build(name):
                for version in (oldest, NEWEST):
                    with self.subTest(name, version=version, kind=o["kind"]):
                        self.assertEqual(kubernetes_validate.validate(o, version, strict=True), version)

    def test_wrong_manifests_are_caught(self):
        (good,) = of_kind(build("overlays/cpu"), "Deployment")
        sidecar = ["spec", "template", "spec", "initContainers", 0]
        for path, value in (
                (sidecar + ["restartPolicyy"], "Always"),
                (sidecar + ["startupProbe", "periodSeconds"], "soon"),
                (sidecar + ["resources", "limits"], ["66Gi"]),
                (["spec", "selector"], "worker")):
            wrong = copy.deepcopy(good)
            at = wrong
            for step in path[:-1]:
                at = at[step]
            at[path[-1]] = value
            with self.subTest(path), self.assertRaises(kubernetes_validate.ValidationError):
                kubernetes_validate.validate(wrong, NEWEST, strict=True)

    def test_older_kubernetes_is_refused_what_it_does_not_know(self):
        (claim,) = of_kind(build("overlays/gpu"), "ResourceClaimTemplate")
        with self.assertRaises(kubernetes_validate.SchemaNotFoundError):
            kubernetes_validate.validate(claim, "1.33", strict=True)


class SecurityTest(unittest.TestCase):
    def test_pods_are_restricted(self):
        for name in KUSTOMIZATIONS:
            self.assertEqual(pod_security_violations(pod_of(build(name))), [], name)

    def test_violations_are_found(self):
        good = pod_of(build("overlays/cpu"))

        def changed(change):
            pod = copy.deepcopy(good)
            change(pod["spec"])
            return pod_security_violations(pod)

        first = lambda spec: spec["containers"][0]["securityContext"]
        for change, found in (
                (lambda s: s.update(hostPID=True), "hostPID"),
                (lambda s: s.update(hostIPC=True), "hostIPC"),
                (lambda s: s["volumes"].append({"name": "x", "hostPath": {"path": "/"}}), "volume x"),
                (lambda s: first(s).update(privileged=True), "worker: privileged"),
                (lambda s: first(s).update(runAsUser=0), "worker: runAsUser"),
                (lambda s: first(s).update(readOnlyRootFilesystem=False), "worker: readOnlyRootFilesystem"),
                (lambda s: first(s).update(capabilities={"drop": ["ALL"], "add": ["IPC_LOCK"]}),
                 "worker: capabilities"),
                (lambda s: s["initContainers"][0].pop("securityContext"), "kvstowd: capabilities")):
            self.assertIn(found, changed(change))

    def test_the_daemon_is_the_images_user(self):
        dockerfile = (support.ROOT / "deploy/container/Dockerfile").read_text()
        user, group = re.search(r"^USER (\d+):(\d+)$", dockerfile, re.M).groups()
        for name in KUSTOMIZATIONS:
            context = kvstowd_of(pod_of(build(name)))["securityContext"]
            self.assertEqual((context["runAsUser"], context["runAsGroup"]), (int(user), int(group)))

    def test_only_prometheus_reaches_the_metrics(self):
        for name in KUSTOMIZATIONS:
            objects = build(name)
            (policy,) = of_kind(objects, "NetworkPolicy")
            labels = pod_of(objects)["metadata"]["labels"]
            self.assertLessEqual(policy["spec"]["podSelector"]["matchLabels"].items(), labels.items())
            self.assertIn("Ingress", policy["spec"]["policyTypes"])
            port = int(setting(config_of(objects), "metrics").rpartition(":")[2])
            self.assertIn({"name": "metrics", "containerPort": port},
                          kvstowd_of(pod_of(objects))["ports"])
            for rule in policy["spec"]["ingress"]:
                is_metrics = [p["port"] for p in rule["ports"]] == [port]
                is_prometheus = all("namespaceSelector" in peer and peer["podSelector"]["matchLabels"] ==
                                    {"app.kubernetes.io/name": "prometheus"} for peer in rule["from"])
                self.assertEqual(is_metrics, is_prometheus, rule)

    def test_both_containers_share_one_gpu(self):
        objects = build("overlays/gpu")
        pod = pod_of(objects)
        (template,) = of_kind(objects, "ResourceClaimTemplate")
        (claim,) = pod["spec"]["resourceClaims"]
        self.assertEqual(claim["resourceClaimTemplateName"], template["metadata"]["name"])
        for c in containers(pod):
            self.assertEqual(c["resources"]["claims"], [{"name": claim["name"]}])
            # A device plugin's GPU would be another one.
            self.assertNotIn("nvidia.com/gpu", c["resources"].get("limits", {}))


class AgreementTest(unittest.TestCase):
    def test_the_daemon_accepts_the_configuration(self):
        for name in KUSTOMIZATIONS:
            with tempfile.TemporaryDirectory() as folder:
                file = pathlib.Path(folder) / "kvstowd.textproto"
                file.write_text(config_of(build(name)))
                done = subprocess.run([support.program("KVSTOWD"), f"--config={file}", "--check_config"],
                                      capture_output=True, text=True)
            self.assertEqual(done.returncode, 0, done.stderr)

    def test_the_daemon_is_told_where_its_configuration_is(self):
        for name in KUSTOMIZATIONS:
            pod = pod_of(build(name))
            daemon = kvstowd_of(pod)
            volumes = {v["name"]: v for v in pod["spec"]["volumes"]}
            (folder,) = [m["mountPath"] for m in daemon["volumeMounts"]
                         if "configMap" in volumes[m["name"]]]
            self.assertEqual(daemon["args"], [f"--config={folder}/kvstowd.textproto"])

    def test_memory_holds_what_the_configuration_asks_for(self):
        for name in KUSTOMIZATIONS:
            objects = build(name)
            pod, config = pod_of(objects), config_of(objects)
            daemon = kvstowd_of(pod)
            in_memory = {v["name"]: size(v["emptyDir"]["sizeLimit"]) for v in pod["spec"]["volumes"]
                         if v.get("emptyDir", {}).get("medium") == "Memory"}
            need = sum(size(setting(config, s)) for s in ("host_tier", "inflight", "staged", "total")) + MARGIN
            need += sum(in_memory.get(m["name"], 0) for m in daemon["volumeMounts"])
            resources = daemon["resources"]
            self.assertGreaterEqual(size(resources["limits"]["memory"]), need, name)
            self.assertEqual(resources["requests"]["memory"], resources["limits"]["memory"])

    def test_threads_are_the_cpus_asked_for(self):
        for name in KUSTOMIZATIONS:
            objects = build(name)
            cpus = int(kvstowd_of(pod_of(objects))["resources"]["requests"]["cpu"])
            self.assertEqual(int(setting(config_of(objects), "threads")), cpus, name)

    def test_there_is_time_to_drain(self):
        for name in KUSTOMIZATIONS:
            objects = build(name)
            grace = int(setting(config_of(objects), "shutdown_grace_seconds"))
            self.assertGreaterEqual(pod_of(objects)["spec"]["terminationGracePeriodSeconds"],
                                    grace + WATCHDOG_SECONDS, name)

    def test_the_sidecar_stays_and_is_there_first(self):
        for name in ("overlays/cpu", "overlays/gpu"):
            (sidecar,) = pod_of(build(name))["spec"]["initContainers"]
            self.assertEqual((sidecar["name"], sidecar["restartPolicy"]), ("kvstowd", "Always"))
            self.assertIn("startupProbe", sidecar)
            self.assertIn("livenessProbe", sidecar)

    def test_worker_and_daemon_meet_at_the_socket(self):
        socket = pathlib.Path(setting("", "unix_socket"))
        for name in ("overlays/cpu", "overlays/gpu"):
            pod = pod_of(build(name))
            self.assertIn("fsGroup", pod["spec"]["securityContext"])
            for c in containers(pod):
                self.assertIn(("socket", str(socket.parent)),
                              [(m["name"], m["mountPath"]) for m in c["volumeMounts"]])
            (env,) = pod["spec"]["containers"][0]["env"]
            self.assertEqual(env, {"name": "KVSTOW_TARGET", "value": f"unix:{socket}"})

    def test_probes_are_commands_that_the_tool_knows(self):
        with support.Daemon("--host_tier=64MiB") as daemon:
            for name in KUSTOMIZATIONS:
                container = kvstowd_of(pod_of(build(name)))
                for probe in probes(container):
                    command = probe["exec"]["command"]
                    self.assertEqual(command[:2], ["kvstow", "health"])
                    done = daemon.tool(*command[1:])
                    # Without a GPU its health is unknown, which is a no.
                    wanted = 1 if "--service=kvstow.gpu" in command else 0
                    self.assertEqual(done.returncode, wanted, done.stderr + done.stdout)
                    (deadline,) = [a for a in command if a.startswith("--deadline=")]
                    self.assertLess(int(re.search(r"=(\d+)s$", deadline).group(1)), probe["timeoutSeconds"])

    def test_the_doctor_that_the_pages_send_for_finds_nothing_wrong(self):
        for page in ("README.md", "docs/operations.md", "deploy/kubernetes/README.md"):
            commands = re.findall(r"-- (kvstow doctor\b.*)$", (support.ROOT / page).read_text(), re.M)
            self.assertTrue(commands, page)
            with support.Daemon("--host_tier=64MiB") as daemon:
                for command in commands:
                    done = daemon.tool(*command.partition("#")[0].split()[1:])
                    self.assertEqual(done.returncode, 0, done.stdout + done.stderr)

    def test_the_example_worker_is_a_command_that_the_tool_knows(self):
        (worker,) = pod_of(build("overlays/cpu"))["spec"]["containers"]
        with support.Daemon("--host_tier=64MiB") as daemon:
            done = daemon.tool(*worker["command"][1:], "--ops=1")
        self.assertEqual(done.returncode, 0, done.stderr)

    def test_images_are_of_this_version(self):
        version = re.search(r"project\(kvstow VERSION (\S+)",
                            (support.ROOT / "CMakeLists.txt").read_text()).group(1)
        for name in KUSTOMIZATIONS:
            for c in containers(pod_of(build(name))):
                self.assertRegex(c["image"], rf":{re.escape(version)}(-gpu)?$")

    def test_monitoring_finds_the_pods(self):
        (monitor,) = of_kind(build("monitoring"), "PodMonitor")
        (expression,) = monitor["spec"]["selector"]["matchExpressions"]
        (endpoint,) = monitor["spec"]["podMetricsEndpoints"]
        for name in KUSTOMIZATIONS:
            pod = pod_of(build(name))
            self.assertIn(pod["metadata"]["labels"][expression["key"]], expression["values"])
            self.assertIn(endpoint["port"], [p["name"] for p in kvstowd_of(pod)["ports"]])

    def test_the_operator_gets_the_same_rules(self):
        (rule,) = of_kind(build("monitoring"), "PrometheusRule")
        rules = yaml.safe_load((support.ROOT / "deploy/prometheus/kvstow.rules.yml").read_text())
        self.assertEqual(rule["spec"], rules, "run deploy/prometheus/make_manifest")


if __name__ == "__main__":
    support.main()
