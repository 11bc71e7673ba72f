"""The Open Inference Protocol, version 2, over HTTP: KServe's and Triton's protocol."""
