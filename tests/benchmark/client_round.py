"""What a round costs a client in CPU beside the training itself: fetching, encoding, uploading, the daemon.

    tests/benchmark/client_round.py [--bin build/release] [--architecture cnn] [--rounds 6]

Runs a coordinator and one client twice on loopback, with few and with more rounds: the client's CPU seconds a
round are the difference, without what starting costs. Beside it the CPU seconds of an epoch of the same training
alone, by training_speed. Needs the package dataset-fashion-mnist.
"""
import argparse
import os
import pathlib
import re
import statistics
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[2]
FASHION = "/usr/share/datasets/fashion-mnist"


def client_seconds(folder, build, architecture, checkpoint, examples, rounds):
    """CPU seconds of a client process with that many rounds."""
    config = folder / "run.toml"
    config.write_text(f"""
name = "run"
results_dir = "{folder}/results-{rounds}"
server.listen = "127.0.0.1:0"
server.operator_listen = "127.0.0.1:0"
model.architecture = "{architecture}"
model.file = "{checkpoint}"
data.partitions = 1
data.examples_max = {examples}
training.learning_rate = 0.01
codec.uplink = "bu:16"
round.rounds = {rounds}
round.min_clients = 1
evaluation.enabled = false
""")
    server = subprocess.Popen([build / "bin/quantfl-coordinator", "--config", config], stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, text=True)
    address = None
    for line in server.stdout:
        ready = re.search(r"event=ready .*federation=(\S+)", line)
        if ready:
            address = ready.group(1)
            break
    if address is None:
        sys.exit("the coordinator did not start")
    client = subprocess.Popen([build / "bin/quantfl-client", "--coordinator", address, "--device", "box", "--runs", "1",
                               "--state_dir", folder / f"state-{rounds}", "--data.dir", FASHION,
                               "--pretrained", checkpoint], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    server.stdout.read()
    _, status, usage = os.wait4(client.pid, 0)
    if server.wait() != 0 or status != 0:
        sys.exit("the run failed")
    return usage.ru_utime + usage.ru_stime


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bin", type=pathlib.Path, default=ROOT / "build/release")
    parser.add_argument("--architecture", default="cnn", choices=("cnn", "lenet5"))
    parser.add_argument("--examples", type=int, default=1200)
    parser.add_argument("--rounds", type=int, default=6)
    options = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    alone, rounds = [], []
    speed = subprocess.Popen([options.bin / "tests/training_speed", options.architecture, "10", "1", "28",
                              str(options.examples), "32", "all", "off"], stdin=subprocess.PIPE,
                             stdout=subprocess.PIPE, text=True)
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        checkpoint = folder / "model.safetensors"
        subprocess.run([options.bin / "bin/quantfl-model", "init", "--architecture", options.architecture, "--out",
                        checkpoint], check=True, stdout=subprocess.DEVNULL)
        for _ in range(3):
            few, many = (client_seconds(folder, options.bin, options.architecture, checkpoint, options.examples, n)
                         for n in (1, 1 + options.rounds))
            rounds.append((many - few) / options.rounds)
            for _ in range(2):
                speed.stdin.write("\n")
                speed.stdin.flush()
                seconds = float(speed.stdout.readline().split()[1])
            alone.append(seconds)
            for path in ("results-1", f"results-{1 + options.rounds}", "state-1", f"state-{1 + options.rounds}"):
                subprocess.run(["rm", "-r", folder / path], check=True)
    speed.stdin.close()
    speed.wait()
    a, b = statistics.median(rounds), statistics.median(alone)
    print(f"{options.architecture}, {options.examples} examples: {a:.3f} CPU seconds a round, {b:.3f} training alone,"
          f" {a / b:.3f} times as much")


if __name__ == "__main__":
    main()
