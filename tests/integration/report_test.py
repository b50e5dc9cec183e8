"""A run's page: live while it goes on, and as a file when it is over."""
import contextlib
import http.client
import json
import re
import shutil
import sqlite3
import subprocess
import unittest
import urllib.parse

from harness import FederationTest, run


def get(url, path="/", host=None):
    parsed = urllib.parse.urlparse(url)
    connection = http.client.HTTPConnection(parsed.hostname, parsed.port, timeout=20)
    connection.request("GET", path, headers={"Host": host} if host else {})
    try:
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    finally:
        connection.close()


def data_of(page):
    """What the page's own script reads."""
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.S)[1])


class Report(FederationTest):
    def test_a_live_page_follows_the_run_and_a_report_keeps_it(self):
        process, ready = self.coordinator(self.config(name="live", round__rounds=3, evaluation__enabled=False))
        web = ready["web"].strip('"')
        status, page = get(web)
        self.assertEqual(status, 200)
        self.assertTrue(data_of(page)["live"])
        self.assertEqual(get(web, "/healthz"), (200, "ok\n"))
        self.assertEqual(get(web, "/api/run", host="elsewhere.example")[0], 421)
        self.assertEqual(json.loads((self.folder / "live/state/endpoint.json").read_text())["web"], web)

        # A page that listens is told of every change, until the run ends.
        parsed = urllib.parse.urlparse(web)
        stream = http.client.HTTPConnection(parsed.hostname, parsed.port, timeout=60)
        stream.request("GET", "/api/events")
        events = stream.getresponse()
        self.assertEqual(events.getheader("Content-Type"), "text/event-stream")
        # Three wait for the fourth: with it the run may end at any time.
        for i in range(4):
            if i == 3:
                process.wait_for("joined", client="pi-0/0")
                self.check_metrics(web)
            self.synthetic(ready["federation"], f"pi-{i}", "--first-index", i)
        rounds_seen = set()
        while True:
            line = events.readline()
            if not line:
                break
            if line.startswith(b"data:"):
                try:
                    rounds_seen.add(json.loads(get(web, "/api/run")[1])["summary"]["now"]["round"])
                except (ConnectionError, http.client.HTTPException, ValueError):
                    break
                if rounds_seen >= {1, 2} or len(rounds_seen) > 2:
                    break
        events.close()
        stream.close()
        self.assertTrue(rounds_seen, "no change was told")
        self.assertEqual(process.wait(), 0, process.tail())

        summary = self.summary("live")
        clients = summary["clients"]
        self.assertEqual(sorted(c["name"] for c in clients), [f"pi-{i}/0" for i in range(4)])
        for client in clients:
            for way in ("uplink", "downlink"):
                levels = [client["bytes"][way][f"{level}_bytes"]
                          for level in ("payload", "messages", "stream", "tcp", "link")]
                self.assertEqual(levels, sorted(levels), f"L1 <= L2 <= L3 <= L4 <= L5, {client['name']} {way}")
                self.assertGreater(levels[0], 0)
        csv = (self.folder / "live/clients.csv").read_text().splitlines()
        self.assertEqual(len(csv), 5)
        with contextlib.closing(sqlite3.connect(self.folder / "live/records.sqlite")) as records:
            rows = records.execute("SELECT client, uplink_stream_bytes FROM clients ORDER BY client").fetchall()
            self.assertEqual(rows, sorted((c["name"], c["bytes"]["uplink"]["stream_bytes"]) for c in clients))
            # Both ends, by client and round: what came after a client's last report is all that it has not told.
            each = records.execute("SELECT round, client, accepted, uplink_stream_bytes, told_uplink_stream_bytes, "
                                   "idle_downlink_stream_bytes FROM client_rounds ORDER BY round, client").fetchall()
            self.assertEqual([row[:3] for row in each], [(r, f"pi-{i}/0", 1) for r in (1, 2, 3) for i in range(4)])
            for name, counted in rows:
                told = sum(row[4] or 0 for row in each if row[1] == name)
                self.assertLess(counted - told, 2000, name)
                self.assertLessEqual(told, counted, name)
            self.assertGreater(min(row[5] for row in each), 0, "instructions and answers to reports")
            # What HTTP/2 and gRPC add to messages: frames of 16 KiB, calls, and window updates of the other way. Joining
            # and connecting are the first round's.
            for up, up_messages, down, down_messages in records.execute(
                    "SELECT uplink_stream_bytes, uplink_messages_bytes, downlink_stream_bytes, downlink_messages_bytes "
                    "FROM client_rounds WHERE round > 1"):
                self.assertLess(up - up_messages, 0.001 * (up_messages + down) + 1200)
                self.assertLess(down - down_messages, 0.001 * (down_messages + up) + 1200)
            accepted, = records.execute("SELECT sum(accepted) FROM rounds WHERE committed").fetchone()
            self.assertEqual(accepted, 12)
            self.assertEqual(json.loads(*records.execute("SELECT json FROM summary").fetchone()), summary)

        _, output = run("quantflctl", "report", self.folder / "live", check=0)
        self.assertIn("report.html", output)
        page = (self.folder / "live/report.html").read_text()
        data = data_of(page)
        self.assertFalse(data["live"])
        self.assertEqual(data["runs"][0]["summary"], summary)
        self.assertIn("[round]", data["runs"][0]["configuration"])
        self.assertNotRegex(page.split("<script>")[0], r'(src|href)="?https?:')

        _, output = run("quantflctl", "report", self.folder / "live", self.folder / "live", "--out",
                        self.folder / "both", check=0)
        self.assertEqual(len((self.folder / "both/clients.csv").read_text().splitlines()), 9)

    def check_metrics(self, web):
        status, text = get(web, "/metrics")
        self.assertEqual(status, 200)
        self.assertRegex(text, r'quantfl_uplink_bytes_total\{client="pi-0/0",role="trainer",level="stream"\} [1-9]')
        # The judge is Prometheus' own tool, where it is installed.
        if shutil.which("promtool"):
            checked = subprocess.run(["promtool", "check", "metrics"], input=text, text=True, capture_output=True)
            self.assertEqual(checked.returncode, 0, checked.stdout + checked.stderr)

    def test_an_address_that_others_can_reach_is_refused_unless_asked_for(self):
        config = self.config(name="open", web__listen="0.0.0.0:0")
        status, output = run("quantfl-coordinator", "--config", config)
        self.assertNotEqual(status, 0)
        self.assertIn("web.allow_remote", output)

    def test_a_page_whose_port_is_taken_does_not_cost_the_run(self):
        first, ready = self.coordinator(self.config(name="first"))
        port = urllib.parse.urlparse(ready["web"].strip('"')).port
        second, ready = self.coordinator(self.config(name="second", web__listen=f"127.0.0.1:{port}"))
        self.assertEqual(ready.get("web", "").strip('"'), "")
        self.assertEqual(len(second.events("web_unavailable")), 1)
        self.assertEqual([first.stop(), second.stop()], [0, 0])


if __name__ == "__main__":
    unittest.main(verbosity=2)
