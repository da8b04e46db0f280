"""Descriptions of networks: populations, projections, neuron models, learning rules, encoders and read-outs."""
