# syntax=docker/dockerfile:1
FROM --platform=$BUILDPLATFORM golang:1.26-bookworm AS build
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY . .
ARG TARGETOS TARGETARCH VERSION=0.0.0-dev
RUN CGO_ENABLED=0 GOOS=$TARGETOS GOARCH=$TARGETARCH go build -trimpath -ldflags "-s -w -X main.version=$VERSION" -o /out/cwprelay ./cmd/cwprelay \
 && mkdir -p /out/state

# No shell, nothing but the program and the authorities it trusts; not root. The
# zones of the API's times are in the program.
FROM scratch
LABEL org.opencontainers.image.title="cwprelay" \
      org.opencontainers.image.description="Carries findings of Tencent Cloud Workload Protection into a SIEM" \
      org.opencontainers.image.licenses="Apache-2.0"
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/
COPY --from=build /out/cwprelay /usr/bin/cwprelay
COPY --from=build --chown=65532:65532 --chmod=0700 /out/state /var/lib/cwprelay
ENV CWPRELAY_STATE__DIR=/var/lib/cwprelay
VOLUME /var/lib/cwprelay
USER 65532:65532
HEALTHCHECK --interval=30s --timeout=6s --start-period=20s CMD ["/usr/bin/cwprelay", "health"]
ENTRYPOINT ["/usr/bin/cwprelay"]
CMD ["run"]
