"""Safetensors of any architecture that Hugging Face's transformers batches, on CPU and GPU, on one rank or many."""
