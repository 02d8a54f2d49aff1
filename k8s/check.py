"""Do manifests, compose file and image fit the programs that they run?

Renders every overlay with `kubectl kustomize`, validates it with kubernetes-validate and checkov,
and then checks what neither can know: that the program has and accepts each setting, that probes
are answered, that a pod has as long to shut down as the program takes, that a folder has one
writer, and that a node can be drained. Alerts are tested with Prometheus's own tool, every query is
checked against the metrics that the programs really export, and the backup's command lines are run
and their result is restored. No cluster is needed, and admission is not tested.

    target/venv/bin/python k8s/check.py PROGRAMS

PROGRAMS is the folder with kvstore-http and kvstore-worker.
"""

import contextlib
import hashlib
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request

import yaml

ROOT = pathlib.Path(__file__).resolve().parent.parent
K8S = ROOT / "k8s"
OVERLAYS = ["single", "shared-file", "redis"]
KUBERNETES = "1.33"

# What checkov asks for and does not get, and why.
SKIPPED = {
    "CKV_K8S_11": "no processor limit: a throttled server answers late although the node has nothing else to do",
    "CKV_K8S_15": "a tag is never moved, so what a node has is right, and it starts pods while the registry is down",
    "CKV_K8S_43": "the digest depends on the build of the image: set it in `images` of your own overlay",
}

# The claims that are created by hand, so that `kubectl delete -k` keeps them: name and access
# modes.
CLAIMS = {
    one["metadata"]["name"]: one["spec"]["accessModes"]
    for file in K8S.rglob("volume.yaml")
    for one in yaml.safe_load_all(file.read_text())
}

mistakes = []


def expect(holds, mistake):
    if not holds:
        mistakes.append(mistake)


def run(*command, **options):
    return subprocess.run(command, text=True, capture_output=True, check=False, **options)


def render(folder):
    rendered = run("kubectl", "kustomize", str(folder))
    if rendered.returncode != 0:
        sys.exit(f"{folder}: {rendered.stderr}")
    return [document for document in yaml.safe_load_all(rendered.stdout) if document]


def with_keda(folder):
    """Returns the overlay, changed for KEDA as its comment describes."""
    file = folder / "k8s/overlays/redis/kustomization.yaml"
    text = file.read_text()
    changed = text.replace("  # - ../../components/keda", "  - ../../components/keda")
    assert changed != text, "the line for KEDA is gone"
    file.write_text(changed)
    rendered = render(file.parent)
    file.write_text(text)
    return rendered


def of_the_guide(folder):
    """Renders the overlays that README.md shows, by their first line, from the files here."""
    blocks = re.findall(r"```yaml\n(# kustomization.yaml[^\n]*)\n(.*?)```", (K8S / "README.md").read_text(), re.S)
    rendered = {}
    for number, (title, text) in enumerate(blocks):
        own = folder / f"own-{number}"
        own.mkdir()
        text = re.sub(r"https://git.example/kvstore//(k8s/[\w/-]+)\?ref=v[\d.]+", r"../\1", text)
        expect("https:" not in text, f"k8s/README.md: {title}: it names something else than this repository")
        (own / "kustomization.yaml").write_text(text)
        rendered[f"guide: {title[2:]}"] = render(own)
    expect(len(rendered) >= 3, "k8s/README.md shows no overlays")
    return rendered


def judge(name, documents):
    """Runs external validators, which do not know the resources of KEDA and the Prometheus Operator."""
    python = pathlib.Path(sys.executable).parent
    known = [one for one in documents if one["apiVersion"].split("/")[0] not in ("keda.sh", "monitoring.coreos.com")]
    with tempfile.TemporaryDirectory() as folder:
        file = pathlib.Path(folder) / "rendered.yaml"
        file.write_text(yaml.safe_dump_all(known))
        validated = run(python / "kubernetes-validate", "--strict", "-k", KUBERNETES, str(file))
        expect(validated.returncode == 0, f"{name}: kubernetes-validate: {validated.stdout}{validated.stderr}")
        checked = run(
            python / "checkov", "--framework", "kubernetes", "--skip-download", "--compact", "--quiet",
            "--skip-check", ",".join(SKIPPED), "-o", "json", "-f", str(file),
        )
        report = json.loads(checked.stdout)
        expect(report["summary"]["passed"] > 30, f"{name}: checkov checked next to nothing")
        for failed in report["results"]["failed_checks"]:
            mistakes.append(f"{name}: {failed['resource']}: {failed['check_id']}: {failed['check_name']}")


def settings_of(program):
    """Returns each setting's variable and flag."""
    text = run(str(program), "--help").stdout
    return set(re.findall(r"\[env: (KVSTORE_\w+)\]", text)), set(re.findall(r"^ +(--[\w-]+)", text, re.M))


def seconds(text):
    """Returns the seconds of a duration in the programs' syntax."""
    units = {"ms": 0.001, "s": 1, "m": 60, "h": 3600}
    number, unit = re.fullmatch(r"(\d+)(ms|s|m|h)", text).groups()
    return int(number) * units[unit]


def selects(selector, labels):
    wanted = selector.get("matchLabels", {}).items()
    for term in selector.get("matchExpressions", []):
        if labels.get(term["key"]) not in term["values"]:
            return False
    return all(labels.get(key) == value for key, value in wanted)


class Overlay:
    def __init__(self, name, documents):
        self.name = name
        self.documents = documents
        self.workloads = [one for one in documents if one["kind"] in ("Deployment", "StatefulSet")]

    def kind(self, kind):
        return [one for one in self.documents if one["kind"] == kind]

    def expect(self, holds, mistake):
        expect(holds, f"{self.name}: {mistake}")

    def environment(self, container):
        """Returns the variables that a container gets from its ConfigMaps."""
        maps = {one["metadata"]["name"]: one["data"] for one in self.kind("ConfigMap")}
        found = {}
        for source in container.get("envFrom", []):
            found |= maps[source["configMapRef"]["name"]]
        return found

    def check(self, programs):
        for workload in self.workloads:
            self.check_pod(workload, programs)
        self.check_selectors()
        self.check_writers()
        self.check_volumes()
        self.check_egress()
        for job in self.kind("CronJob"):
            for container in job["spec"]["jobTemplate"]["spec"]["template"]["spec"]["initContainers"]:
                store = self.environment(container)["KVSTORE_STORE"]
                self.expect(not store.startswith("file:"), f"{job['metadata']['name']}: the folder of {store} is not mounted there")
        self.check_scalers()
        namespaces = {one["metadata"].get("namespace") for one in self.documents}
        self.expect(len(namespaces) == 1 and None not in namespaces, f"not one namespace: {namespaces}")
        for kind in ("Namespace", "PersistentVolumeClaim", "Secret"):
            self.expect(not self.kind(kind), f"`kubectl delete -k` would take the {kind}, and with it data")
        policies = [one for one in self.kind("NetworkPolicy") if one["metadata"]["name"] == "default-deny"]
        self.expect([one["spec"]["policyTypes"] for one in policies] == [["Ingress", "Egress"]], "no default of deny")

    def check_volumes(self):
        """Checks that no budget ties a volume to its node, and that a bad update of its pods can be undone."""
        for workload in self.workloads:
            name = workload["metadata"]["name"]
            spec = workload["spec"]
            claims = [one["persistentVolumeClaim"]["claimName"] for one in spec["template"]["spec"].get("volumes", []) if "persistentVolumeClaim" in one]
            for claim in claims:
                self.expect(CLAIMS.get(claim) == ["ReadWriteOnce"], f"{name}: no file here makes the claim {claim}")
            if not claims and not spec.get("volumeClaimTemplates"):
                continue
            labels = spec["template"]["metadata"]["labels"]
            budgets = [one for one in self.kind("PodDisruptionBudget") if selects(one["spec"]["selector"], labels)]
            self.expect(not budgets, f"{name}: a budget keeps its node from ever being drained: the volume is free only when all are gone")
            if workload["kind"] == "StatefulSet":
                self.expect(spec.get("podManagementPolicy") == "Parallel", f"{name}: a pod that never becomes ready is never replaced")
            elif spec.get("strategy", {}).get("type") == "Recreate":
                affinity = spec["template"]["spec"].get("affinity", {}).get("podAffinity", {})
                self.expect("preferredDuringSchedulingIgnoredDuringExecution" in affinity, f"{name}: placed where its volume cannot go")
        shared = [one for one in self.workloads if one["kind"] == "Deployment" and one["spec"]["template"]["spec"].get("affinity")]
        if not shared and len(self.workloads) > 1 and any(one["kind"] == "Deployment" for one in self.workloads):
            for name in ("kvstore-server", "kvstore-worker"):
                budgets = [one["metadata"]["name"] for one in self.kind("PodDisruptionBudget")]
                self.expect(name in budgets, f"{name}: a drain may take all of its pods at a time")

    def check_egress(self):
        for policy in self.kind("NetworkPolicy"):
            for rule in policy["spec"].get("egress", []):
                self.expect(rule.get("to"), f"policy {policy['metadata']['name']} lets pods reach the whole world")
                self.expect(rule.get("ports"), f"policy {policy['metadata']['name']} lets pods reach every port")

    def check_scalers(self):
        for scaler in self.kind("ScaledObject"):
            namespace = scaler["metadata"]["namespace"]
            name = scaler["metadata"]["name"]
            annotations = scaler["metadata"].get("annotations", {})
            taken_over = scaler["spec"].get("advanced", {}).get("horizontalPodAutoscalerConfig", {}).get("name")
            self.expect(
                annotations.get("scaledobject.keda.sh/transfer-hpa-ownership") == "true" and taken_over == name,
                f"{name}: the autoscaler of before scales beside it",
            )
            queries = [one["metadata"]["query"] for one in scaler["spec"]["triggers"]]
            for metric in ("kvstore_worker_jobs_total", "kvstore_queue_oldest_job_age_seconds"):
                self.expect(any(metric in query for query in queries), f"{name}: it does not scale on {metric}")
            for query in queries:
                self.expect(f'namespace="{namespace}"' in query, f"{name}: it scales on the jobs of another namespace: {query}")

    def check_pod(self, workload, programs):
        spec = workload["spec"]["template"]["spec"]
        pod = spec["securityContext"]
        name = workload["metadata"]["name"]
        self.expect(pod["runAsNonRoot"] and pod["seccompProfile"]["type"] == "RuntimeDefault", f"{name}: not restricted")
        self.expect(spec["automountServiceAccountToken"] is False, f"{name}: it gets a token of the cluster")
        volumes = {one["name"] for one in spec.get("volumes", [])}
        volumes |= {one["metadata"]["name"] for one in workload["spec"].get("volumeClaimTemplates", [])}
        for volume in spec.get("volumes", []):
            if "secret" in volume:
                self.expect(volume["secret"].get("defaultMode") == 0o440, f"{name}: every user of the pod reads the secret {volume['name']}")
        monitored = workload["spec"]["template"]["metadata"]["labels"].get("kvstore-metrics") == "true"
        self.expect(monitored == (name != "redis"), f"{name}: its metrics are not found by their label")
        for container in spec["containers"]:
            own = container["securityContext"]
            self.expect(
                own["readOnlyRootFilesystem"] and not own["allowPrivilegeEscalation"] and own["capabilities"]["drop"] == ["ALL"],
                f"{name}: its container is not restricted",
            )
            memory = container["resources"]
            self.expect(memory["requests"]["memory"] == memory["limits"]["memory"], f"{name}: memory that may not be there")
            self.expect("env" not in container, f"{name}: a setting that is no ConfigMap's")
            self.expect({one["name"] for one in container["volumeMounts"]} == volumes, f"{name}: volumes and mounts differ")
            ports = {one["name"]: one["containerPort"] for one in container["ports"]}
            for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
                self.expect(probe in container, f"{name}: no {probe}")
            program = pathlib.PurePath(container["command"][0]).name
            if program in programs:
                self.check_program(workload, container, ports, programs[program])

    def check_program(self, workload, container, ports, program):
        name = workload["metadata"]["name"]
        environment = self.environment(container)
        unknown = set(environment) - program.variables
        self.expect(not unknown, f"{name}: {program.name} has no setting {unknown}")
        self.expect("KVSTORE_STORE" in environment, f"{name}: it has no store")
        said = program.try_settings(environment)
        self.expect(said is None, f"{name}: {said}")
        listens = {"admin": environment["KVSTORE_ADMIN_LISTEN"]}
        if "KVSTORE_LISTEN" in environment:
            listens["http"] = environment["KVSTORE_LISTEN"]
        listens = {port: int(address.rsplit(":", 1)[1]) for port, address in listens.items()}
        self.expect(listens == ports, f"{name}: ports {ports}, but it listens on {listens}")
        paths = {probe: container[probe]["httpGet"]["path"] for probe in ("startupProbe", "readinessProbe", "livenessProbe")}
        self.expect(set(paths.values()) <= program.answered, f"{name}: not every probe is answered: {paths}")
        self.expect(paths["livenessProbe"] == "/livez", f"{name}: an outage of Redis would restart it")
        # A service, and a store or queue shared with other pods.
        if workload["kind"] == "Deployment" and program.name == "kvstore-http":
            self.expect(paths["startupProbe"] == "/readyz", f"{name}: it gets requests before it has reached store and queue")
            self.expect(paths["readinessProbe"] == "/livez", f"{name}: an outage of Redis would leave the service without a pod")
        else:
            self.expect(paths["readinessProbe"] == "/readyz", f"{name}: its readiness knows no store")
        for probe in paths:
            self.expect(container[probe]["httpGet"]["port"] == "admin", f"{name}: {probe} is not on the admin port")
        drain = sum(seconds(environment.get(variable, "0s")) for variable in ("KVSTORE_DRAIN_DELAY", "KVSTORE_DRAIN_TIMEOUT"))
        grace = workload["spec"]["template"]["spec"]["terminationGracePeriodSeconds"]
        self.expect(grace >= drain + 15, f"{name}: {grace} s to end, but it drains for {drain} s")
        # Every file that a setting names has to be mounted.
        mounts = [one["mountPath"] for one in container["volumeMounts"]]
        for path in re.findall(r"(?:^|[=:])(/(?:etc|var)/[\w/.]+)", "\n".join(environment.values()), re.M):
            self.expect(any(path.startswith(mount + "/") for mount in mounts), f"{name}: nothing is mounted at {path}")

    def check_selectors(self):
        pods = [one["spec"]["template"]["metadata"]["labels"] for one in self.workloads]
        all_pods = pods + [one["spec"]["jobTemplate"]["spec"]["template"]["metadata"]["labels"] for one in self.kind("CronJob")]
        for workload in self.workloads:
            labels = workload["spec"]["template"]["metadata"]["labels"]
            self.expect(selects(workload["spec"]["selector"], labels), f"{workload['metadata']['name']} does not select its pods")
        for service in self.kind("Service"):
            chosen = [pod for pod in pods if selects({"matchLabels": service["spec"]["selector"]}, pod)]
            if service["metadata"]["name"] == "kvstore-metrics":
                self.expect(len(chosen) == len([pod for pod in pods if pod["app.kubernetes.io/component"] != "redis"]), "metrics of some")
                self.expect(service["spec"].get("publishNotReadyAddresses"), "metrics of pods that are ready alone")
                continue
            self.expect(len(chosen) == 1, f"service {service['metadata']['name']} reaches {len(chosen)} workloads")
        for monitor in self.kind("ServiceMonitor"):
            chosen = [one for one in self.kind("Service") if selects(monitor["spec"]["selector"], one["metadata"].get("labels", {}))]
            ports = {port["name"] for one in chosen for port in one["spec"]["ports"]}
            self.expect(len(chosen) == 1 and {one["port"] for one in monitor["spec"]["endpoints"]} == ports, "ServiceMonitor: no such service or port")
        for kind, field in (("PodDisruptionBudget", "selector"), ("NetworkPolicy", "podSelector")):
            for one in self.kind(kind):
                chosen = [pod for pod in all_pods if selects(one["spec"][field], pod)]
                self.expect(chosen, f"{kind} {one['metadata']['name']} selects no pod")
        names = {(one["kind"], one["metadata"]["name"]): one for one in self.workloads}
        targets = []
        for scaler in self.kind("HorizontalPodAutoscaler") + self.kind("ScaledObject"):
            target = scaler["spec"]["scaleTargetRef"]
            key = (target.get("kind", "Deployment"), target["name"])
            targets.append(key)
            self.expect(key in names, f"{scaler['metadata']['name']} scales nothing")
            self.expect("replicas" not in names.get(key, {"spec": {}})["spec"], f"{key}: its replicas are also set by hand")
        self.expect(len(targets) == len(set(targets)), f"two scale one: {targets}")

    def check_writers(self):
        """Checks that a folder has one writer at a time, and other pods mount it read-only."""
        writers = []
        for workload in self.workloads:
            for container in workload["spec"]["template"]["spec"]["containers"]:
                environment = self.environment(container)
                if not environment.get("KVSTORE_STORE", "").startswith("file:"):
                    continue
                if environment.get("KVSTORE_WORKER") == "none":
                    path = environment["KVSTORE_STORE"].removeprefix("file:")
                    mount = [one for one in container["volumeMounts"] if path.startswith(one["mountPath"])]
                    self.expect(all(one.get("readOnly") for one in mount), "a reader mounts the folder to write")
                    continue
                writers.append(workload)
        folders = [one for one in self.kind("ConfigMap") if one["data"].get("KVSTORE_STORE", "").startswith("file:")]
        self.expect(len(writers) == len(folders), f"{len(writers)} writers for {len(folders)} folders")
        for writer in writers:
            spec = writer["spec"]
            self.expect(spec.get("replicas") == 1, "the writer is not one pod")
            if writer["kind"] == "StatefulSet":
                modes = [one["spec"]["accessModes"] for one in spec["volumeClaimTemplates"]]
                self.expect(modes == [["ReadWriteOncePod"]], "two pods could mount the volume of the one writer")
            else:
                self.expect(spec["strategy"]["type"] == "Recreate", "a second writer is started before the first is gone")


class Program:
    """One of the two programs, as built."""

    def __init__(self, folder, name):
        self.path = pathlib.Path(folder).resolve() / name
        self.name = name
        self.variables, self.flags = settings_of(self.path)
        expect(len(self.variables) > 5, f"{name}: its settings cannot be read from --help")
        self.answered = set()
        self.exported = set()

    def try_settings(self, environment):
        """Returns the program's complaint about the settings, with files of the pod faked."""
        with tempfile.TemporaryDirectory() as folder:
            made_up = {}
            for variable, value in environment.items():
                made_up[variable] = value.replace("/etc/kvstore", folder).replace("/var/lib/kvstore", folder)
            for name in ("tokens/tokens", "redis/password"):
                file = pathlib.Path(folder) / name
                file.parent.mkdir()
                file.write_text("ada:" + "0" * 64 + ":rw\n")
            tried = run(str(self.path), "--print-config", env=made_up)
        return tried.stderr if tried.returncode != 0 or tried.stderr else None

    def ask_probes(self, store):
        """Starts the program and sends the requests of the probes."""
        command = [str(self.path), "--store", store, "--admin-listen", "127.0.0.1:0", "--log-format", "json"]
        if "--listen" in self.flags:
            command += ["--listen", "127.0.0.1:0"]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        try:
            for line in process.stderr:
                if not line.startswith("{"):
                    sys.exit(f"{self.name}: {line}")
                fields = json.loads(line)["fields"]
                if fields["message"] == "answering probes":
                    break
            else:
                sys.exit(f"{self.name} does not answer probes")
            if "--listen" in self.flags:
                # A request, since metrics of requests only exist after one.
                entries = (json.loads(line)["fields"] for line in process.stderr)
                serving = next(one for one in entries if one["message"] == "serving")
                expect(answers(f"http://{serving['address']}/v1/kv"), f"{self.name}: it does not list its keys")
            for path in ("/livez", "/readyz", "/metrics"):
                answered = answers(f"http://{fields['address']}{path}")
                if answered is not None:
                    self.answered.add(path)
                if path == "/metrics":
                    self.exported |= set(re.findall(r"^(?:# TYPE )?(kvstore_\w+)", answered or "", re.M))
        finally:
            process.kill()
            process.wait()
            process.stderr.close()


def answers(url):
    """Returns the answer if it succeeds within ten seconds."""
    for _ in range(200):
        with contextlib.suppress(urllib.error.URLError), urllib.request.urlopen(url, timeout=10) as answer:
            return answer.read().decode()
        time.sleep(0.05)
    return None


@contextlib.contextmanager
def redis():
    """Yields the URL of a Redis with the pod's configuration, users and password from README.md."""
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        (folder / "password").write_text("secret")
        digest = hashlib.sha256(b"secret").hexdigest()
        (folder / "users.acl").write_text(f"user default on #{digest} ~* &* +@all\n")
        configuration = (K8S / "components/redis-server/redis.conf").read_text()
        configuration = configuration.replace("/etc/redis/users", name).replace("dir /data", f"dir {name}")
        (folder / "redis.conf").write_text(configuration)
        socket = folder / "socket"
        process = subprocess.Popen(
            ["redis-server", str(folder / "redis.conf"), "--port", "0", "--unixsocket", str(socket)], stdout=subprocess.DEVNULL
        )
        try:
            for _ in range(200):
                if socket.exists():
                    break
                time.sleep(0.05)
            refused = run("redis-cli", "-s", str(socket), "ping").stdout
            expect("NOAUTH" in refused, f"Redis accepts clients without a password: {refused}")
            yield f"redis+unix://{socket}?password_file={folder / 'password'}"
        finally:
            process.kill()
            process.wait()


def check_files():
    """Checks that every file is used; the renderer checks that every named file exists."""
    named = {K8S / "check.py", K8S / "README.md", K8S / "alerts.yaml", K8S / "alerts_test.yaml", K8S / "restore-redis.yaml"}
    guide = (K8S / "README.md").read_text()
    for file in [*K8S.rglob("volume.yaml"), K8S / "restore-redis.yaml"]:
        expect(f"apply -f {file.relative_to(K8S)}" in guide, f"k8s/README.md does not say when to apply {file}")
        named.add(file)
    for file in K8S.rglob("kustomization.yaml"):
        named.add(file)
        content = yaml.safe_load(file.read_text())
        names = content.get("resources", []) + [one["path"] for one in content.get("patches", []) if "path" in one]
        names += [name for one in content.get("configMapGenerator", []) for name in one.get("files", [])]
        named |= {file.parent / name for name in names}
    for file in K8S.rglob("*"):
        expect(not file.is_file() or file in named or "__pycache__" in file.parts, f"{file} belongs to nothing")


# Metrics of Kubernetes itself and of Prometheus.
FOREIGN = {"up", "container_memory_working_set_bytes", "container_spec_memory_limit_bytes"}


def check_query(where, query, exported):
    """Checks that the programs really export every metric of a query."""
    names = re.sub(r'"[^"]*"', '""', query)
    used = set(re.findall(r"\b(?:kvstore|container|process|kube|node)_\w+|\bup\b", re.sub(r"\{[^}]*\}", "", names)))
    expect(used, f"{where}: it asks for nothing")
    unknown = used - exported - FOREIGN
    expect(not unknown, f"{where}: no such metric: {unknown}")


def check_monitoring(programs):
    """Checks alerts, dashboard and autoscaler against the exported metrics and by Prometheus's tool."""
    exported = {"kvstore_follower_lag_seconds"} | set().union(*(program.exported for program in programs.values()))
    for name in list(exported):
        if name.endswith("_seconds"):
            exported |= {name + end for end in ("_bucket", "_count", "_sum")}
        exported |= {name + "_total", name + "_info"}
    page = (ROOT / "docs" / "configuration.md").read_text()
    documented = set(re.findall(r"^\| `(kvstore_\w+)` \|", page, re.M))
    expect(documented <= exported, f"docs/configuration.md: no program exports {documented - exported}")
    guide = (K8S / "README.md").read_text()
    alerts = yaml.safe_load((K8S / "alerts.yaml").read_text())
    tested = (K8S / "alerts_test.yaml").read_text()
    queries = []
    for group in alerts["groups"]:
        for rule in group["rules"]:
            check_query(f"alert {rule['alert']}", rule["expr"], exported)
            expect(f"| `{rule['alert']}` |" in guide, f"k8s/README.md does not say what {rule['alert']} means")
            fires = re.search(rf"alertname: {rule['alert']}, exp_alerts", tested)
            expect(fires, f"alerts_test.yaml: {rule['alert']} never fires")
            del rule["annotations"]
    dashboard = json.loads((ROOT / "contrib/grafana-dashboard.json").read_text())
    for panel in dashboard["panels"]:
        for target in panel["targets"]:
            check_query(f"dashboard: {panel['title']}", target["expr"], exported)
            queries.append(target["expr"].replace("$__rate_interval", "5m").replace("$namespace", ".*"))
    expect(len(queries) > 10, "the dashboard shows next to nothing")
    for trigger in yaml.safe_load((K8S / "components/keda/scaled-object.yaml").read_text())["spec"]["triggers"]:
        check_query("KEDA", trigger["metadata"]["query"], exported)
        queries.append(trigger["metadata"]["query"])
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        # Prometheus reads queries in the form of recording rules.
        rules = [{"record": f"query:{number}", "expr": query} for number, query in enumerate(queries)]
        (folder / "queries.yaml").write_text(yaml.safe_dump({"groups": [{"name": "queries", "rules": rules}]}))
        (folder / "alerts.yaml").write_text(yaml.safe_dump(alerts))
        (folder / "alerts_test.yaml").write_text(tested)
        checked = run("promtool", "check", "rules", str(K8S / "alerts.yaml"), str(folder / "queries.yaml"))
        expect(checked.returncode == 0, f"promtool check rules: {checked.stdout}{checked.stderr}")
        checked = run("promtool", "test", "rules", "alerts_test.yaml", cwd=folder)
        expect(checked.returncode == 0, f"promtool test rules: {checked.stdout}{checked.stderr}")


def check_guide():
    """Checks the steps that only the guide contains: what is created by hand."""
    guide = (K8S / "README.md").read_text()
    for namespace in re.findall(r"kubectl create namespace ([\w-]+)", guide):
        label = f"kubectl label namespace {namespace} pod-security.kubernetes.io/enforce=restricted"
        expect(label in guide, f"k8s/README.md: the namespace {namespace} enforces nothing")
    expect("kubectl create namespace" in guide, "k8s/README.md makes no namespace")
    for needed in ("out-of-service", "metrics-server", "--dry-run=client -o yaml", "--cascade=orphan", "kubectl delete namespace"):
        expect(needed in guide, f"k8s/README.md says nothing of {needed}")
    pod = yaml.safe_load((K8S / "restore-redis.yaml").read_text())
    volumes = [one["persistentVolumeClaim"]["claimName"] for one in pod["spec"]["volumes"]]
    expect(volumes == ["data-redis-0"], "restore-redis.yaml: not the volume of Redis")
    validated = run(pathlib.Path(sys.executable).parent / "kubernetes-validate", "--strict", "-k", KUBERNETES, str(K8S / "restore-redis.yaml"))
    expect(validated.returncode == 0, f"restore-redis.yaml: {validated.stdout}{validated.stderr}")
    of_redis = yaml.safe_load((K8S / "components/redis-server/redis.yaml").read_text().split("---")[1])["spec"]["template"]["spec"]
    expect(pod["spec"]["securityContext"] == of_redis["securityContext"], "restore-redis.yaml: not the user of Redis")
    (own,), (other,) = pod["spec"]["containers"], of_redis["containers"]
    expect(own["securityContext"] == other["securityContext"], "restore-redis.yaml: it is not restricted")
    for file in K8S.rglob("volume.yaml"):
        claim = yaml.safe_load(file.read_text())
        expect(claim["spec"]["accessModes"] == ["ReadWriteOnce"], f"{file}: not once a node")


def check_backup(program, documents, store):
    """Runs the command lines of the CronJob, and restores their result into another store."""
    (job,) = [one for one in documents if one["kind"] == "CronJob"]
    spec = job["spec"]["jobTemplate"]["spec"]["template"]["spec"]
    (export,), (keep,) = spec["initContainers"], spec["containers"]
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        backup = folder / "backup"
        backup.mkdir()
        lines = [
            {"key": f"user:{number:04}", "value": {"n": number}, "expires_at": 7_000_000_000_000 if number % 2 else None}
            for number in range(500)
        ]
        first = folder / "first.ndjson"
        first.write_text("".join(json.dumps(line) + "\n" for line in lines))
        made = run(str(program), "import", str(first), "--to", store)
        expect(made.returncode == 0, f"import: {made.stdout}{made.stderr}")
        # As the kubelet does: $(NAME) is the value of a variable.
        variables = {"KVSTORE_STORE": store, "POD_NAME": "kvstore-backup-29000000-abcde"}
        words = [re.sub(r"\$\((\w+)\)", lambda found: variables[found[1]], word) for word in export["args"]]
        words = [word.replace("/backup/", f"{backup}/") for word in words]
        exported = run(str(program), *words)
        expect(exported.returncode == 0, f"backup: {exported.stdout}{exported.stderr}")
        old, recent, torn = backup / "old.ndjson", backup / "recent.ndjson", backup / "torn.partial"
        for file, age in ((old, 30), (recent, 2), (torn, 30)):
            file.touch()
            os.utime(file, (time.time() - age * 86400,) * 2)
        script = keep["command"][2].replace("/backup", str(backup))
        kept = run(*keep["command"][:2], script, env=os.environ | variables)
        expect(kept.returncode == 0, f"backup: {kept.stderr}")
        expect(recent.exists() and not old.exists() and not torn.exists(), "backup: it keeps too much or too little")
        found = [file for file in backup.iterdir() if file != recent]
        expect(len(found) == 1 and found[0].suffix == ".ndjson", f"backup: {found}")
        restored = folder / "restored"
        for file in found:
            back = run(str(program), "import", str(file), "--to", f"file:{restored}")
            expect('"written":500' in back.stdout, f"restore: {back.stdout}{back.stderr}")
            text = run(str(program), "export", "--from", f"file:{restored}").stdout
            entries = [json.loads(line) for line in text.splitlines()]
            same = [{"key": one["key"], "value": one["value"], "expires_at": one.get("expires_at")} for one in entries] == lines
            expect(same, "restore: keys, values and deadlines are not those that were backed up")


def check_compose(programs):
    compose = yaml.safe_load((ROOT / "compose.yaml").read_text())
    for name, service in compose["services"].items():
        if "build" not in service:
            continue
        program = programs[pathlib.PurePath(service.get("command", ["kvstore-http"])[0]).name]
        environment = {key: str(value) for key, value in service["environment"].items()}
        # As the image sets it, unless the service overrides it.
        if program.name == "kvstore-http":
            environment = {"KVSTORE_LISTEN": "0.0.0.0:8000"} | environment
        said = program.try_settings(environment)
        expect(said is None and set(environment) <= program.variables, f"compose.yaml: {name}: {said}")
        expect(service["read_only"] and service["cap_drop"] == ["ALL"], f"compose.yaml: {name} is not restricted")


def check_image(programs):
    image = (ROOT / "Dockerfile").read_text()
    line = "cargo build --release --locked --workspace --bins"
    expect(image.count(line) == 2 and line in (ROOT / "check").read_text(), "image and ./check are built in two ways")
    last = image.rsplit("\nFROM ", 1)[1]
    expect("\nUSER 65532:65532\n" in last and "\nRUN " not in last, "the image's user is no number, or it needs a shell")
    set_there = set(re.findall(r"\b(KVSTORE_\w+)=", last))
    expect(set_there <= programs["kvstore-http"].variables, f"Dockerfile: no such setting: {set_there}")
    version = re.search(r'^version = "(.*)"', (ROOT / "Cargo.toml").read_text(), re.M).group(1)
    labels = dict(re.findall(r'org\.opencontainers\.image\.(\w+)="([^"]*)"', last))
    expect(labels.get("version") == version, f"Dockerfile: the image says version {labels.get('version')}, not {version}")
    guide = (K8S / "README.md").read_text()
    for label, argument in (("revision", "REVISION"), ("source", "SOURCE")):
        expect(labels.get(label) == f"${argument}" and f"\nARG {argument}=" in last, f"Dockerfile: no label of the {label}")
        expect(f"--build-arg {argument}=" in guide, f"k8s/README.md: the image is built without its {label}")
    members = re.search(r"^members = \[(.*)\]", (ROOT / "Cargo.toml").read_text(), re.M).group(1)
    for member in re.findall(r'"([\w-]+)"', members):
        expect(f"COPY {member}/Cargo.toml {member}/" in image, f"Dockerfile: the layer of dependencies lacks {member}")


def main(folder):
    programs = {name: Program(folder, name) for name in ("kvstore-http", "kvstore-worker")}
    with tempfile.TemporaryDirectory() as name, redis() as store:
        scratch = pathlib.Path(name)
        shutil.copytree(K8S, scratch / "k8s")
        rendered = {name: render(K8S / "overlays" / name) for name in OVERLAYS}
        rendered["redis with KEDA"] = with_keda(scratch)
        rendered |= of_the_guide(scratch)
        for program in programs.values():
            program.ask_probes(store)
        check_backup(pathlib.Path(folder, "kvstore"), next(one for one in rendered.values() if any(it["kind"] == "CronJob" for it in one)), store)
    check_files()
    check_monitoring(programs)
    check_guide()
    check_compose(programs)
    check_image(programs)
    for name, documents in rendered.items():
        judge(name, documents)
        Overlay(name, documents).check(programs)
        print(f"{name}: {len(documents)} resources")
    for program in programs.values():
        print(f"{program.name}: {program.path.stat().st_size / 1e6:.1f} MB")
    if mistakes:
        sys.exit("\n".join(mistakes))


main(sys.argv[1])
