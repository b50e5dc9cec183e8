"""Modules scripted by Python's torch, imported by quantfl-model: logits and steps of SGD as Python's.

argv: quantfl-model script_peer. Skipped where this Python has no torch. torchvision is not needed: the
modules are like its own, with their kinds of layers, names and initialisation.
"""
import hashlib
import json
import os
import struct
import subprocess
import sys
import tempfile
import warnings

try:
    import numpy
    import torch
    from torch import nn
except ImportError as e:
    print("skipped: this Python (%s) lacks numpy or torch (%s)" % (sys.executable, e))
    sys.exit(77)

TOLERANCE = 1e-5
STEPS = 4
MEAN, STDDEV = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]


class ConvNormActivation(nn.Sequential):
    def __init__(self, into, out, kernel=3, stride=1, groups=1):
        super().__init__(
            nn.Conv2d(into, out, kernel, stride, (kernel - 1) // 2, groups=groups, bias=False),
            nn.BatchNorm2d(out), nn.ReLU6(inplace=True))


class InvertedResidual(nn.Module):
    def __init__(self, into, out, stride, expansion):
        super().__init__()
        hidden = into * expansion
        self.use_res_connect = stride == 1 and into == out
        layers = [ConvNormActivation(into, hidden, 1)] if expansion != 1 else []
        layers += [ConvNormActivation(hidden, hidden, 3, stride, hidden),
                   nn.Conv2d(hidden, out, 1, bias=False), nn.BatchNorm2d(out)]
        self.conv = nn.Sequential(*layers)

    def forward(self, x):
        if self.use_res_connect:
            return x + self.conv(x)
        return self.conv(x)


class MobileNet(nn.Module):
    """As torchvision's MobileNetV2, a few blocks wide and deep."""

    def __init__(self, classes, dropout):
        super().__init__()
        self.features = nn.Sequential(
            ConvNormActivation(3, 8, stride=2), InvertedResidual(8, 8, 1, 1), InvertedResidual(8, 12, 2, 6),
            InvertedResidual(12, 12, 1, 6), ConvNormActivation(12, 24, 1))
        self.classifier = nn.Sequential(nn.Dropout(dropout), nn.Linear(24, classes))

    def forward(self, x):
        x = self.features(x)
        x = nn.functional.adaptive_avg_pool2d(x, (1, 1))
        return self.classifier(torch.flatten(x, 1))


class Fire(nn.Module):
    def __init__(self, into, squeezed, expanded):
        super().__init__()
        self.squeeze = nn.Conv2d(into, squeezed, 1)
        self.squeeze_activation = nn.ReLU(inplace=True)
        self.expand1x1 = nn.Conv2d(squeezed, expanded, 1)
        self.expand1x1_activation = nn.ReLU(inplace=True)
        self.expand3x3 = nn.Conv2d(squeezed, expanded, 3, padding=1)
        self.expand3x3_activation = nn.ReLU(inplace=True)

    def forward(self, x):
        x = self.squeeze_activation(self.squeeze(x))
        return torch.cat([self.expand1x1_activation(self.expand1x1(x)),
                          self.expand3x3_activation(self.expand3x3(x))], 1)


class SqueezeNet(nn.Module):
    """As torchvision's: the head is a convolution, and the last module has no parameter."""

    def __init__(self, classes, dropout):
        super().__init__()
        self.num_classes = classes
        self.features = nn.Sequential(nn.Conv2d(3, 8, 3, 2), nn.ReLU(inplace=True),
                                      nn.MaxPool2d(3, 2, ceil_mode=True), Fire(8, 4, 8), Fire(16, 4, 8))
        self.classifier = nn.Sequential(nn.Dropout(dropout), nn.Conv2d(16, classes, 1), nn.ReLU(inplace=True),
                                        nn.AdaptiveAvgPool2d((1, 1)))

    def forward(self, x):
        return torch.flatten(self.classifier(self.features(x)), 1)


class Views(nn.Module):
    """What a layout with channels side by side would break, and a normalisation that counts batches."""

    def __init__(self, classes):
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3)
        self.bn = nn.BatchNorm2d(6, momentum=None)
        self.norm = nn.BatchNorm1d(6 * 14 * 14, affine=False)
        self.fc = nn.Linear(6 * 14 * 14, classes)

    def forward(self, x):
        x = nn.functional.relu(self.bn(self.conv(x)))
        return self.fc(self.norm(x.view(x.size(0), -1)))


def tensors(path):
    with open(path, "rb") as f:
        data = f.read()
    n = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8:8 + n])
    metadata = header.pop("__metadata__", {})
    found = {}
    for name, t in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
        begin, end = t["data_offsets"]
        values = numpy.frombuffer(data, numpy.float32, (end - begin) // 4, 8 + n + begin)
        found[name] = torch.from_numpy(values.reshape(t["shape"]).copy())
    return found, metadata


def seed_of(step):
    """learn::ScriptNetwork::BeginStep of the task that script_peer makes."""
    return int.from_bytes(hashlib.sha256(b"dropout 7 2 5 %d" % step).digest()[:8], "little")


def compare(what, ours, theirs, scale=1.0):
    error = float((ours - theirs).abs().max() / scale)
    print("%-60s %.2g" % (what, error))
    assert error <= TOLERANCE, what


def run(command, status=0):
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert done.returncode == status, (command, done.returncode, done.stdout)
    return done.stdout


def check(name, net, side, count, trainable, frozen, head, tool, peer, folder):
    script, start, pixels, logits, trained = (os.path.join(folder, f) for f in ("m.pt", "m", "x", "l", "t"))
    net.eval()  # the mode at the time of scripting means nothing
    torch.jit.script(net).save(script)
    out = run([tool, "import", script, "--input-height", str(side), "--out", start])
    assert "head " + head in out, out
    ours, metadata = tensors(start)
    with open(script, "rb") as f:
        digest = hashlib.sha256(f.read()).hexdigest()
    assert metadata["quantfl.architecture"] == "torchscript:" + digest, metadata
    assert metadata["quantfl.torchscript_head"] == head, metadata
    state = {n: t for n, t in net.state_dict().items() if not n.endswith("num_batches_tracked")}
    assert list(ours) == list(state), (list(ours), list(state))
    assert all(torch.equal(ours[n], state[n]) for n in ours)

    x = numpy.random.default_rng(5).integers(0, 256, (count, 3, side, side), numpy.uint8)
    x.tofile(pixels)
    run([peer, script, start, str(count), str(STEPS), trainable, str(int(frozen)), pixels, logits, trained])
    images = (torch.from_numpy(x).float() / 255 - torch.tensor(MEAN)[:, None, None])
    images /= torch.tensor(STDDEV)[:, None, None]
    with torch.no_grad():
        expected = net(images)
    compare(name + " logits", torch.from_numpy(numpy.fromfile(logits, numpy.float32)).view_as(expected), expected,
            max(1.0, float(expected.abs().max())))

    net.train()
    for module in net.modules():
        if frozen and isinstance(module, (nn.BatchNorm2d, nn.BatchNorm1d)):
            module.eval()
    for parameter_name, parameter in net.named_parameters():
        parameter.requires_grad_(trainable == "all" or parameter_name.startswith(trainable[:-1]))
    learnt = [p for p in net.parameters() if p.requires_grad]
    optimiser = torch.optim.SGD(learnt, lr=0.02, momentum=0.9, weight_decay=0.001)
    labels = torch.arange(count) % expected.shape[1]
    for step in range(STEPS):
        torch.manual_seed(seed_of(step))
        optimiser.zero_grad()
        nn.functional.cross_entropy(net(images), labels).backward()
        optimiser.step()
    after, _ = tensors(trained)
    for kind in ("weights", "statistics"):
        names = [n for n in ours if n.endswith(("running_mean", "running_var")) == (kind == "statistics")]
        if not names:
            continue
        flat = [torch.cat([t[n].flatten() for n in names]) for t in (after, net.state_dict(), ours)]
        assert frozen and kind == "statistics" or (flat[1] - flat[2]).abs().max() > 1e-3
        compare("%s %s after %d steps of %s" % (name, kind, STEPS, trainable), flat[0], flat[1])


def check_traces(tool, folder):
    """A trace in eval mode trains silently with frozen normalisation and no dropout: refused."""
    script, start = os.path.join(folder, "trace.pt"), os.path.join(folder, "trace")
    command = [tool, "import", script, "--input-height", "32", "--out", start]
    images = torch.zeros(2, 3, 32, 32)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        net = MobileNet(5, 0.2)
        torch.jit.trace(net.eval(), images, check_trace=False).save(script)
        out = run(command, 64)
        assert "traced in eval mode" in out and "features.0.1" in out and "torch.jit.script(module)" in out, out
        assert not os.path.exists(start)
        run(command + ["--accept-eval-mode"])
        assert tensors(start)[1]["quantfl.torchscript_mode"] == "eval"
        torch.jit.trace(net.train(), images, check_trace=False).save(script)
        assert "traced in training mode" in run(command + ["--accept-eval-mode"], 64)
        # Without a layer that knows modes, a trace is as good as a script.
        plain = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(3600, 5))
        torch.jit.trace(plain.eval(), images).save(script)
        run(command)
    torch.jit.freeze(torch.jit.script(MobileNet(5, 0.2).eval())).save(script)
    out = run(command, 64)
    assert "nothing to train" in out and "torch.jit.freeze" in out, out
    torch.save(MobileNet(5, 0.2).state_dict(), script)
    assert "not a TorchScript file, as torch.jit.script(module).save(path) writes one" in run(command, 65)


def main():
    torch.set_num_threads(1)
    torch.manual_seed(11)
    # The learner shuffles its examples, so that masks of dropout are those of Python with one example alone.
    # Statistics of what is not trained stay.
    cases = [
        ("mobilenet", lambda: MobileNet(5, 0.0), 32, 8, "all", False, "classifier.1"),
        ("mobilenet, dropout", lambda: MobileNet(5, 0.2), 32, 1, "all", False, "classifier.1"),
        ("mobilenet, frozen statistics", lambda: MobileNet(5, 0.0), 32, 8, "all", True, "classifier.1"),
        ("mobilenet, head", lambda: MobileNet(5, 0.0), 32, 8, "classifier.*", True, "classifier.1"),
        ("squeezenet", lambda: SqueezeNet(7, 0.0), 40, 8, "all", False, "classifier.1"),
        ("squeezenet, dropout", lambda: SqueezeNet(7, 0.5), 40, 1, "all", False, "classifier.1"),
        ("views", lambda: Views(4), 16, 8, "all", False, "fc"),
    ]
    for name, make, *rest in cases:
        with tempfile.TemporaryDirectory() as folder:
            check(name, make(), *rest, sys.argv[1], sys.argv[2], folder)
    with tempfile.TemporaryDirectory() as folder:
        check_traces(sys.argv[1], folder)


if __name__ == "__main__":
    main()
