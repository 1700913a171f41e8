"""Physics: network, port model, power flow, sensitivities."""
