"""What is asked of each contestant, and what is measured meanwhile. Each run has a fresh server."""

import contextlib
import dataclasses
import http.client
import json
import math
import re
import resource
import ssl
import subprocess
import time

from contestants import HERE, found
from http1 import TARGET, Client, CountingUpstream, request
from processes import Failure, busy_ns, pinned

TOKEN = "0123456789abcdef0123456789abcdef0123456789abcdef"
OTHER_TOKEN = TOKEN[::-1]
KEYS = 10_000
# So many that none comes twice.
NO_END = 10**18
# Of `million`: keys, and room for all of them.
MILLION = 1_000_000
MILLION_MIB = 4096
# To fill it.
MILLION_SECONDS = 60
CONNECTIONS = 64
# Below it, the server waited for the generator, or for its core: its rate says nothing then.
SATURATED = 0.9
# Of HTTP/2: connections, and requests at once on each.
H2_CONNECTIONS = 16
H2_STREAMS = 32
# Of `tls_bulk`: far above what a TLS record or a socket's buffer holds.
BULK_KIB = 1024
VOLLEY = 500
# Which of its answers are told of: as a part of them, in order.
VOLLEYS = {"first": 1 / VOLLEY, "median": 0.5, "p99": 0.99, "all": 1}
DELAY = 0.2
# h2load's clock ticks about once a millisecond, and all clients send then: the fewer they are, the less a
# request waits behind those that were sent with it; with ten, 20,000/s are still reached.
LATENCY_CLIENTS = 10
LATENCIES = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "p99.9": 0.999}


@dataclasses.dataclass
class Bench:
    """What all runs share."""

    place: object
    upstream: object
    body: bytes
    # Starts an upstream with an answer of BULK_KIB.
    large: object
    seconds: int
    rate: int


class Metered:
    """CPU time of a server, the upstream, the server's core and a generator that ends, while something is done."""

    def __init__(self, bench, server):
        core = bench.place.server_cores[0]
        self.clocks = [server.cpu_ns, bench.upstream.cpu_ns, lambda: busy_ns(core), ended_ns]

    def __enter__(self):
        self.began = [clock() for clock in self.clocks]
        return self

    def __exit__(self, *_):
        spent = [clock() - began for clock, began in zip(self.clocks, self.began)]
        self.server_ns, self.upstream_ns, self.core_ns, self.generator_ns = spent


def ended_ns():
    """CPU time of this script's processes that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return (used.ru_utime + used.ru_stime) * 1e9


def warm(server, keys):
    """Asks for each key once."""
    with Client.to(server) as client:
        for unit in range(1, keys + 1):
            client.ask(TOKEN, unit)


def generator(bench, server, cores, command):
    """What a load generator tells."""
    command = pinned(cores, command)
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=bench.seconds + 60)
    except subprocess.TimeoutExpired:
        raise Failure(f"the load on {server.name} did not end; it was: {' '.join(command)}") from None
    if done.returncode:
        raise Failure(f"the load on {server.name} failed: {' '.join(command)}\n{done.stdout}{done.stderr}")
    return done.stdout


def load(bench, server, keys, cores, threads=1, nice=0):
    """As many requests as the server takes, for so many keys in turn."""
    wanted = request(TOKEN, "#").decode()
    command = [
        "nice", "-n", nice, bench.place.servers, "load", f"127.0.0.1:{server.port}", CONNECTIONS, threads,
        bench.seconds * 1000, keys, wanted,
    ]  # fmt: skip
    outcome = json.loads(generator(bench, server, cores, command))
    if outcome["bytes"] < outcome["requests"] * len(bench.body):
        raise Failure(f"{server.name} did not answer everything: {outcome}\n{server.last_words()}")
    return outcome


def wrk(bench, server, kind):
    """The same of one key over TLS: `keep` the connections, or `close` each."""
    command = [
        found("wrk"), "-t1", f"-c{CONNECTIONS}", f"-d{bench.seconds}s", "-s", HERE / "load.lua",
        f"https://127.0.0.1:{server.port}{TARGET}1", "--", kind, TOKEN,
    ]  # fmt: skip
    told = generator(bench, server, bench.place.load_cores[:1], command)
    outcome = next((json.loads(line[8:]) for line in told.splitlines() if line.startswith("outcome ")), None)
    if not outcome:
        raise Failure(f"wrk told no outcome of {server.name}; does load.lua fit its version?\n{told}")
    if outcome["failed"] or outcome["refused"] or outcome["bytes"] < outcome["requests"] * len(bench.body):
        raise Failure(f"{server.name} did not answer everything:\n{told}\n{server.last_words()}")
    return outcome


def loaded(bench, contestant, kind, cores=None, load_cores=None, threads=1, nice=0):
    """A run under load: requests per second, CPU per request, how busy the cores were."""
    keys = {"one": 1, "many": KEYS, "misses": NO_END}[kind]
    with contestant.running(bench.place, bench.upstream.port, cores) as server:
        if kind != "misses":
            warm(server, keys)
        with Metered(bench, server) as cpu:
            outcome = load(bench, server, keys, load_cores or bench.place.load_cores[:1], threads, nice)
    requests, ns = outcome["requests"], outcome["microseconds"] * 1000
    figures = metered(cpu, requests, ns) | {"upstream_us": cpu.upstream_ns / requests / 1000}
    check_upstream(contestant, kind, figures["upstream_us"])
    return figures


def check_upstream(contestant, kind, us):
    """The upstream's CPU tells whether it was asked: a request costs it more than 2 µs, no request none."""
    if contestant.caches and kind == "misses" and us < 2:
        raise Failure(f"{contestant.name}: requests of `misses` did not reach the upstream ({us:.2f} µs each)")
    if kind != "misses" and us > 0.05:
        raise Failure(
            f"{contestant.name}: requests of `{kind}` reached the upstream ({us:.2f} µs each); "
            "is its cache too small for the keys?"
        )


def one(bench, contestant):
    """One key, always a hit."""
    return loaded(bench, contestant, "one")


def many(bench, contestant):
    """10,000 keys in turn, all hits."""
    return loaded(bench, contestant, "many")


def misses(bench, contestant):
    """Each request another key: a miss, and a new entry."""
    return loaded(bench, contestant, "misses")


def h2(bench, contestant):
    """One key, always a hit, over HTTP/2 without TLS."""
    place = dataclasses.replace(bench.place, transport="h2c")
    with contestant.running(place, bench.upstream.port) as server:
        h2load(bench, server, ["-n", 1_000])
        began = time.perf_counter_ns()
        with Metered(bench, server) as cpu:
            requests = h2load(bench, server, ["-D", bench.seconds])
        ns = time.perf_counter_ns() - began
    return metered(cpu, requests, ns)


def h2load(bench, server, length):
    """HTTP/2 by prior knowledge; how many requests were answered, all of them well."""
    command = [
        found("h2load"), "-t1", f"-c{H2_CONNECTIONS}", f"-m{H2_STREAMS}", *length,
        "-H", f"Authorization: Bearer {TOKEN}", f"http://127.0.0.1:{server.port}{TARGET}1",
    ]  # fmt: skip
    told = generator(bench, server, bench.place.load_cores[:1], command)
    codes = re.search(r"status codes: (\d+) 2xx, (\d+) 3xx, (\d+) 4xx, (\d+) 5xx", told)
    failed = re.search(r"(\d+) failed, (\d+) errored, (\d+) timeout", told)
    if not codes or not failed or any(map(int, [*codes.groups()[1:], *failed.groups()])) or not int(codes[1]):
        raise Failure(f"{server.name} did not answer everything over HTTP/2:\n{told}\n{server.last_words()}")
    return int(codes[1])


def metered(cpu, requests, ns):
    """What a load over `ns` says of a server."""
    return {
        "rate": requests / ns * 1e9,
        "cpu_us": cpu.server_ns / requests / 1000,
        "busy": cpu.server_ns / ns,
        "others": max(0, cpu.core_ns - cpu.server_ns) / ns,
        "generator": cpu.generator_ns / ns,
    }


def tls_new(bench, contestant):
    """One key over TLS 1.3, a connection with a full handshake for each request."""
    return over_tls(bench, contestant, "close")


def tls_bulk(bench, contestant):
    """One key of 1 MiB over TLS 1.3, connections kept."""
    with bench.large() as upstream:
        with Client.to(upstream) as client:
            body = client.ask(TOKEN, 1)
        if len(body) < BULK_KIB << 10:
            raise Failure(f"the large answer has only {len(body)} bytes; see running_upstream in run")
        return over_tls(dataclasses.replace(bench, upstream=upstream, body=body), contestant, "keep")


def over_tls(bench, contestant, kind):
    """A run with wrk over TLS. Its own part of a handshake costs more than a server's: rates say less than CPU."""
    place = dataclasses.replace(bench.place, transport="tls")
    with contestant.running(place, bench.upstream.port) as server:
        warm_over_tls(server, bench.body)
        with Metered(bench, server) as cpu:
            outcome = wrk(bench, server, kind)
    return metered(cpu, outcome["requests"], outcome["microseconds"] * 1000)


def warm_over_tls(server, body):
    """Asks for the first key once; nobody vouches for the certificate."""
    anyone = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    anyone.check_hostname, anyone.verify_mode = False, ssl.CERT_NONE
    client = http.client.HTTPSConnection("127.0.0.1", server.port, timeout=10, context=anyone)
    with contextlib.closing(client):
        client.request("GET", f"{TARGET}1", headers={"Authorization": f"Bearer {TOKEN}"})
        answer = client.getresponse()
        if answer.status != 200 or answer.read() != body:
            raise Failure(f"{server.name} did not answer over TLS: {answer.status}\n{server.last_words()}")


def latency(bench, contestant):
    """One key at a fixed rate: times from request to answer, from h2load's log."""
    log = bench.place.directory / "h2load.log"
    log.unlink(missing_ok=True)
    with contestant.running(bench.place, bench.upstream.port) as server:
        warm(server, 1)
        command = [
            found("h2load"), "--h1", "-t1", f"-c{LATENCY_CLIENTS}", f"--rps={bench.rate / LATENCY_CLIENTS}",
            "-D", bench.seconds, "--warm-up-time=1", f"--log-file={log}", "-H", f"Authorization: Bearer {TOKEN}",
            f"http://127.0.0.1:{server.port}{TARGET}1",
        ]  # fmt: skip
        generator(bench, server, bench.place.load_cores[:1], command)
    return read_latencies(server.name, log)


def read_latencies(name, log):
    """Percentiles of what h2load wrote: begin in µs, status, time in µs."""
    lines = [tuple(map(int, line.split("\t"))) for line in log.read_text().splitlines()]
    bad = [status for _, status, _ in lines if status != 200]
    if bad or not lines:
        raise Failure(f"{name}: {len(bad)} of {len(lines)} requests at a fixed rate failed, such as {bad[:5]}")
    times = sorted(time for _, _, time in lines)
    begins = [begin for begin, _, _ in lines]
    figures = {label: times[math.ceil(part * len(times)) - 1] for label, part in LATENCIES.items()}
    return {"rate": len(lines) / (max(begins) - min(begins)) * 1e6, **figures}


def coalesce(bench, contestant):
    """500 clients at once ask for one cold key, of an upstream that takes 200 ms and was asked for another before."""
    place = dataclasses.replace(bench.place, delay_ms=round(DELAY * 1e3))
    with CountingUpstream(bench.body, DELAY) as upstream:
        with contestant.running(place, upstream.port) as server:
            with Client.to(server) as client:
                client.ask(TOKEN, 2)
            before = upstream.count
            wanted = request(TOKEN, 1).decode()
            # Of the idle class: the upstream beside them is to be as prompt as one on another machine, and even at
            # the lowest priority the kernel lets whoever runs go on for some ms.
            clients = ["chrt", "--idle", 0, bench.place.servers, "volley", f"127.0.0.1:{server.port}", VOLLEY, wanted]
            volley = json.loads(generator(bench, server, bench.place.load_cores[:1], clients))
    # All of it from the moment before the first client asked.
    times = [ns / 1e6 for ns in volley["times"]]
    heard, answered = (
        [moment * 1e3 - volley["began"] / 1e6 for moment in moments[before:]]
        for moments in (upstream.asked_at, upstream.answered_at)
    )
    # `bare` is its own upstream, and answers when its first client says so.
    heard, answered = heard or [0], answered or [times[0]]
    figures = {
        "asked": upstream.count - before,
        "upstream_heard_ms": heard[0],
        "upstream_first_ms": answered[0],
        "upstream_last_ms": answered[-1],
    }
    for label, part in VOLLEYS.items():
        time = times[math.ceil(part * len(times)) - 1]
        figures |= {f"{label}_ms": time, f"{label}_after_ms": time - answered[0]}
    return figures


def start(bench, contestant):
    """From the start of the process to the first connection, the first miss and the first hit."""
    with contestant.running(bench.place, bench.upstream.port, listening=False) as server:
        with Client(server.name, server.wait_until_it_listens(pause=0.0002)) as client:
            moments = [time.perf_counter()]
            for _ in ("miss", "hit"):
                client.ask(TOKEN, 1)
                moments.append(time.perf_counter())
    return dict(zip(("listens_ms", "miss_ms", "hit_ms"), ((moment - server.spawned) * 1000 for moment in moments)))


def two(bench, contestant):
    """Hits of many keys: two threads on two cores, against one on one core.

    With four cores the generator has two of its own, and the rate is measured. With fewer it shares the server's
    two, at the lowest priority; then only the CPU per request says something.
    """
    cores, load_cores = bench.place.server_cores, bench.place.load_cores
    single = loaded(bench, contestant, "many")
    apart = not set(cores) & set(load_cores)
    double = loaded(bench, contestant, "many", cores, load_cores, threads=2, nice=0 if apart else 19)
    figures = {"cpu_us_one": single["cpu_us"], "cpu_us_two": double["cpu_us"], "busy_two": double["busy"]}
    if apart:
        figures["rate_one"], figures["rate_two"] = single["rate"], double["rate"]
    return figures


def million(bench, contestant):
    """Hits of a million keys in turn, against hits of one, in the same process."""
    place, cores = dataclasses.replace(bench.place, cache_mib=MILLION_MIB), bench.place.load_cores[:1]
    figures = {}
    with contestant.running(place, bench.upstream.port) as server:
        filled = load(dataclasses.replace(bench, seconds=MILLION_SECONDS), server, MILLION, cores)
        if filled["requests"] < MILLION:
            raise Failure(f"{server.name} took {filled['requests']} of a million keys in {MILLION_SECONDS} s")
        for name, keys in (("one", 1), ("all", MILLION)):
            with Metered(bench, server) as cpu:
                outcome = load(bench, server, keys, cores)
            figures[f"cpu_us_{name}"] = cpu.server_ns / outcome["requests"] / 1000
            check_upstream(contestant, name, cpu.upstream_ns / outcome["requests"] / 1000)
    return figures


def verify(bench, contestant):
    """What makes the comparison one of equals: everything is kept, per token, and nothing is changed upstream."""
    with CountingUpstream(bench.body) as upstream:
        with contestant.running(bench.place, upstream.port) as server, Client.to(server) as client:

            def ask(token, unit, wanted, claim):
                body = client.ask(token, unit)
                if upstream.count != wanted or body != bench.body:
                    raise Failure(
                        f"{contestant.name}: {claim}; the upstream was asked {upstream.count} times, not {wanted}, "
                        f"and the body is {'the same' if body == bench.body else repr(body)}"
                    )

            ask(TOKEN, 1, 1, "a cold key is asked for once")
            ask(TOKEN, 1, 1, "a second request is a hit")
            ask(OTHER_TOKEN, 1, 2, "another token never gets what the first one fetched")
            ask(OTHER_TOKEN, 1, 2, "another token has hits of its own")
            ask(TOKEN, 1, 2, "the first token's entry is left")
            check_heads(contestant, upstream.heads)
            asked = upstream.count
            for _ in range(2):
                warm(server, KEYS)
            if upstream.count != asked + KEYS - 1:
                raise Failure(
                    f"{contestant.name}: {KEYS} keys, asked for twice, cost {upstream.count - asked} requests upstream "
                    f"instead of {KEYS - 1}; is its cache too small?"
                )


def check_heads(contestant, heads):
    """Token and target reach the upstream as they were sent."""
    for head, token in zip(heads, (TOKEN, OTHER_TOKEN)):
        lines = head.split("\r\n")
        fields = dict(line.lower().split(": ", 1) for line in lines[1:])
        wanted = request(token, 1).decode().split("\r\n")[0]
        if lines[0] != wanted or fields.get("authorization") != f"bearer {token}".lower():
            raise Failure(f"{contestant.name} asked the upstream something else:\n{head}")


# Those that run only when they are named: minutes to fill each cache.
LONG = {"million"}
# In the order in which they run; the kinds, or names, of who takes part in it.
WORKLOADS = {
    "one": (one, ("floor", "gateway", "peer")),
    "many": (many, ("floor", "gateway", "peer")),
    "misses": (misses, ("gateway", "peer")),
    "h2": (h2, ("gateway", "nginx", "haproxy")),
    "tls_new": (tls_new, ("gateway", "nginx", "haproxy")),
    "tls_bulk": (tls_bulk, ("gateway", "nginx")),
    "latency": (latency, ("floor", "gateway", "peer")),
    "coalesce": (coalesce, ("bare", "gateway", "peer")),
    "start": (start, ("gateway", "peer")),
    "two": (two, ("gateway", "peer")),
    "million": (million, ("yardstick", "gateway")),
}
