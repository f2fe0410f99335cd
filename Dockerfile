# syntax=docker/dockerfile:1
FROM --platform=$BUILDPLATFORM golang:1.26.8-bookworm AS build
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY . .
ARG TARGETOS TARGETARCH VERSION=0.0.0-dev COMMIT=""
RUN CGO_ENABLED=0 GOOS=$TARGETOS GOARCH=$TARGETARCH go build -trimpath -buildvcs=false \
      -ldflags "-s -w -buildid= -X main.version=$VERSION -X main.commit=$COMMIT" -o /out/usr/bin/cwprelay ./cmd/cwprelay \
 && mkdir -p /out/etc/ssl/certs /out/etc/cwprelay /out/var/lib/cwprelay \
 && cp /etc/ssl/certs/ca-certificates.crt /out/etc/ssl/certs/ \
 && chown 65532:65532 /out/var/lib/cwprelay && chmod 0700 /out/var/lib/cwprelay

# No shell, nothing but the program and the authorities it trusts; not root; the
# root file system may be read-only. The zones of the API's times are in the
# program. A configuration is expected at /etc/cwprelay/cwprelay.yaml.
FROM scratch
COPY --from=build /out /
ENV CWPRELAY_STATE__DIR=/var/lib/cwprelay
VOLUME /var/lib/cwprelay
USER 65532:65532
WORKDIR /var/lib/cwprelay
HEALTHCHECK --interval=30s --timeout=6s --start-period=20s CMD ["/usr/bin/cwprelay", "health"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["/usr/bin/cwprelay"]
CMD ["run"]
ARG VERSION=0.0.0-dev COMMIT=""
LABEL org.opencontainers.image.title="cwprelay" \
      org.opencontainers.image.description="Carries findings of Tencent Cloud Workload Protection into a SIEM" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.source="https://github.com/cwprelay/cwprelay" \
      org.opencontainers.image.version="$VERSION" \
      org.opencontainers.image.revision="$COMMIT"
