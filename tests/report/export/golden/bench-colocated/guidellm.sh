#!/usr/bin/env bash
# The load the plan was judged with.
# Written for guidellm 0.8.1.
# Plan: llama-3.1-70b on 8xH100-SXM, engine vllm.
# Weights as the checkpoint, KV as the checkpoint, context the model's own. Router: least-work.
# Pool 0: 2 x 4 H100-SXM, role both.
# Promise: p99 ttft <= 2 s
# Promise: p95 tpot <= 60 ms
# Note: chosen by search
# Load: four, 4 requests, 0.7059 requests/s by timestamp, in trace.jsonl.
set -euo pipefail

guidellm run \
  --backend kind=openai_http,target=http://127.0.0.1:8000,model=meta-llama/Llama-3.1-70B-Instruct,request_format=/v1/completions \
  --data kind=mooncake,source.kind=json_file,source.path=trace.jsonl,hash_id_block_size=16 \
  --profile kind=replay,time_scale=0.001,schedule_turn=timestamp \
  --tokenizer kind=huggingface_auto,model=meta-llama/Llama-3.1-70B-Instruct \
  --constraint kind=max_requests,count=4 \
  --metrics kind=generative,slo.ttft_ms=2000,slo.tpot_ms=60
