"""The link line is the architecture: what each target may reach, directly or through others."""
import argparse
import pathlib
import re
import subprocess
import sys
import unittest

FORBIDDEN_IN_PURE = re.compile(r"grpc|protobuf|torch|c10|spdlog|CURL", re.IGNORECASE)
TORCH = re.compile(r"torch|c10|quantfl_learn", re.IGNORECASE)
PURE = ["base", "codec", "model", "data", "federation", "ledger", "round", "aggregation", "store",
        "coordinator", "session", "spool", "daemon", "certs"]
# Which of our own targets a pure one may reach; absent: any pure one.
ALLOWED = {
    "base": set(),
    "codec": {"base"},
    "model": {"base", "codec"},
    "federation": {"base", "codec"},
    "round": {"base", "codec", "federation"},
    "session": {"base", "codec", "federation"},
    "aggregation": {"base", "codec"},
    "store": {"base"},
    "certs": {"base", "codec", "federation"},
    "ledger": {"base", "codec", "federation"},
    "data": {"base", "codec", "federation", "model"},
}
SERVER = ["round", "aggregation", "store", "coordinator", "server_rpc", "report", "web", "ctl"]
SERVER_PROGRAMS = ["quantfl-coordinator", "quantflctl"]
ARGS = None


def link_lines():
    lines = {}
    for line in (ARGS.build / "link_lines.txt").read_text().splitlines():
        name, _, rest = line.partition(": ")
        lines[name] = rest.split()
    return lines


def core_only():
    return "QUANTFL_CORE_ONLY:BOOL=ON" in (ARGS.build / "CMakeCache.txt").read_text()


class LinkLines(unittest.TestCase):
    def test_pure_targets_reach_neither_grpc_nor_protobuf_nor_libtorch(self):
        lines = link_lines()
        for name in PURE:
            self.assertIn("quantfl_" + name, lines, "a pure target is gone or renamed")
            bad = [x for x in lines["quantfl_" + name] if FORBIDDEN_IN_PURE.search(x)]
            self.assertEqual(bad, [], f"quantfl::{name} reaches {bad}")

    def test_pure_targets_reach_only_what_architecture_allows(self):
        lines = link_lines()
        for name, allowed in ALLOWED.items():
            own = {x[len("quantfl_"):] for x in lines["quantfl_" + name]
                   if x.startswith("quantfl_")} - {name, "build_flags"}
            self.assertLessEqual(own, allowed, f"quantfl::{name} reaches {own - allowed}")

    def test_nothing_under_server_reaches_libtorch(self):
        lines = link_lines()
        for target in ["quantfl_" + x for x in SERVER] + SERVER_PROGRAMS:
            if target not in lines:
                self.assertTrue(core_only(), f"{target} is gone or renamed")
                continue
            bad = [x for x in lines[target] if TORCH.search(x)]
            self.assertEqual(bad, [], f"{target} reaches {bad}")

    def test_server_programs_load_no_libtorch(self):
        if core_only():
            self.skipTest("built without the programs")
        for name in SERVER_PROGRAMS:
            out = subprocess.run(["ldd", str(ARGS.build / "bin" / name)], check=True,
                                 capture_output=True, text=True).stdout
            self.assertNotRegex(out, r"libtorch|libc10", f"{name} loads LibTorch")

    def test_headers_of_torch_and_grpc_stay_in_their_folders(self):
        files = {p.relative_to(ARGS.source): p.read_text() for d in ("common", "server", "client")
                 for p in (ARGS.source / d).rglob("*") if p.suffix in (".h", ".cc")}
        of_torch = {p for p, text in files.items() if re.search(r"#include [<\"](torch|ATen|c10)/", text)}
        for path, text in files.items():
            if path in of_torch:
                self.assertEqual(path.parts[:2], ("common", "learn"), f"{path} includes LibTorch")
            for header in of_torch:
                if f'"{header}"' in text:
                    self.assertEqual(path.parts[:2], ("common", "learn"), f"{path} includes LibTorch by {header}")
            if re.search(r"#include [<\"]grpc", text):
                self.assertEqual(path.parts[1], "rpc", f"{path} includes gRPC")


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--source", type=pathlib.Path, required=True)
    parser.add_argument("--build", type=pathlib.Path, required=True)
    ARGS, rest = parser.parse_known_args()
    unittest.main(argv=sys.argv[:1] + rest)
