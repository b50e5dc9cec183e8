"""What clients train and how, through the real programs."""
import array
import json
import math
import unittest

from harness import FASHION, FederationTest


def values_of(path):
    """All of a checkpoint's numbers, which are fp32, in the order of its tensors' names."""
    data = path.read_bytes()
    start = 8 + int.from_bytes(data[:8], "little")
    values = array.array("f")
    for name, tensor in sorted(json.loads(data[8:start]).items()):
        if name != "__metadata__" and tensor["dtype"] == "F32":
            begin, end = tensor["data_offsets"]
            values.frombytes(data[start + begin : start + end])
    return values


@unittest.skipUnless(FASHION.exists(), "the package dataset-fashion-mnist is not installed")
class Training(FederationTest):
    def federate(self, name, *arguments, **overrides):
        """A run of four logical clients in one process: (final checkpoint's values, client, evaluator)."""
        coordinator, ready = self.coordinator(self.config(name, **overrides))
        address = ready["federation"]
        client = self.client(address, f"box-{name}", "--clients", 4, "--first_index", 0, "--runs", 1, *arguments)
        evaluator = self.client(address, f"evaluator-{name}", "--role", "evaluator", "--runs", 1, *arguments)
        self.assertEqual(coordinator.wait(), 0, coordinator.tail())
        for process in (client, evaluator):
            self.assertEqual(process.wait(), 0, process.tail())
        return values_of(self.folder / name / "final.safetensors"), client, evaluator

    # But roundings: OpenBLAS's kernels for AVX2 give a row of a product other last bits where it lies elsewhere in its
    # batch, which may then fall on the other side of a quantiser's edge.
    def assert_same_model(self, got, expected):
        self.assertEqual(len(got), len(expected))
        difference = math.fsum((a - b) ** 2 for a, b in zip(got, expected))
        self.assertLess(math.sqrt(difference), 1e-4 * math.sqrt(math.fsum(b * b for b in expected)))

    def test_frozen_layers_run_once_and_that_changes_nothing(self):
        head = {"training__trainable": "last:2", "training__cache_dtype": "fp32"}
        models, accuracies = {}, {}
        for mode in ("off", "memory", "file"):
            models[mode], client, evaluator = self.federate(mode, "--cache.mode", mode, **head)
            # Two rounds, but once for each client's part of the data, and for the test set.
            self.assertEqual(len(client.events("activations_cached")), 0 if mode == "off" else 4, client.tail())
            self.assertEqual(len(evaluator.events("activations_cached")), 0 if mode == "off" else 1)
            accuracies[mode] = [r["accuracy"] for r in self.summary(mode)["rounds"] if r["committed"]]
            self.assertEqual(len(accuracies[mode]), 3)
        for mode in ("memory", "file"):
            self.assert_same_model(models[mode], models["off"])
            for got, expected in zip(accuracies[mode], accuracies["off"]):
                self.assertAlmostEqual(got, expected, delta=0.01)

        # A process that starts again finds the files; another prefix's would not be used.
        again, client, _ = self.federate("file", "--cache.mode", "file", seed=2, **head,
                                         results_dir=str(self.folder / "again"))
        self.assertEqual(len(client.events("activations_cached")), 0, client.tail())
        _, client, _ = self.federate("file", "--cache.mode", "file", input__mean=0.25, **head,
                                     results_dir=str(self.folder / "other"))
        self.assertEqual(len(client.events("activations_cached")), 4, client.tail())
        files = list((self.folder / "state-box-file" / "activations").iterdir())
        self.assertEqual(len(files), 4, files)

    def test_cache_that_is_too_small_is_said_with_the_size_that_fits(self):
        coordinator, ready = self.coordinator(self.config(
            training__trainable="head", evaluation__enabled=False, round__max_retries=0,
            round__round_deadline_ms=3000))
        client = self.client(ready["federation"], "box", "--clients", 4, "--first_index", 0,
                             "--cache.bytes_max", 83_999)
        # 500 examples of 84 numbers in fp16.
        failed = client.wait_for("task_failed")
        self.assertIn("84000 is the smallest that fits", failed.line)
        self.assertNotEqual(coordinator.wait(), 0)


if __name__ == "__main__":
    unittest.main()
