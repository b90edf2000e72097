#!/usr/bin/env bash
# Start the vLLM engines.
# Written for vLLM 0.33.0, vllm-router 0.1.17.
# Plan: llama-3.1-70b on 3x(8xH100-SXM), engine vllm.
# Weights as the checkpoint, KV as the checkpoint, context the model's own. Router: disaggregated.
# Pool 0: 2 x 4 H100-SXM, role prefill.
# Pool 1: 1 x 16 H100-SXM, role decode.
# Promise: p99 ttft <= 2 s
# Promise: p95 tpot <= 60 ms
# Run on host 2 of 3.
set -euo pipefail
: "${HOST_0:?set it to the address of that host}"
: "${HOST_1:?set it to the address of that host}"
: "${HOST_2:?set it to the address of that host}"

CUDA_VISIBLE_DEVICES=0,1,2,3,4,5,6,7 VLLM_NIXL_SIDE_CHANNEL_PORT=5600 VLLM_NIXL_SIDE_CHANNEL_HOST="$HOST_2" \
  vllm serve meta-llama/Llama-3.1-70B-Instruct \
  --host 0.0.0.0 \
  --port 8100 \
  --served-model-name meta-llama/Llama-3.1-70B-Instruct \
  --tensor-parallel-size 16 \
  --pipeline-parallel-size 1 \
  --data-parallel-size 1 \
  --max-model-len 131072 \
  --max-num-batched-tokens 2048 \
  --max-num-seqs 256 \
  --gpu-memory-utilization 0.92 \
  --block-size 16 \
  --kv-cache-dtype auto \
  --enable-chunked-prefill \
  --enable-prefix-caching \
  --kv-transfer-config '{"kv_connector": "NixlConnector", "kv_role": "kv_consumer"}' \
  --nnodes 2 \
  --node-rank 1 \
  --master-addr "$HOST_1" \
  --master-port 29501 \
  --headless
