"""TLS and join tokens, through real processes."""
import subprocess
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


if __name__ == "__main__":
    unittest.main()
