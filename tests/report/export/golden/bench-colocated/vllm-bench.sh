#!/usr/bin/env bash
# The load the plan was judged with.
# Written for vLLM 0.33.0.
# Plan: llama-3.1-70b on 8xH100-SXM, engine vllm.
# Weights as the checkpoint, KV as the checkpoint, context the model's own. Router: least-work.
# Pool 0: 2 x 4 H100-SXM, role both.
# Promise: p99 ttft <= 2 s
# Promise: p95 tpot <= 60 ms
# Note: chosen by search
# Load: four, 4 requests, 0.7059 requests/s by timestamp, in trace.jsonl.
set -euo pipefail

vllm bench serve \
  --backend openai \
  --endpoint /v1/completions \
  --host 127.0.0.1 \
  --port 8000 \
  --model meta-llama/Llama-3.1-70B-Instruct \
  --served-model-name meta-llama/Llama-3.1-70B-Instruct \
  --dataset-name timed_trace \
  --dataset-path trace.jsonl \
  --timed-trace-chunk-hash-size 16 \
  --timed-trace-sec-multiplier 0.001 \
  --num-prompts 4 \
  --ignore-eos \
  --self-timed \
  --percentile-metrics ttft,tpot,itl,e2el \
  --metric-percentiles 50,90,95,99 \
  --goodput ttft:2000 tpot:60 \
  --save-result
