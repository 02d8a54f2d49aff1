"""Do manifests, compose file and image fit the programs that they run?

Renders every overlay with `kubectl kustomize`, has it judged by kubernetes-validate and checkov, and then asks what neither can
know: whether each setting is one that the program has and accepts, whether probes are answered, whether a pod is given as long to
end as the program takes, and whether a folder has one writer. No cluster is needed, and no admission is tried.

    target/venv/bin/python k8s/check.py PROGRAMS

PROGRAMS is the folder with kvstore-http and kvstore-worker.
"""

import contextlib
import hashlib
import json
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
    "CKV_K8S_43": "the digest is that of whoever builds the image: set it in `images` of an own overlay",
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
    """The overlay as its comment says to change it for KEDA."""
    copy = pathlib.Path(folder) / "k8s"
    shutil.copytree(K8S, copy)
    file = copy / "overlays/redis/kustomization.yaml"
    text = file.read_text()
    changed = text.replace("  # - ../../components/keda", "  - ../../components/keda")
    assert changed != text, "the line for KEDA is gone"
    file.write_text(changed)
    return copy / "overlays/redis"


def judge(name, documents):
    """What the judges of others say. They know no resources of KEDA."""
    python = pathlib.Path(sys.executable).parent
    known = [document for document in documents if "keda" not in document["apiVersion"]]
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
        expect(report["summary"]["passed"] > 50, f"{name}: checkov checked next to nothing")
        for failed in report["results"]["failed_checks"]:
            mistakes.append(f"{name}: {failed['resource']}: {failed['check_id']}: {failed['check_name']}")


def settings_of(program):
    """Each setting's variable and flag."""
    text = run(str(program), "--help").stdout
    return set(re.findall(r"\[env: (KVSTORE_\w+)\]", text)), set(re.findall(r"^ +(--[\w-]+)", text, re.M))


def seconds(text):
    """Of a duration as the programs read it."""
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
        """What a container gets from its ConfigMaps."""
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
        policies = [one for one in self.kind("NetworkPolicy") if one["metadata"]["name"] == "default-deny"]
        self.expect([one["spec"]["policyTypes"] for one in policies] == [["Ingress", "Egress"]], "no default of deny")
        for namespace in self.kind("Namespace"):
            enforced = namespace["metadata"]["labels"].get("pod-security.kubernetes.io/enforce")
            self.expect(enforced == "restricted", "the namespace enforces nothing")

    def check_pod(self, workload, programs):
        spec = workload["spec"]["template"]["spec"]
        pod = spec["securityContext"]
        name = workload["metadata"]["name"]
        self.expect(pod["runAsNonRoot"] and pod["seccompProfile"]["type"] == "RuntimeDefault", f"{name}: not restricted")
        self.expect(spec["automountServiceAccountToken"] is False, f"{name}: it gets a token of the cluster")
        volumes = {one["name"] for one in spec.get("volumes", [])}
        volumes |= {one["metadata"]["name"] for one in workload["spec"].get("volumeClaimTemplates", [])}
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
        self.expect("KVSTORE_STORE" in environment, f"{name}: it is told of no store")
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
        self.expect(paths["readinessProbe"] == "/readyz", f"{name}: its readiness knows no store")
        for probe in paths:
            self.expect(container[probe]["httpGet"]["port"] == "admin", f"{name}: {probe} is not on the admin port")
        drain = sum(seconds(environment.get(variable, "0s")) for variable in ("KVSTORE_DRAIN_DELAY", "KVSTORE_DRAIN_TIMEOUT"))
        grace = workload["spec"]["template"]["spec"]["terminationGracePeriodSeconds"]
        self.expect(grace >= drain + 15, f"{name}: {grace} s to end, but it drains for {drain} s")
        # Whatever a setting names as a file has to be mounted.
        mounts = [one["mountPath"] for one in container["volumeMounts"]]
        for path in re.findall(r"(?:^|[=:])(/(?:etc|var)/[\w/.]+)", "\n".join(environment.values()), re.M):
            self.expect(any(path.startswith(mount + "/") for mount in mounts), f"{name}: nothing is mounted at {path}")

    def check_selectors(self):
        pods = [one["spec"]["template"]["metadata"]["labels"] for one in self.workloads]
        for workload in self.workloads:
            labels = workload["spec"]["template"]["metadata"]["labels"]
            self.expect(selects(workload["spec"]["selector"], labels), f"{workload['metadata']['name']} does not select its pods")
        for service in self.kind("Service"):
            chosen = [pod for pod in pods if selects({"matchLabels": service["spec"]["selector"]}, pod)]
            self.expect(len(chosen) == 1, f"service {service['metadata']['name']} reaches {len(chosen)} workloads")
        for kind, field in (("PodDisruptionBudget", "selector"), ("NetworkPolicy", "podSelector")):
            for one in self.kind(kind):
                chosen = [pod for pod in pods if selects(one["spec"][field], pod)]
                self.expect(chosen, f"{kind} {one['metadata']['name']} is about nobody")
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
        """A folder has one writer at a time, and whoever else mounts it can't write."""
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
    """One of the two, as it is built."""

    def __init__(self, folder, name):
        self.path = pathlib.Path(folder).resolve() / name
        self.name = name
        self.variables, self.flags = settings_of(self.path)
        expect(len(self.variables) > 5, f"{name}: its settings can't be read from --help")
        self.answered = set()

    def try_settings(self, environment):
        """What it says against them. Files that a pod has are made up."""
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
        """Starts it, and asks for what probes ask."""
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
            for path in ("/livez", "/readyz", "/metrics"):
                if answers(f"http://{fields['address']}{path}"):
                    self.answered.add(path)
        finally:
            process.kill()
            process.wait()
            process.stderr.close()


def answers(url):
    """Whether it does so well, within ten seconds."""
    for _ in range(200):
        with contextlib.suppress(urllib.error.URLError), urllib.request.urlopen(url, timeout=10):
            return True
        time.sleep(0.05)
    return False


@contextlib.contextmanager
def redis():
    """The URL of a Redis with the configuration, users and password of the pod, as README.md makes them."""
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
            expect("NOAUTH" in refused, f"Redis lets in whoever has no password: {refused}")
            yield f"redis+unix://{socket}?password_file={folder / 'password'}"
        finally:
            process.kill()
            process.wait()


def check_files():
    """Whether every file is used, and every file that is named is there: the renderer says the latter."""
    named = {K8S / "check.py", K8S / "README.md", K8S / "alerts.yaml"}
    for file in K8S.rglob("kustomization.yaml"):
        named.add(file)
        content = yaml.safe_load(file.read_text())
        names = content.get("resources", []) + [one["path"] for one in content.get("patches", []) if "path" in one]
        names += [name for one in content.get("configMapGenerator", []) for name in one.get("files", [])]
        named |= {file.parent / name for name in names}
    for file in K8S.rglob("*"):
        expect(not file.is_file() or file in named or "__pycache__" in file.parts, f"{file} belongs to nothing")


def check_alerts():
    readme = (ROOT / "README.md").read_text()
    guide = (K8S / "README.md").read_text()
    metrics = set(re.findall(r"^\| `(kvstore_\w+)` \|", readme, re.M))
    for group in yaml.safe_load((K8S / "alerts.yaml").read_text())["groups"]:
        for rule in group["rules"]:
            used = set(re.findall(r"kvstore_\w+", rule["expr"]))
            expect(used and used <= metrics, f"alert {rule['alert']}: no such metric: {used - metrics}")
            expect(f"| `{rule['alert']}` |" in guide, f"k8s/README.md does not say what {rule['alert']} means")
    scaled = (K8S / "components/keda/scaled-object.yaml").read_text()
    expect(set(re.findall(r"kvstore_\w+", scaled)) <= metrics, "KEDA asks for a metric that is not there")


def check_compose(programs):
    compose = yaml.safe_load((ROOT / "compose.yaml").read_text())
    for name, service in compose["services"].items():
        if "build" not in service:
            continue
        program = programs[pathlib.PurePath(service.get("command", ["kvstore-http"])[0]).name]
        environment = {key: str(value) for key, value in service["environment"].items()}
        # As the image sets it, unless the service says otherwise.
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
    members = re.search(r"^members = \[(.*)\]", (ROOT / "Cargo.toml").read_text(), re.M).group(1)
    for member in re.findall(r'"([\w-]+)"', members):
        expect(f"COPY {member}/Cargo.toml {member}/" in image, f"Dockerfile: the layer of dependencies lacks {member}")


def main(folder):
    programs = {name: Program(folder, name) for name in ("kvstore-http", "kvstore-worker")}
    with redis() as store:
        for program in programs.values():
            program.ask_probes(store)
    check_files()
    check_alerts()
    check_compose(programs)
    check_image(programs)
    with tempfile.TemporaryDirectory() as scratch:
        rendered = {name: render(K8S / "overlays" / name) for name in OVERLAYS}
        rendered["redis with KEDA"] = render(with_keda(scratch))
    for name, documents in rendered.items():
        judge(name, documents)
        Overlay(name, documents).check(programs)
        print(f"{name}: {len(documents)} resources")
    for program in programs.values():
        print(f"{program.name}: {program.path.stat().st_size / 1e6:.1f} MB")
    if mistakes:
        sys.exit("\n".join(mistakes))


main(sys.argv[1])
