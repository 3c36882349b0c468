"""The paper's own costs, latency model and its exact optimum, to reproduce published figures."""
