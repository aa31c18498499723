"""The decisions: pure functions from values to a value, shared by the gateway, the neuron and what explains them."""
