"""Memory and operations at full size, counted on a simulated device."""
