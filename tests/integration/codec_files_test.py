"""quantflctl encode, decode and inspect as a user runs them."""
import json
import pathlib
import shutil
import struct
import tempfile
import unittest

from harness import CHECKPOINT, run


def tensors(path):
    """The F32 tensors of a safetensors file: name to values."""
    data = path.read_bytes()
    (size,) = struct.unpack_from("<Q", data)
    body = data[8 + size :]
    found = {}
    for name, tensor in json.loads(data[8 : 8 + size]).items():
        if name != "__metadata__":
            first, end = tensor["data_offsets"]
            found[name] = struct.unpack(f"<{(end - first) // 4}f", body[first:end])
    return found


class CodecFiles(unittest.TestCase):
    def setUp(self):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="quantfl-test."))
        self.update = self.folder / "update.qflf"
        self.back = self.folder / "back.safetensors"

    def tearDown(self):
        shutil.rmtree(self.folder, ignore_errors=True)

    def test_there_and_back_within_the_error_that_was_asked_for(self):
        original = tensors(CHECKPOINT)
        norm = sum(x * x for values in original.values() for x in values)
        for codec, nmse in (("fp32", 0), ("bu:256", 0.01), ("uniform,target_nmse=0.1,pack=rans", 0.1)):
            with self.subTest(codec=codec):
                _, text = run("quantflctl", "encode", CHECKPOINT, self.update, "--codec", codec, check=0)
                self.assertIn("61,706 parameters as " + codec.split(",")[0].split(":")[0], text)
                run("quantflctl", "decode", self.update, self.back, check=0)
                decoded = tensors(self.back)
                self.assertEqual({k: len(v) for k, v in decoded.items()}, {k: len(v) for k, v in original.items()})
                error = sum((x - y) ** 2 for name in original for x, y in zip(original[name], decoded[name]))
                self.assertLessEqual(error, nmse * norm * 1.0001)
                _, text = run("quantflctl", "inspect", self.update, check=0)
                self.assertIn("architecture = lenet5, codec = " + codec.split(",")[0].split(":")[0], text)

    def test_a_budget_is_kept(self):
        run("quantflctl", "encode", CHECKPOINT, self.update, "--codec",
            "uniform,max_bytes=9000,round=stochastic,pack=rans", check=0)
        # The file adds 16 bytes of its own and 4 a chunk.
        self.assertLessEqual(self.update.stat().st_size, 9000 + 16 + 4)
        self.assertGreaterEqual(self.update.stat().st_size, 0.98 * 9000)

    def test_mistakes_end_with_a_reason_and_write_nothing(self):
        nothing = self.folder / "nothing"
        for arguments, code, reason in (
            (["encode", CHECKPOINT, self.update, "--codec", "uniform:16"], 64, "odd number"),
            (["encode", CHECKPOINT, self.update, "--codec", "bu:4,max_bytes=99"], 64, "the smallest that fits is"),
            (["encode", nothing, self.update], 66, "nothing"),
            (["encode", __file__, self.update], 65, "codec_files_test.py"),
            (["decode", CHECKPOINT, self.back], 65, "QFLF"),
            (["decode", nothing, self.back], 66, "nothing"),
            (["encode", CHECKPOINT], 64, "OUT"),
        ):
            with self.subTest(arguments=arguments):
                status, text = run("quantflctl", *arguments)
                self.assertEqual(status, code, text)
                self.assertIn(reason, text)
                self.assertFalse(self.update.exists() or self.back.exists())


if __name__ == "__main__":
    unittest.main()
