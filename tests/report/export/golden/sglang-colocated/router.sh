#!/usr/bin/env bash
# Start the router, on host 0.
# Written for SGLang 0.5.21 to 0.5.23, sglang-router 0.3.2.
# Plan: llama-3.1-70b on 8xH100-SXM, engine sglang.
# Weights as the checkpoint, KV as the checkpoint, context the model's own. Router: least-work.
# Pool 0: 2 x 4 H100-SXM, role both.
# Promise: p99 ttft <= 2 s
# Promise: p95 tpot <= 60 ms
# Note: chosen by search
# Load is counted in open requests here; the plan counts tokens still to process.
set -euo pipefail

python -m sglang_router.launch_router \
  --host 0.0.0.0 \
  --port 8000 \
  --policy cache_aware \
  --cache-threshold 1.0 \
  --balance-abs-threshold 0 \
  --balance-rel-threshold 1.0 \
  --worker-urls http://127.0.0.1:8100 http://127.0.0.1:8200
