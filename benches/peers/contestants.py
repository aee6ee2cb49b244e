"""Who is compared: how each is configured and started."""

import contextlib
import dataclasses
import grp
import itertools
import os
import pathlib
import pwd
import re
import resource
import subprocess

from processes import Failure, Server, free_port

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
# What the shipped configuration gives the cache; the peers get as much.
CACHE_MIB = 64
# Of directories: one for each server that was started.
NUMBERS = itertools.count(1)


@dataclasses.dataclass
class Place:
    """Where servers run: binaries, directories and cores."""

    unitgate: str
    servers: str
    directory: pathlib.Path
    memory: pathlib.Path
    server_cores: list
    load_cores: list
    # A certificate with its key in one file, and the key alone.
    certificate: pathlib.Path = None
    key: pathlib.Path = None
    # What the servers speak: "plain" is HTTP/1.1, "tls" the same over TLS 1.3, "h2c" HTTP/2 without TLS.
    transport: str = "plain"
    # What their caches may take.
    cache_mib: int = CACHE_MIB
    # How long `bare` lets those wait who ask at once.
    delay_ms: int = 0

    def fresh(self):
        """The same place with empty directories, for one more server."""
        number = str(next(NUMBERS))
        parts = [pathlib.Path(base) / number for base in (self.directory, self.memory)]
        for part in parts:
            part.mkdir(exist_ok=True)
        return dataclasses.replace(self, directory=parts[0], memory=parts[1])


@dataclasses.dataclass
class Contestant:
    """A server to compare. `kind`: "floor" does less than the job, "gateway" is ours, "peer" is another's."""

    name: str
    kind: str
    command: object
    discards_stdout: bool = False

    @property
    def caches(self):
        """Whether it asks the upstream at all."""
        return self.kind != "floor"

    @contextlib.contextmanager
    def running(self, place, upstream, cores=None, listening=True):
        """A fresh one, its cache empty, ended afterwards."""
        cores = cores or place.server_cores[:1]
        place = place.fresh()
        port = free_port()
        command = self.command(place, port, upstream, len(cores))
        stdout = subprocess.DEVNULL if self.discards_stdout else None
        server = Server(self.name, command, cores, port, place.directory / "log", stdout)
        try:
            if listening:
                server.wait_until_it_listens().close()
            yield server
        finally:
            server.end()


def filled(template, place, **values):
    """A configuration from a template beside this file, every @NAME@ in it replaced."""
    text = (HERE / template).read_text()
    values.update(DIRECTORY=place.directory, MEMORY=place.memory, CACHE_MIB=place.cache_mib)
    for name, value in values.items():
        text = text.replace(f"@{name}@", str(value))
    if left := re.findall(r"@[A-Z_]+@", text):
        raise Failure(f"{template}: nothing is known to put for {', '.join(left)}; see contestants.py")
    path = place.directory / template
    path.write_text(text)
    return path


def with_keys(text, keys):
    """The shipped configuration with these keys changed: {"section.key": "value"}. Each must be there once."""
    section, left, lines = "", dict(keys), []
    for line in text.splitlines():
        if header := re.match(r"\[+([^\]]+)\]", line):
            section = header[1]
        key = re.match(r"(\w+) = ", line)
        name = f"{section}.{key[1]}" if key else None
        if name in keys:
            if name not in left:
                raise Failure(f"config.toml has {name} twice; correct unitgate_keys in contestants.py")
            line = f"{key[1]} = {left.pop(name)}"
        lines.append(line)
    if left:
        raise Failure(f"config.toml has no {', '.join(left)} any more; correct unitgate_keys in contestants.py")
    return "\n".join(lines) + "\n"


def unitgate_keys(port, upstream, access):
    """The only keys that differ from the shipped ones."""
    above = "{ per_second = 1_000_000, burst = 1_000_000 }"
    return {
        "listen.address": f'"127.0.0.1:{port}"',
        "admin.address": f'"127.0.0.1:{free_port()}"',
        "upstreams.converflow.url": f'"http://127.0.0.1:{upstream}"',
        "upstreams.chat.url": f'"http://127.0.0.1:{upstream}"',
        "cache.ttl": '"1h"',
        "cache.max_ttl": '"1h"',
        "limits.caller": above,
        "limits.caller_upstream": above,
        "log.access": f'"{access}"',
    }


def unitgate_transport(place):
    """The keys that a transport takes."""
    match place.transport:
        case "tls":
            return {
                "listen.tls_certificate_file": f'"{place.certificate}"',
                "listen.tls_key_file": f'"{place.key}"',
            }
        case "h2c":
            return {"listen.http2": '"all"'}
        case _:
            return {}


def unitgate(access):
    """The gateway; its threads are as many as the cores that it may use."""

    def command(place, port, upstream, _threads):
        shipped = (ROOT / "config.toml").read_text()
        path = place.directory / "config.toml"
        keys = unitgate_keys(port, upstream, access) | unitgate_transport(place)
        keys["cache.max_bytes"] = f'"{place.cache_mib}MiB"'
        path.write_text(with_keys(shipped, keys))
        return [place.unitgate, "--config", path]

    return command


def floor(role):
    """One of benches/servers.rs."""
    return lambda place, port, _upstream, _threads: [
        place.servers, role, f"127.0.0.1:{port}", str(place.delay_ms), "0", str(place.cache_mib),
    ]  # fmt: skip


def nginx(place, port, upstream, threads):
    """nginx, with a worker for each core."""
    user = pwd.getpwuid(os.getuid())
    transport = {
        "tls": f"ssl; ssl_protocols TLSv1.3; ssl_certificate {place.certificate}; ssl_certificate_key {place.key}",
        "h2c": "http2",
    }
    files = min(65536, resource.getrlimit(resource.RLIMIT_NOFILE)[1])
    path = filled(
        "nginx.conf",
        place,
        USER=user.pw_name,
        GROUP=grp.getgrgid(user.pw_gid).gr_name,
        THREADS=threads,
        REUSEPORT="reuseport" if threads > 1 else "",
        TRANSPORT=transport.get(place.transport, ""),
        OPEN_FILES=files,
        CACHED_FILES=min(16384, files // 2),
        PORT=port,
        UPSTREAM=upstream,
    )
    return [found("nginx"), "-p", place.directory, "-e", place.directory / "log", "-c", path]


def haproxy(place, port, upstream, threads):
    """HAProxy, with a thread for each core."""
    transport = {"tls": f"ssl crt {place.certificate} ssl-min-ver TLSv1.3", "h2c": "proto h2"}
    spoken = transport.get(place.transport, "")
    path = filled("haproxy.cfg", place, THREADS=threads, PORT=port, UPSTREAM=upstream, TRANSPORT=spoken)
    return [found("haproxy"), "-db", "-f", path]


def varnish(place, port, upstream, threads):
    """Varnish, with a pool for each core: a thread takes one request at a time there."""
    path = filled("varnish.vcl", place, UPSTREAM=upstream)
    executable = not os.statvfs(place.memory).f_flag & os.ST_NOEXEC
    parameters = {
        "thread_pools": threads,
        # As many as ever needed, so that none is started or ended under load.
        "thread_pool_min": 400,
        "thread_pool_max": 400,
        # Nothing into the log in shared memory.
        "vsl_mask": ",".join(f"-{tag}" for tag in VARNISH_LOGS),
    }
    return [
        found("varnishd"), "-F", "-j", "none", "-T", "none",
        # It loads compiled code from there.
        "-n", (place.memory if executable else place.directory) / "varnish",
        "-a", f"127.0.0.1:{port}",
        "-f", path,
        "-s", f"malloc,{place.cache_mib}m",
        *(word for name, value in parameters.items() for word in ("-p", f"{name}={value}")),
    ]


def found(program):
    """Where Debian has it, which may lie outside of PATH."""
    for folder in [*os.environ["PATH"].split(":"), "/usr/sbin", "/usr/local/sbin"]:
        path = pathlib.Path(folder) / program
        if os.access(path, os.X_OK):
            return str(path)
    return None


CONTESTANTS = [
    Contestant("bare", "floor", floor("bare")),
    Contestant("yardstick", "floor", floor("yardstick")),
    Contestant("unitgate", "gateway", unitgate("off")),
    Contestant("unitgate+log", "gateway", unitgate("all"), discards_stdout=True),
    Contestant("nginx", "peer", nginx),
    Contestant("haproxy", "peer", haproxy),
    Contestant("varnish", "peer", varnish),
]

# All that a request without a fault writes.
VARNISH_LOGS = """
    Begin End Link SessOpen SessClose Timestamp Length Storage TTL Hit HitMiss HitPass Filters ExpBan
    ReqStart ReqMethod ReqURL ReqProtocol ReqHeader ReqUnset ReqAcct
    RespProtocol RespStatus RespReason RespHeader RespUnset
    BereqMethod BereqURL BereqProtocol BereqHeader BereqUnset BereqAcct
    BerespProtocol BerespStatus BerespReason BerespHeader BerespUnset
    BackendOpen BackendReuse BackendClose BackendStart Fetch_Body Gzip
    ObjProtocol ObjStatus ObjReason ObjHeader ObjUnset VCL_call VCL_return VCL_use VCL_Log
    Debug VCL_trace ExpKill WorkThread Hash VfpAcct VdpAcct H2RxHdr H2RxBody H2TxHdr H2TxBody
""".split()
