#!/usr/bin/env bash
# Start the router, on host 0.
# Written for vLLM 0.33.0, vllm-router 0.1.17.
# Plan: llama-3.1-70b on 3x(8xH100-SXM), engine vllm.
# Weights as the checkpoint, KV as the checkpoint, context the model's own. Router: disaggregated.
# Pool 0: 2 x 4 H100-SXM, role prefill.
# Pool 1: 1 x 16 H100-SXM, role decode.
# Promise: p99 ttft <= 2 s
# Promise: p95 tpot <= 60 ms
# Each side takes its engine with the fewest open requests; how much of the decode side's memory transferred requests may hold is the engine's own rule.
set -euo pipefail
: "${HOST_0:?set it to the address of that host}"
: "${HOST_1:?set it to the address of that host}"
: "${HOST_2:?set it to the address of that host}"

vllm-router \
  --host 0.0.0.0 \
  --port 8000 \
  --policy cache_aware \
  --cache-threshold 1.0 \
  --balance-abs-threshold 0 \
  --balance-rel-threshold 1.0 \
  --vllm-pd-disaggregation \
  --kv-connector nixl \
  --prefill "http://${HOST_0}:8100" \
  --prefill "http://${HOST_0}:8200" \
  --decode "http://${HOST_1}:8100"
