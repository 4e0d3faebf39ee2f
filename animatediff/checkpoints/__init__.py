"""Foreign weight files: what they are, and how their weights are named here."""
