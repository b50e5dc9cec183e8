"""TLS with join tokens, and with client certificates, through real processes."""
import os
import ssl
import subprocess
import time
import unittest

from harness import FASHION, FederationTest, run


@unittest.skipUnless(FASHION.exists(), "the package dataset-fashion-mnist is not installed")
class TlsAndTokens(FederationTest):
    def setUp(self):
        super().setUp()
        self.key, self.certificate = self.folder / "server.key", self.folder / "server.pem"
        subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256",
                        "-nodes", "-days", "2", "-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1",
                        "-keyout", self.key, "-out", self.certificate], check=True, capture_output=True)
        self.tokens = self.folder / "tokens"

    def token(self, device, role="trainer"):
        _, output = run("quantflctl", "token", "new", device, "--role", role, "--tokens-file", self.tokens, check=0)
        path = self.folder / f"{device}.token"
        path.write_text(output.strip().split()[-1])
        path.chmod(0o600)
        return path

    def secured(self, name="run", **overrides):
        return self.coordinator(self.config(
            name, server__tls="token", server__certificate=str(self.certificate),
            server__private_key=str(self.key), server__tokens_file=str(self.tokens), **overrides))

    def tls(self, token):
        return ["--tls.mode", "token", "--tls.ca", self.certificate, "--tls.token_file", token]

    def test_run_over_tls_counts_its_bytes_and_keeps_strangers_out(self):
        tokens = [self.token(f"client-{i}") for i in range(4)]
        evaluator_token = self.token("evaluator", "evaluator")
        self.assertEqual(self.tokens.stat().st_mode & 0o777, 0o600)
        coordinator, ready = self.secured()
        address = ready["federation"]

        wrong = self.folder / "wrong.token"
        wrong.write_text("0" * 43)
        stranger = self.client(address, "client-0", "--first_index", 0, *self.tls(wrong))
        self.assertNotEqual(stranger.wait(), 0)
        self.assertIn("token", stranger.output())
        impostor = self.client(address, "client-1", "--first_index", 1, *self.tls(tokens[0]))
        self.assertNotEqual(impostor.wait(), 0)
        usurper = self.client(address, "client-2", "--role", "evaluator", *self.tls(tokens[2]))
        self.assertNotEqual(usurper.wait(), 0)

        for i, token in enumerate(tokens):
            self.client(address, f"client-{i}", "--first_index", i, *self.tls(token))
        self.client(address, "evaluator", "--role", "evaluator", *self.tls(evaluator_token))
        self.assertEqual(coordinator.wait(), 0, coordinator.tail())
        last = self.summary()["rounds"][-1]
        self.assertEqual(last["accepted"], 4)
        for way in ("uplink", "downlink"):
            self.assertLess(last["bytes"][way]["messages_bytes"], last["bytes"][way]["stream_bytes"])
        for path in tokens:
            self.assertNotIn(path.read_text(), coordinator.output(), "a token in the log")


class MutualTls(FederationTest):
    """Two commands make the test bed: certs init, certs issue."""

    def setUp(self):
        super().setUp()
        self.certs = self.folder / "certs"
        run("quantflctl", "certs", "init", "--dir", self.certs, "--server", "coordinator.lab", check=0)
        self.issue(*(f"client-{i}" for i in range(4)))

    def issue(self, *names, role="trainer", folder=None, more=()):
        run("quantflctl", "certs", "issue", *names, "--role", role, "--dir", folder or self.certs, *more, check=0)

    def keys(self, **overrides):
        at = {name: str(self.certs / file) for name, file in
              (("certificate", "server.pem"), ("private_key", "server.key"), ("client_ca", "ca.pem"),
               ("revoked_file", "revoked.txt"))}
        return {"server__tls": "mtls", **{f"server__{k}": v for k, v in at.items()}, **overrides}

    def secured(self, name="run", **overrides):
        return self.coordinator(self.config(name, **self.keys(**overrides)))

    def identity(self, name, folder=None):
        """Of a synthetic client, which does not look at its own certificate's name."""
        folder = folder or self.certs
        return ["--ca", self.certs / "ca.pem", "--certificate", folder / f"{name}.pem", "--key", folder / f"{name}.key"]

    def mode(self, name):
        """Of quantfl-client."""
        return ["--tls.mode", "mtls", "--tls.ca", self.certs / "ca.pem", "--tls.certificate",
                self.certs / f"{name}.pem", "--tls.private_key", self.certs / f"{name}.key"]

    def refused(self, process, text, status=77):
        self.assertEqual(process.wait(), status, process.tail())
        self.assertIn(text, process.output())

    @unittest.skipUnless(FASHION.exists(), "the package dataset-fashion-mnist is not installed")
    def test_run_with_certificates(self):
        self.issue("evaluator", role="evaluator")
        for file in self.certs.glob("*.key"):
            self.assertEqual(file.stat().st_mode & 0o777, 0o600, file)
        coordinator, ready = self.secured()
        self.refused(self.client(ready["federation"], "client-9", *self.mode("client-0")),
                     "client-0.pem is the certificate of client-0", status=64)
        for i in range(4):
            self.client(ready["federation"], f"client-{i}", "--first_index", i, *self.mode(f"client-{i}"))
        self.client(ready["federation"], "evaluator", "--role", "evaluator", *self.mode("evaluator"))
        coordinator.wait_for("round_committed", round=1)
        _, clients = run("quantflctl", "clients", "--results-dir", self.folder / "run", check=0)
        self.assertIn("client-0/0", clients)
        self.assertEqual(coordinator.wait(), 0, coordinator.tail())
        self.assertEqual(self.summary()["rounds"][-1]["accepted"], 4)

    def test_who_is_somebody_else_is_refused_and_told_why(self):
        coordinator, ready = self.secured(evaluation__enabled=False)
        address = ready["federation"]
        other = self.folder / "other"
        run("quantflctl", "certs", "init", "--dir", other, check=0)
        self.issue("client-0", folder=other)
        self.refused(self.synthetic(address, "client-0", *self.identity("client-0", other)), "lets in")
        self.refused(self.synthetic(address, "client-1", *self.identity("client-0")),
                     "this credential is of device client-0, not of client-1")
        self.refused(self.synthetic(address, "client-2", "--role", "evaluator", *self.identity("client-2")),
                     "this credential is for the role trainer")
        self.refused(self.synthetic(address, "client-3", "--ca", self.certs / "ca.pem"), "wants a client certificate")
        self.issue("alice", role="operator")
        self.refused(self.synthetic(address, "alice", *self.identity("alice")), "an operator's certificate")
        # As long as a second at most: it is over when quantflctl shows it so.
        self.issue("brief", more=("--days", "0.000012"))
        while "expired" not in run("quantflctl", "certs", "show", self.certs / "brief.pem", check=0)[1]:
            pass
        self.refused(self.synthetic(address, "brief", *self.identity("brief")), "expired at")
        clients = [self.synthetic(address, f"client-{i}", "--first-index", i, *self.identity(f"client-{i}"))
                   for i in range(4)]
        self.assertEqual(coordinator.wait(), 0, coordinator.tail())
        self.assertEqual(len(clients), self.summary()["rounds"][-1]["accepted"])

    def test_revoked_in_mid_run_is_out_within_seconds_and_the_others_go_on(self):
        coordinator, ready = self.secured(evaluation__enabled=False, round__rounds=400, round__min_clients=3,
                                          round__min_fraction=0.5, round__idle_timeout_ms=2000)
        clients = [self.synthetic(ready["federation"], f"client-{i}", "--first-index", i, *self.identity(f"client-{i}"))
                   for i in range(4)]
        coordinator.wait_for("update_accepted", client="client-3/0")
        run("quantflctl", "certs", "revoke", "client-3", "--dir", self.certs, "--reason", "lost", check=0)
        coordinator.popen.send_signal(1)  # SIGHUP: at once
        coordinator.wait_for("credentials_read")
        self.refused(clients[3], "was revoked")
        # A deny list with a mistake in it changes nothing.
        deny = self.certs / "revoked.txt"
        deny.write_text(deny.read_text() + "nonsense\n")
        refusal = coordinator.wait_for("credentials_refused")
        self.assertIn("nonsense", refusal.fields["reason"])
        begun = len(coordinator.events("round_committed"))
        while len(coordinator.events("round_committed")) < begun + 3:
            coordinator.wait_for("round_committed")
        self.refused(self.synthetic(ready["federation"], "client-3", *self.identity("client-3")), "was revoked")
        run("quantflctl", "stop", "--results-dir", self.folder / "run", check=0)
        self.assertEqual(coordinator.wait(), 0, coordinator.tail())
        self.assertEqual(self.summary()["rounds"][-1]["accepted"], 3)

    def test_revoked_while_its_stream_is_silent_is_out_within_seconds(self):
        coordinator, ready = self.secured(evaluation__enabled=False, round__min_clients=3, round__linger_ms=3_600_000)
        clients = [self.synthetic(ready["federation"], f"client-{i}", "--first-index", i, *self.identity(f"client-{i}"))
                   for i in range(2)]
        for _ in clients:
            coordinator.wait_for("joined")
        # The file is looked at every two seconds; nobody calls, and no round can begin.
        run("quantflctl", "certs", "revoke", "client-0", "--dir", self.certs, "--reason", "lost", check=0)
        self.refused(clients[0], "was revoked")
        for i in (2, 3):
            self.synthetic(ready["federation"], f"client-{i}", "--first-index", i, *self.identity(f"client-{i}"))
        coordinator.wait_for("update_accepted", client="client-1/0")

    def test_expired_while_its_stream_is_silent_is_out_within_seconds(self):
        coordinator, ready = self.secured(evaluation__enabled=False, round__min_clients=3, round__linger_ms=3_600_000)
        self.issue("brief", more=("--days", "0.0003"))  # 26 s
        brief = self.synthetic(ready["federation"], "brief", *self.identity("brief"))
        coordinator.wait_for("joined", client="brief/0")
        self.refused(brief, "expired at")

    def test_new_server_certificate_is_served_without_a_restart(self):
        _, ready = self.secured()
        host, port = ready["federation"].rsplit(":", 1)
        served = ssl.get_server_certificate((host, int(port)))
        self.assertEqual(served.strip(), (self.certs / "server.pem").read_text().strip())
        self.issue("coordinator.lab", "127.0.0.1", role="server", more=("--renew",))
        wanted = (self.certs / "server.pem").read_text().strip()
        until = time.monotonic() + 60
        while ssl.get_server_certificate((host, int(port))).strip() != wanted:
            self.assertLess(time.monotonic(), until)

    def test_files_that_are_wrong_are_named(self):
        def refuse(text, **overrides):
            code, output = run("quantfl-coordinator", "--config", self.config(**self.keys(**overrides)))
            self.assertNotEqual(code, 0)
            self.assertIn(text, output)
        key = self.certs / "server.key"
        key.chmod(0o644)
        refuse(f"chmod 600 {key}")
        key.chmod(0o600)
        refuse("not a regular file", server__client_ca="/dev/null")
        refuse("none.pem", server__client_ca=str(self.certs / "none.pem"))
        refuse("is no authority's", server__client_ca=str(self.certs / "client-0.pem"))
        refuse("no private key", server__private_key=str(self.certs / "server.pem"))
        refuse("is not that of", server__private_key=str(self.certs / "client-0.key"))
        refuse("server.client_ca", server__client_ca=None)
        (self.certs / "bad.txt").write_text("no serial\n")
        refuse("bad.txt:1", server__revoked_file=str(self.certs / "bad.txt"))
        if os.geteuid() != 0:
            key.chmod(0)
            refuse("ermission", server__private_key=str(key))
            key.chmod(0o600)
        for arguments, text in ((("issue", "pi", "--dir", self.folder / "none"), "certs init"),
                                (("issue", "a/b", "--dir", self.certs), "a/b"),
                                (("issue", "client-0", "--dir", self.certs), "--renew"),
                                (("init", "--dir", self.certs), "is there"),
                                (("revoke", "nobody", "--dir", self.certs), "certs show")):
            code, output = run("quantflctl", "certs", *arguments)
            self.assertNotEqual(code, 0)
            self.assertIn(text, output)


if __name__ == "__main__":
    unittest.main()
