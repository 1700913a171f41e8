"""Readers of other people's feeders. Each gives an `Imported`: the network, and what became of the rest."""
