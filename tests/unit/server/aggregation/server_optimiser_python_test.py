"""The server optimisers against Algorithm 2 of "Adaptive Federated Optimization" in numpy: the same bits.

argv: server_optimiser_peer.
"""
import os
import subprocess
import sys
import tempfile

try:
    import numpy
except ImportError as e:
    print("skipped: Python has no numpy (%s)" % e)
    sys.exit(77)

F = numpy.float32
N, ROUNDS, FIRST, COUNT = 5003, 30, 1000, 77


def reference(kind, rate, momentum, beta1, beta2, tau, model, deltas):
    """fp32 throughout: numpy rounds after each operation on arrays of float32."""
    m = numpy.zeros_like(model)
    v = numpy.full_like(model, F(tau) * F(tau))
    statistics = numpy.zeros(len(model), bool)
    statistics[FIRST:FIRST + COUNT] = True
    for d in deltas:
        if kind == "fedavg":
            step = F(rate) * d
        elif kind == "fedavgm":
            m = numpy.where(statistics, m, F(momentum) * m + d)
            step = F(rate) * m
        else:
            m = numpy.where(statistics, m, F(beta1) * m + F(1 - beta1) * d)
            square = d * d
            if kind == "fedadam":
                adapted = F(beta2) * v + F(1 - beta2) * square
            else:
                adapted = v - F(1 - beta2) * square * numpy.sign(v - square)
            v = numpy.where(statistics, v, adapted)
            step = F(rate) * m / (numpy.sqrt(v) + F(tau))
        model = model + numpy.where(statistics, d, step)
        assert model.dtype == F and m.dtype == F and v.dtype == F
    return [model] + {"fedavg": [], "fedavgm": [m]}.get(kind, [m, v])


def main():
    random = numpy.random.default_rng(1)
    scales = 10.0 ** random.uniform(-7, 0, N)
    model = random.standard_normal(N).astype(F)
    deltas = [(scales * random.standard_normal(N)).astype(F) for _ in range(ROUNDS)]
    for d in deltas:
        d[::17] = 0
    cases = [(kind, *rest) for kind in ("fedavg", "fedavgm", "fedadam", "fedyogi")
             for rest in ((1, 0.9, 0.9, 0.99, 1e-3), (0.01, 0.5, 0, 0.9, 1e-9), (0.3, 0, 0.99, 0, 0.1))]
    with tempfile.TemporaryDirectory() as folder:
        given, found = os.path.join(folder, "in"), os.path.join(folder, "out")
        with open(given, "wb") as f:
            f.write(b"".join(a.astype("<f4").tobytes() for a in [model] + deltas))
        for case in cases:
            subprocess.run([sys.argv[1], *map(repr_of, case), str(N), str(FIRST), str(COUNT), given, found], check=True)
            expected = b"".join(a.astype("<f4").tobytes() for a in reference(*case, model, deltas))
            with open(found, "rb") as f:
                assert f.read() == expected, case


def repr_of(value):
    return value if isinstance(value, str) else repr(value)


if __name__ == "__main__":
    main()
