"""Every metric of the gateway: its name, which is the original's where that had one, its labels, and what it means."""

from __future__ import annotations

from cortex.core.metrics import DURATION_BUCKETS, GAP_BUCKETS, SPEED_BUCKETS, TTFT_BUCKETS, Family

_WHERE = ("model", "node")
_SPOT = ("node", "model")
_DEVICE = ("node", "device")

# requests: counted when their last byte is out; the node is "-" before one was chosen --------------------------------

REQUESTS = Family("cortex_requests", "counter", "Requests that ended, however they did", _WHERE)
ERRORS = Family("cortex_request_errors", "counter", "Requests that failed, by the error's code", (*_WHERE, "code"))
REJECTIONS = Family(
    "cortex_model_rejections",
    "counter",
    "Requests refused before a node had them: queue full, no memory, no such model, a key's limit",
    ("node", "model", "reason"),
)
LEFT = Family("cortex_client_disconnects", "counter", "Clients that left before they had their answer", _WHERE)
SAVED = Family(
    "cortex_cancelled_tokens_saved",
    "counter",
    "Tokens not decoded for clients that had left: the model's mean answer, or the request's limit, less what came",
    _WHERE,
)
DURATION = Family(
    "cortex_request_duration_seconds", "histogram", "From the request to its last byte", _WHERE, DURATION_BUCKETS
)
TTFT = Family(
    "cortex_time_to_first_token_seconds",
    "histogram",
    "From the request to the first token of the answer, waiting and loading included",
    _WHERE,
    TTFT_BUCKETS,
)
GAP = Family(
    "cortex_inter_token_latency_seconds",
    "histogram",
    "Mean time between two tokens of an answer, one observation an answer",
    _WHERE,
    GAP_BUCKETS,
)
SPEED = Family("cortex_tokens_per_second", "histogram", "Decoded tokens a second, of an answer", _WHERE, SPEED_BUCKETS)
QUEUE_WAIT = Family(
    "cortex_queue_wait_seconds", "histogram", "What requests waited for a replica, loads included", _WHERE, TTFT_BUCKETS
)
PROMPT = Family("cortex_prompt_tokens", "counter", "Prompt tokens", _WHERE)
COMPLETION = Family("cortex_completion_tokens", "counter", "Completion tokens", _WHERE)
CACHED = Family("cortex_cached_prompt_tokens", "counter", "Prompt tokens that a replica had cached", _WHERE)
RETRIES = Family("cortex_retries", "counter", "Attempts that a node did not take, and that were made again", _WHERE)
FAILOVERS = Family("cortex_failovers", "counter", "Requests that another node served after this one failed", _WHERE)
CONTINUATIONS = Family("cortex_continuations", "counter", "Answers that went on from another node", _WHERE)

# keys: at most 200 by name, the others together as "other" -----------------------------------------------------------

KEY_REQUESTS = Family("cortex_key_requests", "counter", "Requests let in, by key", ("key",))
KEY_REFUSALS = Family(
    "cortex_key_refusals", "counter", "Requests over a key's limits, or for another's model", ("key", "code")
)
KEY_TOKENS = Family("cortex_key_tokens", "counter", "Tokens that keys paid, by kind", ("key", "kind"))

# what is decided -----------------------------------------------------------------------------------------------------

COLD_STARTS = Family("cortex_cold_starts", "counter", "Loads that were begun", _WHERE)
LOAD_SECONDS = Family("cortex_load_seconds", "histogram", "How long loads took", _WHERE, DURATION_BUCKETS)
LOAD_FAILURES = Family("cortex_load_failures", "counter", "Loads that failed, by the error's code", (*_WHERE, "code"))
EVICTIONS = Family(
    "cortex_evictions",
    "counter",
    "Replicas unloaded: for room, by ttl, moved off a drained node, renewed, or as a client or an operator wants",
    (*_WHERE, "reason"),
)

# the fleet as it is now ----------------------------------------------------------------------------------------------

NODE_HEALTHY = Family("cortex_node_healthy", "gauge", "1 if the node answers", ("node",))
NODE_DRAINED = Family("cortex_node_drained", "gauge", "1 if an operator took the node out of service", ("node",))
POLL_AGE = Family("cortex_poll_age_seconds", "gauge", "How long ago the node last answered", ("node",))
MEMORY_TOTAL = Family("cortex_device_memory_total_bytes", "gauge", "Memory of the device", _DEVICE)
MEMORY_FREE = Family("cortex_device_memory_free_bytes", "gauge", "Free memory, less what loads have set aside", _DEVICE)
MEMORY_USED = Family("cortex_device_memory_used_bytes", "gauge", "Memory in use, by whomever", _DEVICE)
MEMORY_OTHER = Family(
    "cortex_device_memory_other_bytes", "gauge", "Memory in use by other programs than the node's engines", _DEVICE
)
VRAM_USED = Family("cortex_device_vram_used_mb", "gauge", "Memory in use, in MiB; GPUs alone", _DEVICE)
VRAM_FREE = Family("cortex_device_vram_free_mb", "gauge", "Free memory, in MiB; GPUs alone", _DEVICE)
UTILIZATION = Family("cortex_device_utilization_pct", "gauge", "How busy the device is, 0 to 100", _DEVICE)
TEMPERATURE = Family("cortex_device_temp_c", "gauge", "Temperature in degrees Celsius", _DEVICE)
REPLICAS = Family("cortex_replicas", "gauge", "Replicas, by state", ("node", "model", "state"))
IN_FLIGHT = Family("cortex_model_in_flight", "gauge", "Requests that decode, as the node says", _SPOT)
MAX_IN_FLIGHT = Family("cortex_model_max_in_flight", "gauge", "Requests that a replica decodes at once", _SPOT)
QUEUE_DEPTH = Family("cortex_model_queue_depth", "gauge", "Requests that wait at the node", _SPOT)
REQUESTS_IN_FLIGHT = Family("cortex_requests_in_flight", "gauge", "Requests of this gateway at a replica", _SPOT)
WAITING = Family("cortex_requests_waiting", "gauge", "Requests that wait in this gateway for a replica", ("model",))
PREFILL_SPEED = Family("cortex_model_tok_s_prefill", "gauge", "Prompt tokens a second, as learned", _SPOT)
DECODE_SPEED = Family("cortex_model_tok_s_decode", "gauge", "Completion tokens a second, as learned", _SPOT)
ESTIMATE_ERROR = Family(
    "cortex_estimate_error_ratio",
    "gauge",
    "What the load was let in with over the most it has held, less 1; below 0, it was let in with too little",
    ("node", "model", "basis"),
)

# the gateway itself --------------------------------------------------------------------------------------------------

TRACES_DROPPED = Family("cortex_traces_dropped", "counter", "Requests that came too fast to be counted and kept")
INFO = Family("cortex_info", "gauge", "1, with the version that runs", ("version",))

FAMILIES: tuple[Family, ...] = tuple(value for value in list(globals().values()) if isinstance(value, Family))
