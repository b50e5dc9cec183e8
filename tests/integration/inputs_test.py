"""What enters the networks: transforms of the run, through the real programs."""
import hashlib
import json
import lzma
import os
import pathlib
import struct
import unittest

from harness import FASHION, ROOT, FederationTest, run

HAR = pathlib.Path(os.environ.get("QUANTFL_SHARED_DIR", ROOT.parent / "shared")) / "data/uci_har/uci_har_9x128.bin.xz"


def tensors(path):
    """Name to bytes of a safetensors file."""
    data = path.read_bytes()
    start = 8 + struct.unpack("<Q", data[:8])[0]
    return {name: data[start + t["data_offsets"][0]:start + t["data_offsets"][1]]
            for name, t in json.loads(data[8:start]).items() if name != "__metadata__"}


@unittest.skipUnless(FASHION.exists(), "the package dataset-fashion-mnist is not installed")
class Inputs(FederationTest):
    def federate(self, name, spread, **overrides):
        coordinator, ready = self.coordinator(self.config(name, evaluation__enabled=False, **overrides))
        address = ready["federation"]
        if spread:
            clients = self.clients(address, 4, "--runs", 1)
        else:
            clients = [self.client(address, "box", "--clients", 4, "--first_index", 0, "--runs", 1)]
        self.assertEqual(coordinator.wait(), 0, coordinator.tail())
        for client in clients:
            self.assertEqual(client.stop(), 0, client.tail())
        return hashlib.sha256((self.folder / name / "final.safetensors").read_bytes()).hexdigest()

    def test_augmentation_is_the_same_bits_however_the_clients_are_spread(self):
        augmented = {"input__crop_padding": 2, "input__flip": True, "round__rounds": 1}
        spread = self.federate("spread", True, **augmented)
        self.assertEqual(spread, self.federate("one", False, **augmented))
        self.assertNotEqual(spread, self.federate("plain", False, round__rounds=1))
        self.assertEqual(self.summary("one")["data"]["input_crop_padding"], 2)
        self.assertTrue(self.summary("one")["data"]["input_flip"])

    def test_grey_images_fine_tune_a_colour_network_of_another_size(self):
        checkpoint = self.folder / "start.safetensors"
        run("quantfl-model", "init", "--architecture", "mobilenet_v2", "--classes", 10, "--out", checkpoint,
            check=0)
        coordinator, ready = self.coordinator(self.config(
            model__architecture="mobilenet_v2", model__file=checkpoint, input__height=32,
            training__trainable="head", data__examples_max=80, data__partitions=2, round__min_clients=2,
            round__rounds=1, evaluation__enabled=False))
        self.client(ready["federation"], "box", "--clients", 2, "--first_index", 0, "--runs", 1)
        self.assertEqual(coordinator.wait(), 0, coordinator.tail())
        summary = self.summary()
        self.assertEqual(summary["rounds"][-1]["accepted"], 2)
        self.assertEqual(summary["data"]["input_mean"], [0.485, 0.456, 0.406])
        self.assertEqual([summary["data"]["input_" + k] for k in ("channels", "height", "width")], [3, 32, 32])
        self.assertIn("height = 32\nwidth = 32", (self.folder / "run" / "effective.toml").read_text()
                      .replace("  # pixels", "").replace("; unset: input.height", "")
                      .replace("; unset: the checkpoint's metadata, else as the data is", ""))

    def test_running_statistics_travel_as_fp32_or_stay_as_they_are(self):
        checkpoint = self.folder / "start.safetensors"
        run("quantfl-model", "init", "--architecture", "resnet20", "--classes", 10, "--out", checkpoint, check=0)
        before = tensors(checkpoint)
        small = {"model__architecture": "resnet20", "model__file": checkpoint, "input__height": 8,
                 "data__examples_max": 64, "data__partitions": 2, "round__min_clients": 2, "round__rounds": 1,
                 "codec__uplink": "bu:2", "evaluation__enabled": False}
        for name, frozen in (("updated", False), ("frozen", True)):
            coordinator, ready = self.coordinator(self.config(name, training__freeze_bn=frozen, **small))
            self.client(ready["federation"], name, "--clients", 2, "--first_index", 0, "--runs", 1)
            self.assertEqual(coordinator.wait(), 0, coordinator.tail())
            after = tensors(self.folder / name / "final.safetensors")
            self.assertEqual(sorted(before), sorted(after))
            changed = {n for n in before if before[n] != after[n]}
            statistics = {n for n in before if ".running_" in n}
            self.assertTrue(any(n.endswith("bn1.weight") for n in changed))
            self.assertEqual(changed & statistics, set() if frozen else statistics)
        # 272,474 parameters and 1,376 running statistics: 1 bit and 32 bits.
        sizes = [self.summary(n)["rounds"][-1]["bytes"]["uplink"]["payload_bytes"] for n in ("updated", "frozen")]
        self.assertAlmostEqual(sizes[0] - sizes[1], 2 * 4 * 1376, delta=2 * 1000)

    @unittest.skipUnless(HAR.exists(), "no UCI HAR in %s (QUANTFL_SHARED_DIR names another place)" % HAR)
    def test_people_are_the_clients_of_uci_har(self):
        folder = self.folder / "data"
        self.write_publishers_layout(folder / "UCI HAR Dataset")
        checkpoint = self.folder / "start.safetensors"
        run("quantfl-model", "init", "--architecture", "har_cnn", "--classes", 6, "--out", checkpoint, check=0)
        coordinator, ready = self.coordinator(self.config(
            model__architecture="har_cnn", model__classes=6, model__file=checkpoint, data__partition="natural",
            data__partitions=4, data__examples_max=0, round__min_clients=4, round__rounds=3,
            training__local_epochs=3))
        for device, role in (("people", ["--clients", 4, "--first_index", 0]), ("lab", ["--role", "evaluator"])):
            self.start("quantfl-client", "--coordinator", ready["federation"], "--device", device,
                       "--state_dir", self.folder / device, "--data.dir", folder, "--data.format", "uci_har",
                       "--retry_min_ms", 50, *role)
        self.assertEqual(coordinator.wait(), 0, coordinator.tail())
        summary = self.summary()
        self.assertEqual(summary["rounds"][-1]["accepted"], 4)
        # Six activities; two people that no client saw.
        self.assertGreater(summary["rounds"][-1]["accuracy"], 0.6)

    def write_publishers_layout(self, root):
        """Some 600 windows of six people, four to train on and two for the test, as the publisher packs them."""
        signals = [f"{kind}_{axis}" for kind in ("body_acc", "body_gyro", "total_acc") for axis in "xyz"]
        people = {"train": (0, 2, 4, 5), "test": (1, 3)}
        rows = {split: [] for split in people}
        with lzma.open(HAR) as f:
            for record in iter(lambda: f.read(4612), b""):
                for split, subjects in people.items():
                    if record[0] in subjects and sum(r[0] == record[0] for r in rows[split]) < 100:
                        rows[split].append(record)
                if record[0] > 5:
                    break
        for split, records in rows.items():
            (root / split / "Inertial Signals").mkdir(parents=True)
            values = [struct.unpack("<1152f", r[4:]) for r in records]
            for c, name in enumerate(signals):
                (root / split / "Inertial Signals" / f"{name}_{split}.txt").write_text("".join(
                    "".join(f"{v: 16.7e}" for v in row[128 * c:128 * (c + 1)]) + "\n" for row in values))
            (root / split / f"y_{split}.txt").write_text("".join(f"{r[1] + 1}\n" for r in records))
            (root / split / f"subject_{split}.txt").write_text("".join(f"{r[0] + 1}\n" for r in records))

    def test_data_that_does_not_fit_is_refused_with_the_way_out(self):
        checkpoint = self.folder / "start.safetensors"
        run("quantfl-model", "init", "--architecture", "mobilenet_v2", "--classes", 10, "--out", checkpoint,
            check=0)
        _, ready = self.coordinator(self.config(
            model__architecture="mobilenet_v2", model__file=checkpoint, evaluation__enabled=False))
        client = self.client(ready["federation"], "box", "--runs", 1)
        reason = client.wait_for("waiting").fields["reason"]
        self.assertIn("examples of [3, 28, 28], but mobilenet_v2 takes [3, 224, 224]", reason)
        self.assertIn("the run's input.height and input.width resize images", reason)


if __name__ == "__main__":
    unittest.main()
