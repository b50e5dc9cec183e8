"""A TCP proxy that is a bad link: latency, rate, reset, half-open, partition. Standard library only.

    proxy = FaultProxy("127.0.0.1:7447", latency_s=0.02, rate=200_000)
    client --coordinator proxy.address
    proxy.wait_for_upload(100_000)     # of bytes that have gone to the target since it was made
    proxy.reset()                      # both ends of every connection get a RST
    proxy.half_open()                  # the target's end closes; the client's is told nothing, and hears nothing
    proxy.partition(); proxy.heal()    # nothing passes, new connections included; then it goes on

What a partition holds back arrives when it heals, as TCP would send it again. Thread-safe.
"""
import contextlib
import socket
import struct
import threading
import time

PIECE = 16384
CONNECT_S = 10


class FaultProxy:
    def __init__(self, target, latency_s=0.0, rate=None):
        host, port = target.rsplit(":", 1)
        self._target = (host.strip("[]"), int(port))
        self.latency_s, self.rate = latency_s, rate
        self._changed = threading.Condition()
        self._open, self._closed = True, False
        self._connections = []
        self.up = self.down = 0
        self.connections = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = "127.0.0.1:%d" % self._listener.getsockname()[1]
        self._spawn(self._accept)

    def _spawn(self, what, *arguments):
        threading.Thread(target=what, args=arguments, daemon=True).start()

    def _accept(self):
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            self._spawn(self._serve, client)

    def _wait_until_open(self):
        with self._changed:
            self._changed.wait_for(lambda: self._open or self._closed)
            return not self._closed

    def _serve(self, client):
        if not self._wait_until_open():
            return client.close()
        try:
            target = socket.create_connection(self._target, timeout=CONNECT_S)
        except OSError:
            return _reset(client)  # nobody listens: what the client would see
        target.settimeout(None)
        for end in (client, target):
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection = {"client": client, "target": target, "deaf": False}
        with self._changed:
            self.connections += 1
            self._connections.append(connection)
        self._spawn(self._pump, connection, "client", "target")
        self._spawn(self._pump, connection, "target", "client")

    def _pump(self, connection, source, sink):
        up = source == "client"
        while True:
            try:
                data = connection[source].recv(PIECE)
            except OSError:
                data = b""
            if self.latency_s:
                time.sleep(self.latency_s)
            if self.rate:
                time.sleep(len(data) / self.rate)
            if not self._wait_until_open() or (connection["deaf"] and up and not data):
                return
            if connection["deaf"]:
                if not data:
                    return  # the target's end is gone, and the client does not hear of it
                continue  # into the void
            try:
                if not data:
                    connection[sink].shutdown(socket.SHUT_WR)
                    return
                connection[sink].sendall(data)
            except OSError:
                return self._end(connection)
            with self._changed:
                if up:
                    self.up += len(data)
                else:
                    self.down += len(data)
                self._changed.notify_all()

    def _end(self, connection):
        if connection["deaf"]:
            return
        for end in ("client", "target"):
            _reset(connection[end])

    def wait_for_upload(self, size, timeout=60):
        with self._changed:
            if not self._changed.wait_for(lambda: self.up >= size, timeout):
                raise AssertionError(f"{self.up} bytes went up within {timeout} s, not {size}")

    def reset(self):
        with self._changed:
            connections, self._connections = self._connections, []
        for connection in connections:
            self._end(connection)

    def half_open(self):
        with self._changed:
            connections, self._connections = self._connections, []
        for connection in connections:
            connection["deaf"] = True
            _reset(connection["target"])

    def partition(self):
        with self._changed:
            self._open = False

    def heal(self):
        with self._changed:
            self._open = True
            self._changed.notify_all()

    def close(self):
        with self._changed:
            self._closed = True
            connections, self._connections = self._connections, []
            self._changed.notify_all()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for connection in connections:
            self._end(connection)


def _reset(end):
    with contextlib.suppress(OSError):
        end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    with contextlib.suppress(OSError):
        end.shutdown(socket.SHUT_RDWR)  # wakes who reads it
    end.close()
