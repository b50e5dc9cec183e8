"""The ledger beside witnesses that know nothing of it: the counters of a veth, and a capture by tshark.

A coordinator and its clients run in two network namespaces of this test's own, joined by a veth with
addresses in 198.18.0.0/15. Needs root; where namespaces cannot be made, it is skipped.
"""
import collections
import json
import os
import pathlib
import shutil
import signal
import struct
import subprocess
import time
import unittest

from harness import BIN, IP, TwoMachines, ip

ETHERNET_BYTES = 14
OTHER_FRAMES_MAX = 16  # ARP
HEADERS_BYTES = 96  # Ethernet, IP, TCP with options
COORDINATOR = TwoMachines.COORDINATOR
# tests/run.sh --all: also shaped, under TLS and with a reconnect; they take minutes.
ALL = os.environ.get("QUANTFL_ALL") == "1"


def tool(*command):
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


class Witness(TwoMachines):
    def setUp(self):
        super().setUp()
        for ns in (self.server_ns, self.client_ns):
            # Else one "packet" of the counters would be many of the wire, with one header counted.
            ip("-n", ns, "link", "set", "qfl0", "gso_max_segs", "1")

    def counted(self):
        """What crossed the veth: IP bytes (to the coordinator, from it), and frames."""
        stats = json.loads(tool(IP, "-n", self.server_ns, "-j", "-s", "link", "show", "qfl0"))[0]["stats64"]
        ip_bytes = tuple(stats[way]["bytes"] - ETHERNET_BYTES * stats[way]["packets"] for way in ("rx", "tx"))
        return ip_bytes, sum(stats[way]["packets"] for way in ("rx", "tx"))

    def checkpoint(self, parameters):
        header = json.dumps({"w": {"dtype": "F32", "shape": [parameters], "data_offsets": [0, 4 * parameters]}}).encode()
        header += b" " * (-len(header) % 8)
        path = self.folder / "initial.safetensors"
        path.write_bytes(struct.pack("<Q", len(header)) + header + bytes(4 * parameters))
        return path

    def capture(self, port):
        if not shutil.which("tshark"):
            return None
        # What tshark captures with, without its dissectors, which cannot keep up on a busy machine.
        process = subprocess.Popen(
            [IP, "netns", "exec", self.server_ns, "dumpcap", "-q", "-i", "qfl0", "-s", str(HEADERS_BYTES),
             "-B", "512", "-f", f"tcp port {port}", "-w",
             str(self.folder / "wire.pcapng")], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
            text=True)
        self.addCleanup(process.stderr.close)
        for line in process.stderr:
            if line.startswith("File:"):  # it captures
                break
        return process

    def captured(self, process, frames):
        """{level: (to the coordinator, from it)} of the capture, which should have so many frames."""
        # What the capture has not read when it is told to end is lost, on a busy machine megabytes.
        path, seen, patience = self.folder / "wire.pcapng", 0, 60
        while seen < frames - OTHER_FRAMES_MAX and patience > 0:
            # It fails on a file whose last block is being written.
            told = subprocess.run(["capinfos", "-rTmc", str(path)], capture_output=True, text=True)
            seen = int(told.stdout.split(",")[-1]) if told.returncode == 0 else 0
            patience -= 1
            time.sleep(1)
        process.send_signal(signal.SIGINT)
        told = process.stderr.read()
        process.wait(30)
        if seen < frames - OTHER_FRAMES_MAX:
            self.skipTest(f"the interface agrees; the capture has only {seen} of {frames} frames, too busy a machine for it: "
                          f"{' '.join(told.split())}")
        lines = tool("tshark", "-r", str(path), "-T", "fields", "-e", "ip.dst", "-e", "ip.len", "-e", "tcp.stream", "-e",
                     "tcp.seq", "-e", "tcp.len").splitlines()
        levels = {"stream": [0, 0], "tcp": [0, 0], "link": [0, 0]}
        segments = collections.defaultdict(list)
        for line in lines:
            destination, *numbers = line.split("\t")
            ip_bytes, stream, sequence, tcp_bytes = map(int, numbers)
            way = 0 if destination == COORDINATOR else 1
            levels["link"][way] += ip_bytes
            levels["tcp"][way] += tcp_bytes
            segments[way, stream].append((sequence, sequence + tcp_bytes))
        # Once, however often they were sent and in whatever order they were captured.
        for (way, _), ranges in segments.items():
            reached = 0
            for begin, end in sorted(ranges):
                levels["stream"][way] += max(0, end - max(begin, reached))
                reached = max(reached, end)
        return levels

    def compare(self, name, witness, ledger):
        for way, seen, said in zip(("uplink", "downlink"), witness, ledger):
            print(f"{self.id().split('.')[-1]}: {name} {way}: witness {seen}, ledger {said}, {100 * (said / seen - 1):+.3f} %")
            self.assertLess(abs(said - seen), 0.01 * seen, f"{name} {way}: witness {seen}, ledger {said}")

    def federation(self, parameters=350_000, rounds=3, clients=4, shape=None, tls=False, reconnect=False):
        checkpoint = self.checkpoint(parameters)
        security, client_security = {"server__allow_insecure": True}, ["--allow-insecure"]
        if tls:
            tool("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2",
                 "-keyout", str(self.folder / "server.key"), "-out", str(self.folder / "server.pem"), "-subj", "/CN=lab",
                 "-addext", f"subjectAltName=IP:{COORDINATOR}")
            token = tool(str(BIN / "quantflctl"), "token", "new", "pi", "--tokens-file", str(self.folder / "tokens")).strip()
            security = {"server__tls": "token", "server__certificate": str(self.folder / "server.pem"),
                        "server__private_key": str(self.folder / "server.key"), "server__tokens_file": str(self.folder / "tokens")}
            client_security = ["--token", token, "--ca", self.folder / "server.pem"]
        config = self.config(
            name="wire", server__listen=f"{COORDINATOR}:7447", model__architecture="custom", model__file=str(checkpoint),
            codec__uplink="fp32", round__rounds=rounds, round__min_clients=clients, data__partition="own",
            data__partitions=clients, evaluation__enabled=False, round__idle_timeout_ms=60_000, **security)
        if shape:
            self.shape(shape)
        before, frames_before = self.counted()
        capture = self.capture(7447)
        coordinator = self.inside(self.server_ns, BIN / "quantfl-coordinator", "--config", config)
        coordinator.wait_for("ready")
        daemon = [self.client_ns, BIN.parent / "tests/synthetic_client", "--address", f"{COORDINATOR}:7447", "--device", "pi",
                  "--clients", clients, "--state-dir", self.folder / "state", *client_security]
        process = self.inside(*daemon)
        if reconnect:
            coordinator.wait_for("round_committed")
            process.kill()
            self.inside(*daemon)
        self.assertEqual(coordinator.wait(600), 0, coordinator.tail())
        after, frames_after = self.counted()
        frames = frames_after - frames_before
        levels = self.summary("wire")["trainer_bytes"]
        said = {level: [levels[way][f"{level}_bytes"] for way in ("uplink", "downlink")]
                for level in ("payload", "messages", "stream", "tcp", "link")}
        for way in (0, 1):
            self.assertGreater(said["payload"][way], 10e6 if parameters >= 350_000 else 1e6)
            amounts = [said[level][way] for level in said]
            self.assertEqual(amounts, sorted(amounts), "L1 <= L2 <= L3 <= L4 <= L5")
        self.compare("link, by the interface", [b - a for a, b in zip(before, after)], said["link"])
        if capture:
            for level, seen in self.captured(capture, frames).items():
                self.compare(f"{level}, by tshark", seen, said[level])

    def test_plain_text(self):
        self.federation()

    @unittest.skipUnless(ALL, "takes minutes: tests/run.sh --all")
    def test_tls(self):
        self.federation(tls=True)

    @unittest.skipUnless(ALL, "takes minutes: tests/run.sh --all")
    def test_a_client_that_is_killed_and_comes_back(self):
        self.federation(rounds=4, reconnect=True)

    @unittest.skipUnless(ALL, "takes minutes: tests/run.sh --all")
    def test_shaped_to_one_megabit(self):
        self.federation(shape="1mbit")


if __name__ == "__main__":
    unittest.main(verbosity=2)
