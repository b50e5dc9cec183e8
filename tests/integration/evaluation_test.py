"""Clients evaluate the model on their own data, beside an evaluator or alone; runs that end early."""
import csv
import unittest

from harness import FASHION, FederationTest


@unittest.skipUnless(FASHION.exists(), "the package dataset-fashion-mnist is not installed")
class ClientEvaluation(FederationTest):
    def test_beside_the_evaluator_on_what_nobody_trains_on(self):
        coordinator, ready = self.coordinator(self.config(evaluation__clients_every=1, server_optimiser__kind="fedavgm",
                                                          server_optimiser__momentum=0.5))
        self.evaluator(ready["federation"])
        # The last one holds nothing out: it says so, and the others' results count.
        self.clients(ready["federation"], 3, "--data.holdout", 0.2)
        self.client(ready["federation"], "client-3", "--first_index", 3)
        self.assertEqual(coordinator.wait(), 0, coordinator.tail())
        summary = self.summary()
        self.assertEqual([r["round"] for r in summary["rounds"]], [0, 1, 2])
        for record in summary["rounds"]:
            clients = record["client_evaluation"]
            self.assertEqual((clients["asked"], clients["answered"], clients["examples"]), (4, 3, 300))
            # 300 and 10,000 images of the same kind.
            self.assertAlmostEqual(clients["accuracy"], record["accuracy"], delta=0.12)
        self.assertEqual(summary["rounds"][1]["examples"], 3 * 400 + 500)
        self.assertEqual(summary["final"]["client_accuracy"], summary["rounds"][2]["client_evaluation"]["accuracy"])
        with open(self.folder / "run" / "rounds.csv", newline="") as f:
            rows = list(csv.DictReader(f))
        self.assertEqual([r["clients_answered"] for r in rows], ["3", "3", "3"])
        self.assertAlmostEqual(float(rows[2]["client_accuracy"]), summary["final"]["client_accuracy"], places=6)
        told = coordinator.events("clients_evaluated")
        self.assertEqual({e.fields["missing"] for e in told}, {"client-3/0"})
        self.assertIn("data.holdout", coordinator.events("task_failed")[0].fields["reason"])

    def test_alone_it_ends_the_run_at_the_target(self):
        coordinator, ready = self.coordinator(self.config(
            evaluation__enabled=False, evaluation__clients_every=1, early_stop__target_accuracy=0.4, round__rounds=30,
            training__learning_rate=0.01))
        self.client(ready["federation"], "box", "--clients", 4, "--first_index", 0, "--data.holdout", 0.2)
        self.assertEqual(coordinator.wait(), 0, coordinator.tail())
        summary = self.summary()
        self.assertEqual(summary["state"], "finished")
        self.assertIn("target accuracy reached after round", summary["reason"])
        self.assertIn("on clients' data", summary["reason"])
        self.assertLess(summary["rounds_committed"], 30)
        accuracies = [r["client_evaluation"]["accuracy"] for r in summary["rounds"]]
        self.assertGreaterEqual(accuracies[-1], 0.4)
        self.assertTrue(all(a < 0.4 for a in accuracies[:-1]), accuracies)
        self.assertIn("target accuracy", coordinator.output())


class MissingClients(FederationTest):
    def test_an_evaluation_does_not_wait_for_ever(self):
        coordinator, ready = self.coordinator(self.config(
            evaluation__enabled=False, evaluation__clients_every=1, round__idle_timeout_ms=1500,
            round__min_fraction=0.5, round__rounds=1, early_stop__patience=100))
        clients = [self.synthetic(ready["federation"], f"synthetic-{i}", "--first-index", i) for i in range(4)]
        coordinator.wait_for("clients_evaluated", round=0, answered=4)
        clients[2].kill()
        self.assertEqual(coordinator.wait(), 0, coordinator.tail())
        last = self.summary()["rounds"][-1]
        clients = last["client_evaluation"]
        self.assertEqual((last["round"], clients["asked"], clients["answered"]), (1, 4, 3))
        self.assertEqual(coordinator.events("clients_evaluated")[-1].fields["missing"], "synthetic-2/0")
        # Synthetic client k has 100 + k examples and finds what the model's digest says, divided by k + 1.
        says = int.from_bytes(bytes.fromhex(last["model_sha256"])[:4], "little") / 2**32
        expected = sum((100 + k) * says / (k + 1) for k in (0, 1, 3)) / 304
        self.assertAlmostEqual(clients["accuracy"], expected, places=12)
        self.assertEqual(clients["examples"], 304)


if __name__ == "__main__":
    unittest.main()
