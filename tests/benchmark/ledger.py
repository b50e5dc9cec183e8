"""What the ledger says, and what it costs: real programs on loopback, synthetic clients (tests/support).

    python3 tests/benchmark/ledger.py [--bin build/release/bin] [framing] [idle] [cost]

framing  what links carry beside the payload: an update of 1.66 million parameters at 3 bits, plain and under TLS
idle     bytes of a client that has nothing to do, an hour: with its connection kept, and with one made anew each time
cost     CPU time of a coordinator with a ledger and of one without (ninja coordinator_without_ledger), in turn

Prints Markdown.
"""
import argparse
import csv
import http.client
import json
import os
import pathlib
import statistics
import struct
import subprocess
import sys
import tempfile
import time
import urllib.parse

ROOT = pathlib.Path(__file__).resolve().parents[2]
HOUR_S = 3600
PARAMETERS = 1_663_370  # of the FedAvg paper's CNN


def clients_of(web):
    """{client: its summary} as the live page is told."""
    address = urllib.parse.urlparse(web)
    connection = http.client.HTTPConnection(address.hostname, address.port, timeout=30)
    try:
        connection.request("GET", "/api/run")
        return {c["name"]: c for c in json.loads(connection.getresponse().read())["summary"]["clients"]}
    finally:
        connection.close()


class Bench:
    def __init__(self, folder):
        import harness
        self.bin, self.test = harness.BIN, harness.FederationTest()
        self.test.folder, self.test.processes = folder, []

    def stop(self):
        for process in reversed(self.test.processes):
            process.stop()
        self.test.processes = []

    def security(self, tls, device):
        """(configuration of the coordinator, arguments of a client)."""
        if not tls:
            return {}, []
        folder = self.test.folder
        subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days",
                        "2", "-keyout", folder / "server.key", "-out", folder / "server.pem", "-subj", "/CN=localhost",
                        "-addext", "subjectAltName=IP:127.0.0.1"], check=True, capture_output=True)
        token = subprocess.run([self.bin / "quantflctl", "token", "new", device, "--tokens-file", folder / "tokens"],
                               check=True, capture_output=True, text=True).stdout.strip()
        return ({"server__tls": "token", "server__certificate": str(folder / "server.pem"),
                 "server__private_key": str(folder / "server.key"), "server__tokens_file": str(folder / "tokens")},
                ["--token", token, "--ca", folder / "server.pem"])

    def framing(self, rounds=12):
        rows = []
        for tls in (False, True):
            folder = self.test.folder
            header = json.dumps({"w": {"dtype": "F32", "shape": [PARAMETERS], "data_offsets": [0, 4 * PARAMETERS]}}).encode()
            header += b" " * (-len(header) % 8)
            checkpoint = folder / "initial.safetensors"
            checkpoint.write_bytes(struct.pack("<Q", len(header)) + header + bytes(4 * PARAMETERS))
            name = "tls" if tls else "plain"
            server, client = self.security(tls, name)  # a device of its own: one that has been here holds the models
            process, ready = self.test.coordinator(self.test.config(
                name, evaluation__enabled=False, model__architecture="custom", model__file=str(checkpoint),
                codec__uplink="bu:8", downlink__codec="bu:8", round__rounds=rounds, round__min_clients=1,
                data__partition="own", data__partitions=1, **server))
            self.test.synthetic(ready["federation"], name, "--runs", 1, *client)
            if process.wait(600) != 0:
                raise RuntimeError(process.tail())
            with open(folder / name / "client_rounds.csv", newline="") as file:
                table = [row for row in csv.DictReader(file) if row["asked"] == "1"]
            # The first round has what joining took, and the whole model.
            for way in ("uplink", "downlink"):
                levels = {level: statistics.mean(int(row[f"{way}_{level}_bytes"]) for row in table[1:])
                          for level in ("payload", "messages", "stream", "tcp", "link")}
                over = [100 * (levels[level] / levels["payload"] - 1) for level in ("messages", "stream", "link")]
                first = int(table[0][f"{way}_stream_bytes"]) - int(table[0][f"{way}_payload_bytes"])
                rows.append([f"{name}, {way}", *(f"{levels[level]:,.0f}" for level in levels),
                             *(f"{part:.3f} %" for part in over), f"{first - (levels['stream'] - levels['payload']):,.0f} B"])
            self.stop()
        return ["a round", "payload", "messages", "stream", "TCP", "link", "messages over payload", "stream over payload",
                "link over payload", "joining and connecting, once"], rows

    def idle(self, clients=10, window_s=150, wait_s=5):
        rows = []
        for tls in (False, True):
            for kept in (True, False):
                name = f"{'tls' if tls else 'plain'}-{'kept' if kept else 'anew'}"
                server, client = self.security(tls, name)
                # One too few, so that no round begins.
                process, ready = self.test.coordinator(self.test.config(
                    name, evaluation__enabled=False, round__min_clients=clients + 1, data__partitions=clients + 1,
                    round__idle_timeout_ms=4 * HOUR_S * 1000, round__linger_ms=HOUR_S * 1000 if kept else 0,
                    round__retry_after_ms_min=1000 * wait_s, round__retry_after_ms_max=1000 * wait_s, **server))
                web = ready["web"].strip('"')
                daemon = self.test.synthetic(ready["federation"], name, "--clients", clients, "--log-level", "debug", *client)
                while len(clients_of(web)) < clients:
                    time.sleep(0.2)
                time.sleep(3)
                before, begun, lines = clients_of(web), time.monotonic(), len(daemon.lines)
                time.sleep(window_s)
                after, took = clients_of(web), time.monotonic() - begun
                told = sum("event=waiting" in line for line in daemon.lines[lines:]) / clients
                carried = [[after[c]["idle_bytes"][way][level] - before[c]["idle_bytes"][way][level] for c in before]
                           for way in ("uplink", "downlink") for level in ("stream_bytes", "link_bytes")]
                mean = [statistics.mean(part) for part in carried]
                row = ["TLS" if tls else "plain", "kept" if kept else "made anew", f"{took:.0f} s",
                       *(f"{part:,.0f}" for part in mean)]
                if kept:
                    row += ["", f"{sum(mean[::2]) * HOUR_S / took:,.0f}", f"{sum(mean[1::2]) * HOUR_S / took:,.0f}"]
                else:
                    each = [sum(mean[::2]) / told, sum(mean[1::2]) / told]
                    row += [f"{told:.1f} times, {each[0]:,.0f} and {each[1]:,.0f} each",
                            *(f"{part * HOUR_S / 90:,.0f}" for part in each)]
                rows.append(row)
                self.stop()
        return ["", "connection", "measured", "up, stream", "up, link", "down, stream", "down, link", "asked again; stream, link",
                "an hour, stream (1)", "an hour, link (1)"], rows

    def cost(self, clients=100, rounds=14, turns=6):
        from scale import cpu
        spent = {"quantfl-coordinator": [], "../tests/coordinator_without_ledger": []}
        for turn in range(turns):
            for program in list(spent)[::1 if turn % 2 == 0 else -1]:
                name = f"cost-{turn}-{len(spent[program])}-{'out' if '..' in program else 'with'}"
                process = self.test.start(pathlib.Path(program), "--config", self.test.config(
                    name, evaluation__enabled=False, round__rounds=rounds, round__min_clients=clients,
                    data__partitions=clients, codec__uplink="bu:16", web__enabled=False, round__linger_ms=200,
                    server__joins_per_second=2000, server__joins_per_second_of_device=2000))
                address = process.wait_for("ready").fields["federation"]
                self.test.synthetic(address, f"many-{name}", "--clients", clients, "--log-level", "warning")
                process.wait_for("round_committed", timeout=300, round=1)
                begun = cpu(process.popen.pid)
                process.wait_for("round_committed", timeout=300, round=rounds - 1)
                spent[program].append(1000 * (cpu(process.popen.pid) - begun) / (clients * (rounds - 2)))
                self.stop()
        with_it, without = (statistics.median(values) for values in spent.values())
        show = lambda values: f"{min(values):.3f} to {max(values):.3f}"
        return ["CPU seconds per 1,000 updates", "median", f"of {turns} runs"], [
            ["with the ledger", f"{with_it:.3f}", show(spent["quantfl-coordinator"])],
            ["without", f"{without:.3f}", show(spent["../tests/coordinator_without_ledger"])],
            ["difference", f"{100 * (with_it / without - 1):+.1f} %", ""]]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bin", type=pathlib.Path, default=ROOT / "build/release/bin")
    parser.add_argument("parts", nargs="*", help="framing, idle, cost: all")
    options = parser.parse_args()
    os.environ["QUANTFL_BIN"] = str(options.bin.resolve())
    sys.dont_write_bytecode = True
    sys.path.insert(0, str(ROOT / "tests/integration"))
    for part in options.parts or ["framing", "idle", "cost"]:
        with tempfile.TemporaryDirectory(prefix="quantfl-ledger.") as folder:
            bench = Bench(pathlib.Path(folder))
            load = os.getloadavg()[0]
            try:
                titles, rows = getattr(bench, part)()
            finally:
                bench.stop()
            print(f"\n{part} (load {load:.0f} before)\n\n| {' | '.join(titles)} |\n|{'---|' * len(titles)}")
            for row in rows:
                print(f"| {' | '.join(row)} |", flush=True)


if __name__ == "__main__":
    main()
