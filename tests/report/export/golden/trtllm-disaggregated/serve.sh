#!/usr/bin/env bash
# Start the TensorRT-LLM engines.
# Written for TensorRT-LLM 1.2.1.
# Plan: llama-3.1-70b on 3x(8xH100-SXM), engine trtllm.
# Weights as the checkpoint, KV as the checkpoint, context the model's own. Router: disaggregated.
# Pool 0: 2 x 2 H100-SXM, role prefill.
# Pool 1: 1 x 2 H100-SXM, role decode.
# Promise: p99 ttft <= 2 s
# Promise: p95 tpot <= 60 ms
set -euo pipefail
trap 'jobs -p | xargs -r kill' EXIT

CUDA_VISIBLE_DEVICES=0,1 \
  trtllm-serve meta-llama/Llama-3.1-70B-Instruct \
  --host 0.0.0.0 \
  --port 8100 \
  --extra_llm_api_options prefill.yaml &

CUDA_VISIBLE_DEVICES=2,3 \
  trtllm-serve meta-llama/Llama-3.1-70B-Instruct \
  --host 0.0.0.0 \
  --port 8200 \
  --extra_llm_api_options prefill.yaml &

CUDA_VISIBLE_DEVICES=4,5 \
  trtllm-serve meta-llama/Llama-3.1-70B-Instruct \
  --host 0.0.0.0 \
  --port 8300 \
  --extra_llm_api_options decode.yaml &

wait -n
