"""Small simulators of whole workloads beside the step-by-step one."""
