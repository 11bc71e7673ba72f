"""Latency of live requests: record, store, query and export it."""
