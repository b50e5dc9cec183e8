"""Bad links, killed clients and a coordinator that keeps dying: the model is the undisturbed run's."""
import hashlib
import pathlib
import sys
import unittest

from harness import BIN, CHECKPOINT, FederationTest, TwoMachines, free_port, run

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "support"))
from fault_proxy import FaultProxy  # noqa: E402

CLIENTS = 10
UPDATE_BYTES = 247_000  # lenet5 in fp32: an upload at RATE takes more than a second
RATE = 200_000


class Links(FederationTest):
    CONNECTIONS_BREAK = True

    def setUp(self):
        super().setUp()
        self.proxies = []

    def tearDown(self):
        for proxy in self.proxies:
            proxy.close()
        super().tearDown()

    def run_of(self, name, rounds, clients=CLIENTS, **overrides):
        return self.coordinator(self.config(
            name, server__listen=f"127.0.0.1:{free_port()}", evaluation__enabled=False, codec__uplink="fp32",
            round__rounds=rounds, round__min_clients=clients, data__partitions=clients,
            round__idle_timeout_ms=120_000, round__linger_ms=200, **overrides))

    def proxy(self, address, **how):
        self.proxies.append(FaultProxy(address, **how))
        return self.proxies[-1]

    def join(self, name, index, address, progress_timeout_s=5):
        return self.synthetic(address, f"{name}-{index}", "--first-index", index, "--progress-timeout",
                              progress_timeout_s)

    def end(self, name, coordinator, clients):
        self.assertEqual(coordinator.wait(), 0, coordinator.tail())
        for client in clients:
            client.stop()
        return hashlib.sha256((self.folder / name / "final.safetensors").read_bytes()).hexdigest()

    def undisturbed(self, rounds, clients=CLIENTS, **overrides):
        coordinator, ready = self.run_of("calm", rounds, clients, **overrides)
        joined = [self.join("calm", i, ready["federation"]) for i in range(clients)]
        return self.end("calm", coordinator, joined)

    def accepted_once(self, lives):
        accepted = [(e.fields["client"], e.fields["round"]) for life in lives for e in life.events("update_accepted")]
        self.assertEqual(len(accepted), len(set(accepted)), "what was acknowledged was taken in again")

    def test_a_third_of_the_clients_killed_during_upload(self):
        # An update of several messages: what has come of it is whole messages.
        start = self.folder / "start.safetensors"
        run("quantfl-model", "init", "--architecture", "resnet20", "--classes", 10, "--out", start, check=0)
        model = {"model__architecture": "resnet20", "model__file": start}
        update_bytes, message_bytes = start.stat().st_size, 256 << 10
        expected = self.undisturbed(rounds=2, **model)
        coordinator, ready = self.run_of("killed", 2, **model)
        proxies = [self.proxy(ready["federation"], latency_s=0.002, rate=5 * RATE) for _ in range(CLIENTS)]
        # Nothing but the kills cuts an upload, however busy this machine is.
        patient = 60
        clients = [self.join("killed", i, proxies[i].address, patient) for i in range(CLIENTS)]
        for i in range(3):
            proxies[i].wait_for_upload(update_bytes // 2)
            clients[i].kill()
            self.assertLess(proxies[i].up, update_bytes, "it had uploaded everything already")
        for i in range(3):
            clients[i] = self.join("killed", i, proxies[i].address, patient)
        self.assertEqual(self.end("killed", coordinator, clients), expected)
        self.accepted_once([coordinator])
        # What had come is not sent again, but for a message that was cut in two.
        sent = sum(proxy.up for proxy in proxies)
        self.assertLess(sent, 2 * CLIENTS * update_bytes * 1.01 + 3 * message_bytes)

    def test_resets_partitions_and_a_half_open_connection(self):
        expected = self.undisturbed(rounds=3)
        coordinator, ready = self.run_of("bad", 3)
        proxies = [self.proxy(ready["federation"], latency_s=0.01, rate=RATE) for _ in range(CLIENTS)]
        clients = [self.join("bad", i, proxies[i].address) for i in range(CLIENTS)]
        for i in (0, 1):
            proxies[i].wait_for_upload(UPDATE_BYTES // 3)
            proxies[i].reset()
        proxies[2].wait_for_upload(UPDATE_BYTES // 3)
        proxies[2].partition()
        coordinator.wait_for("update_accepted", client="bad-5/0")
        proxies[2].heal()
        coordinator.wait_for("round_committed", round=1)
        proxies[3].wait_for_upload(proxies[3].up + UPDATE_BYTES // 3)
        proxies[3].half_open()
        # Every connection at once, in the middle of a round.
        coordinator.wait_for("round_committed", round=2)
        proxies[4].wait_for_upload(proxies[4].up + UPDATE_BYTES // 3)
        for proxy in proxies:
            proxy.reset()
        self.assertEqual(self.end("bad", coordinator, clients), expected)
        self.accepted_once([coordinator])

    def test_coordinator_killed_twenty_times(self):
        rounds, kills = 60, 20
        expected = self.undisturbed(rounds, clients=4)
        coordinator, ready = self.run_of("mortal", rounds, 4)
        config = self.folder / "mortal.toml"
        # Slow enough that a kill comes in the middle of a round or two.
        proxies = [self.proxy(ready["federation"], latency_s=0.002, rate=10 * RATE) for _ in range(4)]
        clients = [self.join("mortal", i, proxies[i].address) for i in range(4)]
        lives = [coordinator]
        for kill in range(kills):
            lives[-1].wait_for("round_committed" if kill % 4 == 3 else "update_accepted")
            lives[-1].kill()
            lives.append(self.start("quantfl-coordinator", "--config", config))
            lives[-1].wait_for("run_recovered")
        self.assertEqual(self.end("mortal", lives[-1], clients), expected)
        self.accepted_once(lives)


class SlowLink(TwoMachines):
    def test_256_kbit_an_upload_that_moves_outlasts_the_deadline(self):
        """Two updates of 247 kB share 32 kB a second: more than twice idle_timeout, and longer than the deadline."""
        def federation(name, **overrides):
            coordinator = self.inside(self.server_ns, BIN / "quantfl-coordinator", "--config", self.config(
                name, server__listen=f"{self.COORDINATOR}:7447", server__allow_insecure=True, evaluation__enabled=False,
                codec__uplink="fp32", round__rounds=1, round__min_clients=2, data__partitions=2, **overrides))
            coordinator.wait_for("ready")
            clients = [self.inside(self.client_ns, BIN.parent / "tests/synthetic_client", "--allow-insecure", "--address",
                                   f"{self.COORDINATOR}:7447", "--device", f"{name}-{i}", "--first-index", i, "--pretrained",
                                   CHECKPOINT, "--state-dir", self.folder / f"state-{name}-{i}") for i in range(2)]
            self.assertEqual(coordinator.wait(), 0, coordinator.tail())
            for client in clients:
                client.stop()
            return hashlib.sha256((self.folder / name / "final.safetensors").read_bytes()).hexdigest()

        expected = federation("quick")
        self.shape("256kbit")
        self.assertEqual(federation("slow", round__round_deadline_ms=10_000, round__idle_timeout_ms=6_000), expected)
        first = self.summary("slow")["rounds"][0]
        self.assertEqual((first["accepted"], first["attempt"]), (2, 1))
        self.assertGreater(first["seconds"]["collect"], 12)


if __name__ == "__main__":
    unittest.main()
