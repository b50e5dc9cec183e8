"""Images a second in training: the client against Python's torch of the same version, side by side.

    taskset -c 0 /usr/bin/python3 tests/benchmark/throughput.py [--bin build/release] [--rounds 9] [NAME ...]

Both train the same network on one thread, with SGD and momentum, from images in memory as bytes, an epoch
each in turn; medians of the CPU seconds of an epoch, and of the ratios of two epochs that stood side by side. Also
what the cache of a frozen prefix saves: an epoch with it against one without, and whether they end with the same
parameters; and what it could save at most, were the trained stages as fast as a matrix product. The Python networks are those of ../shared/simulation (QUANTFL_SHARED_DIR).
"""
import argparse
import os
import pathlib
import statistics
import subprocess
import sys
import time

os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = "1"
import torch  # noqa: E402

ROOT = pathlib.Path(__file__).resolve().parents[2]
SHARED = pathlib.Path(os.environ.get("QUANTFL_SHARED_DIR", ROOT.parent / "shared"))
sys.path.insert(0, str(SHARED / "simulation"))
sys.dont_write_bytecode = True
import nets  # noqa: E402


class LastStages(torch.nn.Module):
    """MobileNetV2 from stage 16 on, which takes what is cached."""

    def __init__(self, classes):
        super().__init__()
        self.stages = torch.nn.Sequential(*nets.mobilenet_stages(False)[16:])
        self.head = torch.nn.Linear(1280, classes)

    def forward(self, x):
        return self.head(self.stages(x).mean((2, 3)))


# name, architecture, classes, channels, side, examples, batch, trainable, cache, Python's network
CASES = [
    ("lenet5", "lenet5", 10, 1, 28, 2048, 32, "all", "off", nets.lenet5),
    ("cnn", "cnn", 10, 1, 28, 512, 32, "all", "off", nets.cnn166),
    ("resnet20", "resnet20", 100, 3, 32, 256, 64, "all", "off", lambda c: nets.ResNet(3, c)),
    ("mobilenet_v2 last stages, cached", "mobilenet_v2", 100, 3, 128, 512, 64, "last:8", "fp16", LastStages),
]
# The same for what the cache saves.
FROZEN = ("mobilenet_v2", 100, 3, 128, 256, 64, "last:8")


class Client:
    """training_speed with these arguments; `parameters` is a digest of those after the last epoch."""

    def __init__(self, folder, *arguments):
        self.process = subprocess.Popen([str(folder / "tests" / "training_speed"), *map(str, arguments)],
                                        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def epoch(self):
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        _, seconds, self.parameters = self.process.stdout.readline().split()
        return float(seconds)

    def close(self):
        self.process.stdin.close()
        self.process.wait()


class Python:
    def __init__(self, case):
        name, _, classes, channels, side, self.examples, self.batch, _, cache, make = case
        self.net = make(classes)
        self.cached = cache != "off"
        self.last = len([1 for m in self.net.modules() if isinstance(m, torch.nn.Conv2d)]) > 2
        if self.last:
            self.net = self.net.to(memory_format=torch.channels_last)
        if self.cached:
            self.x = torch.randn(self.examples, 4, 4, 160).half()
        else:
            self.x = torch.randint(0, 256, (self.examples, channels, side, side), dtype=torch.uint8)
        self.y = torch.randint(0, classes, (self.examples,))

    def epoch(self):
        begin = time.process_time()
        optimiser = torch.optim.SGD(self.net.parameters(), lr=1e-3, momentum=0.9)
        self.net.train()
        for chosen in torch.randperm(self.examples).split(self.batch):
            x = self.x[chosen].float()
            if self.cached:
                x = x.permute(0, 3, 1, 2)
            else:
                x = x.div_(255).sub_(0.5).div_(0.25)
                if self.last:
                    x = x.contiguous(memory_format=torch.channels_last)
            optimiser.zero_grad()
            torch.nn.functional.cross_entropy(self.net(x), self.y[chosen]).backward()
            optimiser.step()
        return time.process_time() - begin


def against_python(folder, rounds, names):
    print("%-36s %14s %14s %7s" % ("images a second, training", "quantfl-client", "Python", "ratio"))
    for case in CASES:
        if names and not any(case[0].startswith(n) for n in names):
            continue
        client, python = Client(folder, *case[1:9]), Python(case)
        times = [(client.epoch(), python.epoch()) for _ in range(rounds + 1)][1:]
        client.close()
        ours, theirs = (case[5] / statistics.median(t[i] for t in times) for i in (0, 1))
        ratio = statistics.median(t[1] / t[0] for t in times)
        print("%-36s %14.0f %14.0f %7.2f" % (case[0], ours, theirs, ratio), flush=True)


def flop_an_image():
    """Of the trained stages, forward and backward: a multiply-add is two, and backward is twice forward but for the
    gradient of what is cached."""
    done = []
    net = LastStages(FROZEN[1])

    def count(module, inputs, output):
        weight = module.weight
        positions = output[0, 0].numel() if output.dim() == 4 else 1
        done.append(2 * weight.numel() * positions)

    for module in net.modules():
        if isinstance(module, (torch.nn.Conv2d, torch.nn.Linear)):
            module.register_forward_hook(count)
    with torch.no_grad():
        net(torch.zeros(1, 160, 4, 4))
    return 3 * sum(done) - done[0]


def matrix_product(size=1024):
    """FLOP a CPU second."""
    a, b = torch.randn(size, size), torch.randn(size, size)
    begin = time.process_time()
    torch.mm(a, b)
    return 2 * size**3 / (time.process_time() - begin)


def cache(folder, rounds):
    clients = {mode: Client(folder, *FROZEN, mode) for mode in ("off", "fp16", "fp32")}
    times, same = {mode: [] for mode in clients}, {mode: True for mode in clients}
    products = []
    for epoch in range(rounds + 1):
        products.append(matrix_product())
        for mode, client in clients.items():
            seconds = client.epoch()
            if epoch > 0:  # the first one fills the cache
                times[mode].append(seconds)
            same[mode] = same[mode] and client.parameters == clients["off"].parameters
    for client in clients.values():
        client.close()
    print("\n%-36s %14s %14s %16s" % ("%s at %d, %s" % (FROZEN[0], FROZEN[3], FROZEN[6]), "images a second",
                                       "times as fast", "same parameters"))
    for mode in clients:
        faster = statistics.median(off / with_it for off, with_it in zip(times["off"], times[mode]))
        print("%-36s %14.0f %14.1f %16s" % ("cache " + mode, FROZEN[4] / statistics.median(times[mode]), faster,
                                            "yes" if same[mode] else "no"), flush=True)
    flop, bound = flop_an_image(), statistics.median(products)
    off, cached = (statistics.median(times[mode]) / FROZEN[4] for mode in ("off", "fp32"))
    print("the trained stages: %.0f MFLOP an image, %.0f GFLOP/s, a matrix product %.0f; as fast as that, the cache "
          "would make an epoch %.1f times as fast" % (flop / 1e6, flop / cached / 1e9, bound / 1e9,
                                                      (off - cached + flop / bound) / (flop / bound)))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bin", type=pathlib.Path, default=ROOT / "build/release")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("names", nargs="*", help="beginnings of networks' names, or cache: all")
    options = parser.parse_args()
    torch.set_num_threads(1)
    print("torch %s, %d epochs each, CPU seconds" % (torch.__version__, options.rounds))
    against_python(options.bin, options.rounds, options.names)
    if not options.names or "cache" in options.names:
        cache(options.bin, options.rounds)


if __name__ == "__main__":
    main()
