#!/usr/bin/env bash
# Start the TensorRT-LLM engines.
# Written for TensorRT-LLM 1.2.1.
# Plan: llama-3.1-70b on 8xH100-SXM, engine trtllm.
# Weights as the checkpoint, KV as the checkpoint, context the model's own. Router: least-work.
# Pool 0: 2 x 4 H100-SXM, role both.
# Promise: p99 ttft <= 2 s
# Promise: p95 tpot <= 60 ms
# Note: chosen by search
set -euo pipefail
trap 'jobs -p | xargs -r kill' EXIT

CUDA_VISIBLE_DEVICES=0,1,2,3 \
  trtllm-serve meta-llama/Llama-3.1-70B-Instruct \
  --host 0.0.0.0 \
  --port 8100 \
  --extra_llm_api_options server.yaml &

CUDA_VISIBLE_DEVICES=4,5,6,7 \
  trtllm-serve meta-llama/Llama-3.1-70B-Instruct \
  --host 0.0.0.0 \
  --port 8200 \
  --extra_llm_api_options server.yaml &

wait -n
