"""Coordinator and client are killed at every step by which they make anything durable, and go on.

tests/support/durable_steps.c counts the steps of the real programs. An undisturbed run says how many there are; then
there is a run for each of them in which coordinator and client die in its place, and are started again. The model is
the undisturbed run's, and nothing that was acknowledged is taken in twice.
"""
import concurrent.futures
import hashlib
import re
import signal
import unittest

from harness import FederationTest, SANITIZED, STEPS, free_port

TOGETHER = 6  # runs; they wait most of the time
CLIENTS = 2
# Optimiser and downlink of many files, so that there is as much to lose as there can be.
RUN = {"evaluation__enabled": False, "round__rounds": 2, "round__min_clients": CLIENTS, "data__partitions": CLIENTS,
       "downlink__codec": "bu:4", "server_optimiser__kind": "fedavgm", "round__linger_ms": 300,
       "round__farewell_ms": 500, "round__idle_timeout_ms": 60_000, "web__enabled": False}


@unittest.skipIf(SANITIZED, "a sanitized build has no tests/durable_steps.so")
class DurableSteps(FederationTest):
    def env(self, **how):
        return {"LD_PRELOAD": str(STEPS), **{f"QUANTFL_STEPS_{key}": str(value) for key, value in how.items()}}

    def join(self, name, index, address, env=None):
        return self.synthetic(address, f"{name}-{index}", "--first-index", index, "--runs", 0, "--retry-min", 0.05,
                              "--retry-max", 0.3, env=env)

    def begin(self, name, env=None, client_env=None):
        address = f"127.0.0.1:{free_port()}"
        config = self.config(name, server__listen=address, **RUN)
        coordinator = self.start("quantfl-coordinator", "--config", config, env=env)
        clients = [self.join(name, i, address, client_env if i == 0 else None) for i in range(CLIENTS)]
        return config, address, coordinator, clients

    def digest(self, name):
        return hashlib.sha256((self.folder / name / "final.safetensors").read_bytes()).hexdigest()

    def undisturbed(self):
        """The model's digest, and the steps of coordinator and client."""
        logs = [self.folder / "coordinator.steps", self.folder / "client.steps"]
        _, _, coordinator, clients = self.begin("calm", self.env(LOG=logs[0]), self.env(LOG=logs[1]))
        self.assertEqual(coordinator.wait(), 0, coordinator.tail())
        clients[0].wait_for("run_over")
        for client in clients:
            client.stop()
        return self.digest("calm"), *([line.split(" ", 1)[1] for line in log.read_text().splitlines()] for log in logs)

    def one(self, step):
        name = f"step-{step}"
        config, address, coordinator, clients = self.begin(name, self.env(KILL=step), self.env(KILL=step))
        lives, processes = [coordinator], list(clients)

        # Each is started again when it has died, once: by whoever waits for it.
        def client_again():
            if clients[0].popen.wait() == -signal.SIGKILL:
                processes.append(self.join(name, 0, address))
                return 1
            return 0

        with concurrent.futures.ThreadPoolExecutor(1) as beside:
            again = beside.submit(client_again)
            status = coordinator.wait()
            killed = int(status == -signal.SIGKILL)
            if killed:
                lives.append(self.start("quantfl-coordinator", "--once", "--config", config))
                status = lives[-1].wait()
            self.assertEqual(status, 0, f"{name}\n{lives[-1].tail()}")
            clients[0].stop()
            client_killed = again.result()
        for client in processes:
            client.stop()
        accepted = [(e.fields["client"], e.fields["round"]) for life in lives for e in life.events("update_accepted")]
        self.assertEqual(len(accepted), len(set(accepted)), f"{name}: what was acknowledged was taken in again")
        return self.digest(name), killed, client_killed

    def test_killed_at_every_step_same_model_as_undisturbed(self):
        expected, coordinators, clients = self.undisturbed()
        steps = max(len(coordinators), len(clients))
        with concurrent.futures.ThreadPoolExecutor(TOGETHER) as pool:
            runs = dict(zip(range(1, steps + 1), pool.map(self.one, range(1, steps + 1))))
        for step, (digest, _, _) in runs.items():
            self.assertEqual(digest, expected, f"step {step}: {coordinators[step - 1:step]}, {clients[step - 1:step]}")
        # How many of a run's steps there are may differ by a few: notes are kept together as they come.
        for who, found, deaths in (("coordinator", coordinators, sum(run[1] for run in runs.values())),
                                   ("client", clients, sum(run[2] for run in runs.values()))):
            kinds = {re.sub(r"[.]tmp-.*|[0-9]+", "", step) for step in found}
            print(f"{who}: {len(found)} steps of {len(kinds)} kinds, killed at {deaths}")
            self.assertGreater(deaths, 0.8 * len(found))

    def test_disk_that_fails_a_sync_ends_the_coordinator_and_a_restart_goes_on(self):
        expected, coordinators, _ = self.undisturbed()
        rows = sum(step.endswith(" run.db-wal") for step in coordinators)
        for row in (rows // 3, 2 * rows // 3):
            name = f"fails-{row}"
            config, _, coordinator, clients = self.begin(name, self.env(FAIL=f"run.db-wal:{row}"))
            self.assertEqual(coordinator.wait(), 1, coordinator.tail())
            self.assertIn("run.db", coordinator.tail())
            self.assertIn("started again, it goes on where it was", coordinator.tail())
            self.assertFalse((self.folder / name / "summary.json").exists())
            again = self.start("quantfl-coordinator", "--config", config)
            self.assertEqual(again.wait(), 0, again.tail())
            self.assertEqual(self.digest(name), expected)
            for client in clients:
                client.stop()

    def test_disk_that_fails_a_sync_of_an_upload_asks_for_it_again_and_the_run_goes_on(self):
        expected, _, _ = self.undisturbed()
        _, _, coordinator, clients = self.begin("again", self.env(FAIL="round-000002.segment:1"))
        self.assertEqual(coordinator.wait(), 0, coordinator.tail())
        errors = coordinator.events("storage_error")
        self.assertEqual(len(errors), 1, coordinator.tail())
        self.assertIn("round-000002.segment", errors[0].fields["reason"])
        accepted = [(e.fields["client"], e.fields["round"]) for e in coordinator.events("update_accepted")]
        self.assertEqual(sorted(accepted), sorted((f"again-{i}/0", str(r)) for i in range(CLIENTS) for r in (1, 2)))
        self.assertEqual(self.digest("again"), expected)
        for client in clients:
            client.stop()


if __name__ == "__main__":
    unittest.main()
