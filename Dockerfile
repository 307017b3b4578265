# Three images: `servers` (PostgreSQL, PgBouncer and Knot DNS, the packages that the lab runs), `temporal`, and `lifeboat`.
# All run as one user without rights, so that a worker may write a pooler's databases file.

FROM debian:bookworm-20251229-slim AS servers
RUN mkdir -p /etc/postgresql-common/createcluster.d \
    && echo "create_main_cluster = false" >/etc/postgresql-common/createcluster.d/lifeboat.conf \
    && apt-get update \
    && apt-get install --yes --no-install-recommends postgresql-15 pgbouncer knot knot-dnsutils \
    && rm -rf /var/lib/apt/lists/*
RUN useradd --uid 10001 --user-group --no-create-home --home-dir /nonexistent lifeboat \
    && install --directory --owner lifeboat --group lifeboat --mode 0755 /configuration /var/lib/lifeboat \
        /var/lib/lifeboat/nodes /var/lib/lifeboat/nodes/pgbouncer-east /var/lib/lifeboat/nodes/pgbouncer-west
COPY --chmod=755 containers/start /usr/local/bin/start
USER lifeboat
ENTRYPOINT ["start"]

# The version and the way of scripts/lib/temporal.sh; Go's checksum database vouches for what is built.
FROM golang:1.25.5-bookworm AS temporal-build
RUN CGO_ENABLED=0 GOBIN=/out go install github.com/temporalio/cli/cmd/temporal@v1.5.1

FROM debian:bookworm-20251229-slim AS temporal
COPY --from=temporal-build /out/temporal /usr/local/bin/temporal
RUN useradd --uid 10001 --user-group --no-create-home --home-dir /nonexistent lifeboat \
    && install --directory --owner lifeboat --group lifeboat --mode 0755 /var/lib/temporal
USER lifeboat
ENTRYPOINT ["temporal"]

FROM python:3.12.11-slim-bookworm AS lifeboat
ENV PYTHONUNBUFFERED=1 PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /src
COPY requirements.txt ./
RUN pip install --require-hashes --requirement requirements.txt
COPY pyproject.toml README.md LICENSE ./
COPY schemas schemas
COPY workflows workflows
COPY activities activities
COPY archiver archiver
COPY workers workers
COPY cli cli
COPY lab lab
COPY bench bench
RUN pip install --no-deps --no-build-isolation . && rm -rf /src
RUN useradd --uid 10001 --user-group --no-create-home --home-dir /nonexistent lifeboat \
    && install --directory --owner lifeboat --group lifeboat --mode 0755 /configuration /var/lib/lifeboat \
        /var/lib/lifeboat/nodes /var/lib/lifeboat/nodes/pgbouncer-east /var/lib/lifeboat/nodes/pgbouncer-west
WORKDIR /
USER lifeboat
ENTRYPOINT ["lifeboat"]
