# The service image, built by the same script as a checkout. docs/operations.md shows how to run it.
FROM python:3.11-slim-bookworm

RUN apt-get update \
  && apt-get install -y --no-install-recommends ca-certificates \
  && rm -rf /var/lib/apt/lists/* \
  && useradd --create-home --uid 10001 zkserve

WORKDIR /app
COPY pyproject.toml constraints.txt setup.sh README.md ./
COPY zkserve zkserve
COPY contracts contracts
RUN ./setup.sh --runtime

RUN mkdir -p /data && chown zkserve:zkserve /data
USER zkserve
ENV PATH=/app/.venv/bin:$PATH ZKSERVE_DATA_DIR=/data ZKSERVE_HOST=0.0.0.0 \
  ZKSERVE_REQUIRE_API_KEY=true
VOLUME /data
EXPOSE 8000
HEALTHCHECK --interval=10s CMD ["zkserve", "status", "--json"]
ENTRYPOINT ["zkserve"]
CMD ["serve"]
