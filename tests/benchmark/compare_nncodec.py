#!/usr/bin/env python3
"""Coded size of real deltas beside NNCodec's (ISO/IEC 15938-17), headers included.

usage: compare_nncodec.py [--size CODEC_SIZE] [--check] FILE...
FILE: deltas that a client wrote with dump_deltas. CODEC_SIZE: the program of that name (ninja codec_size).

For each delta and each squared error (0.05, 0.15, 0.34 of its norm) one step for the whole model, values rounded
to the nearest multiple. The same integers are coded by NNCodec (parameter optimisation and row skipping on,
dependent quantisation off), by pack=rans, and with context=own; and with context=own the integers of the
cosine transform's coefficients at the same squared error, which is what transform=dct sends. The integers reach
codec_size as values, with a bucket each. A column says how large an update is beside NNCodec's.

--check ends with 1 unless the better of the two with contexts is at most 0.85 of NNCodec on average and
nowhere above it. NNCodec comes from PyPI, once, into build/nncodec, with numpy < 2 and what its import asks for.
Tensors named running_* are left out: they are statistics, which travel in full precision.
"""
import argparse
import json
import math
import os
import pathlib
import struct
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
VENV = ROOT / "build/nncodec"
ERRORS = (0.05, 0.15, 0.34)


def enter_venv(script=__file__):
    """Runs this script, or another one, again in the environment that has NNCodec."""
    python = VENV / "bin/python"
    if pathlib.Path(sys.prefix).resolve() == VENV.resolve():
        return
    if not (VENV / "installed").exists():
        print("installing NNCodec into", VENV.relative_to(ROOT), file=sys.stderr)
        subprocess.run([sys.executable, "-m", "venv", VENV], check=True)
        pip = [python, "-m", "pip", "install", "-q"]
        subprocess.run([*pip, "numpy<2", "pandas", "scikit-learn"], check=True)
        subprocess.run([*pip, "--no-deps", "nncodec==2.1.3"], check=True)
        (VENV / "installed").touch()
    os.execv(python, [str(python), script, *sys.argv[1:]])


def load(path):
    data = pathlib.Path(path).read_bytes()
    (length,) = struct.unpack_from("<Q", data)
    tensors = {}
    for name, entry in json.loads(data[8 : 8 + length]).items():
        if name == "__metadata__" or ".running_" in name:
            continue
        begin, end = entry["data_offsets"]
        raw = np.frombuffer(data[8 + length + begin : 8 + length + end], "<f4")
        tensors[name] = raw.reshape(entry["shape"]).astype(np.float64)
    return tensors


def save(path, tensors):
    header, data = {}, b""
    for name, values in tensors.items():
        raw = values.astype("<f4").tobytes()
        header[name] = {"dtype": "F32", "shape": list(values.shape),
                        "data_offsets": [len(data), len(data) + len(raw)]}
        data += raw
    text = json.dumps(header).encode()
    pathlib.Path(path).write_bytes(struct.pack("<Q", len(text)) + text + data)


def dct(values):
    """Of tensors with kernels: see proto/README.md, Transform."""
    if values.ndim != 4 or values.shape[2] != values.shape[3] or values.shape[2] not in (3, 5, 7):
        return values
    k = values.shape[2]
    j = np.arange(k)
    basis = math.sqrt(2 / k) * np.cos(math.pi * (2 * j[None, :] + 1) * j[:, None] / (2 * k))
    basis[0] /= math.sqrt(2)
    return np.einsum("ai,nmij,bj->nmab", basis, values, basis)


def quantise(tensors, error):
    """Integers with the largest step whose squared error is at most `error` of the norm."""
    norm = sum((x * x).sum() for x in tensors.values())
    rms = math.sqrt(norm / sum(x.size for x in tensors.values()))
    low, high = 1e-3, 1e3
    for _ in range(40):
        step = math.sqrt(low * high) * rms
        found = sum(((np.rint(x / step) * step - x) ** 2).sum() for x in tensors.values()) / norm
        low, high = (low, step / rms) if found > error else (step / rms, high)
    return {name: np.rint(x / (low * rms)).astype(np.int64) for name, x in tensors.items()}


def nncodec_bytes(integers, folder):
    """(bytes, seconds of the processor)"""
    began = time.process_time()
    stream = nnc.compress({name: q.astype(np.int32) for name, q in integers.items()},
                          bitstream_path=f"{folder}/stream.nnc", use_dq=False, param_opt=True,
                          row_skipping=True, return_bitstream=True, verbose=False)
    return len(stream), time.process_time() - began


def our_bytes(integers, options, program, folder):
    """{options: line of codec_size}; none where the integers do not fit 256 levels."""
    least = min(q.min() for q in integers.values())
    levels = int(max(q.max() for q in integers.values()) - least) + 1
    if levels > 256:
        return None
    save(f"{folder}/integers.safetensors", integers)
    specs = [f"bu:{max(levels, 2)},scope=model,pack=rans{option}" for option in options]
    lines = subprocess.run([program, f"{folder}/integers.safetensors", *specs], check=True,
                           stdout=subprocess.PIPE, text=True).stdout.splitlines()
    return [json.loads(line) for line in lines]


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--size", default=str(ROOT / "build/release/bin/codec_size"))
    parser.add_argument("--check", action="store_true")
    parser.add_argument("files", nargs="+")
    arguments = parser.parse_args()
    best, plain = [], []
    print(f"{'delta':40} error   NNCodec     bit      s    rans    own dct+own")
    with tempfile.TemporaryDirectory() as folder:
        for path in arguments.files:
            tensors = load(path)
            parameters = sum(x.size for x in tensors.values())
            for error in ERRORS:
                integers = quantise(tensors, error)
                reference, seconds = nncodec_bytes(integers, folder)
                ours = our_bytes(integers, ("", ",context=own"), arguments.size, folder)
                coefficients = quantise({name: dct(x) for name, x in tensors.items()}, error)
                transformed = our_bytes(coefficients, (",context=own",), arguments.size, folder)
                ratios = [line["bytes"] / reference for line in (ours or []) + (transformed or [])]
                name = "/".join(pathlib.Path(path).with_suffix("").parts[-2:])
                cells = " ".join(f"{ratio:6.3f}" for ratio in ratios) or "more than 256 levels"
                bits = 8 * reference / parameters
                print(f"{name:40} {error:5} {reference:9} {bits:7.4f} {seconds:6.2f}  {cells}",
                      flush=True)
                if len(ratios) == 3:
                    plain.append(ratios[1])
                    best.append(min(ratios[1:]))
    if not best:
        return 1
    mean = sum(best) / len(best)
    print(f"better of own and dct+own: {mean:.3f} of NNCodec on average, {max(best):.3f} at most; "
          f"own alone: {sum(plain) / len(plain):.3f}, {max(plain):.3f}")
    return 1 if arguments.check and (mean > 0.85 or max(best) > 1) else 0


def import_nncodec():
    """Once in that environment: numpy and NNCodec, for the functions above."""
    global nnc, np
    from unittest.mock import MagicMock

    import numpy as np

    for alias, kind in (("int", int), ("float", float), ("bool", bool)):
        if alias not in np.__dict__:
            setattr(np, alias, kind)
    # Its adapters for models of other frameworks; tensors need none of them.
    sys.modules["nncodec.framework"] = MagicMock()
    from nncodec import nnc


if __name__ == "__main__":
    enter_venv()
    import_nncodec()
    sys.exit(main())
