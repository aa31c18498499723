"""Stories of requests reach an OpenTelemetry collector, off the way of requests."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest

from cortex.core.errors import ConfigError
from cortex.gateway.trace import otel
from cortex.gateway.trace.kept import kept
from cortex.gateway.trace.loads import Load, Step
from ended_requests import ended

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


class Collector:
    """What a collector was sent: spans by name."""

    def __init__(self) -> None:
        self.url = ""
        self.bodies: list[bytes] = []

    def spans(self) -> dict[str, Any]:
        from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

        found = {}
        for body in self.bodies:
            for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
                for scope in resource.scope_spans:
                    found |= {span.name: span for span in scope.spans}
        return found


@pytest.fixture
def collector() -> Iterator[Collector]:
    pytest.importorskip("opentelemetry.exporter.otlp.proto.http")
    told = Collector()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            import gzip

            body = self.rfile.read(int(self.headers["Content-Length"]))
            told.bodies.append(gzip.decompress(body) if self.headers.get("Content-Encoding") == "gzip" else body)
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        told.url = f"http://127.0.0.1:{server.server_address[1]}/v1/traces"
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield told
        server.shutdown()
        thread.join()


def sent(collector: Collector, **fields: object) -> dict[str, Any]:
    trace = kept(ended(**fields), 1_000_000.0, ())
    trace.loads = [Load("a", "request", "fits", 0.1, 0.3, [Step("load", 0.1, 0.3)])]
    export = otel.OtelExport(collector.url)
    export.send([trace])
    export.close()
    return collector.spans()


def test_a_request_is_a_span_in_its_clients_trace_and_its_parts_are_within_it(collector: Collector) -> None:
    spans = sent(collector, traceparent=f"00-{TRACE}-{SPAN}-01")
    whole, waiting, load = spans["request m"], spans["waiting"], spans["load"]

    assert {span.trace_id.hex() for span in spans.values()} == {TRACE}
    assert whole.parent_span_id.hex() == SPAN
    assert waiting.parent_span_id == whole.span_id
    assert spans["cold start"].parent_span_id == waiting.span_id
    assert load.parent_span_id == spans["cold start"].span_id
    assert whole.start_time_unix_nano == 1_000_100 * 10**9
    assert whole.end_time_unix_nano == 1_000_102 * 10**9
    assert {a.key: a.value for a in whole.attributes}["gen_ai.usage.output_tokens"].int_value == 11


def test_one_without_a_trace_gets_one_and_a_failure_is_an_error(collector: Collector) -> None:
    whole = sent(collector, code="no_memory", trailer=None)["request m"]

    assert any(whole.trace_id)
    assert not whole.parent_span_id
    assert whole.status.message == "no_memory"


def test_what_a_client_does_not_want_sampled_is_not_sent(collector: Collector) -> None:
    assert sent(collector, traceparent=f"00-{TRACE}-{SPAN}-00") == {}


def test_without_the_extra_the_start_is_refused_with_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(otel, "NEEDED", ("opentelemetry.nothing.of.the.kind",))

    with pytest.raises(ConfigError, match=r"otlp_endpoint.*pip install 'cortex-fleet\[otel\]'"):
        otel.OtelExport("http://127.0.0.1:9/v1/traces")
