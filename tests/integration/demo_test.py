"""deploy/demo.sh as a user runs it, with programs that are already built."""
import contextlib
import itertools
import json
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import tempfile
import unittest

from harness import BIN, FASHION, ROOT, SANITIZED, free_port


def processes_with(text):
    """The command lines of processes that have `text` in theirs, by process id."""
    found = {}
    for entry in pathlib.Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            except OSError:
                continue
            if text in command:
                found[int(entry.name)] = command
    return found


@unittest.skipUnless(FASHION.exists(), "the package dataset-fashion-mnist is not installed")
@unittest.skipIf(SANITIZED, "fourteen rounds of training, twice: training_test.py trains two")
class Demo(unittest.TestCase):
    def setUp(self):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="quantfl-demo-test."))
        self.addCleanup(shutil.rmtree, self.folder, ignore_errors=True)
        self.port = free_port()

    def demo(self, *arguments, **environment):
        return subprocess.Popen(
            [ROOT / "deploy/demo.sh", "--bin", BIN, "--runs", self.folder / "runs", "--port", str(self.port),
             *arguments], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            env={**os.environ, **environment})

    def programs(self, scripts):
        """A folder of the programs, of which some are these scripts."""
        folder = self.folder / "bin"
        folder.mkdir()
        for name in ("quantfl-coordinator", "quantflctl", "quantfl-client"):
            if name in scripts:
                (folder / name).write_text(f"#!/bin/bash\n{scripts[name]}\n")
                (folder / name).chmod(0o755)
            else:
                (folder / name).symlink_to(BIN / name)
        return folder

    def test_two_runs_a_table_and_bu_within_half_a_point_of_fp32(self):
        demo = self.demo()
        output, _ = demo.communicate(timeout=900)
        print(output)
        self.assertEqual(demo.returncode, 0, output)
        accuracy = {}
        for name in ("demo-fp32", "demo-bu16"):
            run = self.folder / "runs" / name
            summary = json.loads((run / "summary.json").read_text())
            self.assertEqual(summary["state"], "finished")
            accuracy[name] = summary["rounds"][-1]["accuracy"]
            for file in ("rounds.csv", "clients.csv", "effective.toml", "coordinator.log", "final.safetensors"):
                self.assertTrue((run / file).exists(), file)
        self.assertIn("demo-bu16", (self.folder / "runs/demo/report.html").read_text())
        self.assertLessEqual(abs(accuracy["demo-fp32"] - accuracy["demo-bu16"]), 0.005, accuracy)
        self.assertGreater(accuracy["demo-bu16"], 0.85)
        self.assertEqual(processes_with(f"127.0.0.1:{self.port} "), {})

    def test_a_signal_stops_everything_it_started_at_once(self):
        for signum, status in ((signal.SIGINT, 130), (signal.SIGTERM, 143)):
            with self.subTest(signum):
                # Ten thousand rounds do not end by themselves.
                demo = self.demo("--rounds", "9999")
                for line in demo.stdout:
                    if "demo-fp32" in line:
                        break
                demo.send_signal(signum)
                try:
                    demo.communicate(timeout=60)
                finally:
                    demo.kill()
                self.assertEqual(demo.returncode, status)
                self.assertEqual(processes_with(f"127.0.0.1:{self.port} "), {})

    def test_a_signal_before_any_command_up_to_the_first_round_leaves_nothing_behind(self):
        # Programs that never end by themselves, known by the name they run under.
        programs = self.programs(dict.fromkeys(("quantfl-coordinator", "quantflctl", "quantfl-client"),
                                               '[ "$1" = data ] || exec -a "$0 $*" sleep 300'))
        # bash runs this file before a script, and its trap before each command of the script.
        tracer = self.folder / "tracer"
        tracer.write_text("""unset BASH_ENV; set -o functrace; at=0
            trap '[ $((++at)) -ne "$SIGNAL_AT" ] || { echo "$BASH_COMMAND" >"$SIGNALLED"; kill -TERM $$; }' DEBUG""")
        signalled = self.folder / "signalled"
        for at in itertools.count(1):
            signalled.unlink(missing_ok=True)
            temporary = self.folder / f"tmp-{at}"
            temporary.mkdir()
            demo = self.demo("--bin", programs, BASH_ENV=str(tracer), SIGNAL_AT=str(at), SIGNALLED=str(signalled),
                             TMPDIR=str(temporary))
            try:
                output, _ = demo.communicate(timeout=20)
            except subprocess.TimeoutExpired:
                output = "does not end"
            demo.kill()
            demo.wait()
            left = processes_with(str(programs))
            for pid in left:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            self.assertTrue(signalled.exists(), output)
            command = signalled.read_text()
            about = f"command {at}, {command}{output}"
            # Before it has started anything a signal just ends it.
            self.assertIn(demo.returncode, (143, -signal.SIGTERM), about)
            self.assertEqual(left, {}, about)
            self.assertEqual(list(temporary.iterdir()), [], about)
            if "demo-fp32" in output and command.startswith("wait -n"):
                break

    def test_a_coordinator_that_a_signal_kills_ends_the_demo_with_its_status(self):
        programs = self.programs({"quantfl-coordinator": "sleep 0.2; kill -SEGV $$", "quantfl-client": "exec sleep 300",
                                  "quantflctl": '[ "$1" = data ] || sleep 1'})
        demo = self.demo("--bin", programs)
        output, _ = demo.communicate(timeout=60)
        self.assertEqual(demo.returncode, 128 + signal.SIGSEGV, output)
        self.assertIn(f"the run demo-fp32 ended with status {128 + signal.SIGSEGV}", output)

    def test_a_daemon_that_ends_before_the_first_round_ends_the_demo_with_its_reason(self):
        programs = self.programs({"quantfl-client": 'case "$*" in *"--device client-2"*) echo "no disk left" >&2; exit 74 ;; '
                                                    f'esac\nexec {BIN}/quantfl-client "$@"'})
        demo = self.demo("--bin", programs)
        output, _ = demo.communicate(timeout=60)
        self.assertEqual(demo.returncode, 1, output)
        self.assertIn("demo: the daemon client-2 ended with status 74: no disk left", output)
        self.assertEqual(processes_with(f"127.0.0.1:{self.port} "), {})

    def test_no_network_is_one_line_that_says_what_to_do(self):
        # A machine where nothing is installed and apt reaches nobody.
        fakes = self.folder / "fakes"
        fakes.mkdir()
        for name, text in (("dpkg-query", "exit 1"), ("apt-get", 'echo "E: Failed to fetch"; exit 100'),
                           ("sudo", 'exec "$@"')):
            (fakes / name).write_text(f"#!/bin/sh\n{text}\n")
            (fakes / name).chmod(0o755)
        demo = subprocess.run([ROOT / "deploy/demo.sh", "--port", str(self.port)], stdin=subprocess.DEVNULL,
                              capture_output=True, text=True, timeout=60,
                              env={**os.environ, "PATH": f"{fakes}:{os.environ['PATH']}"})
        self.assertEqual(demo.returncode, 69, demo.stdout + demo.stderr)
        self.assertEqual(len(demo.stderr.strip().splitlines()), 1, demo.stderr)
        self.assertIn("network", demo.stderr)

    def test_busy_port_is_one_line_that_says_what_to_do(self):
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", self.port))
            taken.listen()
            demo = self.demo()
            output, _ = demo.communicate(timeout=60)
        self.assertNotEqual(demo.returncode, 0)
        self.assertEqual(len(output.strip().splitlines()), 1, output)
        self.assertIn("--port", output)


if __name__ == "__main__":
    unittest.main()
