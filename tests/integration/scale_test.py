"""Large updates and small footprints, through real processes without LibTorch."""
import json
import pathlib
import re
import struct
import unittest

from harness import FederationTest, SANITIZED


def rss_anon_kib(pid):
    status = pathlib.Path(f"/proc/{pid}/status").read_text()
    return int(re.search(r"RssAnon:\s+(\d+) kB", status).group(1))


class Scale(FederationTest):
    def test_update_of_100_million_parameters_streams_through(self):
        size = 100_000_000
        header = json.dumps({"layer.weight": {"dtype": "F32", "shape": [10_000, 10_000],
                                              "data_offsets": [0, 4 * size]}}).encode()
        header += b" " * (-len(header) % 8)
        checkpoint = self.folder / "large.safetensors"
        with checkpoint.open("wb") as file:  # zeros, as a hole
            file.write(struct.pack("<Q", len(header)) + header)
            file.truncate(8 + len(header) + 4 * size)
        coordinator, ready = self.coordinator(self.config(
            model__architecture="custom", model__file=str(checkpoint), codec__uplink="fp32", round__rounds=1,
            round__min_clients=2, data__partition="own", data__partitions=2, evaluation__enabled=False))
        for i in range(2):
            self.synthetic(ready["federation"], f"large-{i}", "--runs", 1, "--pretrained", checkpoint)
        self.assertEqual(coordinator.wait(), 0, coordinator.tail())
        last = self.summary()["rounds"][-1]
        self.assertEqual(last["accepted"], 2)
        self.assertGreater(last["bytes"]["uplink"]["payload_bytes"], 2 * 4 * size)
        framing = last["bytes"]["uplink"]["stream_bytes"] / last["bytes"]["uplink"]["payload_bytes"] - 1
        self.assertLess(framing, 0.005)

    @unittest.skipIf(SANITIZED, "sanitizers keep what was freed")
    def test_idle_coordinator_is_small(self):
        coordinator, _ = self.coordinator(self.config())
        self.assertLessEqual(rss_anon_kib(coordinator.popen.pid), 20 * 1024)


if __name__ == "__main__":
    unittest.main()
