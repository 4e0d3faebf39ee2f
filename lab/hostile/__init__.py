"""Files and hosts that attack whoever reads them: for tests, fuzzing and the soak."""
