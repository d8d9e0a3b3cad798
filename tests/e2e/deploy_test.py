"""The files of scripts/deploy: their calls of tandem against its --help, their other parts as far
as possible. The Slurm scripts run in a Slurm of one node, the PBS script with a node file."""

import json
import os
import pathlib
import re
import shlex
import shutil
import subprocess
import tempfile
import unittest

import yaml

import worlds
from batch_test import answers, rows, write
from slurm import Slurm

DEPLOY = worlds.SOURCE / "scripts/deploy"
COMMANDS = ("serve", "batch", "generate", "bench", "plan", "client", "eval", "quantize")
SCRIPTS = sorted([*DEPLOY.glob("*.sbatch"), *DEPLOY.glob("*.pbs")])

# The fields that manifests may have, with their types. "!" marks a required field.
QUANTITY = re.compile(r"[0-9.]+(m|[KMGT]i)?$")
PROBE = {"grpc!": {"port!": int, "service": str}, "periodSeconds": int, "timeoutSeconds": int,
         "failureThreshold": int, "initialDelaySeconds": int, "successThreshold": int}
METADATA = {"name!": str, "labels": {"*": str}}
POD_METADATA = {"labels!": {"*": str}, "annotations": {"*": str}}
POD = {
    "terminationGracePeriodSeconds": int,
    "securityContext": {"runAsNonRoot": bool, "runAsUser": int},
    "containers!": [{
        "name!": str, "image!": str, "command": [str], "args": [str],
        "securityContext": {"runAsUser": int},
        "ports": [{"name": str, "containerPort!": int}],
        "startupProbe": PROBE, "readinessProbe": PROBE, "livenessProbe": PROBE,
        "resources": {"requests": {"*": QUANTITY}, "limits": {"*": QUANTITY}},
        "volumeMounts": [{"name!": str, "mountPath!": str, "readOnly": bool}],
    }],
    "volumes": [{"name!": str,
                 "persistentVolumeClaim": {"claimName!": str, "readOnly": bool},
                 "emptyDir": {"medium": str, "sizeLimit": QUANTITY}}],
}
REPLICA = {"replicas!": int, "restartPolicy": str, "template!": {"spec!": POD}}
KINDS = {
    ("apps/v1", "Deployment"): {
        "apiVersion!": str, "kind!": str, "metadata!": METADATA,
        "spec!": {"replicas": int, "selector!": {"matchLabels!": {"*": str}},
                  "template!": {"metadata!": POD_METADATA, "spec!": POD}}},
    ("v1", "Service"): {
        "apiVersion!": str, "kind!": str, "metadata!": METADATA,
        "spec!": {"selector!": {"*": str}, "clusterIP": str,
                  "ports!": [{"name": str, "port!": int, "targetPort": str}]}},
    ("kubeflow.org/v2beta1", "MPIJob"): {
        "apiVersion!": str, "kind!": str, "metadata!": METADATA,
        "spec!": {"slotsPerWorker": int, "mpiImplementation": str,
                  "runPolicy": {"cleanPodPolicy": str, "backoffLimit": int},
                  "mpiReplicaSpecs!": {"Launcher!": REPLICA, "Worker!": REPLICA}}},
    ("monitoring.coreos.com/v1", "PodMonitor"): {
        "apiVersion!": str, "kind!": str, "metadata!": METADATA,
        "spec!": {"selector!": {"matchLabels!": {"*": str}},
                  "podMetricsEndpoints!": [{"port!": str, "path": str, "interval": str}]}},
}
MANIFESTS = ("deployment.yaml", "mpijob.yaml", "podmonitor.yaml")


def check(value, kind, where):
  """The problems of a value in a manifest, one line each."""
  if isinstance(kind, re.Pattern):
    return [] if isinstance(value, str) and kind.match(value) else [f"{where}: {value!r}"]
  if isinstance(kind, type):
    return [] if type(value) is kind else [f"{where}: {value!r}, expected {kind.__name__}"]
  if isinstance(kind, list):
    if not isinstance(value, list) or not value:
      return [f"{where}: expected a list"]
    return [line for i, one in enumerate(value) for line in check(one, kind[0], f"{where}[{i}]")]
  if not isinstance(value, dict):
    return [f"{where}: expected a mapping"]
  if "*" in kind:
    return [line for key, one in value.items() for line in check(one, kind["*"], f"{where}.{key}")]
  fields = {name.rstrip("!"): of for name, of in kind.items()}
  lines = [f"{where}: {name[:-1]} is missing" for name in kind
           if name.endswith("!") and name[:-1] not in value]
  for key, one in value.items():
    lines += check(one, fields[key], f"{where}.{key}") if key in fields else [
        f"{where}: {key} is not known"]
  return lines


def manifests(name):
  return list(yaml.safe_load_all((DEPLOY / name).read_text()))


def containers(manifest):
  if manifest["kind"] == "Deployment":
    yield manifest["spec"]["template"]["spec"], manifest["spec"]["template"]["spec"]["containers"][0]
  elif manifest["kind"] == "MPIJob":
    for replica in manifest["spec"]["mpiReplicaSpecs"].values():
      yield replica["template"]["spec"], replica["template"]["spec"]["containers"][0]


def commands():
  """(file, words after `tandem`) of all calls in the folder, comments included."""
  for path in sorted(DEPLOY.iterdir()):
    text = path.read_text()
    if path.name in ("deployment.yaml", "mpijob.yaml"):
      text = ""
      for manifest in manifests(path.name):
        for _, container in containers(manifest):
          if "command" not in container:
            yield path.name, container["args"]
          elif container["command"][0] == "/bin/sh":
            text += container["args"][0]
    text = re.sub(r"\\\n#? *", " ", text)
    for call in re.findall(r"(?:^|[\s/(])tandem(?:\.sif)? +([a-z]+ [^\n]*)", text):
      if call.split()[0] in COMMANDS:
        yield path.name, re.sub(r"\$\([^)]*\)", "X", call).split()



class Files(unittest.TestCase):

  def test_every_option_of_tandem_exists(self):
    known = {}
    found = set()
    for name, words in commands():
      command = words[0]
      if command not in known:
        shown = worlds.run(command, "--help").stdout.decode()
        known[command] = set(re.findall(r"(?<![\w-])--[a-z][a-z0-9-]*", shown))
      told = {re.match(r"--[a-z-]+", word)[0] for word in words if re.match(r"--[a-z]", word)}
      self.assertEqual(told - known[command], set(), f"{name}: tandem {command}")
      found.add(name)
    expected = {path.name for path in DEPLOY.iterdir()}
    self.assertEqual(expected - found, set(), "no call of tandem was found in these")

  def test_scripts_are_bash(self):
    self.assertEqual(len(SCRIPTS), 5)
    for path in SCRIPTS:
      done = subprocess.run(["bash", "-n", str(path)], capture_output=True)
      self.assertEqual((done.returncode, done.stderr), (0, b""), path.name)

  def test_every_file_is_in_the_documentation(self):
    told = (worlds.SOURCE / "docs/deploy.md").read_text()
    self.assertEqual([path.name for path in DEPLOY.iterdir() if path.name not in told], [])

  def test_images_have_the_libraries_that_the_program_names(self):
    def packages(name):
      text = re.sub(r"\\\n", " ", (DEPLOY / name).read_text())
      line = re.search(r"apt-get install -y --no-install-recommends +([^&\n]*)", text)[1]
      return set(line.split())

    docker, apptainer = packages("Dockerfile"), packages("tandem.def")
    self.assertEqual(docker - apptainer, {"openssh-server"})
    if not shutil.which("dpkg-query"):
      self.skipTest("no Debian")
    linked = subprocess.run(["ldd", worlds.BINARY], capture_output=True, text=True, check=True)
    named = subprocess.run(["objdump", "-p", worlds.BINARY], capture_output=True, text=True,
                           check=True).stdout
    for library in re.findall(r"NEEDED +(\S+)", named):
      path = re.search(rf"{re.escape(library)} => (\S+)", linked.stdout)[1]
      owner = ""
      # /lib is a link to /usr/lib; the package database may know a file by either name.
      for name in (path, f"/usr{path}", os.path.realpath(path)):
        asked = subprocess.run(["dpkg-query", "-S", name], capture_output=True, text=True)
        owner = owner or asked.stdout.split(":")[0]
      if owner in ("libc6", "libgcc-s1", "libstdc++6"):
        continue
      self.assertIn(owner, docker, library)

  def test_images_have_the_version_of_the_program(self):
    version = worlds.run("--version").stdout.decode().split()[1]
    for name in MANIFESTS:
      for manifest in manifests(name):
        for _, container in containers(manifest):
          self.assertEqual(container["image"], f"tandem:{version}")


class Kubernetes(unittest.TestCase):

  def test_manifests_have_known_fields(self):
    kinds = set()
    for name in MANIFESTS:
      for manifest in manifests(name):
        kind = (manifest["apiVersion"], manifest["kind"])
        kinds.add(kind)
        self.assertEqual(check(manifest, KINDS[kind], manifest["kind"]), [])
        for pod, container in containers(manifest):
          volumes = {volume["name"] for volume in pod["volumes"]}
          self.assertEqual({mount["name"] for mount in container["volumeMounts"]}, volumes)
    self.assertEqual(kinds, set(KINDS))

  def test_the_check_finds_mistakes(self):
    manifest = manifests("deployment.yaml")[0]
    container = manifest["spec"]["template"]["spec"]["containers"][0]
    container["readynessProbe"] = container.pop("readinessProbe")
    container["ports"][0]["containerPort"] = "50051"
    del manifest["spec"]["selector"]
    found = check(manifest, KINDS["apps/v1", "Deployment"], "Deployment")
    self.assertEqual(len(found), 3, found)

  def test_schemas_of_kubernetes(self):
    try:
      import kubernetes_validate
    except ImportError:
      self.skipTest("kubernetes-validate (PyPI) is not installed")
    for manifest in manifests("deployment.yaml"):
      kubernetes_validate.validate(manifest, "1.31", strict=True)

  def test_the_server_matches_its_probes_and_its_service(self):
    deployment, service = manifests("deployment.yaml")
    pod = deployment["spec"]["template"]["spec"]
    container = pod["containers"][0]
    self.assertEqual(deployment["spec"]["selector"]["matchLabels"],
                     deployment["spec"]["template"]["metadata"]["labels"])
    self.assertEqual(service["spec"]["selector"], deployment["spec"]["selector"]["matchLabels"])
    options = dict(word[2:].split("=") for word in container["args"] if word.startswith("--"))
    port = int(options["listen"].rsplit(":")[1])
    self.assertEqual(container["ports"][0]["containerPort"], port)
    self.assertGreater(pod["terminationGracePeriodSeconds"], float(options["drain-timeout"]))
    with worlds.Server(worlds.DEMO, "--tp", 1) as server:
      for name in ("startupProbe", "readinessProbe"):
        probe = container[name]["grpc"]
        self.assertEqual(probe["port"], port)
        self.assertEqual(server.health(probe["service"]), 1)

  def test_prometheus_finds_the_port(self):
    deployment, _ = manifests("deployment.yaml")
    (monitor,) = manifests("podmonitor.yaml")
    pod = deployment["spec"]["template"]
    container = pod["spec"]["containers"][0]
    options = dict(word[2:].split("=") for word in container["args"] if word.startswith("--"))
    port = options["metrics-listen"].rsplit(":")[1]
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    self.assertEqual(ports["metrics"], int(port))
    self.assertEqual(pod["metadata"]["annotations"],
                     {"prometheus.io/scrape": "true", "prometheus.io/port": port,
                      "prometheus.io/path": "/metrics"})
    (endpoint,) = monitor["spec"]["podMetricsEndpoints"]
    self.assertEqual((endpoint["port"], endpoint["path"]), ("metrics", "/metrics"))
    self.assertEqual(monitor["spec"]["selector"]["matchLabels"], pod["metadata"]["labels"])

  def test_the_mpijob_reads_the_operators_host_file(self):
    """The launcher's command, with a host file as the MPI operator writes it."""
    script = manifests("mpijob.yaml")[0]["spec"]["mpiReplicaSpecs"]["Launcher"]["template"]["spec"][
        "containers"][0]["args"][0]
    with tempfile.TemporaryDirectory() as temp:
      folder = pathlib.Path(temp)
      (folder / "hostfile").write_text("tandem-batch-worker-0.tandem-batch.default.svc slots=4\n"
                                       "tandem-batch-worker-1.tandem-batch.default.svc slots=4\n")
      (folder / "tandem").write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
      (folder / "tandem").chmod(0o755)
      done = subprocess.run(["/bin/sh", "-c", script.replace("/etc/mpi/hostfile",
                                                             f"{folder}/hostfile")],
                            env={**os.environ, "PATH": f"{folder}:{os.environ['PATH']}"},
                            capture_output=True, text=True)
    self.assertEqual(done.stdout.splitlines()[-2:],
                     ["--hosts", "tandem-batch-worker-0.tandem-batch.default.svc:4,"
                      "tandem-batch-worker-1.tandem-batch.default.svc:4"])


def metrics():
  """Series -> labels, as docs/monitoring.md lists them."""
  found = {}
  for name, labels, kind in worlds.documented_metrics():
    labels = labels | {"job", "instance"}
    if kind == "histogram":
      found.update({f"{name}_bucket": labels | {"le"}, f"{name}_sum": labels,
                    f"{name}_count": labels})
    else:
      found[name] = labels
  return found


class Monitoring(unittest.TestCase):

  def check_expression(self, expression, known):
    names = set(re.findall(r"\btandem_\w+", expression))
    self.assertTrue(names or expression.startswith("up{"), expression)
    self.assertEqual(names - set(known), set(), expression)
    for name, matchers in re.findall(r"\b(tandem_\w+)\{(.*?)\}", expression):
      self.assertEqual(set(re.findall(r"(\w+)=", matchers)) - known[name], set(), expression)
    for grouped in re.findall(r"by \((.*?)\)", expression):
      self.assertEqual(set(re.findall(r"\w+", grouped)) -
                       set.union(*(known[name] for name in names)), set(), expression)

  def rules(self):
    groups = yaml.safe_load((DEPLOY / "alerts.yaml").read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]

  def test_alerts_use_existing_metrics(self):
    told = (worlds.SOURCE / "docs/monitoring.md").read_text()
    severities = {}
    for rule in self.rules():
      self.check_expression(rule["expr"], metrics())
      self.assertEqual(set(rule["annotations"]), {"summary", "description"})
      severities.setdefault(rule["alert"], []).append(rule["labels"]["severity"])
    listed = re.findall(r"^\| `(Tandem\w+)` \| ([a-z, ]+) \|", told, re.MULTILINE)
    self.assertEqual({name: set(which.split(", ")) for name, which in listed},
                     {name: set(which) for name, which in severities.items()})

  def test_latency_thresholds_are_the_defaults_of_the_option(self):
    shown = worlds.run("serve", "--help").stdout.decode()
    limits = re.search(r"--watch-latency .*=([\d.]+),([\d.]+)", shown).groups()
    found = {(rule["labels"]["severity"], rule["expr"].rsplit("> ")[1]) for rule in self.rules()
             if rule["alert"] in ("TandemFirstTokenSlow", "TandemTokensSlow")}
    self.assertEqual(found, set(zip(("warning", "critical"), limits)))

  def test_the_dashboard_uses_existing_metrics(self):
    board = json.loads((DEPLOY / "grafana.json").read_text())
    known, shown, places, ids = metrics(), set(), set(), set()
    for panel in board["panels"]:
      ids.add(panel["id"])
      place = panel["gridPos"]
      self.assertLessEqual(place["x"] + place["w"], 24)
      cells = {(x, y) for x in range(place["x"], place["x"] + place["w"])
               for y in range(place["y"], place["y"] + place["h"])}
      self.assertEqual(cells & places, set(), panel["title"])
      places |= cells
      for target in panel.get("targets", ()):
        expression = target["expr"]
        self.check_expression(expression, known)
        self.assertEqual(expression.count("tandem_"), expression.count('instance=~"$instance"'))
        shown |= set(re.findall(r"\btandem_\w+", expression))
        for label in re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]):
          name = re.search(r"\btandem_\w+", expression)[0]
          self.assertIn(label, known[name], target)
    self.assertEqual(len(ids), len(board["panels"]))
    # Information about the model, and sizes, need no panel.
    missing = {re.sub("_(bucket|sum|count)$", "", name) for name in known} - {
        re.sub("_(bucket|sum|count)$", "", name) for name in shown}
    self.assertEqual(missing, {"tandem_build_info", "tandem_model_info", "tandem_draining",
                               "tandem_kv_cache_blocks", "tandem_rank_memory_peak_bytes"})

  def test_promtool_accepts_the_rules_and_they_fire(self):
    if not shutil.which("promtool"):
      self.skipTest("promtool (Debian: prometheus) is not installed")
    path = DEPLOY / "alerts.yaml"
    done = subprocess.run(["promtool", "check", "rules", str(path)], capture_output=True, text=True)
    self.assertEqual((done.returncode, done.stderr), (0, ""), done.stdout)
    who = 'job="tandem", instance="a"'

    def histogram(name, slow, last):
      """Series of values between `last` and `slow`, two bounds beside each other."""
      return [{"series": f'{name}_bucket{{{who}, le="{last}"}}', "values": "0x30"},
              {"series": f'{name}_bucket{{{who}, le="{slow}"}}', "values": "0+60x30"},
              {"series": f'{name}_bucket{{{who}, le="+Inf"}}', "values": "0+60x30"}]

    cases = {
        ("TandemDown", "critical"): [{"series": f"up{{{who}}}", "values": "0x30"}],
        ("TandemRankDown", "critical"): [
            {"series": f'tandem_rank_up{{{who}, rank="1", host="h"}}', "values": "0x30"}],
        ("TandemRankSilent", "critical"): [
            {"series": f"tandem_rank_heartbeat_age_seconds{{{who}}}", "values": "31x30"}],
        ("TandemRestarted", "warning"): [
            {"series": f"tandem_restarts_total{{{who}}}", "values": "0x15 1x15"}],
        ("TandemFirstTokenSlow", "warning"):
            histogram("tandem_time_to_first_token_seconds", 0.75, 0.5),
        ("TandemTokensSlow", "critical"):
            histogram("tandem_inter_token_latency_seconds", 2.5, 1),
        ("TandemKvCacheFull", "warning"): [
            {"series": f"tandem_kv_cache_usage_perc{{{who}}}", "values": "0.96x30"}],
        ("TandemRequestsRefused", "warning"): [
            {"series": f'tandem_request_failures_total{{{who}, code="RESOURCE_EXHAUSTED"}}',
             "values": "0x15 4x15"}],
        ("TandemInternalErrors", "critical"): [
            {"series": f'tandem_request_failures_total{{{who}, code="INTERNAL"}}',
             "values": "0x15 1x15"}],
    }
    calm = [{"series": f"up{{{who}}}", "values": "1x30"},
            {"series": f'tandem_rank_up{{{who}, rank="1", host="h"}}', "values": "1x30"},
            {"series": f"tandem_rank_heartbeat_age_seconds{{{who}}}", "values": "5x30"},
            {"series": f"tandem_restarts_total{{{who}}}", "values": "3x30"},
            {"series": f"tandem_kv_cache_usage_perc{{{who}}}", "values": "0.95x30"},
            {"series": f'tandem_request_failures_total{{{who}, code="INTERNAL"}}',
             "values": "7x30"},
            *histogram("tandem_time_to_first_token_seconds", 0.5, 0.25),
            *histogram("tandem_inter_token_latency_seconds", 0.5, 0.4)]

    def promql(series, fires):
      return {"interval": "1m", "input_series": series, "promql_expr_test": [
          {"expr": 'count by (alertname, severity) (ALERTS{alertstate="firing"})',
           "eval_time": "17m", "exp_samples": [
               {"labels": f'{{alertname="{name}", severity="{severity}"}}', "value": 1}
               for name, severity in fires]}]}

    tests = [promql(calm, [])]
    for (name, severity), series in cases.items():
      fires = [(name, severity)]
      if severity == "critical" and (name, "warning") in {
          (rule["alert"], rule["labels"]["severity"]) for rule in self.rules()}:
        fires.append((name, "warning"))
      tests.append(promql(series, fires))
    with tempfile.TemporaryDirectory() as folder:
      file = pathlib.Path(folder, "tests.yaml")
      file.write_text(yaml.safe_dump({"rule_files": [str(path)], "evaluation_interval": "1m",
                                      "tests": tests}))
      done = subprocess.run(["promtool", "test", "rules", str(file)], capture_output=True,
                            text=True)
      self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
    self.assertEqual({name for name, _ in cases}, {rule["alert"] for rule in self.rules()})


class Systemd(unittest.TestCase):

  def test_the_systemd_unit(self):
    if not shutil.which("systemd-analyze"):
      self.skipTest("systemd is not installed")
    text = (DEPLOY / "tandem.service").read_text()
    self.assertIn("ExecStart=/usr/local/bin/tandem ", text)
    with tempfile.TemporaryDirectory() as temp:
      unit = pathlib.Path(temp, "tandem.service")
      for content, problems in ((text, False), (text.replace("KillMode=mixed", "KillMod=mixed"),
                                                True)):
        unit.write_text(content.replace("/usr/local/bin/tandem", worlds.BINARY))
        done = subprocess.run(["systemd-analyze", "verify", "--man=no", str(unit)],
                              capture_output=True, text=True)
        # systemd-analyze also reports problems of the host's own units.
        own = [line for line in done.stderr.splitlines() if "tandem.service" in line]
        self.assertEqual(bool(own), problems, own)


class Jobs(unittest.TestCase):
  """Batch scripts, run."""

  @classmethod
  def setUpClass(cls):
    cls.temp = tempfile.TemporaryDirectory()
    cls.addClassCleanup(cls.temp.cleanup)
    cls.folder = pathlib.Path(cls.temp.name)
    cls.source = write(cls.folder / "in.jsonl", rows(20))
    done = worlds.run("batch", worlds.DEMO, "--input", cls.source, "--output", cls.folder / "one")
    assert done.returncode == 0, done.stderr
    cls.expected = answers(cls.folder / "one")
    (cls.folder / "bin").mkdir()
    (cls.folder / "bin/tandem").symlink_to(worlds.BINARY)
    cls.path = f"{cls.folder}/bin:{os.environ['PATH']}"

  def variables(self, output, **more):
    return {"PATH": self.path, "MODEL": str(worlds.DEMO), "INPUT": str(self.source),
            "OUTPUT": str(self.folder / output), **more}

  def test_slurm_accepts_and_runs_the_scripts(self):
    slurm = Slurm()
    self.addCleanup(slurm.stop)
    jobs = {}
    for path in DEPLOY.glob("*.sbatch"):
      # Unchanged, except for nodes that this host does not have.
      slurm.run("sbatch", "--test-only", "--nodes=1", path)
      if path.name == "batch-requeue.sbatch":
        continue  # slurm_test runs it
      slurm.environment.update(self.variables(path.stem, TP="2"))
      jobs[path.stem] = slurm.run("sbatch", "--parsable", "--nodes=1", "--time=5",
                                  f"--output={self.folder}/{path.stem}.log", path)
    self.assertEqual(len(jobs), 3)
    for name, job in jobs.items():
      ended = slurm.wait_for(job, ("COMPLETED", "FAILED", "TIMEOUT", "CANCELLED"))
      self.assertEqual(ended, ("COMPLETED", "0:0"), (self.folder / f"{name}.log").read_text())
      self.assertEqual(answers(self.folder / name), self.expected)

  def test_the_pbs_script(self):
    (self.folder / "nodes").write_text("localhost\n" * 4)
    (self.folder / "bin/qsub").write_text(f'#!/bin/sh\necho "$@" > {self.folder}/submitted\n')
    (self.folder / "bin/qsub").chmod(0o755)
    environment = {**os.environ, "PBS_O_WORKDIR": str(self.folder),
                   "PBS_NODEFILE": str(self.folder / "nodes")}
    for limit, code in (("0.001", 75), ("600", 0)):
      environment.update(self.variables("pbs", TIME_LIMIT=limit))
      done = subprocess.run(["bash", str(DEPLOY / "batch.pbs")], env=environment,
                            capture_output=True, text=True, timeout=100)
      self.assertEqual(done.returncode, code, done.stderr)
    self.assertEqual(answers(self.folder / "pbs"), self.expected)
    submitted = shlex.split((self.folder / "submitted").read_text())
    self.assertEqual(submitted, ["-v", f"MODEL={worlds.DEMO},INPUT={self.source},"
                                 f"OUTPUT={self.folder / 'pbs'}", "batch.pbs"])


if __name__ == "__main__":
  unittest.main()
