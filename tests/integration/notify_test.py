"""What the programs tell a service manager (systemd's Type=notify): the datagrams that they send."""
import os
import signal
import socket
import tempfile
import unittest

from harness import FASHION, FederationTest

PATIENCE_S = 120


class ServiceManager:
    """The receiving end of NOTIFY_SOCKET."""

    def __init__(self, path):
        self.path = str(path)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(self.path)
        self._socket.settimeout(PATIENCE_S)

    def next(self):
        return self._socket.recv(4096).decode()

    def close(self):
        self._socket.close()


@unittest.skipUnless(FASHION.exists(), "the package dataset-fashion-mnist is not installed")
class Notify(FederationTest):
    def setUp(self):
        super().setUp()
        self.managers = []

    def tearDown(self):
        super().tearDown()
        for manager in self.managers:
            manager.close()

    def manager(self, name):
        # A socket's path is short: not in a build folder.
        self.managers.append(ServiceManager(os.path.join(self.folder, f"{name}.notify")))
        return self.managers[-1]

    def test_coordinator_and_client_say_when_they_are_ready_and_when_they_leave(self):
        of_coordinator, of_client = self.manager("coordinator"), self.manager("client")
        coordinator, ready = self.coordinator(self.config(), env={"NOTIFY_SOCKET": of_coordinator.path})
        self.assertEqual(of_coordinator.next(), "READY=1")
        client = self.client(ready["federation"], "client-0", env={"NOTIFY_SOCKET": of_client.path})
        self.assertEqual(of_client.next(), "READY=1")
        self.assertEqual(client.stop(signal.SIGTERM), 0)
        self.assertEqual(of_client.next(), "STOPPING=1")
        self.assertEqual(coordinator.stop(signal.SIGTERM), 0)
        self.assertEqual(of_coordinator.next(), "STOPPING=1")

    def test_socket_that_is_gone_is_a_warning_and_no_more(self):
        gone = os.path.join(tempfile.gettempdir(), "quantfl-nobody.notify")
        coordinator, _ = self.coordinator(self.config(), env={"NOTIFY_SOCKET": gone})
        self.assertIn(gone, coordinator.wait_for("notify_failed").fields["reason"])
        self.assertEqual(coordinator.stop(signal.SIGTERM), 0)


if __name__ == "__main__":
    unittest.main()
