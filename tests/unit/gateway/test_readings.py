from __future__ import annotations

import pytest

from spillway.gateway.readings import EgressSample, parse_counters

LABELS = 'deployment="chat/glm-5",provider="zai",model="a \\"b\\".1",outcome="metered/json:9",process="gateway-0-1"'
PAGE = f"""# TYPE envoy_spillway_egress_requests counter
envoy_spillway_egress_requests{{{LABELS}}} 3
envoy_spillway_egress_prompt_tokens{{{LABELS}}} 1200
envoy_spillway_egress_request_bytes{{{LABELS}}} 1e+06

# TYPE envoy_spillway_arrivals counter
envoy_spillway_arrivals{{deployment="chat/glm-5",route="",process="gateway-0-1"}} 9
envoy_spillway_arrivals{{deployment="chat/glm-5",route="premium",process="gateway-0-1"}} 4
envoy_spillway_arrivals{{deployment="-",route="",process="gateway-0-1"}} 2
envoy_cluster_upstream_rq_active{{envoy_cluster_name="ext|zai|glm-5.1|chat/glm-5"}} 4
envoy_spillway_egress_errors{{provider="zai",model="glm-5.1",why="quota",process="gateway-0-1"}} 7
# TYPE envoy_spillway_egress_first_byte histogram
envoy_spillway_egress_first_byte_bucket{{provider="zai",model="glm-5.1",process="gateway-0-1",le="200"}} 2
envoy_spillway_egress_first_byte_bucket{{provider="zai",model="glm-5.1",process="gateway-0-1",le="+Inf"}} 3
envoy_spillway_egress_first_byte_sum{{provider="zai",model="glm-5.1",process="gateway-0-1"}} 812.5
envoy_spillway_egress_first_byte_count{{provider="zai",model="glm-5.1",process="gateway-0-1"}} 3
envoy_sds_update_success{{spillway_secret="credential|zai"}} 0
envoy_sds_update_success{{spillway_secret="credential|deep"}} 2
envoy_sds_update_success{{spillway_secret="authority|"}} 0
"""


def test_page() -> None:
    reading = parse_counters(PAGE)
    assert reading.process == "gateway-0-1"
    sample = EgressSample("chat", "glm-5", "zai", 'a "b".1', "metered", 3, 1200, 0, 0, 1_000_000, 0, 0, 9, "json")
    assert reading.samples == (sample,)
    assert reading.arrivals == {"chat/glm-5": 9}
    assert reading.in_flight == {"ext|zai|glm-5.1|chat/glm-5": 4}
    assert reading.missing_credential_keys == ("zai",)
    assert reading.errors == {("zai", "glm-5.1", "quota"): 7}
    assert reading.first_bytes == {("zai", "glm-5.1"): {200.0: 2, float("inf"): 3}}


def test_nothing_counted_yet() -> None:
    reading = parse_counters("")
    assert (reading.process, reading.samples) == (None, ())


@pytest.mark.parametrize("page", ["<html>", PAGE[: PAGE.index("1200")], "envoy_x{} NaN"])
def test_a_cut_page_is_an_error(page: str) -> None:
    with pytest.raises(ValueError, match="not a metric"):
        parse_counters(page)
