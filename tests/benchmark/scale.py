"""What many clients cost a coordinator: real RPCs on loopback, synthetic clients (tests/support).

    python3 tests/benchmark/scale.py [--bin build/release/bin] [rounds] [open] [idle] [large]

rounds  1,000 clients, LeNet-5 at 2 bits: rounds and updates a second, CPU seconds per 1,000 updates, memory
open    1,000 open connections: memory of each
idle    10,000 joined clients that are not selected and have no connection: memory of each, CPU with 10 of them asking
        again a second, as round.reconnects_per_second says
large   100 million parameters, 8 clients, 4 bits: RssAnon against the formula, fp32 models

Prints Markdown. The clients run on the same cores, so rates are those of both together; CPU seconds and memory are
the coordinator's alone.
"""
import argparse
import json
import os
import pathlib
import re
import struct
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
TICK = os.sysconf("SC_CLK_TCK")
CALM_S = 12  # after connections have gone, until the coordinator gives their memory back


def memory(pid, field="RssAnon"):
    """MiB."""
    return int(re.search(field + r":\s+(\d+) kB", pathlib.Path(f"/proc/{pid}/status").read_text()).group(1)) / 1024


def cpu(pid):
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICK


def connections(address):
    port = f":{int(address.rsplit(':', 1)[1]):04X}"
    rows = [line.split() for line in pathlib.Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return sum(1 for row in rows if row[1].endswith(port) and row[3] == "01")


def passive_opens():
    """Connections that were accepted on this machine."""
    names, values = [line.split() for line in pathlib.Path("/proc/net/snmp").read_text().splitlines()
                     if line.startswith("Tcp:")]
    return int(values[names.index("PassiveOpens")])


class Bench:
    def __init__(self, folder):
        import harness
        self.test = harness.FederationTest()
        self.test.folder, self.test.processes = folder, []

    def coordinator(self, name, **overrides):
        self.test.folder.mkdir(exist_ok=True)
        process, ready = self.test.coordinator(self.test.config(name, **{
            "evaluation__enabled": False, "round__linger_ms": 200, "server__joins_per_second": 2000,
            "server__joins_per_second_of_device": 2000, "web__enabled": False, **overrides}))
        return process, process.popen.pid, ready["federation"]

    def clients(self, address, name, count, *arguments, retry_max=2):
        return self.test.synthetic(address, name, "--clients", count, "--first-index", 0, "--retry-min", 0.2,
                                   "--retry-max", retry_max, "--log-level", "warning", *arguments)

    def stop(self):
        for process in reversed(self.test.processes):
            process.stop()
        self.test.processes = []

    def rounds(self, clients=1000, rounds=6):
        process, pid, address = self.coordinator(
            "rounds", round__rounds=rounds, round__min_clients=clients, data__partitions=clients, codec__uplink="bu:4",
            round__idle_timeout_ms=600_000)
        before = memory(pid)
        self.clients(address, "many", clients)
        process.wait_for("round_committed", timeout=600, round=1)
        begun, spent, peak = time.monotonic(), cpu(pid), 0
        for number in range(2, rounds):
            process.wait_for("round_committed", timeout=600, round=number)
            peak = max(peak, memory(pid))
        took, spent, done = time.monotonic() - begun, cpu(pid) - spent, rounds - 2
        updates = clients * done
        return [("rounds a second", f"{done / took:.3f}"), ("updates a second", f"{updates / took:.0f}"),
                ("coordinator, CPU seconds per 1,000 updates", f"{1000 * spent / updates:.2f}"),
                ("coordinator, RssAnon before, at its peak (MiB)", f"{before:.1f}, {peak:.1f}"),
                ("coordinator, VmHWM (MiB)", f"{memory(pid, 'VmHWM'):.1f}")]

    def join(self, process, address, clients, wave):
        """All of them, a wave after the other, each with a process: nobody has a connection when the next begins."""
        for first in range(0, clients, wave):
            self.test.synthetic(address, f"wave-{first}", "--clients", min(wave, clients - first), "--first-index", first,
                                "--retry-min", 0.2, "--retry-max", 2, "--log-level", "warning")
            while sum(" event=joined " in line for line in process.lines) < min(first + wave, clients):
                time.sleep(0.2)
            while connections(address) > clients / 100:
                time.sleep(0.2)

    def open(self, clients=1000):
        process, pid, address = self.coordinator(
            "open", round__min_clients=clients + 1, data__partitions=clients + 1, round__linger_ms=3_600_000)
        before = memory(pid)
        self.clients(address, "many", clients)
        while connections(address) < clients:
            time.sleep(0.5)
        time.sleep(2)  # the last one's stream
        then, spent, begun = memory(pid), cpu(pid), time.monotonic()
        time.sleep(30)
        return [("open connections, each with its stream of instructions", connections(address)),
                ("RssAnon before, then (MiB)", f"{before:.1f}, {then:.1f}"),
                ("a connection (KiB)", f"{1024 * (then - before) / clients:.1f}"),
                ("CPU, % of a core", f"{100 * (cpu(pid) - spent) / (time.monotonic() - begun):.2f}")]

    def idle(self, clients=10_000, window_s=60, wave=1000, a_second=10):
        process, pid, address = self.coordinator(
            "idle", round__min_clients=clients, round__cohort=4, data__partitions=clients, round__rounds=1000,
            round__idle_timeout_ms=3_600_000, round__reconnects_per_second=a_second, codec__uplink="bu:4")
        before, accepted = memory(pid), passive_opens()
        self.join(process, address, clients, wave)
        process.wait_for("round_started", timeout=60)
        time.sleep(CALM_S)
        after, spent, begun, came = memory(pid), cpu(pid), time.monotonic(), passive_opens()
        open_now = []
        while time.monotonic() < begun + window_s:
            time.sleep(2)
            open_now.append(connections(address))
        took = time.monotonic() - begun
        return [("connections so far", came - accepted),
                ("RssAnon before, after they have gone (MiB)", f"{before:.1f}, {after:.1f}"),
                ("a client without a connection (KiB)", f"{1024 * (after - before) / clients:.2f}"),
                ("open connections meanwhile, mean", f"{sum(open_now) / len(open_now):.1f}"),
                ("clients that ask again, a second", f"{(passive_opens() - came) / took:.1f}"),
                ("CPU, % of a core", f"{100 * (cpu(pid) - spent) / took:.2f}"),
                ("RssAnon at the end (MiB)", f"{memory(pid):.1f}")]

    def large(self, clients=8, size=100_000_000):
        self.test.folder.mkdir(exist_ok=True)
        header = json.dumps({"layer.weight": {"dtype": "F32", "shape": [10_000, size // 10_000],
                                              "data_offsets": [0, 4 * size]}}).encode()
        header += b" " * (-len(header) % 8)
        checkpoint = self.test.folder / "large.safetensors"
        with checkpoint.open("wb") as file:  # zeros, as a hole
            file.write(struct.pack("<Q", len(header)) + header)
            file.truncate(8 + len(header) + 4 * size)
        process, pid, address = self.coordinator(
            "large", model__architecture="custom", model__file=str(checkpoint), codec__uplink="bu:16", round__rounds=2,
            round__min_clients=clients, data__partition="own", data__partitions=clients,
            round__idle_timeout_ms=3_600_000)
        before, peak, spent = memory(pid), 0, cpu(pid)
        self.clients(address, "large", clients, "--train-slots", 1, "--pretrained", checkpoint)
        while not process.events("round_committed"):
            peak = max(peak, memory(pid))
            time.sleep(0.02)
        model = 4 * size / 2**20
        return [("a model in fp32 (MiB)", f"{model:.0f}"), ("RssAnon before, at its peak (MiB)", f"{before:.0f}, {peak:.0f}"),
                ("at its peak, models", f"{peak / model:.2f}"), ("the formula's bound, models", "3"),
                ("CPU seconds a round", f"{cpu(pid) - spent:.1f}")]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bin", type=pathlib.Path, default=ROOT / "build/release/bin")
    parser.add_argument("--clients", type=int, help="instead of 1,000, 10,000 or 8")
    parser.add_argument("parts", nargs="*", help="rounds, open, idle, large: all")
    options = parser.parse_args()
    os.environ["QUANTFL_BIN"] = str(options.bin.resolve())
    sys.path.insert(0, str(ROOT / "tests/integration"))
    sys.dont_write_bytecode = True
    for part in options.parts or ["rounds", "open", "idle", "large"]:
        with tempfile.TemporaryDirectory(prefix="quantfl-scale.") as folder:
            bench = Bench(pathlib.Path(folder))
            load = os.getloadavg()[0]
            try:
                rows = getattr(bench, part)(*([options.clients] if options.clients else []))
            finally:
                bench.stop()
            print(f"\n| {part} (load {load:.0f} before) | |\n|---|---|")
            for name, value in rows:
                print(f"| {name} | {value} |", flush=True)


if __name__ == "__main__":
    main()
