#!/usr/bin/python3
"""How far the codec is from the rate-distortion bound, and what stochastic rounding does to a mean.

usage: rate_distortion.py [--bin FOLDER] [--out FOLDER] [--count N] [DELTA.safetensors...]
DELTA: deltas that a client wrote with dump_deltas. Needs Debian's python3-numpy.

Every figure comes from `quantflctl encode` and `decode`: bits are the whole file's, headers included, and
errors those of the values that come back. Gaussian and Laplace data are N values of one tensor, seed 1; each
delta has its real tensors. The bound is Shannon's: in closed form for Gaussian data, by Blahut and Arimoto's
iteration on a fine grid for the rest, which for deltas takes their values as independent, so that contexts can
go below it. Writes rate_distortion.md and rate_distortion.svg to --out.
"""
import argparse
import json
import math
import pathlib
import struct
import subprocess
import tempfile

import numpy as np

ROOT = pathlib.Path(__file__).resolve().parents[2]
RATES = (0.1, 0.25, 0.5, 1, 2, 3, 4)  # bits a parameter
CODERS = {
    "uniform, nearest": "uniform:{levels},step={step:.6g}rms,pack=rans",
    "uniform, stochastic": "uniform:{levels},step={step:.6g}rms,round=stochastic,pack=rans",
    "uniform, wide zero and gain": "uniform:{levels},step={step:.6g}rms,zero=0.6,repr=gain,pack=rans",
}
LEVELS = 255
BUCKETS = {"bu": "bu:{levels},pack=rans", "bq": "bq:{levels},pack=rans"}
BUCKET_LEVELS = (2, 3, 4, 6, 8, 16, 32)


# ---- safetensors ----

def save(path, tensors):
    header, at = {}, 0
    for name, values in tensors.items():
        header[name] = {"dtype": "F32", "shape": list(values.shape), "data_offsets": [at, at + 4 * values.size]}
        at += 4 * values.size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as f:
        f.write(struct.pack("<Q", len(text)) + text)
        for values in tensors.values():
            f.write(values.astype("<f4").tobytes())


def load(path):
    data = pathlib.Path(path).read_bytes()
    (length,) = struct.unpack_from("<Q", data)
    tensors = {}
    for name, entry in json.loads(data[8 : 8 + length]).items():
        if name != "__metadata__" and ".running_" not in name:
            begin, end = entry["data_offsets"]
            raw = np.frombuffer(data, "<f4", (end - begin) // 4, 8 + length + begin)
            tensors[name] = raw.reshape(entry["shape"])
    return tensors


def flat(tensors):
    return np.concatenate([values.ravel() for values in tensors.values()]).astype(np.float64)


# ---- the codec, from outside ----

class Codec:
    def __init__(self, binaries, folder, tensors):
        self.program, self.folder, self.tensors = str(binaries / "quantflctl"), pathlib.Path(folder), tensors
        self.values = flat(tensors)
        self.energy = float(np.sum(self.values**2))
        self.shape = self.folder / "in.safetensors"
        save(self.shape, tensors)

    def decoded(self, spec, seed=1):
        """(bits a parameter, the values that come back)"""
        update, back = self.folder / "update", self.folder / "out.safetensors"
        for command in (["encode", self.shape, update, "--codec", spec, "--seed", str(seed)],
                        ["decode", update, back, "--schema", self.shape]):
            done = subprocess.run([self.program, *map(str, command)], text=True, capture_output=True)
            if done.returncode != 0:
                raise SystemExit(f"quantflctl {command[0]} --codec {spec}: {done.stdout}{done.stderr}")
        restored = load(back)
        return 8 * update.stat().st_size / self.values.size, flat({name: restored[name] for name in self.tensors})

    def measure(self, spec):
        """(bits a parameter, squared error as a part of the squared norm)"""
        bits, values = self.decoded(spec)
        return bits, float(np.sum((values - self.values) ** 2)) / self.energy

    def at_rate(self, spec, rate):
        """The same with the step that gives about `rate` bits; None where no step does."""
        low, high = 2.0**-5, 2.0**7  # too many bits, too few
        found = None
        for _ in range(14):
            step = math.sqrt(low * high)
            found = self.measure(spec.format(levels=LEVELS, step=step))
            if abs(found[0] / rate - 1) < 0.005:
                return found
            low, high = (step, high) if found[0] > rate else (low, step)
        return found if abs(found[0] / rate - 1) < 0.05 else None


# ---- the bound ----

def blahut_arimoto(points, mass):
    """[(D, R)] of a memoryless source on `points`, reproduced on the same, squared error; D falls."""
    curve = []
    distances = (points[:, None] - points[None, :]) ** 2
    variance = float(np.sum(mass * points**2))
    guess = mass.copy()
    for slope in np.geomspace(0.5 / variance, 400 / variance, 28):
        kernel = np.exp(-slope * distances)
        for _ in range(250):
            scale = kernel @ guess
            change = (mass / np.maximum(scale, 1e-300)) @ kernel
            guess = guess * change
            if np.max(np.abs(change - 1) * (guess > 1e-12)) < 1e-4:
                break
        joint = mass[:, None] * kernel * guess[None, :] / np.maximum(kernel @ guess, 1e-300)[:, None]
        distortion = float(np.sum(joint * distances)) / variance
        marginal = joint.sum(axis=0)
        safe = joint > 1e-300
        information = float(np.sum(joint[safe] * np.log2((joint / np.maximum(mass[:, None] * marginal[None, :], 1e-300))[safe])))
        curve.append((distortion, information))
        guess = np.maximum(marginal, 1e-15)
        guess /= guess.sum()
    return sorted(curve)


def grid(values):
    """Points and masses of the values' histogram: even near zero, further apart in the tails."""
    rms = math.sqrt(float(np.mean(values**2)))
    reach = float(np.max(np.abs(values))) / rms
    inner = np.arange(0, min(4.0, reach), 0.02)
    outer = np.geomspace(4.0, max(reach, 4.1), 60) if reach > 4 else np.array([reach + 1e-6])
    edges = np.unique(np.concatenate([-outer[::-1], -inner[::-1], inner, outer]))
    mass, _ = np.histogram(values / rms, edges)
    centres = (edges[1:] + edges[:-1]) / 2
    kept = mass > 0
    return centres[kept], mass[kept] / mass.sum()


def bound_of(name, values):
    """R(D), D as a part of the variance."""
    if name == "Gaussian":
        return lambda d: max(0.0, -0.5 * math.log2(d))
    curve = [*blahut_arimoto(*grid(values)), (1.0, 0.0)]  # nothing sent, all lost
    logs, rates = [math.log(d) for d, _ in curve], [r for _, r in curve]
    # Below the grid's reach the bound is parallel to the Gaussian's (Shannon's lower bound).
    def bound(d):
        if math.log(d) < logs[0]:
            return rates[0] + 0.5 * (logs[0] - math.log(d)) / math.log(2)
        return max(0.0, float(np.interp(math.log(d), logs, rates)))
    return bound


# ---- results ----

def sources(arguments):
    rng = np.random.default_rng(1)
    yield "Gaussian", {"w": rng.standard_normal(arguments.count).astype(np.float32)}
    yield "Laplace", {"w": rng.laplace(size=arguments.count).astype(np.float32)}
    for path in arguments.deltas:
        yield pathlib.Path(path).stem, load(path)


def distances(codec, name):
    bound = bound_of(name, codec.values)
    rows, points = [], {}
    for coder, spec in CODERS.items():
        cells = []
        for rate in RATES:
            found = codec.at_rate(spec, rate)
            if found is None:
                cells.append("")
                continue
            points.setdefault(coder, []).append(found)
            cells.append(f"{found[1]:.3g}, {found[0] - bound(found[1]):+.3f}")
        rows.append((coder, cells))
    for kind, spec in BUCKETS.items():
        points[kind] = [codec.measure(spec.format(levels=levels)) for levels in BUCKET_LEVELS]
    table = [f"### {name}, {codec.values.size:,} parameters", "",
             "Squared error, and bits a parameter above the bound at that error, by coded bits a parameter. An error above 1,\nwhich a stochastic coder has at low rates, is what averaging over clients takes away; the bound is then 0.", "",
             "| | " + " | ".join(f"{r:g}" for r in RATES) + " |", "|---|" + "---|" * len(RATES)]
    table += [f"| {coder} | " + " | ".join(cells) + " |" for coder, cells in rows]
    table += ["", "| levels | " + " | ".join(map(str, BUCKET_LEVELS)) + " |", "|---|" + "---|" * len(BUCKET_LEVELS)]
    for kind in BUCKETS:
        cells = [f"{bits:.3f} bit, {error:.3g}, {bits - bound(min(error, 1)):+.3f}" for bits, error in points[kind]]
        table.append(f"| {kind}: bits, error, above the bound | " + " | ".join(cells) + " |")
    return table + [""], points, bound


def rounding(codec, repeats=64):
    """Stochastic rounding over seeds, and the mean of equal clients."""
    lines = ["### Stochastic rounding", "",
             f"{codec.values.size:,} Gaussian values, {repeats} seeds. z: the mean error of all values and seeds in its own",
             "standard errors, within ±3 for an unbiased coder in 997 of 1,000 runs; slope: the decoded values' regression on",
             "the true ones, 1 if unbiased.", "",
             "| codec | bits | z | slope | " + " | ".join(f"mean of {n}" for n in (1, 4, 16, 64)) + " |",
             "|---|---|---|---|" + "---|" * 4]
    for spec in (f"uniform:{LEVELS},step=1rms,round=stochastic,pack=rans", f"uniform:{LEVELS},step=4rms,round=stochastic,pack=rans",
                 "bu:16,round=stochastic,pack=rans", f"uniform:{LEVELS},step=1rms,pack=rans", "bu:16,repr=mean,pack=rans",
                 "bu:16,repr=mean,unbias=true,pack=rans"):
        total, errors, means, bits = np.zeros_like(codec.values), [], [], 0.0
        for seed in range(1, repeats + 1):
            bits, values = codec.decoded(spec, seed)
            errors.append(float(np.mean(values - codec.values)))
            total += values
            if seed in (1, 4, 16, 64):
                means.append(float(np.sum((total / seed - codec.values) ** 2)) / codec.energy)
        spread = float(np.std(errors, ddof=1)) / math.sqrt(repeats)
        z = f"{np.mean(errors) / spread:+.2f}" if spread > 1e-12 else "the same every time"
        slope = float(np.dot(total / repeats, codec.values)) / codec.energy
        lines.append(f"| `{spec}` | {bits:.3f} | {z} | {slope:.5f} | " + " | ".join(f"{m:.3g}" for m in means) + " |")
    return lines + ["", "The last columns are the squared error of a mean over so many clients with the same delta, as a part of the",
                    "delta's: stochastic rounding falls as 1/clients, nearest does not fall at all.", ""]


COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00")


def picture(results):
    """One panel for each source: squared error against bits, the bound as a line."""
    width, height, pad = 420, 330, 46
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width * len(results)} {height + 60}" font-family="sans-serif" font-size="11">',
           '<rect width="100%" height="100%" fill="#fff"/>']
    x = lambda bits: pad + (math.log10(max(bits, 0.05)) - math.log10(0.05)) / (math.log10(8) - math.log10(0.05)) * (width - pad - 14)
    y = lambda error: 28 + (math.log10(3) - math.log10(min(max(error, 1e-3), 3))) / (math.log10(3) + 3) * (height - 28 - pad)
    for i, (name, points, bound) in enumerate(results):
        out.append(f'<g transform="translate({i * width} 0)"><text x="{pad}" y="18" font-size="13" font-weight="bold">{name}</text>')
        for bits in (0.05, 0.1, 0.25, 0.5, 1, 2, 4, 8):
            out.append(f'<line x1="{x(bits):.1f}" x2="{x(bits):.1f}" y1="28" y2="{height - pad}" stroke="#ddd"/>'
                       f'<text x="{x(bits):.1f}" y="{height - pad + 14}" text-anchor="middle">{bits:g}</text>')
        for error in (1, 0.1, 0.01, 0.001):
            out.append(f'<line x1="{pad}" x2="{width - 14}" y1="{y(error):.1f}" y2="{y(error):.1f}" stroke="#ddd"/>'
                       f'<text x="{pad - 4}" y="{y(error) + 4:.1f}" text-anchor="end">{error:g}</text>')
        line = " ".join(f"{x(bound(d)):.1f},{y(d):.1f}" for d in np.geomspace(1e-3, 0.98, 80) if bound(d) >= 0.05)
        out.append(f'<polyline points="{line}" fill="none" stroke="#222" stroke-width="1.5"/>')
        for (coder, found), colour in zip(points.items(), COLOURS):
            for bits, error in found:
                out.append(f'<circle cx="{x(bits):.1f}" cy="{y(error):.1f}" r="3.2" fill="{colour}"/>')
        out.append(f'<text x="{(width + pad) / 2}" y="{height - 12}" text-anchor="middle">bits a parameter, headers included</text></g>')
    for i, (coder, colour) in enumerate(zip(results[0][1], COLOURS)):
        out.append(f'<circle cx="{pad + 190 * i}" cy="{height + 30}" r="4" fill="{colour}"/>'
                   f'<text x="{pad + 190 * i + 9}" y="{height + 34}">{coder}</text>')
    out.append(f'<text x="{pad}" y="{height + 52}">Squared error as a part of the squared norm; the line is the rate-distortion bound.</text></svg>')
    return "\n".join(out) + "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--bin", type=pathlib.Path, default=ROOT / "build/release/bin")
    parser.add_argument("--out", type=pathlib.Path, default=ROOT / "build/rate_distortion")
    parser.add_argument("--count", type=int, default=1 << 20)
    parser.add_argument("deltas", nargs="*")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    text, results = ["## Distance to the rate-distortion bound", ""], []
    with tempfile.TemporaryDirectory() as folder:
        for name, tensors in sources(arguments):
            table, points, bound = distances(Codec(arguments.bin, folder, tensors), name)
            text += table
            results.append((name, points, bound))
            print("\n".join(table), flush=True)
        small = np.random.default_rng(2).standard_normal(1 << 16).astype(np.float32)
        table = rounding(Codec(arguments.bin, folder, {"w": small}))
        text += table
        print("\n".join(table), flush=True)
    (arguments.out / "rate_distortion.md").write_text("\n".join(text))
    (arguments.out / "rate_distortion.svg").write_text(picture(results))
    print(f"wrote {arguments.out / 'rate_distortion.md'} and .svg")


if __name__ == "__main__":
    main()
