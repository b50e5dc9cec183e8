#!/usr/bin/env python3
"""The codec's speed, each figure beside its bound of the same run.

usage: speed.py [--benchmark PROGRAM] [--repetitions N] [--min-time SECONDS] [--nncodec FILE...]
PROGRAM: speed_benchmark (ninja speed_benchmark). FILE: deltas that a client wrote with dump_deltas; where they
are given, encoding with contexts is measured beside NNCodec's on the same integers, too (see compare_nncodec.py).

Repetitions of all rows are interleaved at random, so that what else the machine does falls on all of them; each
figure is the median, one thread's by its own processor time. The last columns: the ratio to the bound, what is
aimed for, and whether it is reached. Aims that are a rate or a part of the bound, whichever is less, count as the
lesser one on this machine. Two threads are compared with one by the clock, which tells nothing where other programs
run on the cores, and by what an item costs of the processors' time. Ends with 1 only if a row could not be
measured: speed is no test.
"""
import argparse
import json
import pathlib
import statistics
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[2]
READ, COPY = "Read", "Memcpy"
# (what, row, bound, unit, part of the bound or None, rate in 1e9/s or None)
ROWS = (
    ("read, one core", READ, None, "Gfloat/s", None, None),
    ("memcpy", COPY, READ, "Gfloat/s", None, None),
    ("a plain loop: BU block:256, 4 bit, 64 M", "PlainBlocks", READ, "Gparam/s", None, None),
    ("BU block:256, 4 bit, 64 M: quantise + pack", "EncodeLarge/block", READ, "Gparam/s", 0.75, 2.5),
    ("BU tensor scope, 4 bit, 64 M", "EncodeLarge/tensor", READ, "Gparam/s", 0.45, 1.5),
    ("a plain loop: fold, 16 updates, fp32 sums", "PlainFold", READ, "Gparam*client/s", None, None),
    ("fold, 16 updates, 4 bit fixed", "FoldEven/fixed", READ, "Gparam*client/s", None, 3.0),
    ("fold, rANS, one table", "FoldEven/rans", READ, "Gparam*client/s", None, 0.8),
    ("fold, rANS, contexts", "FoldUneven/contexts", READ, "Gparam*client/s", None, None),
    ("zstd -1 of fp32", "ZstdFloats", READ, "Gparam/s", None, None),
    ("zstd -1 of the codes, a byte each", "ZstdCodes", READ, "Gparam/s", None, None),
    ("encode, rANS, one table", "EncodeUneven/rans", READ, "Gparam/s", None, None),
    ("encode, rANS, contexts", "EncodeUneven/contexts", READ, "Gparam/s", None, 0.25),
)
SCALED = ("Read", "EncodeLarge/block", "EncodeLarge/tensor", "EncodeUneven/contexts", "FoldEven/fixed",
          "FoldEven/rans")


def measure(arguments):
    """{row: medians of {items_per_second, cpu_time, bits}}"""
    run = subprocess.run(
        [arguments.benchmark, f"--benchmark_repetitions={arguments.repetitions}",
         "--benchmark_enable_random_interleaving=true", f"--benchmark_min_time={arguments.min_time}",
         "--benchmark_format=json"], check=True, stdout=subprocess.PIPE, text=True)
    rows = {}
    for row in json.loads(run.stdout)["benchmarks"]:
        if row["run_type"] == "iteration" and not row.get("error_occurred"):
            for key in ("items_per_second", "cpu_time", "bits"):
                if key in row:
                    rows.setdefault(row["name"], {}).setdefault(key, []).append(row[key])
    return {name: {key: statistics.median(values) for key, values in row.items()} for name, row in rows.items()}


def table(rows):
    rate_of = {name: row["items_per_second"] for name, row in rows.items()}
    print(f"{'what':46} {'measured':>9} {'':16} {'of read':>8} {'bits':>6}  aim")
    for what, row, bound, unit, part, rate in ROWS:
        if row not in rows:
            print(f"{what:46} {'-':>9}")  # libzstd-dev was not there
            continue
        value = rate_of[row]
        ratio = f"{value / rate_of[bound]:8.2f}" if bound else " " * 8
        bits = f"{rows[row]['bits']:6.3f}" if "bits" in rows[row] else " " * 6
        aims = [a for a in (part and part * rate_of[bound], rate and rate * 1e9) if a]
        aim = f"{min(aims) / 1e9:.2f} {'reached' if value >= min(aims) else 'missed'}" if aims else ""
        print(f"{what:46} {value / 1e9:9.3f} {unit:16} {ratio} {bits}  {aim}")
    print(f"\n{'two threads, x one':46} {'by clock':>9} {'by processor time':>18}")
    for row in SCALED:
        one, two = (rows[f"{row}_wall/real_time/threads:{n}"] for n in (1, 2))
        print(f"{row:46} {two['items_per_second'] / one['items_per_second']:9.2f} {2 * one['cpu_time'] / two['cpu_time']:18.2f}")


def beside_nncodec(files):
    import compare_nncodec as compare

    compare.import_nncodec()
    program = str(ROOT / "build/release/bin/codec_size")
    print(f"\n{'encode with contexts beside NNCodec':46} {'NNCodec s':>10} {'ours s':>10} {'x':>8}")
    with tempfile.TemporaryDirectory() as folder:
        for path in files:
            integers = compare.quantise(compare.load(path), 0.15)
            # Both by the processor's time, once for nothing and then the median.
            seconds = statistics.median([compare.nncodec_bytes(integers, folder)[1] for _ in range(6)][1:])
            lines = compare.our_bytes(integers, (",context=own",) * 12, program, folder)
            if lines is None:
                continue
            ours = statistics.median(line["encode_s"] for line in lines[1:])
            print(f"{str(path)[-46:]:46} {seconds:10.3f} {ours:10.4f} {seconds / ours:8.1f}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--benchmark", default=str(ROOT / "build/release/bin/speed_benchmark"))
    parser.add_argument("--repetitions", type=int, default=20)
    parser.add_argument("--min-time", type=float, default=0.02)
    parser.add_argument("--nncodec", nargs="+", default=[], metavar="FILE")
    arguments = parser.parse_args()
    if arguments.nncodec:
        import compare_nncodec

        compare_nncodec.enter_venv(__file__)
    rows = measure(arguments)
    missing = [row for _, row, *_ in ROWS if row not in rows and not row.startswith("Zstd")]
    if missing:
        print("not measured:", ", ".join(missing), file=sys.stderr)
        return 1
    table(rows)
    if arguments.nncodec:
        beside_nncodec(arguments.nncodec)
    return 0


if __name__ == "__main__":
    sys.exit(main())
