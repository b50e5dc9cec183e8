#!/usr/bin/env python3
"""Small federations through the real programs, for what only real deltas can tell about a codec.

usage: real_runs.py deltas --data FOLDER --weights FOLDER --out FOLDER [NETWORK...]
       real_runs.py loop   --data FOLDER --weights FOLDER [--rounds N] [--bits B...] [NETWORK...]

NETWORK: lenet5 (pre-trained on Fashion-MNIST here, then MNIST), cnn (fresh weights, MNIST), resnet20 (from CIFAR-10's
weights to CIFAR-100), mobilenet_v2 (last stages, from ImageNet's to CIFAR-100); all by default, of loop lenet5 and
resnet20. FOLDER of data: mnist with its four idx files, cifar100 with train.bin and test.bin, each perhaps .gz or .xz.
FOLDER of weights: resnet20-12fca82f.safetensors, mobilenet_v2_folded_imagenet_features.safetensors. Fashion-MNIST is
that of Debian's package dataset-fashion-mnist. Needs Debian's python3-numpy and `ninja -C build/release all codec_size`.

deltas: five rounds with a full-precision uplink and few images; the deltas of the first client in rounds 2 to 5
go to FOLDER/NETWORK/round-R.safetensors, for compare_nncodec.py.

loop: what contexts buy where each round's noise goes into the next. For each rate B one run a codec, each with
B bits a parameter as its max_bytes, above what statistics of normalisation take, which travel in full precision
and are left out of all that is printed but the first error, which is that of the run's records: stochastic rounding with context=none, with context=own, and for networks with
kernels with transform=dct beside it. Columns: bits a parameter that were sent, accuracy after the last round and the
mean of the last three, the quantisation's squared error; and of the deltas of one client of the first run, all coded
with the step at which order-0 coding meets the budget: bytes beside order-0's, squared error. Everything is seeded:
a row comes out the same each time on the same machine.
"""
import argparse
import gzip
import json
import lzma
import math
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile

import numpy as np

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests/integration"))
os.environ.setdefault("OMP_NUM_THREADS", "1")
from harness import BIN, FASHION, Process, run, to_toml  # noqa: E402

TIMEOUT_S = 1200
CIFAR_WEIGHTS = "resnet20-12fca82f.safetensors"
IMAGENET_WEIGHTS = "mobilenet_v2_folded_imagenet_features.safetensors"
# Of each network: its data, images to train and to test on, clients, and what differs of the run's keys.
NETWORKS = {
    "lenet5": {"data": "mnist", "train": 6000, "test": 5000, "clients": 10, "rate": 0.1, "keys": {}},
    "cnn": {"data": "mnist", "train": 3000, "test": 2000, "clients": 10, "rate": 0.05, "keys": {}},
    "resnet20": {"data": "cifar100", "train": 2500, "test": 1500, "clients": 5, "rate": 0.05,
                 "keys": {"training__batch_size": 64, "training__momentum": 0.9}},
    "mobilenet_v2": {"data": "cifar100", "train": 2000, "test": 1000, "clients": 5, "rate": 0.02,
                     "keys": {"training__batch_size": 64, "training__momentum": 0.9, "training__trainable": "last:8",
                              "input__height": 128}},
}
CLASSES = {"mnist": 10, "cifar100": 100}


def opened(path):
    """The bytes of a file, or of its .gz or .xz."""
    for suffix, reader in (("", open), (".gz", gzip.open), (".xz", lzma.open)):
        if path.with_name(path.name + suffix).exists():
            with reader(path.with_name(path.name + suffix), "rb") as stream:
                return stream.read()
    sys.exit(f"{path} is missing")


def images(folder, kind, split, count):
    """(x uint8 [n, channels, side, side], y int64 [n]): the first `count`."""
    if kind == "mnist":
        name = "train" if split == "train" else "t10k"
        x = np.frombuffer(opened(folder / f"{name}-images-idx3-ubyte"), np.uint8)[16:].reshape(-1, 1, 28, 28)
        y = np.frombuffer(opened(folder / f"{name}-labels-idx1-ubyte"), np.uint8)[8:]
    else:
        records = np.frombuffer(opened(folder / f"{split}.bin"), np.uint8).reshape(-1, 3074)
        x, y = records[:, 2:].reshape(-1, 3, 32, 32), records[:, 1]
    return x[:count], y[:count].astype("<i8")


def save(path, tensors):
    header, data = {}, []
    at = 0
    for name, (values, dtype) in tensors.items():
        raw = np.ascontiguousarray(values).tobytes()
        header[name] = {"dtype": dtype, "shape": list(values.shape), "data_offsets": [at, at + len(raw)]}
        data.append(raw)
        at += len(raw)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(len(text).to_bytes(8, "little") + text + b"".join(data))


def prepare(network, options, folder):
    """Its data and the weights that it begins with, in `folder`: (data, start)."""
    of = NETWORKS[network]
    data = folder / f"{network}-data"
    data.mkdir()
    for split in ("train", "test"):
        x, y = images(options.data / of["data"], of["data"], split, of[split])
        save(data / f"{split}.safetensors", {"x": (x, "U8"), "y": (y, "I64")})
    start = folder / f"{network}-start.safetensors"
    init = ["init", "--classes", CLASSES[of["data"]], "--seed", 1, "--out", start]
    if network == "lenet5":
        before = folder / "fashion.safetensors"
        run("quantfl-model", "pretrain", "--data-dir", FASHION, "--epochs", 2, "--seed", 1, "--out", before,
            timeout=TIMEOUT_S, check=0)
        init += ["--from", before, "--new-head"]
    elif network == "cnn":
        init += ["--architecture", "cnn"]
    elif network == "resnet20":
        init += ["--architecture", "resnet20", "--from", options.weights / CIFAR_WEIGHTS, "--new-head"]
    else:
        init += ["--architecture", "mobilenet_v2", "--from", options.weights / IMAGENET_WEIGHTS, "--new-head",
                 "--input-height", 128]
    run("quantfl-model", *init, check=0)
    return data, start


def federation(network, uplink, rounds, data, start, folder, dump=None, evaluate=True):
    """Runs it to its end and gives its summary."""
    of = NETWORKS[network]
    keys = {
        "name": "run", "seed": 1, "results_dir": str(folder / "run"), "server__listen": "127.0.0.1:0",
        "server__operator_listen": "127.0.0.1:0", "server__tls": "off", "web__enabled": False,
        "model__architecture": network, "model__classes": CLASSES[of["data"]], "model__file": str(start),
        "data__partition": "dirichlet", "data__alpha": 0.5, "data__partitions": of["clients"], "data__seed": 1,
        "training__learning_rate": of["rate"], "training__momentum": 0.0, "training__batch_size": 32,
        "codec__uplink": uplink, "round__rounds": rounds, "round__min_clients": of["clients"],
        "evaluation__enabled": evaluate, **of["keys"],
    }
    shutil.rmtree(folder / "run", ignore_errors=True)
    config = folder / "run.toml"
    config.write_text(to_toml(keys))
    processes = [Process("quantfl-coordinator", "--config", config)]
    try:
        address = processes[0].wait_for("ready").fields["federation"]
        common = ["--coordinator", address, "--data.dir", data, "--data.format", "safetensors", "--pretrained", start,
                  "--runs", 1, "--retry_min_ms", 100, "--retry_max_ms", 500]
        processes.append(Process("quantfl-client", *common, "--device", "box", "--clients", of["clients"],
                                 "--state_dir", folder / "box", "--cache.mode", "memory",
                                 *(["--dump_deltas", dump] if dump else [])))
        if evaluate:
            processes.append(Process("quantfl-client", *common, "--device", "judge", "--role", "evaluator",
                                     "--state_dir", folder / "judge", "--cache.mode", "memory"))
        for process in processes:
            if process.wait(TIMEOUT_S) != 0:
                sys.exit(f"{process.name} failed:\n{process.tail()}")
    finally:
        for process in processes:
            process.stop()
        for state in ("box", "judge"):
            shutil.rmtree(folder / state, ignore_errors=True)
    return json.loads((folder / "run/summary.json").read_text())


def deltas(options):
    for network in options.networks or list(NETWORKS):
        with tempfile.TemporaryDirectory() as name:
            folder = pathlib.Path(name)
            data, start = prepare(network, options, folder)
            federation(network, "fp32", 5, data, start, folder, dump=folder / "deltas", evaluate=False)
            to = options.out / network
            to.mkdir(parents=True, exist_ok=True)
            for r in range(2, 6):
                (dumped,) = (folder / "deltas").glob(f"*/round-{r}-client-0.safetensors")
                shutil.copy(dumped, to / f"round-{r}.safetensors")
            print(f"{to}: rounds 2 to 5", flush=True)


def last_rounds(summary):
    """(bits a parameter, accuracy in the end, mean of the last three, squared error) of a run."""
    rounds = [r for r in summary["rounds"] if r["round"] > 0]
    accuracies = [100 * r["accuracy"] for r in rounds[-3:]]
    mean = [sum(r[key] for r in rounds) / len(rounds) for key in ("bits_per_parameter", "quantisation_nmse")]
    return mean[0], accuracies[-1], sum(accuracies) / len(accuracies), mean[1]


def measured(paths, specs):
    """{spec: (bytes of these deltas together, mean squared error)}"""
    total = {spec: [0, 0.0] for spec in specs}
    for path in paths:
        lines = subprocess.run([BIN / "codec_size", path, *specs], check=True, stdout=subprocess.PIPE, text=True).stdout
        for line in map(json.loads, lines.splitlines()):
            total[line["asked"]][0] += line["bytes"]
            total[line["asked"]][1] += line["nmse"] / len(paths)
    return total


def at_one_step(paths, bytes_each, extras):
    """With the step at which order-0 coding takes so many bytes: {codec: (bytes beside that, squared error)}."""
    low, high = 0.05, 500.0
    spec = "uniform:255,round=stochastic,pack=rans,step={}rms"
    for _ in range(14):
        step = math.sqrt(low * high)
        (total, _), = measured(paths, [spec.format(step)]).values()
        low, high = (step, high) if total > bytes_each * len(paths) else (low, step)
    specs = {codec: spec.format(high) + extra for codec, extra in extras.items()}
    found = measured(paths, list(specs.values()))
    return {codec: (found[one][0] / found[specs["none"]][0], found[one][1]) for codec, one in specs.items()}


def statistics_in(path):
    """How many numbers of a safetensors file travel in full precision."""
    with open(path, "rb") as stream:
        header = json.loads(stream.read(int.from_bytes(stream.read(8), "little")))
    return sum(math.prod(tensor["shape"]) for name, tensor in header.items() if ".running_" in name)


def loop(options):
    if not (BIN / "codec_size").exists():
        sys.exit(f"{BIN / 'codec_size'} is missing: ninja -C build/release codec_size")
    print(f"{'':53}at one step\n{'network':10} {'bit':>5}  {'codec':8} {'sent':>6} {'accuracy':>9} {'last 3':>7} "
          f"{'error':>7}  {'bytes':>6} {'error':>7}")
    for network in options.networks or ["lenet5", "resnet20"]:
        with tempfile.TemporaryDirectory() as name:
            folder = pathlib.Path(name)
            data, start = prepare(network, options, folder)
            summary = federation(network, "fp32", options.rounds, data, start, folder)
            _, accuracy, mean, _ = last_rounds(summary)
            parameters = summary["rounds"][-1]["parameters"]
            statistics = statistics_in(start)
            quantised = parameters - statistics
            print(f"{network:10} {'':5}  {'fp32':8} {'':6} {accuracy:9.2f} {mean:7.2f}", flush=True)
            extras = {"none": "", "own": ",context=own"}
            if network == "resnet20":
                extras["dct"] = ",transform=dct"
                extras["own+dct"] = ",context=own,transform=dct"
            for bits in options.bits:
                budget = math.floor(bits * quantised / 8)
                common = f"uniform:255,round=stochastic,pack=rans,max_bytes={budget + 4 * statistics}"
                for codec, extra in extras.items():
                    dump = folder / "deltas" if codec == "none" else None
                    summary = federation(network, common + extra, options.rounds, data, start, folder, dump=dump)
                    sent, accuracy, mean, error = last_rounds(summary)
                    sent = (sent * parameters - 32 * statistics) / quantised
                    if codec == "none":
                        paths = sorted(dump.glob("*/round-*-client-0.safetensors"))
                        same = at_one_step(paths, budget, extras)
                        shutil.rmtree(dump)
                    print(f"{network:10} {bits:5}  {codec:8} {sent:6.4f} {accuracy:9.2f} {mean:7.2f} {error:7.3f}  "
                          f"{same[codec][0]:6.3f} {same[codec][1]:7.3f}", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    commands = parser.add_subparsers(dest="command", required=True)
    for name in ("deltas", "loop"):
        command = commands.add_parser(name)
        command.add_argument("--data", type=pathlib.Path, required=True)
        command.add_argument("--weights", type=pathlib.Path, required=True)
        command.add_argument("networks", nargs="*", choices=[[], *NETWORKS], metavar="NETWORK")
        if name == "deltas":
            command.add_argument("--out", type=pathlib.Path, required=True)
        else:
            command.add_argument("--rounds", type=int, default=8)
            command.add_argument("--bits", type=float, nargs="+", default=[0.05, 0.1, 0.3, 1])
    options = parser.parse_args()
    deltas(options) if options.command == "deltas" else loop(options)


if __name__ == "__main__":
    main()
