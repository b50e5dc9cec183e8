"""A quantised downlink and budgets, with real processes: what clients hold is what the coordinator says, after
every round, whoever was away or damaged."""
import datetime
import signal
import unittest

from harness import CHECKPOINT, FASHION, FederationTest, run


class Downlink(FederationTest):
    CLIENTS = 4

    def settings(self, **overrides):
        return self.config(**{"evaluation__enabled": False, "downlink__codec": "bu:16",
                              "round__idle_timeout_ms": 60000, **overrides})

    def copies(self, client):
        """Digests of the models that a client trained on, in their order."""
        return [e.fields["sha256"] for e in client.events("model_ready")]

    def broadcasts(self, name="run"):
        """What clients were to hold in each round, as the coordinator recorded it."""
        summary = self.summary(name)
        return [summary["run"]["initial_model_sha256"]] + [r["broadcast_sha256"] for r in summary["rounds"]]

    def test_copies_are_the_coordinators_after_every_round(self):
        config = self.settings(round__rounds=5)
        coordinator, ready = self.coordinator(config)
        clients = [self.synthetic(ready["federation"], f"c{i}", "--first-index", i, "--pretrained", CHECKPOINT)
                   for i in range(self.CLIENTS)]
        self.assertEqual(coordinator.wait(), 0, coordinator.tail())
        for client in clients:
            self.assertEqual(client.wait(), 0, client.tail())
            self.assertEqual(self.copies(client), self.broadcasts()[:-1])
        summary = self.summary()
        rounds = summary["rounds"]
        self.assertEqual([r["model_repairs"] for r in rounds], [0] * 5)
        # Quantised: what clients hold is not the committed model.
        self.assertTrue(all(r["broadcast_sha256"] != r["model_sha256"] for r in rounds))
        # Who holds the pre-trained file downloads the schema, and nothing of the model.
        model_bytes = CHECKPOINT.stat().st_size
        self.assertLess(rounds[0]["bytes"]["downlink"]["payload_bytes"], self.CLIENTS * 0.01 * model_bytes)
        # Later rounds: four bits a parameter, itemised; both ends agree with what was carried.
        for before, r in zip(rounds, rounds[1:]):
            itemised = sum(before["broadcast_payload"].values())
            self.assertEqual(r["bytes"]["downlink"]["payload_bytes"], self.CLIENTS * itemised)
            self.assertGreater(before["broadcast_payload"]["codes_bytes"], 0.95 * itemised)
            self.assertAlmostEqual(before["downlink_bits_per_parameter"], 8 * itemised / r["parameters"])
            self.assertLess(before["downlink_bits_per_parameter"], 4.2)
            self.assertLess(before["downlink_nmse"], 1)

    def test_half_and_full_precision_copies_are_the_coordinators_too(self):
        for codec, bits in (("fp16", 16), ("fp32", 32)):
            with self.subTest(codec):
                coordinator, ready = self.coordinator(self.settings(name=codec, round__rounds=3, downlink__codec=codec))
                clients = [self.synthetic(ready["federation"], f"{codec}-{i}", "--first-index", i, "--pretrained", CHECKPOINT)
                           for i in range(self.CLIENTS)]
                self.assertEqual(coordinator.wait(), 0, coordinator.tail())
                for client in clients:
                    self.assertEqual(client.wait(), 0, client.tail())
                    self.assertEqual(self.copies(client), self.broadcasts(codec)[:-1])
                rounds = self.summary(codec)["rounds"]
                self.assertEqual([r["model_repairs"] for r in rounds], [0] * 3)
                self.assertEqual([r["broadcast_sha256"] == r["model_sha256"] for r in rounds], [codec == "fp32"] * 3)
                for r in rounds:
                    self.assertAlmostEqual(r["downlink_bits_per_parameter"], bits, delta=0.2)

    @unittest.skipUnless(FASHION.exists(), "the package dataset-fashion-mnist is not installed")
    def test_real_training_learns_from_what_clients_hold(self):
        config = self.settings(evaluation__enabled=True, evaluation__clients_every=1, round__rounds=3,
                               downlink__codec="bu:16,pack=rans")
        coordinator, ready = self.coordinator(config)
        clients = self.clients(ready["federation"], self.CLIENTS, "--runs", 1, "--data.holdout", 0.1)
        evaluator = self.evaluator(ready["federation"], "--runs", 1)
        self.assertEqual(coordinator.wait(), 0, coordinator.tail())
        for client in clients:
            self.assertEqual(client.wait(), 0, client.tail())
            # A copy is made once a round, for its evaluation; training goes on with it.
            self.assertEqual(list(dict.fromkeys(self.copies(client))), list(dict.fromkeys(self.broadcasts())))
        self.assertEqual(evaluator.wait(), 0, evaluator.tail())
        rounds = self.summary()["rounds"]
        self.assertEqual(list(dict.fromkeys(self.copies(evaluator))),
                         [self.summary()["run"]["initial_model_sha256"]] + [r["model_sha256"] for r in rounds[1:]])
        self.assertGreater(rounds[-1]["accuracy"], rounds[0]["accuracy"] + 0.2)
        self.assertGreater(rounds[-1]["client_evaluation"]["accuracy"], rounds[0]["accuracy"] + 0.2)

    def away(self, damage=None, **overrides):
        """One of four clients is killed, misses rounds and comes back: (its log since, the summary)."""
        settings = {"downlink__codec": "bu:4", "downlink__steps_kept": 64, **overrides}
        config = self.settings(round__rounds=100, round__goal=3, round__linger_ms=60000, **settings)
        coordinator, ready = self.coordinator(config)
        start = lambda i: self.synthetic(ready["federation"], f"c{i}", "--first-index", i)
        clients = [start(i) for i in range(self.CLIENTS)]
        clients[3].wait_for("uploaded")
        clients[3].kill()
        killed = datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"
        held = self.copies(clients[3])[-1]
        # Of rounds that ended since, not of those that only now are read: it misses their steps.
        missed = 0
        while missed < 3:
            missed += coordinator.wait_for("round_committed").fields["time"] > killed
        # Without two of them no round ends, until the one that was away delivers.
        clients[0].popen.send_signal(signal.SIGSTOP)
        if damage:
            damage(self.folder / "state-c3" / "artifacts" / held)
        back = start(3)
        back.wait_for("uploaded")
        clients[0].popen.send_signal(signal.SIGCONT)
        self.assertEqual(coordinator.wait(), 0, coordinator.tail())
        self.assertEqual(back.wait(), 0, back.tail())
        self.assertEqual(set(self.copies(back)) - set(self.broadcasts()), set())
        return back, coordinator

    def test_who_missed_rounds_catches_up_by_their_steps(self):
        back, _ = self.away()
        first = back.events("model_ready")[0].fields
        self.assertGreaterEqual(int(first["steps"]), 2)
        self.assertEqual(back.events("model_repaired"), [])

    def test_who_was_away_for_longer_gets_the_whole_model(self):
        back, _ = self.away(downlink__steps_kept=1)
        first = back.events("model_ready")[0].fields
        self.assertEqual(first["steps"], "0")
        self.assertGreater(int(first["bytes"]), 0.9 * CHECKPOINT.stat().st_size)
        self.assertEqual(back.events("model_repaired"), [])

    def test_damaged_copy_is_repaired_and_reported(self):
        def flip(path):
            content = bytearray(path.read_bytes())
            content[len(content) // 2] ^= 1
            path.write_bytes(content)
        back, coordinator = self.away(damage=flip)
        self.assertEqual(len(back.events("model_repaired")), 1)
        self.assertEqual(back.events("model_ready")[0].fields["steps"], "0")
        told = coordinator.events("model_repaired")[0]
        self.assertEqual(told.fields["client"], "c3/0")
        self.assertIn("damaged", told.fields["reason"])
        self.assertEqual(sum(r["model_repairs"] for r in self.summary()["rounds"]), 1)

    def test_divergent_codec_is_refused_with_the_reason(self):
        code, output = run("quantfl-coordinator", "--config", self.settings(downlink__codec="bu:16,round=stochastic"))
        self.assertNotEqual(code, 0)
        self.assertIn("stochastic rounding", output)
        self.assertIn("downlink.allow_divergent", output)


class Budget(FederationTest):
    CLIENTS = 3

    def spend(self, **overrides):
        config = self.config(**{"evaluation__enabled": False, "round__rounds": 200, "round__min_clients": self.CLIENTS,
                                "codec__uplink": "bu:16", **overrides})
        coordinator, ready = self.coordinator(config)
        clients = [self.synthetic(ready["federation"], f"c{i}", "--first-index", i) for i in range(self.CLIENTS)]
        self.assertEqual(coordinator.wait(), 0, coordinator.tail())
        for client in clients:
            self.assertEqual(client.wait(), 0, client.tail())
        return coordinator, self.summary()

    def test_run_ends_before_it_would_pass_the_total(self):
        total = 6_000_000
        coordinator, summary = self.spend(budget__total_bytes=total)
        budget = summary["budget"]
        self.assertEqual((budget["level"], budget["total_bytes"], budget["reached"]), ("stream", total, True))
        carried = sum(summary["trainer_bytes"][way]["stream_bytes"] for way in ("uplink", "downlink"))
        self.assertLessEqual(carried, total)
        self.assertGreater(carried, 0.7 * total)
        self.assertEqual(summary["state"], "finished")
        self.assertIn("budget.total_bytes", summary["reason"])
        self.assertIn(f"it bought {summary['rounds_committed']} rounds", summary["reason"])
        self.assertIn("it bought", coordinator.output())
        self.assertEqual(len(coordinator.events("budget_reached")), 1)
        _, table = run("quantflctl", "compare", self.folder / "run", check=0)
        self.assertIn("budget", table)

    def test_no_client_passes_its_own(self):
        each = 2_000_000
        _, summary = self.spend(budget__bytes_per_client=each, downlink__codec="bu:16")
        for client in summary["clients"]:
            carried = sum(client["bytes"][way]["stream_bytes"] for way in ("uplink", "downlink"))
            self.assertLessEqual(carried, each)
            self.assertGreater(carried, 0.7 * each)

    def test_round_that_cannot_be_paid_for_is_not_begun(self):
        coordinator, summary = self.spend(budget__uplink_bytes_per_round=50_000)
        self.assertEqual(summary["rounds"], [])
        self.assertIn("max_bytes", summary["reason"])


if __name__ == "__main__":
    unittest.main()
