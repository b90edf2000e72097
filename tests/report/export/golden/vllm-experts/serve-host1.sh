#!/usr/bin/env bash
# Start the vLLM engines.
# Written for vLLM 0.33.0, vllm-router 0.1.17.
# Plan: qwen3-235b-a22b on 2x(8xH100-SXM), engine vllm.
# Weights as the checkpoint, KV fp8, context 32768. Router: round-robin.
# Pool 0: 1 x 16 H100-SXM, role both.
# Run on host 1 of 2.
set -euo pipefail
: "${HOST_0:?set it to the address of that host}"
: "${HOST_1:?set it to the address of that host}"

CUDA_VISIBLE_DEVICES=0,1,2,3,4,5,6,7 \
  vllm serve meta-llama/Llama-3.1-70B-Instruct \
  --host 0.0.0.0 \
  --port 8000 \
  --served-model-name meta-llama/Llama-3.1-70B-Instruct \
  --tensor-parallel-size 1 \
  --pipeline-parallel-size 1 \
  --data-parallel-size 16 \
  --enable-expert-parallel \
  --max-model-len 32768 \
  --max-num-batched-tokens 2048 \
  --max-num-seqs 64 \
  --gpu-memory-utilization 0.9 \
  --block-size 64 \
  --kv-cache-dtype fp8 \
  --enable-chunked-prefill \
  --no-enable-prefix-caching \
  --nnodes 2 \
  --node-rank 1 \
  --master-addr "$HOST_0" \
  --master-port 29501 \
  --headless
