"""A TorchScript module from its file to the final checkpoint, through the real programs."""
import hashlib
import json
import random
import struct
import subprocess
import unittest

from harness import BIN, FederationTest, run

SIDE, CLASSES = 12, 3


class TorchScript(FederationTest):
    def setUp(self):
        super().setUp()
        self.data = self.folder / "data"
        self.data.mkdir()
        draw = random.Random(1)
        for split, count in (("train", 240), ("test", 90)):
            pixels, labels = bytearray(), bytearray(i % CLASSES for i in range(count))
            for label in labels:
                pixels += bytes(70 * label + draw.randrange(60) for _ in range(SIDE * SIDE))
            header = json.dumps({
                "x": {"dtype": "U8", "shape": [count, 1, SIDE, SIDE], "data_offsets": [0, len(pixels)]},
                "y": {"dtype": "U8", "shape": [count], "data_offsets": [len(pixels), len(pixels) + count]}}).encode()
            (self.data / f"{split}.safetensors").write_bytes(
                struct.pack("<Q", len(header)) + header + pixels + labels)
        self.script = self.folder / "module.pt"
        self.write(self.script)
        self.digest = hashlib.sha256(self.script.read_bytes()).hexdigest()
        self.start_file = self.folder / "start.safetensors"

    def write(self, path, *more):
        subprocess.run([BIN.parent / "tests" / "write_torchscript", path, "1", str(CLASSES), *more], check=True)

    def import_module(self, *arguments, check=0, script=None):
        return run("quantfl-model", "import", script or self.script, "--input-channels", 1, "--input-height", SIDE,
                   "--input-mean", 0.4, "--input-stddev", 0.3, "--out", self.start_file, *arguments, check=check)[1]

    def run_config(self, name="run", **overrides):
        values = dict(model__architecture="torchscript", model__classes=CLASSES, model__file=str(self.start_file),
                      data__partitions=2, data__examples_max=240, round__min_clients=2, round__rounds=3,
                      training__learning_rate=0.1, training__batch_size=10, training__local_epochs=3)
        values.update(overrides)
        return self.config(name, **values)

    def device(self, address, name, *arguments, allow=None, files=None):
        config = self.folder / f"{name}.client.toml"
        config.write_text("[torchscript]\nallow = %s\nfiles = %s\n" % (
            json.dumps([self.digest] if allow is None else allow),
            json.dumps([str(self.script)] if files is None else files)))
        return self.start("quantfl-client", "--config", config, "--coordinator", address, "--device", name,
                          "--state_dir", self.folder / f"state-{name}", "--data.dir", self.data,
                          "--data.format", "safetensors", "--retry_min_ms", 50, "--retry_max_ms", 300, "--runs", 1,
                          *arguments)

    def test_imported_module_is_fine_tuned_and_loads_back(self):
        self.assertIn(f"torchscript.allow = [\"{self.digest}\"]", self.import_module("--classes", CLASSES))
        coordinator, ready = self.coordinator(self.run_config())
        address = ready["federation"]
        processes = [self.device(address, f"client-{i}", "--first_index", i) for i in range(2)]
        processes.append(self.device(address, "evaluator", "--role", "evaluator"))
        self.assertEqual(coordinator.wait(), 0, coordinator.tail())
        for process in processes:
            self.assertEqual(process.wait(), 0, process.tail())
        summary = self.summary()
        self.assertEqual(summary["run"]["architecture"], "torchscript:" + self.digest)
        accuracies = [r["accuracy"] for r in summary["rounds"] if r["committed"]]
        self.assertEqual(len(accuracies), 4)
        self.assertGreater(accuracies[-1], max(accuracies[0], 0.9), accuracies)

        final = self.folder / "run" / "final.safetensors"
        evaluate = ["evaluate", "--data-dir", self.data, "--data-format", "safetensors", "--torchscript", self.script,
                    "--model"]
        output = run("quantfl-model", *evaluate, final, check=0)[1]
        self.assertIn(f"accuracy {100 * accuracies[-1]:.2f} %", output)
        output = run("quantfl-model", *evaluate, self.start_file, check=0)[1]
        self.assertIn(f"accuracy {100 * accuracies[0]:.2f} %", output)
        self.assertIn("torchscript:" + self.digest, run("quantflctl", "inspect", final, check=0)[1])
        # The next run starts from it, and trains the head alone.
        coordinator, ready = self.coordinator(self.run_config(
            "second", model__file=str(final), training__trainable="head", training__freeze_bn=True, round__rounds=1))
        clients = [self.device(ready["federation"], f"second-{i}", "--first_index", i) for i in range(2)]
        evaluator = self.device(ready["federation"], "evaluator-2", "--role", "evaluator")
        self.assertEqual(coordinator.wait(), 0, coordinator.tail())
        for process in (*clients, evaluator):
            self.assertEqual(process.wait(), 0, process.tail())
        second = self.summary("second")["rounds"]
        self.assertEqual(second[0]["accuracy"], accuracies[-1])

    def test_file_that_a_device_does_not_allow_is_left_to_others(self):
        self.import_module()
        _, ready = self.coordinator(self.run_config(evaluation__enabled=False))
        stranger = self.device(ready["federation"], "stranger", allow=[])
        reason = stranger.wait_for("run_not_for_us").fields["reason"]
        self.assertIn(f"sha256 {self.digest}, which is not in this device's torchscript.allow", reason)
        absent = self.device(ready["federation"], "absent", files=[str(self.folder / "gone.pt")])
        self.assertIn("gone.pt", absent.wait_for("run_not_for_us").fields["reason"])

    def test_what_cannot_be_imported_or_run_is_refused_with_the_way_out(self):
        trace = self.folder / "trace.pt"
        self.write(trace, "eval")
        output = self.import_module(script=trace, check=64)
        self.assertIn("traced in eval mode", output)
        self.assertIn("save torch.jit.script(module)", output)
        self.assertFalse(self.start_file.exists())
        trace.write_bytes(self.script.read_bytes()[:-100])
        self.assertIn("trace.pt: not a TorchScript file", self.import_module(script=trace, check=65))
        self.import_module()
        for key, value, text in (
                ("model__classes", 10, f"the checkpoint has {CLASSES} classes, model.classes is 10"),
                ("training__trainable", "fc.wieght", "near: fc.weight"),
                ("model__architecture", "lenet5", "expected a checkpoint of lenet5")):
            status, output = run("quantfl-coordinator", "--config", self.run_config(**{key: value}), timeout=30)
            self.assertNotEqual(status, 0, output)
            self.assertIn(text, output)


if __name__ == "__main__":
    unittest.main()
