"""Whole federations of real processes on loopback."""
import gzip
import hashlib
import json
import struct
import unittest

from harness import CHECKPOINT, FASHION, FederationTest


def checkpoint_digest(folder):
    return hashlib.sha256((folder / "final.safetensors").read_bytes()).hexdigest()


@unittest.skipUnless(FASHION.exists(), "the package dataset-fashion-mnist is not installed")
class Federation(FederationTest):
    def federate(self, name, start_clients, **overrides):
        """A run to its end: the final checkpoint's digest."""
        overrides.setdefault("evaluation__enabled", False)
        coordinator, ready = self.coordinator(self.config(name, **overrides))
        clients = start_clients(ready["federation"])
        self.assertEqual(coordinator.wait(), 0, coordinator.tail())
        for client in clients:
            self.assertEqual(client.stop(), 0, client.tail())
        return checkpoint_digest(self.folder / name)

    def test_same_seed_same_bits_however_the_clients_are_spread(self):
        four = lambda address: self.clients(address, 4, "--runs", 1)
        one = lambda address: [self.client(address, "box", "--clients", 4, "--first_index", 0, "--runs", 1,
                                           "--train_slots", 2)]
        first = self.federate("first", four)
        second = self.federate("second", four)
        third = self.federate("third", one)
        self.assertEqual(first, second)
        self.assertEqual(first, third)
        self.assertNotEqual(first, self.federate("other_seed", four, seed=2))

    def test_daemons_stay_for_the_next_run_and_records_agree(self):
        coordinator, ready = self.coordinator(self.config("one"))
        address = ready["federation"]
        clients = self.clients(address) + [self.evaluator(address)]
        self.assertEqual(coordinator.wait(), 0, coordinator.tail())
        again, _ = self.coordinator(self.config("two", codec__uplink="fp32", server__listen=address))
        self.assertEqual(again.wait(), 0, again.tail())
        for client in clients:
            self.assertIsNone(client.popen.poll(), "a daemon left\n" + client.tail())
            self.assertEqual(client.stop(), 0, "SIGTERM is a clean end\n" + client.tail())

        bu, fp32 = self.summary("one"), self.summary("two")
        for summary in (bu, fp32):
            self.assertEqual(summary["state"], "finished")
            rounds = summary["rounds"]
            self.assertEqual([r["round"] for r in rounds if r["committed"] and r["round"] > 0], [1, 2])
            for record in rounds:
                for way in ("uplink", "downlink"):
                    levels = record["bytes"][way]
                    self.assertLessEqual(levels["payload_bytes"], levels["messages_bytes"])
                    self.assertLessEqual(levels["messages_bytes"], levels["stream_bytes"])
            self.assertGreater(rounds[-1]["accuracy"], 0.3)
        # 61,706 parameters: 4 bits and 10 ranges of 8 bytes against 32 bits.
        self.assertLess(bu["rounds"][-1]["bits_per_parameter"], 4.1)
        self.assertGreater(fp32["rounds"][-1]["bits_per_parameter"], 32)
        self.assertLess(fp32["rounds"][-1]["bits_per_parameter"], 32.1)
        # Devices that hold the pre-trained file downloaded none of it in the first round.
        first = [r for r in bu["rounds"] if r["round"] == 1][0]
        self.assertLess(first["bytes"]["downlink"]["payload_bytes"], 4 * 4096)
        for name in ("rounds.csv", "effective.toml", "coordinator.log", "final.safetensors"):
            self.assertTrue((self.folder / "one" / name).stat().st_size > 0, name)

    def test_contexts_give_the_same_model_in_fewer_bytes(self):
        four = lambda address: self.clients(address, 4, "--runs", 1)
        plain = self.federate("plain", four, codec__uplink="bu:16,pack=rans")
        own = self.federate("own", four, codec__uplink="bu:16,pack=rans,context=own")
        self.assertEqual(plain, own)
        bits = [self.summary(name)["rounds"][-1]["bits_per_parameter"] for name in ("plain", "own")]
        self.assertLess(bits[1], 0.9 * bits[0])

    def test_coefficients_are_summed_to_nearly_the_same_model(self):
        four = lambda address: self.clients(address, 4, "--runs", 1)
        spec = "int8,pack=rans,context=own,transform=dct"
        first = self.federate("dct", four, codec__uplink=spec)
        second = self.federate("dct_again", four, codec__uplink=spec)
        self.federate("fp32", four, codec__uplink="fp32")
        self.assertEqual(first, second)
        models = []
        for name in ("dct", "fp32"):
            data = (self.folder / name / "final.safetensors").read_bytes()
            (length,) = struct.unpack_from("<Q", data)
            models.append([v for (v,) in struct.iter_unpack("<f", data[8 + length:])])
        start = CHECKPOINT.read_bytes()
        (length,) = struct.unpack_from("<Q", start)
        before = [v for (v,) in struct.iter_unpack("<f", start[8 + length:])]
        moved = sum((a - b) ** 2 for a, b in zip(models[1], before))
        self.assertLess(sum((a - b) ** 2 for a, b in zip(*models)), 0.01 * moved)

    def own_images(self, subjects):
        """A folder with the first images of Fashion-MNIST as safetensors, of these subjects."""
        count = len(subjects)
        with gzip.open(FASHION / "train-images-idx3-ubyte.gz") as f:
            pixels = f.read(16 + 784 * count)[16:]
        with gzip.open(FASHION / "train-labels-idx1-ubyte.gz") as f:
            labels = f.read(8 + count)[8:]
        header, data = {}, b""
        for name, dtype, shape, raw in (("x", "U8", [count, 1, 28, 28], pixels), ("y", "U8", [count], labels),
                                        ("subject", "I16", [count], struct.pack(f"<{count}h", *subjects))):
            header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [len(data), len(data) + len(raw)]}
            data += raw
        text = json.dumps(header).encode()
        folder = self.folder / "own-images"
        folder.mkdir()
        (folder / "train.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + data)
        return folder

    def test_natural_clients_of_a_users_own_images(self):
        images = self.own_images([7] * 100 + [3] * 60 + [20] * 40)
        start = lambda address: [self.start(
            "quantfl-client", "--coordinator", address, "--device", "box", "--state_dir", self.folder / "state",
            "--data.dir", images, "--data.format", "safetensors", "--pretrained", CHECKPOINT, "--clients", 3,
            "--first_index", 0, "--runs", 1, "--retry_min_ms", 50)]
        self.federate("run", start, data__partition="natural", data__partitions=3, data__examples_max=0,
                      round__min_clients=3)
        summary = self.summary()
        self.assertEqual(summary["state"], "finished")
        self.assertEqual(summary["data"]["partition"], "natural")
        self.assertEqual(summary["rounds"][-1]["accepted"], 3)

    def test_shards_are_dealt_alike_to_every_process(self):
        shards = {"data__partition": "shards", "data__shards_per_client": 2}
        spread = self.federate("spread", lambda address: self.clients(address, 4, "--runs", 1), **shards)
        one = self.federate("one", lambda address: [self.client(
            address, "box", "--clients", 4, "--first_index", 0, "--runs", 1)], **shards)
        self.assertEqual(spread, one)
        self.assertEqual(self.summary("one")["data"]["shards_per_client"], 2)

    def test_every_codec_travels_at_about_its_width(self):
        # Bits a parameter, from and to; entropy-coded ones depend on the data.
        widths = {"fp16": (16, 16.1), "int8": (8, 8.1), "bq:8": (3, 3.2), "bu:16,repr=mean": (4, 4.2),
                  "bu:16,scope=block:64": (4, 4.8), "bu:16,pack=rans": (0.3, 2.5),
                  "bu:4,round=stochastic,pack=rans": (0.1, 2.0)}
        for i, (codec, (least, most)) in enumerate(widths.items()):
            with self.subTest(codec=codec):
                four = lambda address: [self.client(address, f"box-{i}", "--clients", 4, "--first_index", 0,
                                                    "--runs", 1)]
                self.federate(f"codec-{i}", four, codec__uplink=codec, round__rounds=1)
                last = self.summary(f"codec-{i}")["rounds"][-1]
                self.assertEqual(last["accepted"], 4)
                self.assertGreaterEqual(last["bits_per_parameter"], least)
                self.assertLessEqual(last["bits_per_parameter"], most)

    def test_a_budget_that_no_update_fits_ends_the_coordinator_with_the_least(self):
        config = self.config(codec__uplink="uniform,max_bytes=90,pack=rans")
        coordinator = self.start("quantfl-coordinator", "--config", config)
        self.assertEqual(coordinator.wait(), 65, coordinator.tail())  # with this model
        self.assertIn("max_bytes = 90 is too small: the smallest that fits is ", coordinator.output())

    def test_uniform_codes_a_parameter_in_a_fraction_of_a_bit(self):
        # Two of them at rates where nearly every code is zero, and still the model learns.
        rates = {"uniform:15,step=12rms,round=stochastic,pack=rans": (0.1, 0.35),
                 "uniform:15,repr=gain,step=5rms,zero=0.6,pack=rans": (0.1, 0.35),
                 "uniform:15,step=2rms": (4, 4.1),
                 # 61,706 parameters: 98 to 100 % of 2,400 bytes.
                 "uniform,max_bytes=2400,round=stochastic,pack=rans": (0.3049, 0.3112)}
        for i, (codec, (least, most)) in enumerate(rates.items()):
            with self.subTest(codec=codec):
                clients = lambda address: [self.client(address, f"box-{i}", "--clients", 4, "--first_index", 0,
                                                       "--runs", 1), self.evaluator(address)]
                self.federate(f"rate-{i}", clients, codec__uplink=codec, evaluation__enabled=True)
                rounds = self.summary(f"rate-{i}")["rounds"]
                self.assertEqual(rounds[-1]["accepted"], 4)
                self.assertGreaterEqual(rounds[-1]["bits_per_parameter"], least)
                self.assertLessEqual(rounds[-1]["bits_per_parameter"], most)
                self.assertGreater(rounds[-1]["accuracy"], 0.3)

    def test_client_away_when_the_run_starts_comes_back_by_itself(self):
        coordinator, ready = self.coordinator(self.config(evaluation__enabled=False))
        clients = self.clients(ready["federation"], 4)
        coordinator.wait_for("round_committed", round=1)
        clients[3].kill()
        self.client(ready["federation"], "client-3", "--first_index", 3)
        self.assertEqual(coordinator.wait(), 0, coordinator.tail())
        self.assertEqual(self.summary()["rounds"][-1]["accepted"], 4)

    def test_hundred_logical_clients_in_one_process_finish_a_round(self):
        config = self.config(data__partitions=100, data__examples_max=3000, round__min_clients=100,
                             round__rounds=1, evaluation__enabled=False)
        coordinator, ready = self.coordinator(config)
        self.client(ready["federation"], "box", "--clients", 100, "--first_index", 0, "--train_slots", 2,
                    "--runs", 1)
        self.assertEqual(coordinator.wait(), 0, coordinator.tail())
        self.assertEqual(self.summary()["rounds"][-1]["accepted"], 100)

    def test_thirty_processes_finish_a_round(self):
        config = self.config(data__partitions=30, data__examples_max=3000, round__min_clients=30,
                             round__rounds=1, evaluation__enabled=False)
        coordinator, ready = self.coordinator(config)
        self.clients(ready["federation"], 30)
        self.assertEqual(coordinator.wait(), 0, coordinator.tail())
        self.assertEqual(self.summary()["rounds"][-1]["accepted"], 30)


if __name__ == "__main__":
    unittest.main()
