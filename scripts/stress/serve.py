"""Send a server hostile requests, measure its speed, and end it under load.

    python -m scripts.stress.serve RUN_DIR [--requests 10000] [--clients 1 8 64] [--seconds 10]
                                   [--slow-bodies 20] [--checkpoint best] [--seed 1]

1. Hostile or broken requests of many kinds, drawn by a seed, from 32 clients at once: each has to
   get the right status, or a closed connection where that is allowed, and the memory of the server
   must not grow by more than a tenth after the first quarter of them (judged from 1,000 requests).
2. For each number of clients: requests per second, and the time of a request. Each client sends one
   sentence after the other.
3. SIGTERM while 64 clients send sentences: each request that the server has logged as answered must
   have reached its client, none may have failed, and the exit code must be 0.

The exit code is 1 if any of this is not so. Memory is read from /proc, so this needs Linux.
"""

from __future__ import annotations

import argparse
import http.client
import json
import random
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from statistics import quantiles

NUM_HOSTILE_CLIENTS = 32
MIN_REQUESTS_FOR_MEMORY = 1000
TIMEOUT_SECONDS = 300
MAX_GROWTH = 1.1
SENTENCES = [
    "A man is walking along the street.",
    "Two children play football in front of an old house.",
    "The woman in the red coat is reading a book.",
    "Nobody knows when the next train will arrive.",
    "It rains.",
]
CLOSED = 0  # in place of a status: the server closed the connection
ABANDONED = -1  # in place of a status: the client went away


@dataclass
class Server:
    """A server process, its address and its log."""

    process: subprocess.Popen[str]
    host: str
    port: int
    source: str
    target: str
    log: list[str] = field(default_factory=list)

    def memory(self) -> float:
        """Return the resident memory in MB."""
        status = Path(f"/proc/{self.process.pid}/status").read_text(encoding="ascii")
        match = re.search(r"^VmRSS:\s*(\d+) kB", status, re.MULTILINE)
        assert match is not None
        return int(match[1]) / 1000

    def body(self, q: object, **more: object) -> bytes:
        """Return the body of a translation request."""
        return json.dumps({"q": q, "source": self.source, "target": self.target, **more}).encode()

    def send(self, raw: bytes) -> int:
        """Send bytes, and return the status of the answer, or CLOSED."""
        with closing(self.connect()) as connection:
            with suppress(BrokenPipeError, ConnectionResetError):
                connection.sendall(raw)
            try:
                answer = connection.recv(64)
            except ConnectionResetError:
                return CLOSED
        return int(answer.split()[1]) if answer else CLOSED

    def connect(self) -> socket.socket:
        """Return a connection."""
        return socket.create_connection((self.host, self.port), timeout=TIMEOUT_SECONDS)


@contextmanager
def running(run_dir: Path, *, checkpoint: str) -> Iterator[Server]:
    """Start a server on a free port."""
    command = [sys.executable, "-m", "mt", "serve", str(run_dir), "--port", "0"]
    process = subprocess.Popen(
        [*command, "--checkpoint", checkpoint], stderr=subprocess.PIPE, text=True
    )
    assert process.stderr is not None
    first_line = process.stderr.readline()
    match = re.match(r"http://(.+):(\d+)/: (\S+) to (\S+) ", first_line)
    if match is None:
        sys.exit(f"the server did not start: {first_line}")
    server = Server(process, match[1], int(match[2]), match[3], match[4])
    reader = threading.Thread(target=lambda: server.log.extend(process.stderr or ()))
    reader.start()
    try:
        yield server
    finally:
        process.kill()
        process.wait()
        reader.join()


def request(path: str, body: bytes, *, media_type: str = "application/json") -> bytes:
    """Return a request as bytes."""
    head = (
        f"POST {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
        f"Content-Type: {media_type}\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def translate(server: Server, body: bytes) -> int:
    """Send a translation request, and return its status."""
    return server.send(request("/translate", body))


# Hostile or broken requests. Each returns a status.


def good_text(server: Server, rng: random.Random) -> int:
    return translate(server, server.body(rng.choice(SENTENCES), alternatives=rng.randrange(3)))


def random_text(server: Server, rng: random.Random) -> int:
    characters = [
        chr(rng.choice((rng.randrange(1, 128), rng.randrange(0x2FFFF)))) for _ in range(40)
    ]
    text = "".join(characters).encode(errors="replace").decode()
    return translate(server, server.body(text))


def many_lines(server: Server, rng: random.Random) -> int:
    return translate(server, server.body("\n" * rng.randrange(1000, 5000)))


def long_text(server: Server, rng: random.Random) -> int:
    return translate(server, server.body("a" * rng.randrange(10_001, 20_000)))


def broken_json(server: Server, rng: random.Random) -> int:
    body = server.body(rng.choice(SENTENCES))
    return translate(server, body[: rng.randrange(len(body))])


def deep_json(server: Server, rng: random.Random) -> int:
    return translate(server, b"[" * rng.randrange(10_000, 60_000))


def bad_utf8(server: Server, rng: random.Random) -> int:
    return translate(server, server.body("x") + rng.choice((b"\xff", b"\xc3", b"\xed\xa0\x80")))


def lone_surrogate(server: Server, rng: random.Random) -> int:
    return translate(server, server.body(chr(rng.randrange(0xD800, 0xE000))))


def wrong_parameters(server: Server, rng: random.Random) -> int:
    wrong = rng.choice(
        (
            {"source": 3},
            {"target": "??"},
            {"alternatives": 1e9},
            {"format": "html"},
            {"model": ["x"]},
        )
    )
    return translate(server, json.dumps(json.loads(server.body("x")) | wrong).encode())


def huge_body(server: Server, rng: random.Random) -> int:
    return translate(server, b" " * rng.randrange(300_000, 3_000_000))


def announced_body(server: Server, rng: random.Random) -> int:
    return server.send(request("/translate", b"").replace(b"Length: 0", b"Length: 99999999999"))


def other_type(server: Server, rng: random.Random) -> int:
    return server.send(request("/translate", server.body("x"), media_type="text/plain"))


def broken_multipart(server: Server, rng: random.Random) -> int:
    body = b"--b\r\n" + rng.randbytes(50).replace(b"\r", b"") + b"\r\n--b--"
    return server.send(request("/details", body, media_type="multipart/form-data; boundary=b"))


def wrong_path(server: Server, rng: random.Random) -> int:
    return server.send(request(f"/{rng.choice(('nothing', '..%2f..', '%00', 'a' * 5000))}", b""))


def random_bytes(server: Server, rng: random.Random) -> int:
    return server.send(rng.randbytes(rng.randrange(1, 2000)) + b"\r\n\r\n")


def long_header(server: Server, rng: random.Random) -> int:
    return server.send(b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"a" * rng.randrange(70_000, 200_000))


def cancelled_body(server: Server, rng: random.Random) -> int:
    raw = request("/translate", server.body(rng.choice(SENTENCES)))
    with closing(server.connect()) as connection:
        connection.sendall(raw[: rng.randrange(1, len(raw))])
    return ABANDONED


def cancelled_wait(server: Server, rng: random.Random) -> int:
    path = rng.choice(("/translate", "/details", "/attention"))
    with closing(server.connect()) as connection:
        connection.sendall(request(path, server.body(rng.choice(SENTENCES))))
        time.sleep(rng.random() / 50)
    return ABANDONED


Hostile = Callable[[Server, random.Random], int]
HOSTILE: dict[Hostile, set[int]] = {
    good_text: {200},
    random_text: {200},
    many_lines: {413},
    long_text: {413},
    broken_json: {400},
    deep_json: {400},
    bad_utf8: {400},
    lone_surrogate: {400},
    wrong_parameters: {400},
    huge_body: {413, CLOSED},
    announced_body: {413},
    other_type: {415},
    broken_multipart: {400},
    wrong_path: {404},
    random_bytes: {400, CLOSED},
    long_header: {400, CLOSED},
    cancelled_body: {ABANDONED},
    cancelled_wait: {ABANDONED},
}


def slow_body(server: Server) -> int:
    """Send a body of a byte a second until the server gives up, and return its status."""
    with closing(server.connect()) as connection:
        connection.sendall(request("/translate", b"").replace(b"Length: 0", b"Length: 100"))
        connection.settimeout(1)
        while True:
            with suppress(TimeoutError):
                answer = connection.recv(64)
                return int(answer.split()[1]) if answer else CLOSED
            connection.sendall(b" ")


def attack(server: Server, num_requests: int, *, num_slow_bodies: int, seed: int) -> list[str]:
    """Send hostile requests, and return what went wrong."""
    rng = random.Random(seed)
    kinds = list(HOSTILE)
    chosen = [(rng.choice(kinds), rng.randrange(2**32)) for _ in range(num_requests)]
    problems = []
    counts: Counter[str] = Counter()

    def send(choice: tuple[Hostile, int]) -> None:
        kind, own_seed = choice
        try:
            status = kind(server, random.Random(own_seed))
        except OSError as error:
            problems.append(f"{kind.__name__} (seed {own_seed}): {error!r}")
            return
        counts[kind.__name__] += 1
        if status not in HOSTILE[kind]:
            problems.append(f"{kind.__name__} (seed {own_seed}): status {status}")

    warm_up = num_requests // 4
    print(f"hostile: memory before {server.memory():.0f} MB")
    begin = time.monotonic()
    with ThreadPoolExecutor(NUM_HOSTILE_CLIENTS + num_slow_bodies) as pool:
        slow = [pool.submit(slow_body, server) for _ in range(num_slow_bodies)]
        list(pool.map(send, chosen[:warm_up]))
        memory = server.memory()
        print(f"hostile: memory after {warm_up:,} requests {memory:.0f} MB")
        list(pool.map(send, chosen[warm_up:]))
        slow_statuses = Counter(future.result() for future in slow)
    seconds = time.monotonic() - begin
    grown = server.memory()
    print(f"hostile: memory after {num_requests:,} requests {grown:.0f} MB, {seconds:.0f} s")
    print(f"hostile: {len(problems)} wrong answers; slow bodies: {dict(slow_statuses)}")
    if not set(slow_statuses) <= {408}:
        problems.append(f"slow bodies: {dict(slow_statuses)}")
    if num_requests >= MIN_REQUESTS_FOR_MEMORY and grown > MAX_GROWTH * memory:
        problems.append(f"memory grew from {memory:.0f} to {grown:.0f} MB")
    if server.process.poll() is not None:
        problems.append("the server has ended")
    return problems


# Speed, and the end


@dataclass
class Client:
    """Sends one sentence after the other on one connection, and remembers the times."""

    server: Server
    seconds: list[float] = field(default_factory=list)  # of each request that was answered by 200
    num_other: int = 0  # other statuses

    def run(self, deadline: float) -> None:
        """Send until the deadline, or until the server closes the connection."""
        connection = http.client.HTTPConnection(
            self.server.host, self.server.port, timeout=TIMEOUT_SECONDS
        )
        headers = {"Content-Type": "application/json"}
        with closing(connection), suppress(OSError, http.client.HTTPException):
            while time.monotonic() < deadline:
                sentence = SENTENCES[len(self.seconds) % len(SENTENCES)]
                begin = time.monotonic()
                connection.request("POST", "/translate", self.server.body(sentence), headers)
                response = connection.getresponse()
                response.read()
                if response.status == 200:
                    self.seconds.append(time.monotonic() - begin)
                else:
                    self.num_other += 1


@contextmanager
def clients(server: Server, number: int, *, seconds: float) -> Iterator[list[Client]]:
    """Run clients on threads, and wait for them at the end."""
    deadline = time.monotonic() + seconds
    all_clients = [Client(server) for _ in range(number)]
    threads = [threading.Thread(target=client.run, args=(deadline,)) for client in all_clients]
    for thread in threads:
        thread.start()
    yield all_clients
    for thread in threads:
        thread.join()


def measure(server: Server, number: int, *, seconds: float) -> None:
    """Print the requests per second of some clients."""
    begin = time.monotonic()
    with clients(server, number, seconds=seconds) as all_clients:
        pass
    elapsed = time.monotonic() - begin
    times = sorted(1000 * second for client in all_clients for second in client.seconds)
    if len(times) < 2:
        print(f"{number} clients: too few answers in {elapsed:.0f} s")
        return
    percentiles = quantiles(times, n=20, method="inclusive")
    print(
        f"{number} clients: {len(times) / elapsed:.1f} requests/s, "
        f"p50 {percentiles[9]:.0f} ms, p95 {percentiles[18]:.0f} ms, "
        f"{sum(client.num_other for client in all_clients)} refused"
    )


def mark_log(server: Server) -> int:
    """Return the number of lines of the log, when all earlier requests are in it.

    A request is logged after its answer is sent, and before a later request is answered.
    """
    server.send(b"GET /mark HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    while not any(line.startswith("GET /mark ") for line in server.log):
        time.sleep(0.01)
    return len(server.log)


def end_under_load(server: Server, number: int) -> list[str]:
    """Send SIGTERM while clients are waiting, and return what went wrong."""
    begin = mark_log(server)
    with clients(server, number, seconds=TIMEOUT_SECONDS) as all_clients:
        time.sleep(2)
        server.process.send_signal(signal.SIGTERM)
        exit_code = server.process.wait()
    statuses = Counter(
        match[1]
        for line in server.log[begin:]
        if (match := re.match(r"POST /translate (\d+) ", line))
    )
    num_received = sum(len(client.seconds) for client in all_clients)
    print(
        f"SIGTERM with {number} clients: answered {statuses['200']}, received {num_received}, "
        f"statuses {dict(statuses)}, exit code {exit_code}"
    )
    problems = []
    if statuses["200"] != num_received:
        problems.append(f"{statuses['200']} answers, of which {num_received} arrived")
    if not set(statuses) <= {"200", "503"}:
        problems.append(f"requests failed: {dict(statuses)}")
    if exit_code != 0:
        problems.append(f"exit code {exit_code}")
    return problems


def main(arguments: Sequence[str] | None = None) -> int:
    """Run all three parts, and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("run_dir", type=Path)
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--clients", type=int, nargs="*", default=[1, 8, 64])
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--slow-bodies", type=int, default=20)
    parser.add_argument("--checkpoint", default="best")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args(arguments)
    with running(options.run_dir, checkpoint=options.checkpoint) as server:
        problems = attack(
            server,
            options.requests,
            num_slow_bodies=options.slow_bodies,
            seed=options.seed,
        )
        for number in options.clients:
            measure(server, number, seconds=options.seconds)
        problems += end_under_load(server, max(options.clients, default=64))
    errors = [line for line in server.log if line.startswith(("error:", "Traceback"))]
    problems += [f"in the log: {line.strip()}" for line in errors]
    for problem in problems:
        print(f"wrong: {problem}")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
