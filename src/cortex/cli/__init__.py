"""The command lines: `cortex …` and `neuron …`."""
