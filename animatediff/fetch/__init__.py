"""From the names of files to files on this machine, fetched if need be."""
