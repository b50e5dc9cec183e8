"""Strangers and a member that mean harm, beside honest clients whose model must not show it."""
import contextlib
import hashlib
import socket
import struct
import threading
import time
import unittest

from harness import FederationTest, run

# The attacker's own address: what is counted by address is not counted against the honest clients.
ATTACKER = "127.0.0.2"
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY = 0, 1, 3, 4, 6, 7
END_STREAM, END_HEADERS, ACK = 1, 4, 1


def varint(value):
    out = b""
    while value > 127:
        out += bytes([value & 127 | 128])
        value >>= 7
    return out + bytes([value])


def field(number, value):
    """Protobuf: an integer, or bytes."""
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    return varint(number << 3 | 2) + varint(len(value)) + value


def message(body):
    return struct.pack(">BI", 0, len(body)) + body


def frame(kind, flags, stream, payload=b""):
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload


def headers(method, extra=()):
    """HPACK without tables and compression."""
    def text(value):
        data = value if isinstance(value, bytes) else value.encode()
        if len(data) < 127:
            return bytes([len(data)]) + data
        return b"\x7f" + varint(len(data) - 127) + data
    fields = [(":method", "POST"), (":scheme", "http"), (":path", f"/quantfl.v1.Federation/{method}"),
              (":authority", "x"), ("content-type", "application/grpc"), ("te", "trailers"), *extra]
    return b"".join(b"\0" + text(name) + text(value) for name, value in fields)


class Connection:
    """HTTP/2 by hand: what no library would send."""

    def __init__(self, address, greet=True):
        host, port = address.rsplit(":", 1)
        self.socket = socket.create_connection((host, int(port)), timeout=10, source_address=(ATTACKER, 0))
        self.stream = -1
        if greet:
            self.socket.sendall(PREFACE + frame(SETTINGS, 0, 0))

    def close(self):
        self.socket.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def open(self, method, extra=()):
        self.stream += 2
        self.socket.sendall(frame(HEADERS, END_HEADERS, self.stream, headers(method, extra)))
        return self.stream

    def send(self, stream, data, flags=0):
        self.socket.sendall(frame(DATA, flags, stream, data))

    def read(self, size):
        data = b""
        while len(data) < size:
            part = self.socket.recv(size - len(data))
            if not part:
                raise ConnectionError("closed")
            data += part
        return data

    def frames(self):
        """Until the coordinator closes the connection."""
        with contextlib.suppress(ConnectionError, BrokenPipeError):
            while True:
                head = self.read(9)
                payload = self.read(int.from_bytes(head[:3], "big"))
                kind, flags, stream = head[3], head[4], int.from_bytes(head[5:], "big")
                if kind == SETTINGS and not flags & ACK:
                    self.socket.sendall(frame(SETTINGS, ACK, 0))
                elif kind == PING and not flags & ACK:
                    self.socket.sendall(frame(PING, ACK, 0, payload))
                yield kind, flags, stream, payload

    def answer(self, stream):
        """The first message of a call, or None if it ended without one."""
        data = b""
        for kind, flags, of, payload in self.frames():
            if of == stream and kind == DATA:
                data += payload
                if len(data) >= 5 and len(data) >= 5 + int.from_bytes(data[1:5], "big"):
                    return data[5:]
            if of == stream and (kind == RST_STREAM or flags & END_STREAM) or kind == GOAWAY:
                return None
        return None

    def is_refused(self, stream):
        return self.answer(stream) is None


def join(connection, device):
    """A session."""
    request = (field(1, 1) + field(2, b"hostile") + field(3, field(1, device)) + field(4, 1) +
               field(5, 7) + field(6, b"bu"))
    stream = connection.open("Join")
    connection.send(stream, message(request), END_STREAM)
    answer = connection.answer(stream)
    assert answer is not None and answer[0] == 10, answer  # field 1, bytes
    return answer[2:2 + answer[1]]


def offer(session, task):
    return message(field(1, field(1, session) + field(2, task) + field(3, b"d" * 32) + field(4, b"header") +
                         field(5, 6) + field(6, 106) + field(7, 1) + field(8, 1)))


class Hostile(FederationTest):
    LIMITS = {"server__handshake_timeout_ms": 500, "server__max_connections_per_host": 24,
              "server__decode_errors_max": 3, "server__streams_per_client": 4}

    def settings(self, name, **overrides):
        return self.config(name, evaluation__enabled=False, round__rounds=12, round__min_clients=4,
                           data__partitions=8, round__linger_ms=200, **self.LIMITS, **overrides)

    def digest(self, name):
        return hashlib.sha256((self.folder / name / "final.safetensors").read_bytes()).hexdigest()

    def honest(self, address, name):
        return self.synthetic(address, name, "--clients", 4, "--first-index", 0)

    def quarantine(self, address):
        """A member that offers what nobody asked it for."""
        connection = Connection(address)
        session = join(connection, b"offender")
        for task in (1000, 1001, 1002):
            stream = connection.open("SubmitUpdate")
            connection.send(stream, offer(session, task))
            self.assertIsNotNone(connection.answer(stream))  # a verdict: refused
        # Its session is void from here on.
        stream = connection.open("SubmitUpdate")
        connection.send(stream, offer(session, 1003))
        self.assertTrue(connection.is_refused(stream))
        connection.close()

    def strange_calls(self, address):
        garbage = Connection(address, greet=False)
        garbage.socket.sendall(b"GET / HTTP/1.1\r\n\r\n" + bytes(range(256)) * 16)
        # (what, the call)
        def endless(c):
            # A length of 4 GiB, and more bytes than any window was given for.
            stream = c.open("Join")
            c.send(stream, b"\0\xff\xff\xff\xff")
            with contextlib.suppress(OSError):
                for _ in range(512):
                    c.send(stream, b"x" * 16000)
            return stream

        def not_protobuf(c):
            stream = c.open("Join")
            c.send(stream, message(b"\xff" * 64), END_STREAM)
            return stream

        def metadata(c):
            stream = c.open("Join", [("x-large", "v" * 15000)])
            c.send(stream, message(b""), END_STREAM)
            return stream

        def no_such_session(c):
            stream = c.open("SubmitUpdate")
            c.send(stream, offer(b"0" * 32, 1))
            return stream

        for call in (endless, not_protobuf, metadata, no_such_session):
            connection = Connection(address)
            self.assertTrue(connection.is_refused(call(connection)), call.__name__)
            connection.close()
        return garbage

    def flood(self, address, ended):
        """More connections and streams than there are places, for as long as the run lasts."""
        while not ended.is_set():
            held = []
            with contextlib.suppress(OSError):
                for _ in range(40):
                    held.append(Connection(address, greet=False))
                held[0].socket.sendall(PREFACE[:5])
            with contextlib.suppress(OSError):
                many = Connection(address)
                held.append(many)
                for _ in range(500):
                    many.open("SubmitUpdate")
            ended.wait(0.3)
            for connection in held:
                connection.close()

    def test_honest_clients_end_with_the_undisturbed_model(self):
        coordinator, ready = self.coordinator(self.settings("calm"))
        self.honest(ready["federation"], "calm")
        self.assertEqual(coordinator.wait(), 0, coordinator.tail())

        coordinator, ready = self.coordinator(self.settings("hostile"))
        address = ready["federation"]
        self.quarantine(address)
        evicted = coordinator.wait_for("member_evicted", client="offender/0")
        self.assertIn("decode_errors_max", evicted.line)
        self.strange_calls(address).close()
        ended = threading.Event()
        flood = threading.Thread(target=self.flood, args=(address, ended))
        flood.start()
        try:
            # Before the honest ones come: with them the run may end at any time.
            _, clients = run("quantflctl", "clients", "--results-dir", self.folder / "hostile", check=0)
            self.assertRegex(clients, r"offender/0 .*quarantined")
            self.assertIn("offender/0: quarantined after 3 bad updates", clients)
            self.honest(address, "honest")
            self.assertEqual(coordinator.wait(), 0, coordinator.tail())
        finally:
            ended.set()
            flood.join()
        self.assertEqual(self.digest("hostile"), self.digest("calm"))
        self.assertEqual([r["accepted"] for r in self.summary("hostile")["rounds"]],
                         [r["accepted"] for r in self.summary("calm")["rounds"]])
        # Told of, and not once for each.
        self.assertGreater(len(coordinator.events("connection_refused")), 0)
        self.assertLess(len(coordinator.lines), 400)

    def test_who_says_nothing_is_hung_up_on(self):
        _, ready = self.coordinator(self.settings("run"))
        began = time.monotonic()
        address = ready["federation"]
        with (Connection(address, greet=False) as silent, Connection(address, greet=False) as slow,
              Connection(address) as greeted):
            slow.socket.sendall(PREFACE[:7])
            stream = greeted.open("SubmitUpdate")  # and no offer
            self.assertTrue(greeted.is_refused(stream))
            for connection in (silent, slow):
                list(connection.frames())  # to the end: the coordinator closes it
        self.assertLess(time.monotonic() - began, 8)

    def test_quarantine_survives_a_kill_and_is_lifted_by_the_operator(self):
        config = self.settings("run")
        coordinator, ready = self.coordinator(config)
        self.quarantine(ready["federation"])
        coordinator.wait_for("member_evicted", client="offender/0")
        coordinator.kill()
        coordinator, ready = self.coordinator(config)
        _, clients = run("quantflctl", "clients", "--results-dir", self.folder / "run", check=0)
        self.assertRegex(clients, r"offender/0 .*quarantined")
        run("quantflctl", "readmit", "offender/0", "--results-dir", self.folder / "run", check=0)
        coordinator.wait_for("member_readmitted", client="offender/0")
        connection = Connection(ready["federation"])
        self.assertEqual(len(join(connection, b"offender")), 32)
        connection.close()


if __name__ == "__main__":
    unittest.main()
