#!/usr/bin/env bash
# Start the vLLM engines.
# Written for vLLM 0.33.0, vllm-router 0.1.17.
# Plan: llama-3.1-70b on 8xH100-SXM, engine vllm.
# Weights as the checkpoint, KV as the checkpoint, context the model's own. Router: least-work.
# Pool 0: 2 x 4 H100-SXM, role both.
# Promise: p99 ttft <= 2 s
# Promise: p95 tpot <= 60 ms
# Note: chosen by search
set -euo pipefail
trap 'jobs -p | xargs -r kill' EXIT

CUDA_VISIBLE_DEVICES=0,1,2,3 \
  vllm serve meta-llama/Llama-3.1-70B-Instruct \
  --host 0.0.0.0 \
  --port 8100 \
  --served-model-name meta-llama/Llama-3.1-70B-Instruct \
  --tensor-parallel-size 4 \
  --pipeline-parallel-size 1 \
  --data-parallel-size 1 \
  --max-model-len 131072 \
  --max-num-batched-tokens 2048 \
  --max-num-seqs 128 \
  --gpu-memory-utilization 0.9 \
  --block-size 16 \
  --kv-cache-dtype auto \
  --enable-chunked-prefill \
  --enable-prefix-caching &

CUDA_VISIBLE_DEVICES=4,5,6,7 \
  vllm serve meta-llama/Llama-3.1-70B-Instruct \
  --host 0.0.0.0 \
  --port 8200 \
  --served-model-name meta-llama/Llama-3.1-70B-Instruct \
  --tensor-parallel-size 4 \
  --pipeline-parallel-size 1 \
  --data-parallel-size 1 \
  --max-model-len 131072 \
  --max-num-batched-tokens 2048 \
  --max-num-seqs 128 \
  --gpu-memory-utilization 0.9 \
  --block-size 16 \
  --kv-cache-dtype auto \
  --enable-chunked-prefill \
  --enable-prefix-caching &

wait -n
