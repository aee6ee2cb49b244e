"""HTTP/1.1 by hand: a client that asks in turn, and an upstream that counts."""

import asyncio
import contextlib
import re
import selectors
import socket
import threading

from processes import Failure

TARGET = "/api/v1/calcom/integration/unit/unit-"
LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)\r\n", re.IGNORECASE)


def request(token, unit):
    """The bytes that ask for a unit."""
    return (
        f"GET {TARGET}{unit} HTTP/1.1\r\nHost: unitgate.internal\r\n"
        f"Authorization: Bearer {token}\r\n\r\n"
    ).encode()


def answer_in(received):
    """(head, body) once all of an answer is there, else None."""
    head, found, body = received.partition(b"\r\n\r\n")
    if not found:
        return None
    length = LENGTH.search(head + b"\r\n")
    if not length:
        raise Failure(f"an answer without Content-Length, which no server here should give:\n{head.decode()}")
    return (head, body) if len(body) >= int(length[1]) else None


def expect_200(name, head):
    """Fails for any other status."""
    if not head.startswith(b"HTTP/1.1 200 "):
        raise Failure(f"{name} refused a request:\n{head.decode(errors='replace')}")


class Client:
    """One connection, one request after the other."""

    def __init__(self, name, stream):
        self.name, self.stream = name, stream
        stream.settimeout(15)
        stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    @classmethod
    def to(cls, server):
        """To a server that listens already."""
        return cls(server.name, socket.create_connection(("127.0.0.1", server.port)))

    def ask(self, token, unit):
        """The body of the answer, which must be a 200."""
        try:
            head, body = self.exchange(request(token, unit))
        except OSError as error:
            raise Failure(f"{self.name} gave no answer: {error}") from error
        expect_200(self.name, head)
        return body

    def exchange(self, asked):
        """Head and body of the answer to these bytes."""
        self.stream.sendall(asked)
        received = b""
        while not (answer := answer_in(received)):
            more = self.stream.recv(65536)
            if not more:
                raise Failure(f"{self.name} closed the connection within an answer: {received!r}")
            received += more
        return answer

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stream.close()


class CountingUpstream:
    """An upstream in a thread of its own that notes what it is asked; slow, and exact."""

    def __init__(self, body, delay=0.0):
        self.delay = delay
        self.answer = (
            b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body) + body
        )
        self.heads, self.transports = [], []
        # When requests had come and answers went, in seconds of the monotonic clock.
        self.asked_at, self.answered_at = [], []
        # It waits by the microsecond, for descriptors below 1,024; what asyncio takes otherwise, by the millisecond.
        self.loop = asyncio.SelectorEventLoop(selectors.SelectSelector())
        self.thread = threading.Thread(target=self.loop.run_forever, daemon=True)

    @property
    def count(self):
        """Requests so far."""
        return len(self.heads)

    def __enter__(self):
        self.thread.start()
        serving = self.loop.create_server(lambda: Exchange(self), "127.0.0.1", 0, backlog=4096)
        self.server = asyncio.run_coroutine_threadsafe(serving, self.loop).result(5)
        self.port = self.server.sockets[0].getsockname()[1]
        return self

    def __exit__(self, *_):
        self.loop.call_soon_threadsafe(self.leave)
        self.thread.join()
        self.loop.close()

    def leave(self):
        """Drops what is open; the loop ends when that is done."""
        self.server.close()
        for transport in self.transports:
            transport.abort()
        self.loop.call_soon(self.loop.stop)


# Seconds for which it turns until an answer is due.
TURN = 0.0005


class Exchange(asyncio.Protocol):
    """A connection of the counting upstream."""

    def __init__(self, upstream):
        self.upstream, self.received = upstream, b""

    def connection_made(self, transport):
        self.transport = transport
        self.upstream.transports.append(transport)

    def data_received(self, data):
        now = self.upstream.loop.time()
        self.received += data
        while b"\r\n\r\n" in self.received:
            head, _, self.received = self.received.partition(b"\r\n\r\n")
            self.upstream.heads.append(head.decode())
            self.upstream.asked_at.append(now)
            if self.upstream.delay:
                due = now + self.upstream.delay
                self.upstream.loop.call_later(self.upstream.delay - TURN, self.reply_at, due)
            else:
                self.reply()

    def reply_at(self, due):
        """To the moment: who sleeps is woken up to 0.4 ms late."""
        if self.upstream.loop.time() < due:
            self.upstream.loop.call_soon(self.reply_at, due)
        else:
            self.reply()

    def reply(self):
        self.upstream.answered_at.append(self.upstream.loop.time())
        with contextlib.suppress(OSError):
            self.transport.write(self.upstream.answer)
