"""HTTP/1.1 as gateway and neuron serve it: strict framing, bounded everything, and a direct way to the data path."""
