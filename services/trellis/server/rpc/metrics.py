"""What Prometheus sees of the calls."""

from prometheus_client import Counter, Gauge, Histogram

CALLS = Counter("trellis_rpc_calls_total", "Calls answered, by gRPC status.", ["method", "status"])
SECONDS = Histogram(
    "trellis_rpc_seconds",
    "Duration of calls; of streams, until their end.",
    ["method"],
    buckets=(0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 60, 600),
)
REFUSALS = Counter(
    "trellis_quota_refusals_total", "Calls that a limit of a tenant's quota had no room for, by the limit.", ["limit"]
)
EXPIRES = Gauge("trellis_tls_certificate_expires", "When the certificate of the API expires, in seconds since 1970.")
IN_FLIGHT = Gauge("trellis_rpc_in_flight", "Calls being answered.", ["method"])
