"""The benchmark harness of nagfast: `python -m benchmarks NAME`."""
