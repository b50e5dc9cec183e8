"""Starts the real programs on loopback and stops them again. Standard library only.

Every process is ended by its pid when the test ends. Nothing polls on a timer: programs are followed by
the lines they log.
"""
import collections
import contextlib
import csv
import json
import os
import pathlib
import queue
import random
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import unittest

ROOT = pathlib.Path(__file__).resolve().parents[2]
BIN = pathlib.Path(os.environ.get("QUANTFL_BIN", ROOT / "build/release/bin"))
STEPS = BIN.parent / "tests/durable_steps.so"
SANITIZED = not STEPS.exists()  # such a build has none, and other footprints
FASHION = pathlib.Path("/usr/share/datasets/fashion-mnist")
CHECKPOINT = ROOT / "deploy/pretrained/lenet5-mnist.safetensors"
IP = shutil.which("ip") or "/usr/sbin/ip"
LEVELS = ("payload", "messages", "stream", "tcp", "link")
TIMEOUT_S = float(os.environ.get("QUANTFL_TEST_TIMEOUT_S", "120"))

Event = collections.namedtuple("Event", "name fields line")


def parse_event(line):
    """A log line is `... event key=value key="quoted value"`; JSON logs are not used here."""
    match = re.search(r"\bevent=(\S+)", line)
    if not match:
        return None
    fields = dict((k, v[1:-1] if v.startswith('"') else v)
                  for k, v in re.findall(r'(\w+)=("(?:[^"\\]|\\.)*"|\S*)', line))
    return Event(match.group(1), fields, line)


class Process:
    """A running program whose standard error is read line by line."""

    def __init__(self, name, *arguments, env=None):
        self.name = name
        self.lines = []
        self._queue = queue.Queue()
        self.popen = subprocess.Popen([str(BIN / name), *map(str, arguments)], stdin=subprocess.DEVNULL,
                                      stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                                      errors="replace", env={**os.environ, **(env or {})})
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self):
        with self.popen.stdout as stream:
            for line in stream:
                self.lines.append(line.rstrip("\n"))
                self._queue.put(self.lines[-1])
        self._queue.put(None)

    def wait_for(self, event, timeout=TIMEOUT_S, **fields):
        """The next logged event of that name whose fields have these values."""
        while True:
            try:
                line = self._queue.get(timeout=timeout)
            except queue.Empty:
                raise AssertionError(f"{self.name}: no {event} within {timeout} s\n{self.tail()}") from None
            if line is None:
                raise AssertionError(f"{self.name} ended before {event}\n{self.tail()}")
            parsed = parse_event(line)
            if parsed and parsed.name == event and all(parsed.fields.get(k) == str(v) for k, v in fields.items()):
                return parsed

    def events(self, name):
        return [e for e in map(parse_event, self.lines) if e and e.name == name]

    def wait(self, timeout=TIMEOUT_S):
        try:
            status = self.popen.wait(timeout)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"{self.name} did not end within {timeout} s\n{self.tail()}") from None
        self._reader.join(10)  # its last lines may still be on their way
        return status

    def output(self):
        return "\n".join(self.lines)

    def tail(self):
        return "\n".join(self.lines[-25:])

    def stop(self, signum=signal.SIGTERM, timeout=20):
        if self.popen.poll() is None:
            self.popen.send_signal(signum)
            try:
                self.popen.wait(timeout)
            except subprocess.TimeoutExpired:
                self.popen.kill()
                self.popen.wait()
        return self.popen.returncode

    def kill(self):
        self.popen.kill()
        self.wait()


def run(name, *arguments, timeout=TIMEOUT_S, env=None, check=None):
    """Runs a program to its end: (exit status, output)."""
    done = subprocess.run([str(BIN / name), *map(str, arguments)], stdin=subprocess.DEVNULL, text=True,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=timeout,
                          env={**os.environ, **(env or {})}, errors="replace")
    if check is not None and done.returncode != check:
        raise AssertionError(f"{name} ended with {done.returncode}, expected {check}\n{done.stdout}")
    return done.returncode, done.stdout


def free_port():
    """Nobody listens there now, and the system gives it to no connection until somebody does."""
    least = int(pathlib.Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    while True:
        port = random.randrange(10_000, max(least, 11_000))
        with socket.socket() as s, contextlib.suppress(OSError):
            s.bind(("127.0.0.1", port))
            return port


class FederationTest(unittest.TestCase):
    """A temporary folder, processes that end with the test, and runs of a few seconds."""

    # Whether connections break while somebody sends: what was in gRPC's buffers then is in the sender's payload and
    # messages, and was never in a stream.
    CONNECTIONS_BREAK = False

    def setUp(self):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="quantfl-test."))
        self.processes = []

    def tearDown(self):
        for process in reversed(self.processes):
            process.stop()
        try:
            for summary in sorted(self.folder.glob("**/summary.json")):
                self.check_ledger(summary.parent)
        finally:
            shutil.rmtree(self.folder, ignore_errors=True)

    def check_ledger(self, run):
        """What holds of every run's records: levels in order, parts within the whole, clients add up to rounds."""
        number = lambda row, column: int(row[column]) if row[column] else None
        def in_order(row, prefix, where, levels):
            amounts = [a for a in (number(row, f"{prefix}{level}_bytes") for level in levels) if a is not None]
            self.assertEqual(amounts, sorted(amounts), f"{run.name}, {where}: {prefix}{' <= '.join(levels)}")
        def rows_of(name):
            with open(run / name, newline="") as file:
                return list(csv.DictReader(file))
        for client in rows_of("clients.csv"):
            for way in ("uplink_", "downlink_", "told_uplink_", "told_downlink_"):
                if not self.CONNECTIONS_BREAK:
                    in_order(client, way, client["client"], LEVELS)
                in_order(client, way, client["client"], LEVELS[:2])
                in_order(client, way, client["client"], LEVELS[2:])
        clients = collections.defaultdict(list)
        for row in rows_of("client_rounds.csv"):
            where = f"round {row['round']}.{row['attempt']}, {row['client']}"
            for way in ("uplink_", "downlink_"):
                # Messages and the stream are not read at the same moment: in order over a run, not in each round.
                in_order(row, way, where, LEVELS[:2])
                in_order(row, way, where, LEVELS[2:])
                for level in LEVELS:
                    whole, part = number(row, f"{way}{level}_bytes"), number(row, f"idle_{way}{level}_bytes")
                    if whole is not None and part is not None:
                        self.assertLessEqual(part, whole, f"{run.name}, {where}: idle {way}{level}")
            clients[row["round"], row["attempt"], row["role"]].append(row)
        for row in rows_of("rounds.csv"):
            for role, prefix in (("trainer", ""), ("evaluator", "evaluator_")):
                columns = [f"{way}_{level}_bytes" for way in ("uplink", "downlink") for level in LEVELS]
                named = {column: prefix + column for column in columns}
                if role == "trainer":
                    named.update({c: c for c in row if c.startswith("accepted_") or c in
                                  ("accepted", "late_payload_bytes", "refused_payload_bytes")})
                for column, of_round in named.items():
                    parts = [number(r, column) for r in clients[row["round"], row["attempt"], role]]
                    if row["round"] != "0" and None not in parts and row[of_round]:
                        self.assertEqual(sum(parts), number(row, of_round),
                                         f"{run.name}, round {row['round']}.{row['attempt']}: {of_round}")

    def start(self, name, *arguments, **kwargs):
        process = Process(name, *arguments, **kwargs)
        self.processes.append(process)
        return process

    def config(self, name="run", **overrides):
        """Writes a run.toml: small, quick, Fashion-MNIST. Overrides as section__key=value."""
        values = {
            "name": name, "seed": 1, "results_dir": str(self.folder / name),
            "server__listen": "127.0.0.1:0", "server__operator_listen": "127.0.0.1:0", "server__tls": "off",
            "web__listen": "127.0.0.1:0",
            "model__architecture": "lenet5", "model__classes": 10, "model__file": str(CHECKPOINT),
            "data__partition": "iid", "data__partitions": 4, "data__seed": 1, "data__examples_max": 2000,
            "training__learning_rate": 0.02, "codec__uplink": "bu:16",
            "round__rounds": 2, "round__min_clients": 4,
            "round__retry_after_ms_min": 100, "round__retry_after_ms_max": 300,
        }
        values.update(overrides)
        path = self.folder / f"{name}.toml"
        path.write_text(to_toml(values))
        return path

    def coordinator(self, config, **kwargs):
        """Started and listening: (process, endpoint)."""
        process = self.start("quantfl-coordinator", "--config", config, **kwargs)
        ready = process.wait_for("ready")
        return process, ready.fields

    def client(self, address, device, *arguments, **kwargs):
        state = self.folder / f"state-{device}"
        return self.start("quantfl-client", "--coordinator", address, "--device", device, "--state_dir", state,
                          "--data.dir", FASHION, "--pretrained", CHECKPOINT,
                          "--retry_min_ms", 50, "--retry_max_ms", 300, *arguments, **kwargs)

    def clients(self, address, count=4, *arguments):
        return [self.client(address, f"client-{i}", "--first_index", i, *arguments) for i in range(count)]

    def evaluator(self, address, *arguments):
        return self.client(address, "evaluator", "--role", "evaluator", *arguments)

    def synthetic(self, address, device, *arguments, **kwargs):
        state = self.folder / f"state-{device}"
        binary = pathlib.Path("..") / "tests" / "synthetic_client"
        return self.start(binary, "--address", address, "--device", device, "--state-dir", state, *arguments, **kwargs)

    def summary(self, name="run"):
        return json.loads((self.folder / name / "summary.json").read_text())


def ip(*arguments):
    subprocess.run([IP, *arguments], check=True, capture_output=True, text=True)


class TwoMachines(FederationTest):
    """A coordinator and its clients in two network namespaces of the test's own, joined by a veth with addresses in
    198.18.0.0/15. Needs root; where namespaces cannot be made, the test is skipped.
    """
    COORDINATOR, CLIENT = "198.18.77.1", "198.18.77.2"

    def setUp(self):
        super().setUp()
        self.server_ns, self.client_ns = f"qfl-s{os.getpid()}", f"qfl-c{os.getpid()}"
        self.addCleanup(self.remove_namespaces)
        try:
            for ns in (self.server_ns, self.client_ns):
                ip("netns", "add", ns)
        except (OSError, subprocess.CalledProcessError) as error:
            self.skipTest(f"no network namespaces here: {error}")
        ip("link", "add", "qfl0", "netns", self.server_ns, "type", "veth", "peer", "name", "qfl0", "netns",
           self.client_ns)
        for ns, address in ((self.server_ns, self.COORDINATOR), (self.client_ns, self.CLIENT)):
            ip("-n", ns, "address", "add", f"{address}/30", "dev", "qfl0")
            # No router solicitations and the like beside the traffic.
            subprocess.run([IP, "netns", "exec", ns, "sysctl", "-qw", "net.ipv6.conf.all.disable_ipv6=1"], check=False,
                           capture_output=True)
            ip("-n", ns, "link", "set", "lo", "up")
            ip("-n", ns, "link", "set", "qfl0", "up")

    def remove_namespaces(self):
        for ns in (self.server_ns, self.client_ns):
            subprocess.run([IP, "netns", "del", ns], check=False, capture_output=True)

    def inside(self, ns, program, *arguments):
        return self.start(IP, "netns", "exec", ns, program, *arguments)

    def shape(self, rate):
        """Both directions, as tc writes it: "256kbit"."""
        for ns in (self.server_ns, self.client_ns):
            subprocess.run([shutil.which("tc") or "/usr/sbin/tc", "-n", ns, "qdisc", "add", "dev", "qfl0", "root", "tbf", "rate",
                            rate, "burst", "16kb", "limit", "16mb"],  # what the sender's own queue drops never reaches the veth
                           check=True, capture_output=True, text=True)


def to_toml(values):
    def literal(v):
        if isinstance(v, bool):
            return "true" if v else "false"
        if isinstance(v, (int, float)):
            return repr(v)
        if isinstance(v, list):
            return "[" + ", ".join(map(literal, v)) + "]"
        return json.dumps(str(v))
    top, sections = [], {}
    for key, value in values.items():
        if value is None:
            continue
        section, _, name = key.rpartition("__")
        (sections.setdefault(section, []) if section else top).append(f"{name} = {literal(value)}")
    text = "\n".join(top) + "\n"
    for section, lines in sections.items():
        text += f"\n[{section}]\n" + "\n".join(lines) + "\n"
    return text
