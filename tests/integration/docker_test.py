"""docker/compose.yaml on a real engine: images, identities, kills, a cable pulled out, bytes on the interfaces.

For tests/run.sh --all, which builds the images before (docker/images.sh); QUANTFL_DOCKER_TAG names them, without it
they are built here. Skipped where no engine answers. Leaves no container, volume or network; images stay for their
layers, as quantfl-*:test, quantfl-base and quantfl-ccache.
"""
import collections
import hashlib
import json
import os
import pathlib
import queue
import re
import shutil
import signal
import subprocess
import tempfile
import threading
import unittest

from harness import ROOT, free_port, parse_event

ALL = os.environ.get("QUANTFL_ALL") == "1"
PROJECT = f"quantfl-test-{os.getpid()}"
COORDINATOR_BYTES_MAX = 40_000_000
# Ethernet, IP and TCP with timestamps: what a packet of the interface is beside its part of the stream.
HEADER_BYTES = 14 + 20 + 32
UPLOAD_TIMEOUT_S = 900


def tool(*command, check=True, **kwargs):
    done = subprocess.run(list(map(str, command)), text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                          stdin=subprocess.DEVNULL, **kwargs)
    if check and done.returncode != 0:
        raise AssertionError(f"{command} ended with {done.returncode}\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}")
    return done.stdout + ("" if check else done.stderr)


def why_not():
    """The reason for which there is nothing to test here, or None."""
    if not ALL:
        return "takes many minutes: tests/run.sh --all"
    if shutil.which("docker") is None:
        return "there is no docker here"
    if subprocess.run(["docker", "info"], capture_output=True, check=False).returncode != 0:
        return "no Docker engine answers"
    if compose_command() is None:
        return "there is neither docker compose nor docker-compose here"
    if os.environ.get("QUANTFL_DOCKER_TAG") == "":
        return "docker/images.sh could not build the images here"
    return None


def compose_command():
    for command in (["docker", "compose"], ["docker-compose"]):
        if shutil.which(command[0]) and subprocess.run([*command, "version"], capture_output=True, check=False).returncode == 0:
            return command
    return None


class Lines:
    """A file's lines as they are written, from wherever it will be."""

    def __init__(self, path):
        self._queue = queue.Queue()
        self._tail = subprocess.Popen(["tail", "-n", "+1", "-F", str(path)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                                      text=True)
        self.seen = []
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self):
        with self._tail.stdout as stream:
            for line in stream:
                self._queue.put(line.rstrip("\n"))

    def skip(self):
        """What is written by now is history: a test that was kept waiting goes on with what comes next."""
        while not self._queue.empty():
            self.seen.append(self._queue.get())

    def wait_for(self, event, timeout=UPLOAD_TIMEOUT_S, **fields):
        while True:
            try:
                line = self._queue.get(timeout=timeout)
            except queue.Empty:
                raise AssertionError(f"no {event} {fields} within {timeout} s\n" + "\n".join(self.seen[-25:])) from None
            self.seen.append(line)
            found = parse_event(line)
            if found and found.name == event and all(found.fields.get(k) == str(v) for k, v in fields.items()):
                return found

    def close(self):
        self._tail.kill()
        self._tail.wait()


@unittest.skipIf(why_not(), why_not())
class Compose(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.tag = os.environ.get("QUANTFL_DOCKER_TAG", "test")
        cls.environment = {**os.environ, "TAG": cls.tag, "COMPOSE_PROJECT_NAME": PROJECT,
                           "SUBNET": f"198.18.{os.getpid() % 250 + 1}.0/24", "WEB_PORT": str(free_port())}
        if "QUANTFL_DOCKER_TAG" not in os.environ:
            tool(ROOT / "docker/images.sh", cls.tag)

    def setUp(self):
        self.runs = pathlib.Path(tempfile.mkdtemp(prefix="quantfl-docker."))
        self.addCleanup(shutil.rmtree, self.runs, ignore_errors=True)
        self.runs.chmod(0o777)  # the containers' user is nobody here
        self.addCleanup(self.check_nothing_is_left)
        self.addCleanup(self.compose, "down", "-v", "--remove-orphans", check=False)
        self.files = ["docker/compose.yaml"]
        self.variables = {"RESULTS": str(self.runs), "EXAMPLES": "18000"}

    def check_nothing_is_left(self):
        for kind in (["container", "ls", "-a"], ["volume", "ls"], ["network", "ls"]):
            left = tool("docker", *kind, "-q", "--filter", f"label=com.docker.compose.project={PROJECT}")
            self.assertEqual(left, "", f"{kind[0]} left")

    def compose(self, *arguments, check=True):
        files = [word for name in self.files for word in ("-f", str(ROOT / name))]
        return tool(*compose_command(), *files, *arguments, check=check, env={**self.environment, **self.variables}, cwd=ROOT)

    def up(self, clients, evaluators=1, **variables):
        self.variables.update({name: str(value) for name, value in variables.items()})
        self.compose("up", "-d", "--scale", f"client={clients}", "--scale", f"evaluator={evaluators}")

    def containers(self, service):
        return self.compose("ps", "-a", "-q", service).split()

    def inspect(self, container):
        return json.loads(tool("docker", "inspect", container))[0]

    def follow(self, run):
        lines = Lines(self.runs / run / "coordinator.log")
        self.addCleanup(lines.close)
        return lines

    def end(self, service):
        """Waits for the service's one container to end: its output."""
        (container,) = self.containers(service)
        self.assertEqual(tool("docker", "wait", container, timeout=UPLOAD_TIMEOUT_S).strip(), "0",
                         tool("docker", "logs", "--tail", "30", container, check=False))
        return tool("docker", "logs", container, check=False)

    def inside(self, container, file):
        """The lines of a file in the container, which may have nothing but a shell."""
        return tool("docker", "exec", container, "/bin/sh", "-c", f'while IFS= read -r l || [ -n "$l" ]; do echo "$l"; done <{file}')

    def device(self, container):
        return re.search(r"--device (\S+)", " ".join(tool("docker", "top", container, "-o", "pid,args").split())).group(1)

    def interface(self, container):
        """What the container's interface carried of streams: {way: bytes}."""
        row = next(line for line in self.inside(container, "/proc/net/dev").splitlines() if "eth0:" in line)
        counts = list(map(int, row.split(":")[1].split()))
        return {"downlink": counts[0] - HEADER_BYTES * counts[1], "uplink": counts[8] - HEADER_BYTES * counts[9]}

    def summary(self, run):
        return json.loads((self.runs / run / "summary.json").read_text())

    def digest(self, run):
        return hashlib.sha256((self.runs / run / "final.safetensors").read_bytes()).hexdigest()

    def test_images_hold_what_they_need_and_say_their_version(self):
        sizes = {}
        version = re.search(r"project\(quantfl VERSION (\S+)", (ROOT / "CMakeLists.txt").read_text()).group(1)
        for name in ("coordinator", "client", "tools"):
            about = json.loads(tool("docker", "image", "inspect", f"quantfl-{name}:{self.tag}"))[0]
            sizes[name] = about["Size"]
            self.assertEqual(about["Config"]["Labels"]["org.opencontainers.image.version"], version)
            self.assertEqual(about["Config"]["User"], "7447:7447")
            self.assertEqual(about["Config"]["StopSignal"], "SIGTERM")
        print("image sizes in MB:", {name: round(size / 1e6, 1) for name, size in sizes.items()})
        self.assertLessEqual(sizes["coordinator"], COORDINATOR_BYTES_MAX)
        for name in ("coordinator", "client"):
            out = tool("docker", "run", "--rm", "--network", "none", "--read-only", "--cap-drop", "ALL", f"quantfl-{name}:{self.tag}",
                       "--version")
            self.assertEqual(out.strip(), f"quantfl-{name} {version}")

    def test_killed_disconnected_and_switched_off_the_run_ends_as_if_undisturbed(self):
        clients, rounds = 3, 5
        # Undisturbed, with clients that stay, so that their interfaces' counters can be read.
        self.up(clients, CODECS="fp32 bu:16", ROUNDS=rounds, RUNS=1000, AWAY_MS_MAX=0)
        table = self.end("watch")
        self.assertIn("test accuracy", table)
        print(table[table.index("demo-fp32  "):] if "demo-fp32  " in table else table)
        calm = {run: self.digest(run) for run in ("demo-fp32", "demo-bu16")}
        self.check_containers(clients)
        self.check_bytes()
        self.compose("down", "-v")
        aside = self.runs / "calm"
        aside.mkdir()
        for run in ("demo-fp32", "demo-bu16", "demo"):
            (self.runs / run).rename(aside / run)

        first, second = self.follow("demo-fp32"), self.follow("demo-bu16")
        # Without an evaluator no round begins, and a busy engine takes longer for its answers than for a round.
        self.up(clients, evaluators=0, RUNS="", AWAY_MS_MAX="")
        (coordinator,), trainers = self.containers("coordinator"), self.containers("client")
        names = {container: f"{self.device(container)}/0" for container in trainers}
        pids = {container: self.inspect(container)["State"]["Pid"] for container in (trainers[0], coordinator)}
        self.compose("up", "--no-start", "--no-deps", "evaluator")
        (evaluator,) = self.containers("evaluator")
        everything = [coordinator, *trainers, evaluator, *self.containers("watch")]
        tool("docker", "start", evaluator)
        self.kill_a_client_and_the_coordinator(first, pids, names[trainers[0]])
        self.pull_the_cable(second, trainers[-1], names[trainers[-1]], clients)
        self.switch_everything_off(second, everything, clients)
        table = self.end("watch")
        self.assertIn("test accuracy", table)
        self.assertTrue((self.runs / "demo/report.html").exists())
        for run, digest in calm.items():
            self.assertEqual(self.summary(run)["state"], "finished")
            self.assertEqual([r["accepted"] for r in self.summary(run)["rounds"] if r["round"] > 0], [clients] * rounds)
            self.assertEqual(self.digest(run), digest, f"{run} ended with another model than undisturbed")

        # Another `up` is a new run; what is there is put aside.
        self.compose("up", "init")
        self.assertEqual([p.name for p in self.runs.glob("demo-*")], [])
        self.assertEqual(len(list(self.runs.glob("earlier/*/demo-*/summary.json"))), 2)

    def check_containers(self, clients):
        found = self.containers("client")
        self.assertEqual(len(found), clients)
        self.assertEqual(sorted(map(self.device, found)), [f"client-{i}" for i in range(clients)])
        indices = {row.split(",")[0] for row in (self.runs / "demo-bu16/clients.csv").read_text().splitlines()[1:]}
        self.assertEqual(indices, {f"client-{i}/0" for i in range(clients)} | {"evaluator/0"})
        for container in found + self.containers("coordinator") + self.containers("evaluator"):
            about = self.inspect(container)
            self.assertTrue(about["HostConfig"]["ReadonlyRootfs"])
            self.assertEqual(about["HostConfig"]["CapDrop"], ["ALL"])
            self.assertNotIn("/authority", [mount["Destination"] for mount in about["Mounts"]])
        for container in found:
            self.check_rights(container)

    def check_rights(self, container):
        status = dict(re.findall(r"^(\w+):\s+(.*)$", self.inside(container, "/proc/1/status"), re.MULTILINE))
        self.assertEqual(status["Uid"].split(), ["7447"] * 4)
        self.assertEqual(status["NoNewPrivs"], "1")
        for kind in ("CapInh", "CapPrm", "CapEff", "CapAmb"):
            self.assertEqual(int(status[kind], 16), 0, kind)

    def check_bytes(self):
        """Both runs' recorded bytes of the streams, beside what the interfaces carried."""
        said = {"uplink": 0, "downlink": 0}
        for run in ("demo-fp32", "demo-bu16"):
            for way in said:
                said[way] += self.summary(run)["trainer_bytes"][way]["stream_bytes"]
        seen = {"uplink": 0, "downlink": 0}
        for container in self.containers("client"):
            for way, amount in self.interface(container).items():
                seen[way] += amount
        for way, amount in seen.items():
            print(f"{way}: interfaces {amount}, ledger {said[way]}, {100 * (said[way] / amount - 1):+.3f} %")
            self.assertLess(abs(said[way] - amount), 0.01 * amount, f"{way}: interfaces {amount}, ledger {said[way]}")

    def kill_a_client_and_the_coordinator(self, log, pids, name):
        """With a signal from outside, as when memory is short: after `docker kill` the engine would leave them dead."""
        client, coordinator = pids.values()
        log.wait_for("round_started")
        os.kill(client, signal.SIGKILL)
        log.wait_for("rejoined", client=name)
        log.skip()
        log.wait_for("update_accepted")
        os.kill(coordinator, signal.SIGKILL)
        found = log.wait_for("run_recovered")
        print(found.line)
        self.assertEqual(found.fields["members"], "4")
        log.wait_for("run_finished")
        for container in pids:
            self.assertGreaterEqual(self.inspect(container)["RestartCount"], 1)

    def pull_the_cable(self, log, cut, name, clients):
        """A client is off the network until a round waits for it alone."""
        network = f"{PROJECT}_federation"
        log.wait_for("round_started")
        tool("docker", "network", "disconnect", network, cut)
        accepted = collections.defaultdict(set)
        while not any(len(names) == clients - 1 and name not in names for names in accepted.values()):
            event = log.wait_for("update_accepted")
            accepted[event.fields["round"]].add(event.fields["client"])
        waiting = event.fields["round"]
        tool("docker", "network", "connect", network, cut)
        self.assertEqual(log.wait_for("update_accepted", round=waiting).fields["client"], name)
        log.wait_for("round_committed", round=waiting)

    def switch_everything_off(self, log, everything, clients):
        """As if the machine had lost its power; then `up` goes on."""
        log.skip()
        log.wait_for("update_accepted")
        tool("docker", "kill", *everything)
        self.up(clients)
        print(log.wait_for("run_recovered").line)
        (init,) = self.containers("init")
        self.assertIn("going on with demo-bu16", tool("docker", "logs", init, check=False))

    def test_a_place_that_is_revoked_is_let_in_no_more(self):
        # Without an evaluator no round begins: the run waits.
        self.up(2, evaluators=0, CODECS="fp32")
        log = self.follow("demo-fp32")
        log.wait_for("ready")
        lost = self.containers("client")[0]
        self.compose("run", "-T", "--rm", "init", "revoke", self.device(lost))
        log.wait_for("credentials_read")
        tool("docker", "restart", lost)
        self.assertEqual(tool("docker", "wait", lost, timeout=UPLOAD_TIMEOUT_S).strip(), "77")
        self.assertIn("was revoked", tool("docker", "logs", lost, check=False))

    def test_a_thin_uplink_is_what_it_says_and_the_client_has_no_rights_over_it(self):
        self.files.append("docker/uplink.yaml")
        rate = 256_000
        self.up(2, CODECS="fp32", ROUNDS=2, UPLINK=f"{rate // 1000}kbit", RUNS=1000, AWAY_MS_MAX=0)
        self.end("watch")
        for container in self.containers("client"):
            self.check_rights(container)
        for record in self.summary("demo-fp32")["rounds"][1:]:
            share = sum(record["accepted_payload"].values()) / 2
            print(f"round {record['round']}: {share:.0f} bytes a client, {record['seconds']['client_upload_max']:.2f} s of upload")
            # The bucket lets 16 kB pass at once, and as much may be in the socket's buffers at the end.
            self.assertGreater(record["seconds"]["client_upload_max"], 0.5 * share * 8 / rate)


if __name__ == "__main__":
    unittest.main(verbosity=2)
