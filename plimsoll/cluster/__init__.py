"""Clusters of instances: where parts are placed, when instances start and stop."""
