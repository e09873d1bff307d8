# The service image, built by the same script as a checkout. docs/operations.md shows how to run it:
# with `--shm-size=4g`, as a container's own 64 MiB of /dev/shm are too few for keys that are opened
# in memory, or with ZKSERVE_RUNTIME_DIR set to a tmpfs of the service's user; and with a storage
# key that lies outside of /data.
FROM python:3.11-slim-bookworm AS base
RUN apt-get update \
  && apt-get install -y --no-install-recommends bubblewrap ca-certificates libseccomp2 \
  && rm -rf /var/lib/apt/lists/*
WORKDIR /app

# The compiler stays behind; an image without the compiled core could not make native proofs.
FROM base AS build
RUN apt-get update && apt-get install -y --no-install-recommends g++
COPY pyproject.toml constraints.txt setup.sh README.md LICENSE ./
COPY zkserve zkserve
COPY contracts contracts
RUN ./setup.sh --runtime \
  && .venv/bin/python -c 'from zkserve.engines.native import core; core.load()' \
  && rm -rf build/native

FROM base
RUN useradd --create-home --uid 10001 zkserve
COPY --from=build /app /app
RUN mkdir -p /data && chown zkserve:zkserve /data
USER zkserve
ENV PATH=/app/.venv/bin:$PATH ZKSERVE_DATA_DIR=/data ZKSERVE_HOST=0.0.0.0 \
  ZKSERVE_REQUIRE_API_KEY=true
VOLUME /data
EXPOSE 8000
HEALTHCHECK --interval=10s CMD ["zkserve", "status", "--json"]
ENTRYPOINT ["zkserve"]
CMD ["serve"]
