"""What the programs refuse, at the start and in the middle of a run, each with its reason."""
import gzip
import json
import socket
import struct
import unittest

from harness import FASHION, FederationTest, run


class RefusedAtStart(FederationTest):
    def refused(self, config, *expected, program="quantfl-coordinator", arguments=()):
        status, output = run(program, "--config", config, *arguments, timeout=30)
        self.assertNotEqual(status, 0, output)
        self.assertLess(status, 128, output)
        for text in expected:
            self.assertIn(text, output)

    def test_unknown_key_is_named_with_its_place_and_the_nearest_one(self):
        self.refused(self.config(training__learning_rat=0.1), "run.toml:", "learning_rat", "learning_rate")

    def test_wrong_type(self):
        self.refused(self.config(round__rounds="ten"), "run.toml:", "round.rounds", "integer")

    def test_out_of_range(self):
        self.refused(self.config(training__momentum=1.5), "run.toml:", "training.momentum", "1.5")

    def test_every_mistake_is_reported_at_once(self):
        self.refused(self.config(round__rounds=0, training__momentum=-1.0, codec__uplink="bu:1"),
                     "round.rounds", "training.momentum", "codec.uplink")

    def test_missing_checkpoint(self):
        self.refused(self.config(model__file=str(self.folder / "none.safetensors")), "none.safetensors")

    def test_hostile_safetensors_header(self):
        hostile = self.folder / "hostile.safetensors"
        hostile.write_bytes(struct.pack("<Q", 1 << 62) + b"{}")
        self.refused(self.config(model__file=str(hostile)), "hostile.safetensors")
        header = json.dumps({"conv1.weight": {"dtype": "F32", "shape": [6, 1, 5, 5],
                                              "data_offsets": [0, 1 << 40]}}).encode()
        hostile.write_bytes(struct.pack("<Q", len(header)) + header + b"\0" * 8)
        self.refused(self.config(model__file=str(hostile)), "hostile.safetensors")

    def test_checkpoint_of_another_architecture(self):
        header = json.dumps({"other.weight": {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]}}).encode()
        other = self.folder / "other.safetensors"
        other.write_bytes(struct.pack("<Q", len(header)) + header + b"\0" * 16)
        self.refused(self.config(model__file=str(other)), "lenet5", "other.weight")

    def test_address_in_use(self):
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            address = "127.0.0.1:%d" % taken.getsockname()[1]
            self.refused(self.config(server__listen=address), address, "in use")

    def test_plain_text_beyond_loopback(self):
        self.refused(self.config(server__listen="0.0.0.0:0"), "loopback", "allow_insecure")

    def client_refused(self, folder, *expected, data__format="idx"):
        status, output = run("quantfl-client", "--coordinator", "127.0.0.1:1", "--device", "d", "--state_dir",
                             self.folder / "state", "--data.dir", folder, "--data.format", data__format,
                             timeout=30)
        self.assertNotEqual(status, 0, output)
        for text in expected:
            self.assertIn(text, output)

    def test_missing_data_file(self):
        self.client_refused(self.folder, "train-images-idx3-ubyte")

    def test_images_of_another_type(self):
        header = json.dumps({"x": {"dtype": "F16", "shape": [1, 1, 28, 28], "data_offsets": [0, 1568]},
                             "y": {"dtype": "U8", "shape": [1], "data_offsets": [1568, 1569]}}).encode()
        (self.folder / "train.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + b"\0" * 1569)
        self.client_refused(self.folder, "train.safetensors", "F16 [1, 1, 28, 28]", "U8", data__format="safetensors")

    def test_cut_off_cifar(self):
        (self.folder / "cifar-100-binary").mkdir()
        (self.folder / "cifar-100-binary" / "train.bin").write_bytes(b"\0" * 3074 * 2)
        self.client_refused(self.folder, "cifar-100-binary/train.bin", "50000 records", data__format="cifar100")

    @unittest.skipUnless(FASHION.exists(), "the package dataset-fashion-mnist is not installed")
    def test_truncated_data_file(self):
        data = self.folder / "data"
        data.mkdir()
        for path in FASHION.glob("*.gz"):
            (data / path.name).symlink_to(path)
        images = data / "train-images-idx3-ubyte.gz"
        whole = images.read_bytes()
        images.unlink()
        images.write_bytes(whole[: len(whole) // 2])
        self.client_refused(data, "train-images-idx3-ubyte")
        plain = gzip.decompress(whole)
        images.unlink()
        (data / "train-images-idx3-ubyte").write_bytes(plain[:-1])
        self.client_refused(data, "train-images-idx3-ubyte")


class RefusedInARun(FederationTest):
    """Synthetic clients that misbehave; the others finish the run."""

    MODES = {
        "wrong_schema": "schema", "wrong_round": "", "unknown_task": "task", "nan": "finite",
        "wrong_size": "", "flipped_bit": "", "oversize": "", "wrong_version": "version",
    }

    def test_misbehaviour_is_refused_with_the_reason_while_the_run_goes_on(self):
        coordinator, ready = self.coordinator(self.config(
            codec__uplink="fp32", evaluation__enabled=False, round__rounds=1000,
            round__min_clients=2, data__partitions=64, round__round_deadline_ms=1000, round__min_fraction=0.1,
            round__retry_after_ms_min=50, round__retry_after_ms_max=100))
        good = self.synthetic(ready["federation"], "good", "--clients", 2)
        coordinator.wait_for("round_committed", round=1)
        for mode, reason in self.MODES.items():
            bad = self.synthetic(ready["federation"], "bad-" + mode.replace("_", "-"), "--misbehave", mode)
            self.assertEqual(bad.wait(), 0, f"{mode}: {bad.tail()}")
            self.assertIn("refused", bad.output())
            self.assertIn(reason, bad.output())
        self.assertIsNone(good.popen.poll(), good.tail())
        coordinator.wait_for("round_committed")
        run("quantflctl", "stop", "--results-dir", self.folder / "run", check=0)
        self.assertEqual(coordinator.wait(), 0, coordinator.tail())
        summary = self.summary()
        self.assertEqual(summary["state"], "stopped")
        self.assertGreater(summary["rounds"][-1]["accepted"], 0)


if __name__ == "__main__":
    unittest.main()
