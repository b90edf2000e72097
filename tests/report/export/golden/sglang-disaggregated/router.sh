#!/usr/bin/env bash
# Start the router, on host 0.
# Written for SGLang 0.5.21 to 0.5.23, sglang-router 0.3.2.
# Plan: llama-3.1-70b on 3x(8xH100-SXM), engine sglang.
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

python -m sglang_router.launch_router \
  --host 0.0.0.0 \
  --port 8000 \
  --policy cache_aware \
  --cache-threshold 1.0 \
  --balance-abs-threshold 0 \
  --balance-rel-threshold 1.0 \
  --pd-disaggregation \
  --prefill "http://${HOST_0}:8100" 8998 \
  --prefill "http://${HOST_0}:8200" 8999 \
  --decode "http://${HOST_1}:8100"
