#!/usr/bin/env bash
# The load the plan was judged with.
# Written for aiperf 0.13.0.
# Plan: llama-3.1-70b on 8xH100-SXM, engine vllm.
# Weights as the checkpoint, KV as the checkpoint, context the model's own. Router: least-work.
# Pool 0: 2 x 4 H100-SXM, role both.
# Promise: p99 ttft <= 2 s
# Promise: p95 tpot <= 60 ms
# Note: chosen by search
# Load: four, 4 requests, 0.7059 requests/s by timestamp, in trace.jsonl.
set -euo pipefail

aiperf profile \
  --model meta-llama/Llama-3.1-70B-Instruct \
  --tokenizer meta-llama/Llama-3.1-70B-Instruct \
  --url http://127.0.0.1:8000 \
  --endpoint-type completions \
  --streaming \
  --input-file trace.jsonl \
  --custom-dataset-type mooncake_trace \
  --isl-block-size 16 \
  --extra-inputs ignore_eos:true \
  --fixed-schedule \
  --goodput 'time_to_first_token:2000 inter_token_latency:60'
