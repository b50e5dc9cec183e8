"""The coordinator is killed in the middle of a run, and goes on as if it had not been."""
import hashlib
import unittest

from harness import FASHION, FederationTest, free_port, run

CANNOT_CREATE = 73


class Durability(FederationTest):
    def settings(self, **overrides):
        """A fixed port, so that clients find the coordinator again."""
        return {"server__listen": f"127.0.0.1:{free_port()}", "evaluation__enabled": False,
                "round__idle_timeout_ms": 60000, **overrides}

    def digest(self, name):
        return hashlib.sha256((self.folder / name / "final.safetensors").read_bytes()).hexdigest()

    def killed(self, name, start_clients, moments, **overrides):
        """A run whose coordinator is killed at each of the moments (event, fields): (digest, coordinators)."""
        config = self.config(name, **self.settings(**overrides))
        coordinator, ready = self.coordinator(config)
        clients = start_clients(ready["federation"])
        lives = [coordinator]
        for event, fields in moments:
            lives[-1].wait_for(event, **fields)
            lives[-1].kill()
            lives.append(self.start("quantfl-coordinator", "--config", config))
            found = lives[-1].wait_for("run_recovered")
            self.assertEqual(found.fields["members"], "4")
        self.assertEqual(lives[-1].wait(), 0, lives[-1].tail())
        for client in clients:
            client.stop()
        return self.digest(name), lives

    def synthetic_clients(self, name):
        return lambda address: [self.synthetic(address, f"{name}-{i}", "--first-index", i) for i in range(4)]

    def real_clients(self, name):
        return lambda address: [self.client(address, f"{name}-{i}", "--first_index", i, "--runs", 1) for i in range(4)]

    MOMENTS = [("round_started", {"round": 1}), ("update_accepted", {"round": 1}),
               ("round_committed", {"round": 1}), ("update_accepted", {"round": 2}),
               ("update_accepted", {"round": 3})]

    def test_synthetic_clients_same_model_and_records_as_undisturbed(self):
        # A fourth round, so that no kill comes when everything is over.
        expected, _ = self.killed("calm", self.synthetic_clients("calm"), [], round__rounds=4)
        found, lives = self.killed("killed", self.synthetic_clients("killed"), self.MOMENTS, round__rounds=4)
        self.assertEqual(found, expected)
        calm, killed = self.summary("calm"), self.summary("killed")
        self.assertEqual([(r["round"], r["attempt"], r["accepted"], r["model_sha256"]) for r in calm["rounds"]],
                         [(r["round"], r["attempt"], r["accepted"], r["model_sha256"]) for r in killed["rounds"]])
        self.assertEqual([r["accepted_payload"] for r in calm["rounds"]],
                         [r["accepted_payload"] for r in killed["rounds"]])
        # What was acknowledged is never taken in again.
        accepted = [(e.fields["client"], e.fields["round"]) for life in lives for e in life.events("update_accepted")]
        self.assertEqual(len(accepted), len(set(accepted)))

    def test_server_optimiser_goes_on_with_its_moments(self):
        yogi = {"server_optimiser__kind": "fedyogi", "round__rounds": 4}
        expected, _ = self.killed("calm", self.synthetic_clients("calm"), [], **yogi)
        found, _ = self.killed("killed", self.synthetic_clients("killed"), self.MOMENTS, **yogi)
        self.assertEqual(found, expected)
        self.assertEqual(self.summary("killed")["server_optimiser"]["kind"], "fedyogi")
        plain, _ = self.killed("plain", self.synthetic_clients("plain"), [], round__rounds=4)
        self.assertNotEqual(plain, expected)

    def test_quantised_downlink_goes_on_with_what_clients_hold(self):
        quantised = {"downlink__codec": "bu:4", "server_optimiser__kind": "fedavgm", "round__rounds": 4}
        expected, _ = self.killed("calm", self.synthetic_clients("calm"), [], **quantised)
        found, lives = self.killed("killed", self.synthetic_clients("killed"), self.MOMENTS, **quantised)
        self.assertEqual(found, expected)
        calm, killed = self.summary("calm"), self.summary("killed")
        self.assertEqual([(r["broadcast_sha256"], r["broadcast_payload"]) for r in calm["rounds"]],
                         [(r["broadcast_sha256"], r["broadcast_payload"]) for r in killed["rounds"]])
        self.assertEqual([e for life in lives for e in life.events("model_repaired")], [])

    @unittest.skipUnless(FASHION.exists(), "the package dataset-fashion-mnist is not installed")
    def test_real_clients_same_model_as_undisturbed(self):
        expected, _ = self.killed("calm", self.real_clients("calm"), [])
        moments = [("round_started", {"round": 1}), ("update_accepted", {"round": 1}),
                   ("round_committed", {"round": 1})]
        found, _ = self.killed("killed", self.real_clients("killed"), moments)
        self.assertEqual(found, expected)

    def test_another_configuration_is_refused_and_fresh_begins_anew(self):
        overrides = self.settings()
        coordinator, _ = self.coordinator(self.config(**overrides))
        coordinator.kill()
        code, output = run("quantfl-coordinator", "--config", self.config(training__learning_rate=0.5, **overrides))
        self.assertEqual(code, CANNOT_CREATE, output)
        self.assertIn("training.learning_rate is 0.5", output)
        self.assertIn("--fresh", output)
        again = self.start("quantfl-coordinator", "--fresh", "--config",
                           self.config(training__learning_rate=0.5, **overrides))
        again.wait_for("ready")
        self.assertEqual(again.events("run_recovered"), [])

    def test_second_coordinator_on_the_same_state_is_refused(self):
        self.coordinator(self.config(**self.settings()))
        code, output = run("quantfl-coordinator", "--config", self.config(**self.settings()))
        self.assertNotEqual(code, 0)
        self.assertIn("state", output)


if __name__ == "__main__":
    unittest.main()
