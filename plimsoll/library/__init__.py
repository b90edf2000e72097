"""Bundled facts as YAML: devices, model shapes, workload statistics, calibration. Data only."""
