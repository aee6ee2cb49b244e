# The image: one static binary, its configuration and the CA certificates; no shell, no package manager.
#
#   docker build -t unitgate .
#   docker run --read-only --cap-drop all --security-opt no-new-privileges -p 8080:8080 unitgate
#
# Why static glibc on scratch: the smallest image, and nothing in it needs security updates but what we
# build ourselves and the certificates. Name resolution holds: since glibc 2.34 its `files` and `dns` are
# part of the C library, so that a static binary reads /etc/hosts and asks DNS without loading anything;
# other NSS modules (mDNS, LDAP) are not for containers. Why not musl: another target to install, and
# another resolver than the one the tests run with.

FROM rust:1.95-slim-bookworm AS build
WORKDIR /build

# Static only for the target: naming it, if only as the host's own, keeps the flag away from procedural
# macros, which are loaded by the compiler and can't be static. Symbols are left out, since a panic prints
# its location only, which is not among them.
ENV RUSTFLAGS="-C target-feature=+crt-static" \
    CARGO_BUILD_TARGET=host-tuple \
    CARGO_PROFILE_RELEASE_DEBUG=false \
    CARGO_PROFILE_RELEASE_STRIP=symbols

# What reads the counts of a training run. The build below says which version it wants.
RUN apt-get update && apt-get install -y --no-install-recommends llvm-22

# The traffic that the program is optimised for is among the benches. The tests stay outside.
COPY Cargo.toml Cargo.lock config.toml ./
RUN sed -i '/^\[\[test\]\]/,/^$/d' Cargo.toml
COPY src src
COPY benches benches
COPY deploy/build deploy/build
RUN deploy/build \
 && mkdir -p /image/bin /image/etc/ssl/certs \
 && cp target/shipped/unitgate /image/bin/ \
 && cp /etc/ssl/certs/ca-certificates.crt /image/etc/ssl/certs/ \
 && echo 'hosts: files dns' > /image/etc/nsswitch.conf


FROM scratch
COPY --from=build /image/ /
COPY LICENSE /LICENSE
COPY deploy/container.toml /etc/unitgate/config.toml

# Where config.toml is looked for, and what relative paths in it are relative to.
WORKDIR /etc/unitgate

# By number, so that Kubernetes can tell it is not root. It owns no file here, and nothing is ever written.
USER 65532:65532

# 8080 is for clients; 9090 is for operators and not to be published (see deploy/container.toml).
EXPOSE 8080 9090

# Alive, not ready: a process that drains must be left to finish.
HEALTHCHECK --interval=10s --timeout=3s --start-period=5s --retries=3 \
  CMD ["/bin/unitgate", "healthcheck"]

# Drains, and ends within shutdown.deadline: below the 10 s that `docker stop` waits.
STOPSIGNAL SIGTERM
ENTRYPOINT ["/bin/unitgate"]
