"""SGD and Adam of common/learn against torch.optim, on a fixed problem: the last layer of a LeNet-5.

argv: optimiser_peer. Skipped where this Python has no torch.
"""
import os
import subprocess
import sys
import tempfile

try:
    import numpy
    import torch
except ImportError as e:
    print("skipped: this Python (%s) lacks numpy or torch (%s)" % (sys.executable, e))
    sys.exit(77)

TOLERANCE = 1e-6
COUNT, STEPS = 40, 7
SHAPES = [(6, 1, 5, 5), (6,), (16, 6, 5, 5), (16,), (120, 400), (120,), (84, 120), (84,), (10, 84), (10,)]
# Fields of TrainingSpec, the optimiser they mean, label smoothing.
CASES = [
    (dict(optimiser="sgd", learning_rate=0.05, momentum=0.9, weight_decay=0),
     lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9), 0),
    (dict(optimiser="sgd", learning_rate=0.05, momentum=0, weight_decay=0.01),
     lambda p: torch.optim.SGD(p, lr=0.05, weight_decay=0.01), 0),
    (dict(optimiser="sgd", learning_rate=0.02, momentum=0.8, weight_decay=0.1, label_smoothing=0.1),
     lambda p: torch.optim.SGD(p, lr=0.02, momentum=0.8, weight_decay=0.1), 0.1),
    (dict(optimiser="adam", learning_rate=0.001, weight_decay=0),
     lambda p: torch.optim.Adam(p, lr=0.001), 0),
    (dict(optimiser="adam", learning_rate=0.002, weight_decay=0.05, beta1=0.8, beta2=0.95, epsilon=1e-6),
     lambda p: torch.optim.Adam(p, lr=0.002, weight_decay=0.05, betas=(0.8, 0.95), eps=1e-6), 0),
]


def network(tensors):
    net = torch.nn.Sequential(
        torch.nn.Conv2d(1, 6, 5, padding=2), torch.nn.ReLU(), torch.nn.MaxPool2d(2),
        torch.nn.Conv2d(6, 16, 5), torch.nn.ReLU(), torch.nn.MaxPool2d(2), torch.nn.Flatten(),
        torch.nn.Linear(400, 120), torch.nn.ReLU(), torch.nn.Linear(120, 84), torch.nn.ReLU(),
        torch.nn.Linear(84, 10))
    with torch.no_grad():
        for parameter, tensor in zip(net.parameters(), tensors):
            parameter.copy_(tensor)
    return net


def split(flat):
    tensors, at = [], 0
    for shape in SHAPES:
        size = int(numpy.prod(shape))
        tensors.append(torch.from_numpy(flat[at:at + size].reshape(shape).copy()))
        at += size
    assert at == len(flat)
    return tensors


def check(peer, folder, fields, make, smoothing):
    pixels, out = os.path.join(folder, "pixels"), os.path.join(folder, "out")
    x = numpy.random.default_rng(3).integers(0, 256, (COUNT, 1, 28, 28), numpy.uint8)
    x.tofile(pixels)
    options = ["%s=%s" % item for item in fields.items()]
    subprocess.run([peer, pixels, out, "trainable=head", "local_steps=%d" % STEPS] + options, check=True)
    before, after = numpy.fromfile(out, numpy.float32).reshape(2, -1)

    net = network(split(before))
    for parameter in list(net.parameters())[:-2]:
        parameter.requires_grad_(False)
    optimiser = make([p for p in net.parameters() if p.requires_grad])
    images = (torch.from_numpy(x).float() / 255 - 0.5) / 0.25
    labels = torch.arange(COUNT) % 10
    for _ in range(STEPS):
        optimiser.zero_grad()
        torch.nn.functional.cross_entropy(net(images), labels, label_smoothing=smoothing).backward()
        optimiser.step()
    theirs = torch.cat([p.detach().flatten() for p in net.parameters()]).numpy()
    error, change = abs(after - theirs).max(), abs(theirs - before).max()
    print("%-110s %.2g of %.2g" % (" ".join(options), error, change))
    assert change > 1e-3 and error <= TOLERANCE


def main():
    torch.set_num_threads(1)
    for case in CASES:
        with tempfile.TemporaryDirectory() as folder:
            check(sys.argv[1], folder, *case)


if __name__ == "__main__":
    main()
