#!/usr/bin/env bash
# Start the front of the disaggregated engines.
# Written for TensorRT-LLM 1.2.1.
# Plan: llama-3.1-70b on 3x(8xH100-SXM), engine trtllm.
# Weights as the checkpoint, KV as the checkpoint, context the model's own. Router: disaggregated.
# Pool 0: 2 x 2 H100-SXM, role prefill.
# Pool 1: 1 x 2 H100-SXM, role decode.
# Promise: p99 ttft <= 2 s
# Promise: p95 tpot <= 60 ms
set -euo pipefail

trtllm-serve disaggregated -c disaggregated.yaml
