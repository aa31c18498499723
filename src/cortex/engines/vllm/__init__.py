"""The engine `vllm`: safetensors at full GPU throughput, split over devices and hosts, through vLLM's `AsyncLLM`."""
