# Server, worker and command in an image without a shell. The server runs unless another command is given:
#   docker build -t kvstore:0.1.0 --build-arg REVISION="$(git rev-parse HEAD)" --build-arg SOURCE="$(git remote get-url origin)" .
#   docker run --read-only -p 127.0.0.1:8000:8000 -v kvstore:/var/lib/kvstore -e KVSTORE_ALLOW_UNAUTHENTICATED=true kvstore:0.1.0
FROM rust:1.95-bookworm AS build
WORKDIR /build
COPY Cargo.toml Cargo.lock rust-toolchain.toml ./
COPY kvstore-core/Cargo.toml kvstore-core/
COPY kvstore-process/Cargo.toml kvstore-process/
COPY kvstore-worker/Cargo.toml kvstore-worker/
COPY kvstore-http/Cargo.toml kvstore-http/
COPY kvstore-client/Cargo.toml kvstore-client/
COPY kvstore-cli/Cargo.toml kvstore-cli/
COPY kvstore-testing/Cargo.toml kvstore-testing/
COPY examples/Cargo.toml examples/
COPY benches/Cargo.toml benches/
# Empty sources in place of ours: this layer is the dependencies alone, made again only when those change.
RUN for crate in kvstore-core kvstore-process kvstore-worker kvstore-http kvstore-client kvstore-cli kvstore-testing examples benches; do \
      mkdir -p $crate/src $crate/tests; \
      touch $crate/src/lib.rs $crate/tests/process.rs; \
      echo 'fn main() {}' > $crate/src/main.rs; \
      for file in $(sed -n 's/^path = "\(.*\.rs\)"$/\1/p' $crate/Cargo.toml); do \
        [ -e $crate/$file ] || touch $crate/$file; \
      done; \
    done \
    && cargo build --release --locked --workspace --bins \
    && rm -r */src */tests
COPY . .
# Ours may be older than the empty ones were, and cargo looks at times.
RUN find . -name '*.rs' -not -path './target/*' -exec touch {} + \
    && cargo build --release --locked --workspace --bins \
    && mkdir -p /data

FROM gcr.io/distroless/cc-debian12:nonroot
# What it is made of, so that who finds the image finds the source.
ARG REVISION=unknown
ARG SOURCE=unknown
LABEL org.opencontainers.image.title="kvstore" \
      org.opencontainers.image.revision="$REVISION" \
      org.opencontainers.image.source="$SOURCE" \
      org.opencontainers.image.description="A JSON key-value store: server, worker and command" \
      org.opencontainers.image.version="0.1.0" \
      org.opencontainers.image.licenses="MIT OR Apache-2.0"
COPY --from=build /build/target/release/kvstore-http /build/target/release/kvstore-worker /build/target/release/kvstore \
     /usr/local/bin/
COPY --from=build --chown=65532:65532 /data /var/lib/kvstore
USER 65532:65532
ENV KVSTORE_LISTEN=0.0.0.0:8000 \
    KVSTORE_STORE=file:/var/lib/kvstore/database
EXPOSE 8000
VOLUME /var/lib/kvstore
# The command asks the server, at KVSTORE_ADMIN_LISTEN if there is one: there is no curl here.
HEALTHCHECK --interval=10s --timeout=5s --start-period=300s CMD ["/usr/local/bin/kvstore", "health"]
CMD ["/usr/local/bin/kvstore-http"]
