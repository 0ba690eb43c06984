"""Puts WebSocket handshakes and messages on a server, with as little Python as it takes."""

from __future__ import annotations

import select
import socket
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager

from measure import PATIENCE, Sample, Server

HEAD = (
    "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    "Sec-WebSocket-Key: AAECAwQFBgcICQoLDA0ODw==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)
MASK = b"mask"


def frame(first_byte: int, payload: bytes, mask: bytes = b"") -> bytes:
    size, bit = len(payload), 0x80 if mask else 0
    if size < 126:
        head = struct.pack("!BB", first_byte, bit | size)
    elif size < 65536:
        head = struct.pack("!BBH", first_byte, bit | 126, size)
    else:
        head = struct.pack("!BBQ", first_byte, bit | 127, size)
    if mask:
        payload = bytes(byte ^ mask[i % 4] for i, byte in enumerate(payload))
    return head + mask + payload


CLOSE = frame(0x88, (1000).to_bytes(2, "big"), MASK)


def ask(server: Server, path: str = "") -> socket.socket:
    """Connect, and send a handshake, for a path or that of the server's table."""
    sock = socket.create_connection(("127.0.0.1", server.port))
    # A socket with a timeout of Python's would ask the kernel twice for everything.
    for option in socket.SO_RCVTIMEO, socket.SO_SNDTIMEO:
        sock.setsockopt(socket.SOL_SOCKET, option, struct.pack("ll", PATIENCE, 0))
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
    sock.sendall(HEAD.format(path=path or server.peer.path).encode())
    return sock


def check_accepted(server: Server, answer: bytes) -> None:
    if not answer.startswith(b"HTTP/1.1 101 ") or not answer.endswith(b"\r\n\r\n"):
        raise server.failed(f"no handshake, but {answer!r}")


@contextmanager
def opened(server: Server, number: int) -> Iterator[list[socket.socket]]:
    """Open WebSockets, a few at a time, and close them in the end."""
    sockets: list[socket.socket] = []
    while len(sockets) < number:
        some = [ask(server) for _ in range(min(50, number - len(sockets)))]
        for sock in some:
            check_accepted(server, sock.recv(65536))
        sockets += some
    yield sockets
    for sock in sockets:
        sock.sendall(CLOSE)
        sock.shutdown(socket.SHUT_WR)  # for who does not know close frames
    for sock in sockets:
        with sock:
            while sock.recv(1 << 20):
                pass


def echo(
    server: Server, seconds: int, *, connections: int = 64, size: int = 64, in_flight: int = 1
) -> Sample:
    """Keep some messages on their way on each connection, and check all answers."""
    frames = [frame(0x81, b"x" * size, MASK) * number for number in range(in_flight + 1)]
    answer = frame(0x81, b"x" * size)
    answers = answer * (in_flight + 1)
    length = len(answer)
    done = 0
    with opened(server, connections) as sockets, select.epoll() as poll:
        by_fd = {sock.fileno(): sock for sock in sockets}
        offsets = dict.fromkeys(by_fd, 0)  # how much there is of an incomplete answer
        for fd, sock in by_fd.items():
            poll.register(fd, select.EPOLLIN)
            sock.sendall(frames[in_flight])
        before, start, used = server.cpu(), time.monotonic(), time.process_time()
        while (elapsed := time.monotonic() - start) < seconds:
            for fd, _ in poll.poll(1):
                data = by_fd[fd].recv(1 << 17)
                offset = offsets[fd]
                end = offset + len(data)
                if not data or data != answers[offset:end]:
                    raise server.failed(f"wrong answer {data[:100]!r}")
                complete, offsets[fd] = divmod(end, length)
                if complete:
                    done += complete
                    by_fd[fd].sendall(frames[complete])
        sample = Sample(done, server.cpu() - before, time.process_time() - used, elapsed)
    if not done:
        raise server.failed("no answer")
    return sample


def handshakes(server: Server, seconds: int, *, connections: int = 64) -> Sample:
    """Open and close WebSockets, so many at a time."""
    done = 0
    answers: dict[int, bytes] = {}  # of those whose handshake is not complete
    with select.epoll() as poll:
        open_sockets: dict[int, socket.socket] = {}

        def begin() -> None:
            sock = ask(server)
            open_sockets[sock.fileno()] = sock
            answers[sock.fileno()] = b""
            poll.register(sock, select.EPOLLIN)

        before, start, used = server.cpu(), time.monotonic(), time.process_time()
        for _ in range(connections):
            begin()
        while open_sockets:
            for fd, _ in poll.poll(1):
                data = open_sockets[fd].recv(65536)
                if fd in answers:
                    answers[fd] += data
                    if not data or answers[fd].endswith(b"\r\n\r\n"):
                        check_accepted(server, answers.pop(fd))
                        open_sockets[fd].sendall(CLOSE)
                elif not data:
                    done += 1
                    open_sockets.pop(fd).close()
                    if time.monotonic() - start < seconds:
                        begin()
            if time.monotonic() - start > seconds + PATIENCE:
                raise server.failed("does not close its connections")
        elapsed = time.monotonic() - start
        return Sample(done, server.cpu() - before, time.process_time() - used, elapsed)
