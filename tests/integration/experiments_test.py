"""deploy/experiments/run.sh as a user runs it, on a small part of the data."""
import json
import pathlib
import shutil
import subprocess
import tempfile
import unittest

from harness import BIN, CHECKPOINT, FASHION, ROOT, free_port


class Experiments(unittest.TestCase):
    def setUp(self):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="quantfl-experiments-test."))
        self.addCleanup(shutil.rmtree, self.folder, ignore_errors=True)

    def run_sh(self, *arguments):
        return subprocess.run(
            [ROOT / "deploy/experiments/run.sh", *arguments, "--bin", BIN, "--runs", self.folder,
             "--port", str(free_port())], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=600)

    @unittest.skipUnless(FASHION.exists(), "the package dataset-fashion-mnist is not installed")
    def test_mnist_runs_as_its_file_says_and_beside_another_codec(self):
        # Its start is there already, so nothing is pre-trained; the images are those that Debian has.
        shutil.copy(CHECKPOINT, self.folder / "mnist-start-1.safetensors")
        done = self.run_sh("mnist", "--data-dir", FASHION, "--daemons", "3", "--against", "bu:4,pack=rans",
                           "--set", "data.examples_max=2000", "--set", "round.rounds=2")
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        bits = {}
        for name in ("mnist", "mnist-bu-4-pack-rans"):
            summary = json.loads((self.folder / name / "summary.json").read_text())
            self.assertEqual(summary["state"], "finished")
            rounds = [r for r in summary["rounds"] if r["round"] > 0]
            self.assertEqual([r["accepted"] for r in rounds], [10, 10])
            bits[name] = max(r["bits_per_parameter"] for r in rounds)
        self.assertLess(bits["mnist"], 0.122)
        self.assertGreater(bits["mnist-bu-4-pack-rans"], 0.2)
        self.assertIn("mnist-bu-4-pack-rans", (self.folder / "mnist-report/report.html").read_text())

    def test_bad_arguments_are_one_line_that_says_what_to_do(self):
        for arguments, said in ((["imagenet"], "unknown argument imagenet"), ([], "mnist or cifar100"),
                                (["cifar100"], "--weights"), (["mnist", "--daemons", "11"], "--daemons 11: a number"),
                                (["mnist", "--set", "rounds"], "KEY=VALUE")):
            with self.subTest(arguments):
                done = self.run_sh(*arguments)
                self.assertEqual(done.returncode, 64, done.stdout + done.stderr)
                self.assertEqual(len(done.stderr.strip().splitlines()), 1, done.stderr)
                self.assertIn(said, done.stderr)


if __name__ == "__main__":
    unittest.main()
