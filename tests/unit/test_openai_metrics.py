"""Servers' metrics, as their sources name them, and anything else."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.engines.openai_metrics import Fullness, ServerLoad, parse_metrics

VLLM = """# HELP python_gc_objects_collected_total Objects collected during gc
# TYPE python_gc_objects_collected_total counter
python_gc_objects_collected_total{generation="0"} 1.0
# HELP vllm:num_requests_waiting Number of requests waiting to be processed.
# TYPE vllm:num_requests_waiting gauge
vllm:num_requests_waiting{engine="0",model_name="m"} 2.0
vllm:num_requests_waiting{engine="1",model_name="m"} 1.0
# TYPE vllm:num_requests_waiting_by_reason gauge
vllm:num_requests_waiting_by_reason{engine="0",reason="capacity"} 9.0
# TYPE vllm:kv_cache_usage_perc gauge
vllm:kv_cache_usage_perc{engine="0",model_name="m"} 0.25
vllm:kv_cache_usage_perc{engine="1",model_name="m"} 0.5
# TYPE vllm:cache_config_info gauge
vllm:cache_config_info{block_size="16",cache_dtype="auto",engine="0",num_gpu_blocks="1000"} 1.0
vllm:cache_config_info{block_size="16",cache_dtype="auto",engine="1",num_gpu_blocks="1000"} 1.0
"""


@pytest.mark.parametrize(
    ("page", "load"),
    [
        (VLLM, ServerLoad(0.5, 3, 32_000)),
        ('vllm:gpu_cache_usage_perc{model_name="m"} 0.75', ServerLoad(0.75)),
        ('vllm:cache_config_info{block_size="16",num_gpu_blocks="None"} 1.0', ServerLoad()),
        (
            "sglang:token_usage 0.28\nsglang:num_queue_reqs 0.0\nsglang:max_total_num_tokens 5000.0\n",
            ServerLoad(0.28, 0, 5000),
        ),
        ("llamacpp:kv_cache_usage_ratio 1.5\nllamacpp:requests_deferred 4\n", ServerLoad(1.0, 4)),
        ("vllm:kv_cache_usage_perc NaN\nvllm:num_requests_waiting -1\n", ServerLoad()),
        ("vllm:kv_cache_usage_perc{ 1", ServerLoad()),
        ("other_usage 0.9\n", ServerLoad()),
        ("<html>", ServerLoad()),
        ("", ServerLoad()),
    ],
)
def test_a_page_is_read(page: str, load: ServerLoad) -> None:
    assert parse_metrics(page) == load


@given(
    st.text(), st.sampled_from(["", "vllm:kv_cache_usage_perc", "sglang:num_queue_reqs ", "vllm:cache_config_info{"])
)
def test_no_page_is_an_error(text: str, beginning: str) -> None:
    load = parse_metrics(beginning + text)
    assert load.usage is None or 0 <= load.usage <= 1


def test_the_gate_does_not_flap() -> None:
    fullness = Fullness()
    said = [bool(fullness.note(ServerLoad(usage))) for usage in (0.9, 0.94, 0.96, 0.94, 0.91, 0.89, 0.94, None)]
    assert said == [False, False, True, True, True, False, False, False]


def test_one_who_waits_for_a_moment_closes_nothing() -> None:
    fullness = Fullness()
    assert [fullness.note(ServerLoad(0.1, waiting)) for waiting in (1, 0, 1, 2, 0)] == [
        "",
        "",
        "",
        "2 jobs wait in the server",
        "",
    ]
