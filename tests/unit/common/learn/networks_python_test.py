"""Our networks against Python's torch: logits of published weights, and one step of training.

argv: quantfl-model networks_peer SHARED. The Python networks are those of SHARED/simulation, the
weights those of SHARED/pretrained, each with a new head; QUANTFL_SHARED_DIR overrides SHARED.
"""
import json
import os
import struct
import subprocess
import sys
import tempfile

SHARED = os.environ.get("QUANTFL_SHARED_DIR", sys.argv[3])
PRETRAINED = os.path.join(SHARED, "pretrained")
SIMULATION = os.path.join(SHARED, "simulation")
for wanted in (PRETRAINED, os.path.join(SIMULATION, "nets.py")):
    if not os.path.exists(wanted):
        print("skipped: no %s; QUANTFL_SHARED_DIR names another place" % wanted)
        sys.exit(77)
try:
    import numpy
    import torch
except ImportError as e:
    print("skipped: this Python (%s) lacks numpy or torch (%s)" % (sys.executable, e))
    sys.exit(77)
os.environ["FEAS_PRE"] = PRETRAINED
sys.path.insert(0, SIMULATION)
sys.dont_write_bytecode = True
import nets  # noqa: E402

TOLERANCE = 1e-4
MEAN, STDDEV = 0.449, 0.226


def load(path):
    with open(path, "rb") as f:
        data = f.read()
    n = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8:8 + n])
    header.pop("__metadata__", None)
    tensors = {}
    for name, t in header.items():
        begin, end = t["data_offsets"]
        values = numpy.frombuffer(data, numpy.float32, (end - begin) // 4, 8 + n + begin)
        tensors[name] = torch.from_numpy(values.reshape(t["shape"]).copy())
    return tensors


class MobileNetV2(torch.nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.stages = torch.nn.Sequential(*nets.mobilenet_stages(False))
        self.head = torch.nn.Linear(1280, classes)

    def forward(self, x):
        return self.head(self.stages(x).mean((2, 3)))


def in_order(names):
    """Ours to theirs for networks whose tensors have other names, but the same order."""
    return lambda theirs: dict(zip(names, theirs))


def same(theirs):
    return {name: name for name in theirs}


def squeezenet(theirs):
    return {name.replace("head.", "classifier.1."): name for name in theirs}


def numbered(prefixes):
    return in_order([p + part for p in prefixes for part in (".weight", ".bias")])


CONVOLUTIONS = ["conv%02d" % i for i in range(52)]
# name, classes, channels, side, published file, network, our names to theirs
CASES = [
    ("lenet5", 10, 1, 28, None, lambda c: nets.lenet5(c),
     numbered(["conv1", "conv2", "fc1", "fc2", "fc3"])),
    ("cnn", 10, 1, 28, None, lambda c: nets.cnn166(c), numbered(["conv1", "conv2", "fc1", "fc2"])),
    ("resnet20", 100, 3, 32, "resnet20-12fca82f.safetensors", lambda c: nets.ResNet(3, c), same),
    ("resnet56", 7, 3, 32, "resnet56-4bfd9763.safetensors", lambda c: nets.ResNet(9, c), same),
    ("squeezenet1_1", 100, 3, 64, "squeezenet1_1_imagenet.safetensors",
     lambda c: nets.SqueezeNet(c, pre=False), squeezenet),
    ("mobilenet_v2", 100, 3, 64, "mobilenet_v2_folded_imagenet_features.safetensors", MobileNetV2,
     numbered(CONVOLUTIONS + ["classifier.1"])),
]


def compare(what, ours, theirs):
    error = float((ours - theirs).abs().max() / max(1.0, float(theirs.abs().max())))
    print("%-40s %.2g" % (what, error))
    assert error <= TOLERANCE, what


def check(case, tool, peer, folder):
    name, classes, channels, side, published, network, names = case
    count = 8
    start, pixels, logits, stepped = (os.path.join(folder, f) for f in ("m", "x", "l", "s"))
    command = [tool, "init", "--architecture", name, "--classes", str(classes), "--out", start]
    if published:
        command += ["--from", os.path.join(PRETRAINED, published), "--new-head"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    x = numpy.random.default_rng(5).integers(0, 256, (count, channels, side, side), numpy.uint8)
    x.tofile(pixels)
    subprocess.run([peer, start, str(classes), str(channels), str(side), str(count), str(MEAN),
                    str(STDDEV), pixels, logits, stepped], check=True)

    torch.manual_seed(0)
    net = network(classes)
    state = net.state_dict()
    mapping = names([n for n in state if not n.endswith("num_batches_tracked")])
    ours = load(start)
    assert sorted(ours) == sorted(mapping), (sorted(ours), sorted(mapping))
    for mine, yours in mapping.items():
        assert state[yours].shape == ours[mine].shape, mine
        state[yours].copy_(ours[mine])
    if published:
        original = load(os.path.join(PRETRAINED, published))
        kept = [n for n in ours if not n.startswith(("linear", "classifier"))]
        assert all(torch.equal(ours[n], original[n]) for n in kept)
        assert set(original) - set(ours) == set()
    images = (torch.from_numpy(x).float() / 255 - MEAN) / STDDEV
    net.eval()
    with torch.no_grad():
        expected = net(images)
    compare(name + " logits",
            torch.from_numpy(numpy.fromfile(logits, numpy.float32)).reshape(count, classes), expected)

    net.train()
    optimiser = torch.optim.SGD(net.parameters(), lr=0.01, momentum=0.9)
    labels = torch.arange(count) % classes
    torch.nn.functional.cross_entropy(net(images), labels).backward()
    optimiser.step()
    after, state = load(stepped), net.state_dict()
    flat = [torch.cat([t[n].flatten() for n in key]) for t, key in
            ((after, list(mapping)), (ours, list(mapping)), (state, list(mapping.values())))]
    change = (flat[2] - flat[1]).abs().max()
    assert change > 0
    compare(name + " change by one step", (flat[0] - flat[1]) / change, (flat[2] - flat[1]) / change)


def main():
    torch.set_num_threads(1)
    for case in CASES:
        with tempfile.TemporaryDirectory() as folder:
            check(case, sys.argv[1], sys.argv[2], folder)


if __name__ == "__main__":
    main()
