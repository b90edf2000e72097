#!/usr/bin/env bash
# Start the SGLang engines.
# Written for SGLang 0.5.21 to 0.5.23, sglang-router 0.3.2.
# Plan: llama-3.1-70b on 3x(8xH100-SXM), engine sglang.
# Weights as the checkpoint, KV as the checkpoint, context the model's own. Router: disaggregated.
# Pool 0: 2 x 4 H100-SXM, role prefill.
# Pool 1: 1 x 16 H100-SXM, role decode.
# Promise: p99 ttft <= 2 s
# Promise: p95 tpot <= 60 ms
# --mem-fraction-static 0.875 covers weights and KV only; the plan's 0.9 of pools[0] also covers activations and runtime.
# --mem-fraction-static 0.8952 covers weights and KV only; the plan's 0.92 of pools[1] also covers activations and runtime.
# Run on host 0 of 3.
set -euo pipefail
: "${HOST_0:?set it to the address of that host}"
: "${HOST_1:?set it to the address of that host}"
: "${HOST_2:?set it to the address of that host}"
trap 'jobs -p | xargs -r kill' EXIT

CUDA_VISIBLE_DEVICES=0,1,2,3 \
  python -m sglang.launch_server \
  --model-path meta-llama/Llama-3.1-70B-Instruct \
  --host 0.0.0.0 \
  --port 8100 \
  --served-model-name meta-llama/Llama-3.1-70B-Instruct \
  --tp-size 4 \
  --pp-size 1 \
  --ep-size 1 \
  --dp-size 1 \
  --context-length 131072 \
  --max-running-requests 256 \
  --mem-fraction-static 0.875 \
  --page-size 16 \
  --kv-cache-dtype auto \
  --schedule-policy fcfs \
  --chunked-prefill-size 2048 \
  --max-prefill-tokens 2048 \
  --disaggregation-mode prefill \
  --disaggregation-transfer-backend nixl \
  --disaggregation-bootstrap-port 8998 &

CUDA_VISIBLE_DEVICES=4,5,6,7 \
  python -m sglang.launch_server \
  --model-path meta-llama/Llama-3.1-70B-Instruct \
  --host 0.0.0.0 \
  --port 8200 \
  --served-model-name meta-llama/Llama-3.1-70B-Instruct \
  --tp-size 4 \
  --pp-size 1 \
  --ep-size 1 \
  --dp-size 1 \
  --context-length 131072 \
  --max-running-requests 256 \
  --mem-fraction-static 0.875 \
  --page-size 16 \
  --kv-cache-dtype auto \
  --schedule-policy fcfs \
  --chunked-prefill-size 2048 \
  --max-prefill-tokens 2048 \
  --disaggregation-mode prefill \
  --disaggregation-transfer-backend nixl \
  --disaggregation-bootstrap-port 8999 &

wait -n
